#!/bin/sh
# torchmetrics 1.9.0: the Hausdorff distance in a picture that is wider than high is wrong, and not zero for equal masks
#
# hausdorff_distance and HausdorffDistance look distances up in a map of the picture's pixels, which `distance_transform` fills
# as if a row had as many pixels as a column. In squares it has. In landscape format each distance lands at another pixel,
# often several at one, and the result, a number of plausible size or of hundreds of pixels, has little to do with the masks;
# with several threads it may differ from run to run (so one thread here). Nothing warns. In portrait format there is an
# IndexError where the pixel lies outside: upstream's open issue 3300 reports that, and that pictures wider than high work. The
# documentation has squares only. `distance_transform(engine="scipy")` is right.
#
# Input: squares of 20 x 20 pixels, in pictures of 48 x 48, 48 x 64 and 60 x 64 (height x width): the same one twice, and one
# moved 3 to the right.
# Expected: 0 and 3, as by MONAI and by SciPy's directed_hausdorff of the masks' pixels.
#
# Seen with torchmetrics 1.9.0, monai 1.6.1, scipy 1.17.1, torch 2.14.1, numpy 2.4.6, Python 3.11.7, Linux x86-64:
#   48 x 48: the same 0.0, moved 3.0 | MONAI 0.0 and 3.0, SciPy 0.0 and 3.0
#   48 x 64: the same 21.0, moved 21.0 | MONAI 0.0 and 3.0, SciPy 0.0 and 3.0
#   60 x 64: the same 31.0, moved 31.0 | MONAI 0.0 and 3.0, SciPy 0.0 and 3.0
#
# A way around: pad pictures on the right or below to a square; the distance does not change.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  torchmetrics==1.9.0 monai==1.6.1 scipy==1.17.1 torch==2.14.1 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import sys
import warnings

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from scipy.spatial.distance import directed_hausdorff
from torchmetrics.functional.segmentation import hausdorff_distance

warnings.simplefilter("ignore")
torch.set_num_threads(1)


def by_scipy(first, second):
    a, b = (np.argwhere(mask.numpy()) for mask in (first, second))
    return max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])


def by_monai(first, second):
    return float(compute_hausdorff_distance(first[None, None], second[None, None], include_background=True))


def by_torchmetrics(first, second):
    return float(hausdorff_distance(first[None, None], second[None, None], num_classes=1, include_background=True))


seen = []
for height, width in ((48, 48), (48, 64), (60, 64)):
    square, moved = torch.zeros(2, height, width, dtype=torch.bool)
    square[10:30, 10:30] = moved[10:30, 13:33] = True
    values = [f(square, other) for f in (by_torchmetrics, by_monai, by_scipy) for other in (square, moved)]
    seen.append([round(value, 1) for value in values])
    words = "{} x {}: the same {:.1f}, moved {:.1f} | MONAI {:.1f} and {:.1f}, SciPy {:.1f} and {:.1f}"
    print(words.format(height, width, *values))
right = seen[0] == [0, 3] * 3 and all(values[2:] == [0, 3] * 2 for values in seen)
sys.exit(0 if right and min(seen[1][0], seen[2][0]) > 3 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
