#!/usr/bin/env bash
# Measures everything of benchmarks/speed.py on a GPU at full size, within 10 minutes, and writes
# benchmarks/results/speed_cuda.json, row by row. Needs torch, torchvision, numpy, pydantic, PyYAML,
# safetensors, filelock and tqdm; no network, no install.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
exec timeout 600 "${PYTHON:-python3}" benchmarks/speed.py --device cuda "$@"
