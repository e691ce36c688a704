#!/bin/sh
# transformers 5.24.0: a picture with one object is that object everywhere, in Mask2Former's panoptic map
#
# post_process_panoptic_segmentation gives each pixel to the query that is likeliest there, among those kept. mask_threshold,
# documented as the one "to use when turning the predicted masks into binary values", does not bound the masks: it only helps to
# tell whether a segment is kept. So pixels that no query claims go to one all the same. With one query kept, the whole picture
# is its mask; with several, the background belongs to one of them. And what is compared with mask_threshold is the mask's
# probability times the class's, so an object of 0.8 and 0.6 is left out, though each passes its threshold of 0.5. Nothing
# warns. Mask2Former's own code bounds the masks by 0.5 and compares their probability alone, and so does EoMT's processor in
# the same library. MaskFormer (whose own code had no bound), OneFormer, DETR and Conditional DETR have copies of the function;
# DETR's instances are made by it too. Mask2Former's instances were mended in pull request 21256, and open issue 44900 says
# that mask_threshold is not used there. No issue about the panoptic map was found.
#
# Input: outputs in pictures of 384 x 384 pixels: a person of 100 x 100, sure; that and a dog of 100 x 50; and the person alone
# with a probability of 0.6 for the class and of 0.8 for each of its pixels. All thresholds are 0.5.
# Expected: the pixels of probability above 0.5: person IoU 1 each, dog IoU 1.
#
# Seen with transformers 5.24.0, torch 2.14.1, numpy 2.4.6, pillow 13.0.0, Python 3.11.7, Linux x86-64:
#   Mask2Former, panoptic: person alone 0.07 (100 % of the picture), with dog 0.07 and 1.00, unsure person not there
#   DETR, instances: person alone 0.07 (100 % of the picture), with dog 0.07 and 1.00, unsure person not there
#   EoMT, panoptic: person alone 1.00 (7 % of the picture), with dog 1.00 and 1.00, unsure person 1.00
# (Numbers are IoU.)
#
# A way around: afterwards, clear the pixels where no query that was kept has a mask above 0.5.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  transformers==5.24.0 torch==2.14.1 numpy==2.4.6 pillow==13.0.0 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import math
import sys
import warnings
from types import SimpleNamespace

import torch
from transformers import DetrImageProcessorPil, EomtImageProcessorPil, Mask2FormerImageProcessorPil, logging

warnings.simplefilter("ignore")
logging.set_verbosity_error()
person, dog = torch.zeros(2, 384, 384, dtype=torch.bool)
person[100:200, 50:150] = dog[250:350, 250:300] = True
sure = 0.9999


def outputs(objects, class_probability, mask_probability):
    """What a model would return for these masks: class 0 for the first, 1 for the second, and "no object" is the third."""
    classes = torch.full((1, len(objects), 3), -30.0)
    for query in range(len(objects)):
        classes[0, query, [query, 2]] = torch.tensor([class_probability, 1 - class_probability]).log()
    inside = math.log(mask_probability / (1 - mask_probability))
    masks = torch.stack([torch.where(mask, inside, -10.0) for mask in objects])[None]
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks, logits=classes, pred_masks=masks)


def show(words, processor, kind, **options):
    """IoU of the masks, and the share of the picture that the person alone takes"""
    process = getattr(processor, f"post_process_{kind}_segmentation")

    def masks(objects, *probabilities):
        result = process(outputs(objects, *probabilities), target_sizes=[(384, 384)], **options)[0]
        found = {segment["label_id"]: result["segmentation"] == segment["id"] for segment in result["segments_info"]}
        return [found.get(label) for label in range(len(objects))]

    def iou(mask, truth):
        return None if mask is None else round(float((mask & truth).sum() / (mask | truth).sum()), 2)

    alone, both, unsure = masks([person], sure, sure), masks([person, dog], sure, sure), masks([person], 0.6, 0.8)
    share = round(100 * float(alone[0].float().mean()))
    seen = iou(alone[0], person), share, iou(both[0], person), iou(both[1], dog), iou(unsure[0], person)
    line = "{}: person alone {:.2f} ({} % of the picture), with dog {:.2f} and {:.2f}, unsure person "
    print(line.format(words, *seen) + ("not there" if seen[-1] is None else f"{seen[-1]:.2f}"))
    return seen


thresholds = {"threshold": 0.5, "mask_threshold": 0.5}
eomt = EomtImageProcessorPil(size={"shortest_edge": 384, "longest_edge": 384})
seen = [
    show("Mask2Former, panoptic", Mask2FormerImageProcessorPil(), "panoptic", **thresholds),
    show("DETR, instances", DetrImageProcessorPil(), "instance", **thresholds),
    show("EoMT, panoptic", eomt, "panoptic", **thresholds),
]
sys.exit(0 if seen == [(0.07, 100, 0.07, 1, None)] * 2 + [(1, 7, 1, 1, 1)] else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/show.py"
