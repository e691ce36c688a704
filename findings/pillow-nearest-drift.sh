#!/bin/sh
# Pillow 13.0.0: `Image.resize` with NEAREST takes the left or the right pixel by chance where a centre lies between two
#
# It adds up its step in floating point, so a target pixel whose centre lies on the border of two source pixels gets
# one or the other as the rounding errors of the sum fall.
#
# From 640 to 480 pixels the centre of column i lies at (i + 1/2) * 4/3 of the source, which for every third column is
# the border of two pixels. The pixel to the right of it begins there, and floor((i + 1/2) * 640 / 480) takes that one
# each time. Pillow takes the one to the left in 99 of these 160 columns (4, 16, 19, 22, ...) and the one to the right in
# 61. So a mask that is made smaller this way moves by a source pixel in some columns, and resizing a mirrored picture is
# not mirroring the resized one. From 427, 500 and 375 pixels no centre lies on a border, and nothing is seen.
#
# It matters where scores are counted on masks that were resized: LAVT's evaluation squashes COCO's 640 x 480 photos and
# their masks to 480 x 480 with it.
#
# Seen with Pillow 13.0.0 and numpy 2.4.6, Python 3.11.7, Linux x86-64:
#   640 -> 480: 160 centres on a border, of which 99 go left: 4 16 19 22 25 ...
#   the sum of steps has the same columns: True
#   427 -> 480: 0, 500 -> 480: 0, 375 -> 480: 0 columns differ
#   mirroring and resizing commute: False
#
# A way around: NEAREST on masks is exact where new / old has no such borders; elsewhere index the array with
# floor((i + 1/2) * old / new) in whole numbers.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6 || exit 2
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from PIL import Image


def pillow(old: int, new: int) -> np.ndarray:
    """(new,) the source column of each target column, read off a ramp."""
    ramp = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(ramp.resize((new, 1), Image.Resampling.NEAREST))[0]


def centres(old: int, new: int) -> np.ndarray:
    """The same in whole numbers: floor((i + 1/2) * old / new)."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


taken, expected = pillow(640, 480), centres(640, 480)
left = np.flatnonzero(taken != expected)
ties = sum((2 * i + 1) * 640 % 960 == 0 for i in range(480))
print(f"640 -> 480: {ties} centres on a border, of which {len(left)} go left:", *left[:5], "...")
summed = np.cumsum([640 / 480 / 2, *[640 / 480] * 479]).astype(int)
same = bool((summed == taken).all())
print("the sum of steps has the same columns:", same)
others = {old: int((pillow(old, 480) != centres(old, 480)).sum()) for old in (427, 500, 375)}
print(", ".join(f"{old} -> 480: {count}" for old, count in others.items()), "columns differ")
picture = Image.fromarray(np.random.default_rng(0).integers(0, 2, (480, 640), dtype=np.uint8))
mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((480, 480), Image.Resampling.NEAREST)
commute = mirrored == picture.resize((480, 480), Image.Resampling.NEAREST).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
print("mirroring and resizing commute:", commute)
seen = (ties, len(left), left[:4].tolist(), same, set(others.values()), commute)
sys.exit(seen != (160, 99, [4, 16, 19, 22], True, {0}, False))
PYTHON
