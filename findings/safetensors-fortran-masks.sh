#!/bin/sh
# safetensors 0.8.0: `safetensors.numpy` scrambles masks that pycocotools decoded
#
# pycocotools.mask.decode returns arrays in Fortran's order. save and save_file of safetensors.numpy write an array's memory
# as it lies and its shape as if it lay in C's order, so what is loaded has the right shape, dtype and number of pixels, and
# has them elsewhere. Nothing warns. Versions 0.4.5 to 0.7.0 save the same arrays right; the documentation asks for
# "contiguous and dense" ones, which NumPy calls these too (flags.f_contiguous). The library's torch side refuses them with an
# error. Open as safetensors/safetensors issue 825, found with weights from scikit-learn.
#
# Input: a mask of 100 x 120 pixels with a box of 60 x 40, encoded and decoded by pycocotools; a stack of two of them.
# Expected: load(save(mask)) equals the mask.
#
# Seen with safetensors 0.8.0, pycocotools 2.0.11, numpy 2.4.6, Python 3.11.7, Linux x86-64:
#   a decoded mask: shape, dtype and number of pixels kept: True; IoU with what was saved 0.21
#   a stack of two: shape, dtype and number of pixels kept: True; IoU with what was saved 0.09
#   the mask, ascontiguousarray: shape, dtype and number of pixels kept: True; IoU with what was saved 1.00
#
# A way around: numpy.ascontiguousarray(mask), which makes C's order, before saving.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  safetensors==0.8.0 pycocotools==2.0.11 numpy==2.4.6 || exit 2
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from pycocotools import mask as coco
from safetensors.numpy import load, save

box = np.zeros((100, 120), np.uint8, order="F")
box[20:60, 30:90] = 1
rle = coco.encode(box)


def show(words, mask):
    """IoU of a mask and of what is loaded after it was saved."""
    loaded = load(save({"mask": mask}))["mask"]
    iou = float((mask & loaded).sum() / (mask | loaded).sum())
    same = loaded.shape == mask.shape and loaded.dtype == mask.dtype and loaded.sum() == mask.sum()
    print(f"{words}: shape, dtype and number of pixels kept: {same}; IoU with what was saved {iou:.2f}")
    return same, iou


seen = [
    show("a decoded mask", coco.decode(rle)),
    show("a stack of two", coco.decode([rle, rle])),
    show("the mask, ascontiguousarray", np.ascontiguousarray(coco.decode(rle))),
]
sys.exit(0 if all(same for same, _ in seen) and [iou < 0.9 for _, iou in seen] == [True, True, False] else 1)
PYTHON
