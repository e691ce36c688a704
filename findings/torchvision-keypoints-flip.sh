#!/bin/sh
# torchvision 0.29.1: a flip moves KeyPoints by a pixel against boxes and masks, a rotation does not
#
# transforms.v2 mirrors KeyPoints as if they were numbers of pixels, x to width - 1 - x, and BoundingBoxes as places, x to
# width - x. rotate and affine treat both as places. So a polygon (the documentation names polygons as a use) moves by a pixel
# against its mask and its box at each flip. Nor do numbers of pixels help: they are right after flips, and off by one after
# rotation. Flipping both ways and rotating by 180 degrees are the same for pictures, masks and boxes, but not for KeyPoints.
# RandomHorizontalFlip and RandomVerticalFlip call the same functions. Nothing warns. The documentation calls KeyPoints beta and
# asks for reports; it does not say where a pixel begins. Pull request 9236 ended their clamping; no issue about this was found.
#
# Input: a rectangle in a picture of 80 x 100 pixels, as a mask, a box, and twice as a polygon of its corners in KeyPoints: once
# the corners of the box, once the numbers of the mask's corner pixels.
# Expected: by one of the two conventions, a polygon that fits its box, or its mask's corner pixels, in every row.
#
# Seen with torchvision 0.29.1, torch 2.14.1, numpy 2.4.6, pillow 13.0.0, Python 3.11.7, Linux x86-64:
#   as it is: mask and box 0, box's corners 0, corner pixels 0
#   flipped across: mask and box 0, box's corners 1, corner pixels 0
#   flipped both ways: mask and box 0, box's corners 1, corner pixels 0
#   rotated by 180 degrees: mask and box 0, box's corners 0, corner pixels 1
#   turned so by affine: mask and box 0, box's corners 0, corner pixels 1
# (How far apart the mask and the box are; the polygon of the box's corners and the box; that of corner pixels and the mask.)
#
# A way around: places as KeyPoints, and 1 added to their x after a horizontal flip, to their y after a vertical one.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  torchvision==0.29.1 torch==2.14.1 pillow==13.0.0 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import sys

import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as transforms

size = (80, 100)
mask = torch.zeros(1, *size, dtype=torch.uint8)
mask[0, 20:40, 10:40] = 1
mask, box = tv_tensors.Mask(mask), tv_tensors.BoundingBoxes([[10.0, 20.0, 40.0, 40.0]], format="XYXY", canvas_size=size)


def polygon(left, top, right, bottom):
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return tv_tensors.KeyPoints(torch.tensor([corners], dtype=torch.float32), canvas_size=size)


def bounds(points):
    """(4,) left, top, right and bottom of points (..., 2)."""
    points = points.reshape(-1, 2).float()
    return torch.cat([points.amin(0), points.amax(0)])


def show(words, *steps):
    """How far the mask is from the box, the polygon of the box's corners from it, and that of corner pixels from the mask."""

    def moved(thing):
        for step in steps:
            thing = step(thing)
        return thing.as_subclass(torch.Tensor)

    places, pixels = moved(box)[0], bounds(moved(mask)[0].nonzero().flip(-1))
    pairs = [
        (pixels + torch.tensor([0, 0, 1, 1]), places),
        (bounds(moved(polygon(10, 20, 40, 40))), places),
        (bounds(moved(polygon(10, 20, 39, 39))), pixels),
    ]
    seen = [round(float((found - expected).abs().max()), 3) for found, expected in pairs]
    print("{}: mask and box {:.0f}, box's corners {:.0f}, corner pixels {:.0f}".format(words, *seen))
    return seen


across, down = transforms.horizontal_flip, transforms.vertical_flip
seen = [
    show("as it is"),
    show("flipped across", across),
    show("flipped both ways", across, down),
    show("rotated by 180 degrees", lambda thing: transforms.rotate(thing, 180)),
    show("turned so by affine", lambda thing: transforms.affine(thing, 180, [0, 0], 1, [0, 0])),
]
sys.exit(0 if seen == [[0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
