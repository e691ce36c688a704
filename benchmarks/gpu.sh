#!/bin/sh
# One command that measures a GPU: at most eight minutes on an H100 or H200, one JSON file.
#
#   benchmarks/gpu.sh                       writes $OUT/gpu.json, or benchmarks/gpu.json without $OUT
#   WHEELS=/path benchmarks/gpu.sh          a machine without network: installs from a folder of wheels
#   benchmarks/gpu.sh --dry-run             on a CPU, with tiny sizes
#   benchmarks/gpu.sh --official mine.py    other code beside it, see benchmarks/gpu.py
#
# A bare machine with Python 3.11 or later and torch needs this repository and these wheels with what they depend on:
#   accelerate fsspec huggingface-hub msgspec onnxruntime pillow psutil pyarrow pycocotools rich safetensors scipy timm
#   tokenizers torchvision tqdm transformers typer
# They are fetched for it elsewhere by: pip download -d wheels . (with the same Python, in this folder)
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import torch' || { echo "gpu.sh: needs torch in $python" >&2; exit 2; }
if ! "$python" -c 'import accelerate, msgspec, pyarrow, pycocotools, scipy, timm, transformers, typer' 2>/dev/null; then
    # shellcheck disable=SC2086 - two options or none
    "$python" -m pip install --quiet ${WHEELS:+--no-index --find-links "$WHEELS"} \
        accelerate fsspec huggingface-hub msgspec onnxruntime pillow psutil pyarrow pycocotools rich safetensors scipy timm \
        tokenizers torchvision tqdm transformers 'typer<0.30'
fi
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "$python" benchmarks/gpu.py "$@"
