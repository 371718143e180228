#!/bin/bash
# A Ray cluster that runs already: the study is submitted as a job, and its replicas are made wherever there is room.
# CLUSTER=http://head:8265 deploy/ray-job.sh --data /shared/photos --out /shared/runs/llava
# Every node needs lesion, the model, the data and the run directory under the same paths. (pip install 'ray[default]' to submit)
set -euo pipefail

ray job submit --address "${CLUSTER:-http://127.0.0.1:8265}" --entrypoint-num-cpus 1 -- \
    lesion study "${MODEL:-llava-hf/llava-1.5-7b-hf}" --executor ray --address auto --replicas "${REPLICAS:-8}" \
    --device cpu --dtype "${DTYPE:-float16}" "$@"
