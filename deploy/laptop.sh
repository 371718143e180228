#!/bin/bash
# One machine without a GPU: actors of Ray, a thread each. More options go to the study: deploy/laptop.sh --data photos/
set -euo pipefail

lesion study "${MODEL:-tiny-llava}" --executor ray --replicas "${REPLICAS:-2}" --threads 1 "$@"
