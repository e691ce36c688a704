#!/bin/sh
# torchmetrics 1.9.0: mask AP leaves out the pictures without objects, and with them all that was wrongly found there
#
# MeanAveragePrecision(iou_type="segm") lists the targets' pictures for COCO's evaluation, but passes over those with no mask.
# The evaluation looks at listed pictures only, so whatever is predicted on the others is no false positive, and AP is too
# high. Nothing warns. iou_type="bbox" counts such predictions, and so does the mask AP of iou_type=("bbox", "segm").
# `coco_to_tm`, which reads COCO's files for the metric, returns only pictures that have an annotation, for boxes as well.
# Data where "nothing" is a right answer suffers: referring expressions without a target, defects, lesions.
# The documentation does not mention it, nor does any upstream issue that was found; 794 and 1774, closed, are about boxes.
#
# Input: four pictures of 64 x 64 pixels. The first has a square object, and it is found exactly, with a confidence of 0.5. The
# other three have none, and the same square is predicted on them, with 0.9, 0.8 and 0.7. The square is its own box.
# Expected: 0.25 everywhere, as by pycocotools: the one right answer is the last of four.
#
# Seen with torchmetrics 1.9.0, pycocotools 2.0.11, faster-coco-eval 1.8.0, torch 2.14.1, Python 3.11.7, Linux x86-64:
#   pycocotools itself: boxes 0.25, masks 0.25
#   torchmetrics by pycocotools: boxes 0.25, masks 1.00, both at once 0.25 and 0.25
#   torchmetrics by faster_coco_eval: boxes 0.25, masks 1.00, both at once 0.25 and 0.25
#   after coco_to_tm (pictures: 1 of 4): boxes 1.00, masks 1.00, both at once 1.00 and 1.00
#
# A way around: iou_type=("bbox", "segm") with the boxes of the masks; pycocotools itself for files.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir torchmetrics==1.9.0 torch==2.14.1 \
  torchvision==0.29.1 pycocotools==2.0.11 faster-coco-eval==1.8.0 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

warnings.simplefilter("ignore")
root = Path(sys.argv[1])
square = np.zeros((64, 64), np.uint8, order="F")
square[10:50, 10:50] = 1
rle = {"size": [64, 64], "counts": coco.encode(square)["counts"].decode()}
found = {"category_id": 1, "segmentation": rle, "bbox": [10.0, 10.0, 40.0, 40.0]}
results = [{"image_id": image, "score": score, **found} for image, score in enumerate((0.5, 0.9, 0.8, 0.7), 1)]
truth = {
    "images": [{"id": image, "height": 64, "width": 64} for image in (1, 2, 3, 4)],
    "annotations": [{"id": 1, "image_id": 1, "iscrowd": 0, "area": 1600, **found}],
    "categories": [{"id": 1, "name": "square"}],
}
(root / "truth.json").write_text(json.dumps(truth))
(root / "results.json").write_text(json.dumps(results))


def by_pycocotools(kind):
    """AP of the files."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(str(root / "truth.json"))
        evaluation = COCOeval(ground, ground.loadRes(str(root / "results.json")), kind)
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    return float(evaluation.stats[0])


def objects(number, **more):
    """The square so many times, as torchmetrics takes objects."""
    masks = torch.tensor(square, dtype=torch.bool).expand(number, 64, 64)
    boxes = torch.tensor([[10.0, 10.0, 50.0, 50.0]]).expand(number, 4)
    return {"masks": masks, "boxes": boxes, "labels": torch.ones(number, dtype=torch.long), **more}


def by_torchmetrics(words, inputs, **options):
    """AP of boxes and of masks, each alone and then both at once."""
    seen = []
    for kind in ("bbox", "segm", ("bbox", "segm")):
        metric = MeanAveragePrecision(iou_type=kind, **options)
        metric.update(*inputs(kind))
        scores = metric.compute()
        seen += [float(scores[name]) for name in (("bbox_map", "segm_map") if isinstance(kind, tuple) else ("map",))]
    print("{}: boxes {:.2f}, masks {:.2f}, both at once {:.2f} and {:.2f}".format(words, *seen))
    return [round(score, 2) for score in seen]


def from_files(kind):
    reader = MeanAveragePrecision(box_format="xywh", iou_type=kind)
    return reader.coco_to_tm(str(root / "results.json"), str(root / "truth.json"), iou_type=kind)


predictions = [objects(1, scores=torch.tensor([result["score"]])) for result in results]
targets = [objects(1), objects(0), objects(0), objects(0)]
alone = [by_pycocotools(kind) for kind in ("bbox", "segm")]
print("pycocotools itself: boxes {:.2f}, masks {:.2f}".format(*alone))
backends = ("pycocotools", "faster_coco_eval")
given = [by_torchmetrics(f"torchmetrics by {name}", lambda _: (predictions, targets), backend=name) for name in backends]
pictures = len(from_files("segm")[1])
read = by_torchmetrics(f"after coco_to_tm (pictures: {pictures} of 4)", from_files, box_format="xywh")
right = [round(score, 2) for score in alone] == [0.25, 0.25]
wrong = given == [[0.25, 1, 0.25, 0.25]] * 2 and pictures == 1 and read == [1, 1, 1, 1]
sys.exit(0 if right and wrong else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
