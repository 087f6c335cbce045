#!/bin/sh
# Everything that needs a CUDA card, in one go:  scripts/gpu_check.sh [REPORT.md]
#
# Runs the tests marked gpu, then measures on this card: bf16 steps of a model of Qwen3-0.6B's shape (random weights,
# nothing is downloaded), whole and with adapters, packed, with and without torch.compile and Liger's kernel; peak memory
# against the estimate of arena/memory.py; the chunked loss's peak. Prints a Markdown report and, when a name is given,
# writes it there. Needs about 20 GB of GPU memory; what does not fit is reported as such. Exit status 1 when a check fails.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
[ -x "$python" ] || python=python3
"$python" -c 'import sys, torch; sys.exit("No CUDA device is visible to torch.") if not torch.cuda.is_available() else None'
"$python" -m pytest -m gpu tests --no-header -q || failed=$?   # 5: nothing is marked
case "${failed:-0}" in 0|5) ;; *) echo "The tests marked gpu fail." >&2; exit 1 ;; esac
exec "$python" -m benches.gpu ${1:+--report "$1"}
