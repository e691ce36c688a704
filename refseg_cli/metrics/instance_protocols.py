"""The protocols that count instances. Facts from the official repositories, read, not copied:
djiajunustc/TransVG `utils/eval_utils.py`, QwenLM/Qwen-VL `eval_mm/evaluate_grounding.py`,
Vision-CAIR/MiniGPT-4 `minigpt4/common/eval_utils.py` and `eval_scripts/eval_ref.py`, ashkamath/mdetr
`datasets/refexp.py`, henghuiding/gRefCOCO `mdetr/datasets/refexp.py`, facebookresearch/sam3 `sam3/eval/cgf1_eval.py`.

Counts have single instances where pixel protocols have pixels: matched pairs for P ∩ G, predicted and true ones for P
and G. The F1 of an expression is 1 where this "IoU" is 1.
"""

from __future__ import annotations

from dataclasses import replace

from refseg_cli.metrics.rules import ORIGINAL, Absence, Matching, Metric, Protocol

ACCURACIES = (Metric("N-acc", "no-target"), Metric("T-acc", "target"))
# np.linspace(0.5, 0.95, 10), as COCO's evaluator has it
TWENTIETHS = (*(0.5 + i * ((0.95 - 0.5) / 9) for i in range(9)), 0.95)
BOX = Matching(of="boxes", overlap="iou", pairing="first", thresholds=(0.5,))
BOXES = Matching(of="boxes", overlap="generalised", pairing="greedy", thresholds=(0.5,), score=0.7)

REC = Protocol(
    name="rec",
    follows="TransVG utils/eval_utils.py, Qwen-VL evaluate_grounding.py",
    grid=ORIGINAL,
    threshold=None,
    absence=Absence("unknown"),
    metrics=(Metric("Acc@0.5", "precision", "single", 1.0),),
    headline=("Acc@0.5",),
    strict=False,
    matching=BOX,
)
GREC = Protocol(
    name="grec",
    follows="gRefCOCO mdetr/datasets/refexp.py",
    grid=ORIGINAL,
    threshold=None,
    absence=Absence("declared", head=False),
    metrics=(Metric("F1", "precision", "all", 1.0), *ACCURACIES),
    headline=("F1", "N-acc", "T-acc"),
    strict=False,
    matching=BOXES,
)
SA_CO = Protocol(
    name="sa-co",
    follows="sam3 sam3/eval/cgf1_eval.py, masks",
    grid=ORIGINAL,
    threshold=None,
    absence=Absence("declared", head=False, truth="pixels"),
    metrics=(Metric("cgF1", "cgF1"), Metric("pmF1", "pmF1", "targets"), Metric("IL_MCC", "IL_MCC")),
    headline=("cgF1", "pmF1", "IL_MCC"),
    matching=Matching(of="masks", overlap="iou", pairing="optimal", thresholds=TWENTIETHS, score=0.5, crowds=False),
)
BOXES_AND_INSTANCES = (
    REC,
    replace(
        REC,
        name="rec-inclusive",
        follows="MiniGPT-v2 eval_ref.py: edges are pixels of the box, IoU > 0.5",
        matching=replace(BOX, overlap="inclusive", strict=True),
    ),
    replace(
        REC,
        name="rec-giou",
        follows="MDETR datasets/refexp.py: generalised IoU",
        matching=replace(BOX, overlap="generalised"),
    ),
    GREC,
    replace(
        GREC,
        name="grec-iou",
        follows="the same by plain IoU, as the paper words it",
        matching=replace(BOXES, overlap="iou"),
    ),
    SA_CO,
)
