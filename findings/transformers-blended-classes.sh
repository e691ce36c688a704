#!/bin/sh
# transformers 5.24.0: the processors of BEiT, DPT and Sapiens 2 blend the classes of segmentation maps into other classes
#
# They take segmentation_maps beside the pictures and return them as labels for training. Both are resized by the same code with
# the same interpolation, bicubic or bilinear, and the blends of class numbers are then cast to whole numbers: between class 0
# and 255 (not to be counted) lies every class there is. Shape and type are right, and nothing warns. A number beyond the
# model's classes makes the loss fail; one below trains a class that is not in the picture, and much of VOC's border of
# 255 is counted after all. The processors of SegFormer ("nearest resample is used for segmentation maps", says a
# comment in its code) and of MobileViT, in the same library, take nearest pixels. BeitImageProcessorPil and DPTImageProcessorPil
# blend as well. The documentation says no word about it; no issue was found.
#
# Input: a map of 300 x 400 pixels as in Pascal VOC: a dog (class 12) of 100 x 150 pixels on background (class 0), and around
# it a border of 255, five pixels wide.
# Expected: no other class than these three.
#
# Seen with transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, numpy 2.4.6, pillow 13.0.0, Python 3.11.7, Linux x86-64:
#   BEiT: other classes: 9 16 20 27 175 176 181 203 239 240 250 254; of the border 46 % is left
#   DPT: other classes: 3 5 14 29 31 86 103 214 228 238 253; of the border 72 % is left
#   Sapiens 2: other classes: 2 5 7 8 39 50 70 80 99 121 122 141 145 153 193 197 206 208 220 223 240; of the border 83 % is left
#   SegFormer: other classes: none; of the border 101 % is left
#   MobileViT: other classes: none; of the border 104 % is left
#   BEiT, resample=NEAREST: other classes: none; of the border 107 % is left
#   DPT, resample=NEAREST: other classes: none; of the border 98 % is left
#   Sapiens 2, resample=NEAREST: other classes: none; of the border 102 % is left
#
# A way around: call the processor twice, and keep the labels of resample=Image.Resampling.NEAREST and the other call's pictures.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 pillow==13.0.0 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import sys
import warnings

import numpy as np
from PIL import Image
from transformers import (
    BeitImageProcessor,
    DPTImageProcessor,
    MobileViTImageProcessor,
    Sapiens2ImageProcessor,
    SegformerImageProcessor,
    logging,
)

warnings.simplefilter("ignore")
logging.set_verbosity_error()
classes = np.zeros((300, 400), np.uint8)
classes[95:205, 95:255] = 255
classes[100:200, 100:250] = 12
border = float((classes == 255).mean())
given = set(np.unique(classes).tolist())
picture, classes = Image.new("RGB", (400, 300)), Image.fromarray(classes)


def show(words, processor, **options):
    """(are there classes that the map does not have, is the border still there)"""
    labels = processor(picture, segmentation_maps=classes, return_tensors="pt", **options)["labels"][0]
    others = sorted(set(labels.unique().tolist()) - given)
    share = float((labels == 255).float().mean()) / border
    print(f"{words}: other classes: {' '.join(map(str, others)) or 'none'}; of the border {100 * share:.0f} % is left")
    return len(others) > 0, share > 0.9


seen = [
    show("BEiT", BeitImageProcessor()),
    show("DPT", DPTImageProcessor()),
    show("Sapiens 2", Sapiens2ImageProcessor()),
    show("SegFormer", SegformerImageProcessor()),
    show("MobileViT", MobileViTImageProcessor()),
    show("BEiT, resample=NEAREST", BeitImageProcessor(), resample=Image.Resampling.NEAREST),
    show("DPT, resample=NEAREST", DPTImageProcessor(), resample=Image.Resampling.NEAREST),
    show("Sapiens 2, resample=NEAREST", Sapiens2ImageProcessor(), resample=Image.Resampling.NEAREST),
]
blended, kept = (True, False), (False, True)
sys.exit(0 if seen == [blended] * 3 + [kept] * 5 else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/show.py"
