#!/bin/sh
# transformers 5.24.0: Mask2Former's `return_coco_annotation=True` gives no COCO annotation, and one list too many
#
# post_process_instance_segmentation promises masks in COCO's run-length encoding and recommends them for instances that
# overlap. What it returns differs in three ways, and nothing warns:
# - The lists are pairs of a start (from 1) and a length, row by row. COCO's counts are runs of 0 and 1 in turn, column by
#   column, which add up to height x width; these do not.
# - The first list is the background's wherever a pixel has no instance, though segments_info has no entry for it. So
#   zip(segmentation, segments_info) gives each instance the mask of the one before it. Where the instances fill the
#   picture, there is no such list, and the same code is right.
# - The lists are made from one map of ids, in which a later instance has overwritten an earlier one: overlaps are cut out
#   of the earlier mask, and an instance that is covered altogether has an entry and no list.
# The processors of MaskFormer, OneFormer, DETR, Conditional DETR and RF-DETR have copies of the function that makes them.
#
# Input: the outputs for two queries of one class that are sure of themselves, in pictures of 384 x 384 pixels: boxes of
# 160 x 160 and 200 x 120 that overlap in 80 x 80; one that covers the other; and two that fill the picture.
# Expected: two lists each, which pycocotools decodes to the masks that return_binary_maps=True gives.
#
# Seen with transformers 5.24.0, torch 2.14.1, numpy 2.4.6, Python 3.11.7, Linux x86-64:
#   overlapping boxes: 2 segments, 3 lists; as counts they add up to [13944457, 9825440, 10153080], not 147456
#     read as pairs, row by row: IoU in % with the list of the same index [0, 0], of the next [75, 100]
#   a box over another: 2 segments, 2 lists; as counts they add up to [11639257, 11531800], not 147456
#     read as pairs, row by row: IoU in % with the list of the same index [0, 100], of the next [6]
#   boxes that fill it: 2 segments, 2 lists; as counts they add up to [76801, 147457], not 147456
#     read as pairs, row by row: IoU in % with the list of the same index [100, 100], of the next [0]
#
# A way around: return_binary_maps=True, and pycocotools.mask.encode of each map as a Fortran-ordered uint8 array.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  transformers==5.24.0 torch==2.14.1 numpy==2.4.6 pillow==13.0.0 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import sys
from types import SimpleNamespace

import numpy as np
import torch
from transformers import Mask2FormerImageProcessorPil

processor = Mask2FormerImageProcessorPil()


def outputs(boxes):
    """What the model would return for boxes [left, top, right, bottom] in a picture of 384 x 384 pixels."""
    logits = torch.full((1, len(boxes), 384, 384), -10.0)
    for query, (left, top, right, bottom) in enumerate(boxes):
        logits[0, query, top:bottom, left:right] = 10
    classes = torch.tensor([20.0, 0.0]).expand(1, len(boxes), 2)  # one class and "no object"
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=logits)


def rows(pairs):
    """The mask that pairs of start (from 1) and length, row by row, mean."""
    mask = np.zeros(384 * 384, bool)
    for start, length in zip(pairs[::2], pairs[1::2]):
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape(384, 384)


def show(words, *boxes):
    """(how many lists, their sums, IoU of each instance with the list beside it, with the list after it, both in %)"""
    lists, maps = (
        processor.post_process_instance_segmentation(outputs(boxes), **{kind: True})[0]
        for kind in ("return_coco_annotation", "return_binary_maps")
    )
    assert len(lists["segments_info"]) == len(maps["segmentation"]) == len(boxes)
    masks, truths = [rows(pairs) for pairs in lists["segmentation"]], maps["segmentation"].numpy() > 0

    def percents(masks):
        return [round(100 * float((a & b).sum() / (a | b).sum())) for a, b in zip(masks, truths)]

    sums = [int(sum(pairs)) for pairs in lists["segmentation"]]
    beside, after = percents(masks), percents(masks[1:])
    print(f"{words}: {len(boxes)} segments, {len(masks)} lists; as counts they add up to {sums}, not {384 * 384}")
    print(f"  read as pairs, row by row: IoU in % with the list of the same index {beside}, of the next {after}")
    return len(masks), beside, after


overlapping = show("overlapping boxes", (40, 80, 200, 240), (120, 160, 320, 280))
covered = show("a box over another", (100, 100, 150, 150), (50, 50, 250, 250))
filling = show("boxes that fill it", (0, 0, 384, 200), (0, 200, 384, 384))
described = (3, [0, 0], [75, 100]), (2, [0, 100], [6]), (2, [100, 100], [0])
sys.exit(0 if (overlapping, covered, filling) == described else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/show.py"
