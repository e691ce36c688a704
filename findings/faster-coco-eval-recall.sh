#!/bin/sh
# faster-coco-eval 1.8.0: `extended_metrics` counts an object that is found twice as two, and recall goes above 1
#
# Its precision and recall are for IoU 0.50, and come from eval["matched"], pairs of a detection and an object with their IoU.
# But that holds the pairs of all ten IoU thresholds. Where two detections lie on one object, the more confident one is its
# pair at 0.50 and the tighter one may be at 0.75. Both have an IoU above 0.50, and both become true positives. Precision and
# recall are too high, and so is the F1 score by which the confidence threshold is chosen. Pairs with a crowd region count too;
# COCO ignores such detections, and one crowd may have any number of them. AP and AR are right. Nothing warns.
# Issue 73, closed, was about interpolation in the same numbers; no issue about the pairs was found.
#
# Input: boxes of one class in a picture of 100 x 100 pixels. "Twice": three objects; the first is found loosely, the second
# exactly, the first again, but tightly, and the third not at all. "Once": without the third detection. "Crowd": an object,
# found exactly, and a crowd region with four detections in it.
# Expected: recall 2/3, 2/3 and 1, as pycocotools matches at 0.50, and precision 1 each, at the threshold of the best F1 score.
#
# Seen with faster-coco-eval 1.8.0, pycocotools 2.0.11, numpy 2.4.6, Python 3.11.7, Linux x86-64:
#   twice: precision 1.00, recall 1.00 | at 0.50 pycocotools finds 2 of 3 objects, and 1 false positive
#   once: precision 1.00, recall 0.67 | at 0.50 pycocotools finds 2 of 3 objects, and 0 false positives
#   crowd: precision 1.00, recall 5.00 | at 0.50 pycocotools finds 1 of 1 objects, and 0 false positives
#   twice, by 0.50 alone: precision 1.00, recall 0.67 | at 0.50 pycocotools finds 2 of 3 objects, and 1 false positive
#
# A way around: a second evaluation with params.iouThrs = [0.5] alone, without the detections on crowds.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  faster-coco-eval==1.8.0 pycocotools==2.0.11 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import copy
import io
import sys

import faster_coco_eval
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def evaluated(coco, evaluator, truth, results, thresholds):
    """An evaluation of boxes."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground = coco()
        ground.dataset = copy.deepcopy(truth)
        ground.createIndex()
        evaluation = evaluator(ground, ground.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.params.iouThrs = np.array(thresholds)
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    return evaluation


def show(words, objects, found, crowds=(), thresholds=np.linspace(0.5, 0.95, 10)):
    """(precision, recall, found objects, objects, false positives); the last three by pycocotools at IoU 0.50"""
    boxes = [(box, crowd) for crowd, some in enumerate((objects, crowds)) for box in some]
    common = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "annotations": [
            {"id": index, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd, **common}
            for index, (box, crowd) in enumerate(boxes, 1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    results = [{"bbox": box, "score": 0.9 - index / 10, **common} for index, box in enumerate(found)]
    fast = evaluated(faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster, truth, results, thresholds).extended_metrics
    slow = evaluated(COCO, COCOeval, truth, results, thresholds).evalImgs[0]
    matched, counted = slow["dtMatches"][0] > 0, ~slow["dtIgnore"][0].astype(bool)
    right, wrong = int((matched & counted).sum()), int((~matched & counted).sum())
    seen = round(float(fast["precision"]), 2), round(float(fast["recall"]), 2), right, len(objects), wrong
    line = "{}: precision {:.2f}, recall {:.2f} | at 0.50 pycocotools finds {} of {} objects, and {} false positive"
    print(line.format(words, *seen) + "s" * (wrong != 1))
    return seen


objects = [[0.0, 0.0, 40.0, 40.0], [50.0, 0.0, 40.0, 40.0], [0.0, 50.0, 40.0, 40.0]]
loose, exact, tight = [0.0, 0.0, 40.0, 28.0], objects[1], [0.0, 0.0, 40.0, 38.0]
inside = [[60.0 + 10 * index, 60.0, 10.0, 10.0] for index in range(4)]
seen = [
    show("twice", objects, [loose, exact, tight]),
    show("once", objects, [loose, exact]),
    show("crowd", objects[:1], [objects[0], *inside], crowds=[[50.0, 50.0, 50.0, 50.0]]),
    show("twice, by 0.50 alone", objects, [loose, exact, tight], thresholds=[0.5]),
]
described = [(1, 1, 2, 3, 1), (1, 0.67, 2, 3, 0), (1, 5, 1, 1, 0), (1, 0.67, 2, 3, 1)]
sys.exit(0 if seen == described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
