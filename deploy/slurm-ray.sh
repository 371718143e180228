#!/bin/bash
# A Slurm job on several nodes: Ray is started on all of them, the study on the first, and all ends with the study.
# sbatch deploy/slurm-ray.sh --data photos/   (a replica on several GPUs each: GPUS_PER_REPLICA=2)
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --requeue
set -euo pipefail

export HF_HUB_OFFLINE=1
replicas=$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-0} / ${GPUS_PER_REPLICA:-1}))
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun ray symmetric-run --address "$first:${PORT:-6379}" --min-nodes "$SLURM_NNODES" -- \
    lesion study "${MODEL:-llava-hf/llava-1.5-7b-hf}" --executor ray --address auto --replicas "${REPLICAS:-$replicas}" \
    ${GPUS_PER_REPLICA:+--gpus-per-replica "$GPUS_PER_REPLICA"} --device cpu --dtype "${DTYPE:-float16}" "$@"
