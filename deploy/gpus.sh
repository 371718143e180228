#!/bin/bash
# One machine with several GPUs: a replica on each, or on so many as a large model needs (GPUS_PER_REPLICA=2). The study's own
# process needs no GPU; it keeps the weights in the machine's memory.
set -euo pipefail

gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
each=${GPUS_PER_REPLICA:-1}
lesion study "${MODEL:-llava-hf/llava-1.5-7b-hf}" --executor ray --replicas "$((gpus / each))" --gpus-per-replica "$each" \
    --device cpu --dtype "${DTYPE:-float16}" "$@"
