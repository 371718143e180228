#!/bin/bash
# A Slurm array without a server: the last task drives the study, the others compute what it asks. They meet in the run
# directory, which must be on a file system that all of them see. sbatch deploy/slurm-array.sh --data photos/
#SBATCH --array=0-8
#SBATCH --gpus=1
#SBATCH --requeue
set -euo pipefail

export HF_HUB_OFFLINE=1
run=${RUN:-runs/llava}
if [ "$SLURM_ARRAY_TASK_ID" = "$SLURM_ARRAY_TASK_MAX" ]; then
    lesion study "${MODEL:-llava-hf/llava-1.5-7b-hf}" --executor shards --replicas "$SLURM_ARRAY_TASK_MAX" --out "$run" \
        --device "${DEVICE:-cuda}" --dtype "${DTYPE:-float16}" "$@"
else
    lesion work "$run" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX" --device "${DEVICE:-cuda}"
fi
