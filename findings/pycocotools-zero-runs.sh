#!/bin/sh
# pycocotools 2.0.11: `merge` and `iou` stop where two masks both have a run of length zero
#
# COCO's run-length encoding allows runs of length zero: counts are non-negative and add up to height x width. A writer
# that caps a run at some length (65,535, say) puts one between the pieces. `decode` and `area` read such masks right.
# `merge` (union and intersection) and `iou` walk through both masks together and take "nothing is left of either run"
# for the end, so where both have an empty run at the same pixel, all that comes after is lost.
#
# Input: two masks of 4 x 4 pixels. The first has 6 pixels, [2, 3, 0, 3, 8]; the second all 16, [0, 5, 0, 11]. Both have
# an empty run after pixel 5. Beside them the same masks without it, [2, 6, 8] and [0, 16]. Expected: union 16,
# intersection 6, IoU 0.375, as the decoded masks give.
#
# Seen with pycocotools 2.0.11, numpy 2.4.6, Python 3.11.7, Linux x86-64:
#   [2, 3, 0, 3, 8] and [0, 5, 0, 11]: decoded union 16 intersection 6 IoU 0.375 | merge, iou union 5 intersection 3 IoU 0.6
#   [2, 6, 8] and [0, 16]: decoded union 16 intersection 6 IoU 0.375 | merge, iou union 16 intersection 6 IoU 0.375
# (What `merge` returns has runs for 5 of the 16 pixels.)
#
# A way around: join the pieces before the mask is used, or encode(decode(mask)).
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet pycocotools==2.0.11 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import sys

from pycocotools import mask as coco


def show(first, second):
    """Whether merge and iou say of two masks what the decoded masks say."""
    a, b = (coco.frPyObjects({"size": [4, 4], "counts": counts}, 4, 4) for counts in (first, second))
    p, q = (coco.decode(rle).astype(bool) for rle in (a, b))
    right = (int((p | q).sum()), int((p & q).sum()), float((p & q).sum() / (p | q).sum()))
    union, both = coco.merge([a, b]), coco.merge([a, b], intersect=True)
    said = (int(coco.area(union)), int(coco.area(both)), float(coco.iou([a], [b], [0])[0, 0]))
    words = "union {} intersection {} IoU {}"
    print(f"{first} and {second}: decoded {words.format(*right)} | merge, iou {words.format(*said)}")
    return said == right


pieces, whole = show([2, 3, 0, 3, 8], [0, 5, 0, 11]), show([2, 6, 8], [0, 16])
sys.exit(0 if whole and not pieces else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
