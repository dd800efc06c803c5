#!/usr/bin/env bash
# What only a GPU can tell, in one call of at most 8 minutes: first whether all is correct there
# (tests/gpu), then how fast it is (speed.py) and how much memory it takes (memory.py).
#
#     benchmarks/gpu.sh [--wheels FOLDER] [--output FOLDER] [--device cuda|cpu] [--small]
#
# It writes to benchmarks/results, or to --output, line by line, so that what was measured stays
# though the machine is taken away. With --device cpu --small it proves on a CPU that all of it runs.
#
# The machine needs Python with torch, torchvision, numpy, scikit-learn, safetensors, PyYAML and
# pytest, and no network. What the core needs besides comes along in --wheels, by default .whl,
# which Git ignores; where that folder is missing, the machine must have it all. To fill it for
# Python 3.12:
#
#     python3 -m pip download --dest .whl --no-deps --only-binary=:all: --python-version 3.12 \
#         $(grep -E '^(annotated-types|filelock|pydantic|pydantic-core|simplejpeg|tqdm|typing-.*)==' \
#             requirements.lock)
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=.whl output=benchmarks/results device=cuda small=()
while (($#)); do
    case $1 in
        --wheels) wheels=$2; shift 2 ;;
        --output) output=$2; shift 2 ;;
        --device) device=$2; shift 2 ;;
        --small) small=(--small); shift ;;
        *) echo "gpu.sh: $1 is no option; see the head of this file" >&2; exit 2 ;;
    esac
done
python=${PYTHON:-python3}
export PYTHONPATH=$PWD
mkdir -p "$output"

if [[ -d $wheels ]]; then
    installed=$(mktemp -d)
    trap 'rm -r "$installed"' EXIT
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --target "$installed" "$wheels"/*.whl
    PYTHONPATH+=:$installed
fi

# So many seconds of the 8 minutes are left. Where all is small, nothing is lent.
budget=470 memory=60
((${#small[@]})) && budget=3600 memory=3600
left() { echo $((SECONDS < budget - 1 ? budget - SECONDS : 1)); }
failed=0
measure() {
    local most=$2 rest
    rest=$(left)
    timeout $((most < rest ? most : rest)) "$python" "$1" --device "$device" --output "$output" "${small[@]}" || failed=1
}

timeout 230 "$python" -m pytest -p no:cacheprovider --color=no -m gpu tests/gpu 2>&1 |
    tee "$output/tests_$device.txt" || failed=1
measure benchmarks/memory.py "$memory"
measure benchmarks/speed.py "$budget"
echo "$SECONDS s in all"
exit $failed
