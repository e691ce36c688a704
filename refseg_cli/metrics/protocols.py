"""The evaluators of the field, each as a declared record: `PROTOCOLS`.

No two published evaluators agree on what an IoU is. They differ in where masks are compared and how they come there
(`Grid`), in the threshold, in what an empty union counts, in how "no target" is told (`Absence`), in > or >=, and in
which expressions a figure is formed over (`Metric`). Facts from the official repositories, read, not copied:
henghuiding/Vision-Language-Transformer `callbacks/eval.py`, DerrickWang005/CRIS.pytorch and SooLab/CGFormer
`engine/engine.py`, yz93/LAVT-RIS `test.py`, swagger-coder/ASDA `engine/engine.py`, henghuiding/ReLA's evaluator,
open-mmlab/mmdetection `RefSegMetric`, dvlab-research/LISA `train_ds.py`,
LeapLabTHU/GSVA `solver.py`, toggle1995/RIS-DMMI `test.py`, RobertLuo1/CoHD's evaluator, Dmmm1997/DeRIS
`evaluations/grefcoco.py` and `apis/test.py`, ChenyunWu/PhraseCutDataset `utils/evaluator.py`,
jianzongwu/robust-ref-seg `utils/validation.py`.

Three things are ours in every protocol: the pictures' own way into the network decides the way back (upstream loaders
round letterboxes differently, by up to a pixel; CRIS's own is `data.resize` "warp"), true masks are those of the
prepared data (ReLA's evaluator rasterises polygons at 480 x 480, where ours resizes the full-size mask; to LAVT's
loader what two polygons of an object share is background), and a metric without any expression is undefined (ReLA's
evaluator prints 0, or divides by zero).
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Literal

from refseg_cli.metrics.instance_protocols import BOXES_AND_INSTANCES
from refseg_cli.metrics.rules import ORIGINAL, Absence, Grid, Metric, Protocol


def _precision(*thresholds: float, of: Literal["all", "targets"] = "all") -> tuple[Metric, ...]:
    return tuple(Metric(f"Pr@{threshold:.3g}", "precision", of, threshold) for threshold in thresholds)


def _float32(value: float) -> float:
    """The nearest single-precision number."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


FIFTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
# torch.arange(0.5, 1.0, 0.1) is single precision, IoUs are double: 7/10 passes 0.69999999, 6/10 fails 0.60000002.
FIFTHS_SINGLE = tuple(_float32(threshold) for threshold in FIFTHS)
# np.arange(0.5, 1, 0.05) adds up its rounding: the third is 0.6000000000000001, which a smoothed 6/10 passes.
TWENTIETHS = tuple(0.5 + i * ((0.5 + 0.05) - 0.5) for i in range(10))

OVERALL = Metric("cIoU", "overall")
TARGETS_IOU = Metric("mIoU", "mean", "targets")
ALL_IOU = Metric("gIoU", "mean", "all")
ACCURACIES = (Metric("N-acc", "no-target"), Metric("T-acc", "target"))

SQUASHED = Grid("input", enlarge="bilinear-corners", sigmoid="never", restore=None, nearest="pillow")
SAM = Grid("original", enlarge="bilinear", sigmoid="never", restore="bilinear")  # Segment Anything's postprocess_masks

REFSEG = Protocol(
    name="refseg",
    follows="thesis 6.4.1 at original size, the checkpoint's thresholds",
    grid=ORIGINAL,
    threshold=None,
    absence=Absence("emptied"),
    metrics=(OVERALL, TARGETS_IOU, ALL_IOU, *_precision(*FIFTHS, of="targets"), *ACCURACIES),
    headline=("cIoU", "gIoU", "N-acc", "T-acc"),
)
THESIS = Protocol(
    name="thesis",
    follows="Liu 2024, 6.4.1 and 6.4.3: 50-pixel rule for models without a no-target head",
    grid=ORIGINAL,
    threshold=0.5,
    absence=Absence("emptied", exists=0.5, pixels=50),
    metrics=(OVERALL, ALL_IOU, *_precision(0.7, 0.8, 0.9, of="targets"), *ACCURACIES),
    headline=("cIoU", "gIoU", "N-acc", "T-acc"),
)
LAVT = Protocol(
    name="lavt",
    follows="LAVT-RIS test.py",
    grid=SQUASHED,
    threshold=0.5,
    absence=Absence("unknown"),
    metrics=(Metric("mIoU", "mean"), Metric("oIoU", "overall"), *_precision(*FIFTHS)),
    headline=("oIoU", "mIoU"),
    strict=False,
    size=(480, 480),
)
CRIS = Protocol(
    name="cris",
    follows="CRIS.pytorch engine.inference",
    grid=Grid("original", enlarge="bicubic-corners", sigmoid="enlarge", restore="bicubic-warp"),
    threshold=0.35,
    absence=Absence("unknown"),
    metrics=(Metric("IoU", "mean"), *_precision(*FIFTHS_SINGLE)),
    headline=("IoU",),
    smoothing=(0.0, 1e-6),
)
CGFORMER = Protocol(
    name="cgformer",
    follows="CGFormer engine.inference",
    grid=Grid("original", enlarge="bilinear-corners", sigmoid="restore", restore="bicubic-corners"),
    threshold=0.5,
    absence=Absence("unknown"),
    metrics=(Metric("mIoU", "mean"), Metric("oIoU", "overall"), *_precision(*FIFTHS_SINGLE)),
    headline=("oIoU", "mIoU"),
    smoothing=(0.0, 1e-6),
)
VLT = Protocol(
    name="vlt",
    follows="Vision-Language-Transformer callbacks/eval.py",
    grid=Grid("original", enlarge="bilinear", sigmoid="enlarge", restore="bilinear"),
    threshold=0.35,
    absence=Absence("unknown"),
    metrics=(Metric("IoU", "mean"), *_precision(*TWENTIETHS)),
    headline=("IoU",),
    smoothing=(1e-10, 1e-10),
    empty=1.0,
)
ASDA = replace(VLT, name="asda", follows="ASDA engine.validate_epoch, VLT's evaluator")
RELA = Protocol(
    name="rela",
    follows="ReLA's gRefCOCO evaluator",
    grid=Grid("input", enlarge="bilinear", sigmoid="never", restore=None, crowds=False),
    threshold=0.5,
    absence=Absence("declared", exists=0.5, pixels=50),
    metrics=(ALL_IOU, OVERALL, *reversed(ACCURACIES), *_precision(0.7, 0.8, 0.9, of="targets")),
    headline=("cIoU", "gIoU", "N-acc", "T-acc"),
    strict=False,
    size=(480, 480),
)
DERIS = Protocol(
    name="deris",
    follows="DeRIS' evaluators: gRefCOCO's, and with mIoU and oIoU that of one target",
    grid=Grid("input", enlarge="bilinear-corners", sigmoid="never", restore=None, nearest="corners"),
    threshold=0.5,
    absence=Absence("declared", exists=0.5),
    metrics=(
        ALL_IOU,
        OVERALL,
        *ACCURACIES,
        TARGETS_IOU,
        Metric("oIoU", "overall", "targets"),
        *_precision(*FIFTHS, of="targets"),
    ),
    headline=("cIoU", "gIoU", "N-acc", "oIoU", "mIoU"),
    strict=False,
    size=(384, 384),
    ties=True,
)
COHD = replace(
    RELA,
    name="cohd",
    follows="CoHD's gRefCOCO evaluator",
    metrics=(*RELA.metrics, Metric("F2", "F2"), Metric("N+T-acc", "sum", terms=("N-acc", "T-acc"))),
)
MMDET = Protocol(
    name="mmdet",
    follows="mmdetection RefSegMetric",
    grid=ORIGINAL,
    threshold=0.5,
    absence=Absence("unknown"),
    metrics=(OVERALL, Metric("mIoU", "mean")),
    headline=("cIoU", "mIoU"),
)

LISA = Protocol(
    name="lisa",
    follows="LISA train_ds.py validate",
    grid=SAM,
    threshold=0.5,
    absence=Absence("unknown"),
    metrics=(ALL_IOU, OVERALL),
    headline=("gIoU", "cIoU"),
    smoothing=(0.0, 1e-5),
    empty=1.0,
    ignores=True,
)
PHRASECUT = Protocol(
    name="phrasecut",
    follows="PhraseCutDataset utils/evaluator.py",
    grid=ORIGINAL,
    threshold=0.5,
    absence=Absence("unknown"),
    metrics=(Metric("mean-IoU", "mean"), Metric("cum-IoU", "overall"), *_precision(*FIFTHS)),
    headline=("mean-IoU", "cum-IoU"),
)
GSVA = Protocol(
    name="gsva",
    follows="GSVA solver.py eval_gres on gRefCOCO",
    grid=SAM,
    threshold=0.5,
    absence=Absence("asked-again", exists=0.5, truth="pixels"),
    metrics=(ALL_IOU, OVERALL, *ACCURACIES),
    headline=("gIoU", "cIoU", "N-acc", "T-acc"),
    smoothing=(0.0, 1e-8),
    ties=True,
)
REF_ZOM = Protocol(
    name="ref-zom",
    follows="RIS-DMMI test.py on Ref-ZOM",
    grid=SQUASHED,
    threshold=0.5,
    absence=Absence("emptied", head=False),
    metrics=(
        replace(OVERALL, name="oIoU", of="targets"),
        TARGETS_IOU,
        *_precision(*FIFTHS, of="targets"),
        Metric("Acc", "no-target"),
    ),
    headline=("oIoU", "mIoU", "Acc"),
    strict=False,
    size=(480, 480),
)
R_REFCOCO = Protocol(
    name="r-refcoco",
    follows="robust-ref-seg utils/validation.py, without its Pr@X",
    grid=Grid("original", enlarge="bilinear-corners", sigmoid="never", restore="bilinear-corners"),
    no_target=SQUASHED,
    threshold=0.5,
    absence=Absence("emptied", exists=0.5),
    metrics=(
        Metric("mRR", "no-target", by="reference"),
        Metric("rIoU", "overall", by="reference"),
        Metric("mIoU", "mean", "targets", by="reference"),
        Metric("oIoU", "overall", "targets"),
    ),
    headline=("mRR", "rIoU", "mIoU", "oIoU"),
    size=(480, 480),
)

# As `--help` and the documentation show them.
GROUPS: dict[str, tuple[Protocol, ...]] = {
    "Ours": (
        REFSEG,
        THESIS,
        replace(
            THESIS,
            name="thesis-50pix",
            follows="the same with the head switched off, table 6.6's ReLA-50pix",
            absence=replace(THESIS.absence, head=False),
        ),
    ),
    "One target": (LAVT, CRIS, CGFORMER, VLT, ASDA, MMDET, LISA, PHRASECUT),
    "Any number of targets": (
        RELA,
        COHD,
        DERIS,
        GSVA,
        replace(
            GSVA,
            name="gsva-zom",
            follows="the same on other data, Ref-ZOM: a false alarm leaves cIoU as it is",
            metrics=(ALL_IOU, replace(OVERALL, of="targets"), *ACCURACIES),
        ),
        REF_ZOM,
        R_REFCOCO,
    ),
    "Boxes and instances": BOXES_AND_INSTANCES,
}
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for group in GROUPS.values() for protocol in group}
# Of clips. Not among the others: its figures are formed over masks in their order, where those count each by itself.
VIDEO = Protocol(
    name="video",
    follows="DAVIS 2017 and MeViS: the mean over the frames of an expression, then over expressions",
    grid=ORIGINAL,
    threshold=None,
    absence=Absence("emptied"),
    metrics=tuple(Metric(name, "mean") for name in ("J&F", "J", "F", "steadiness")),
    headline=("J&F",),
    empty=1.0,
)
BY_NAME = {**PROTOCOLS, VIDEO.name: VIDEO}
