"""Thresholds chosen on a held-out split and kept in the checkpoint: `refseg calibrate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from refseg_cli import checkpoint
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.metrics.scores import scores
from refseg_cli.metrics.tuning import tune
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.choice import is_exported

ROUNDING = 1e-9  # of a gIoU: no gain


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was chosen on `split`, kept in `folder`; before, after: gIoU there, fractions."""

    folder: Path
    split: str
    old: Thresholds
    new: Thresholds
    before: float
    after: float


def calibrate(request: EvalRequest, split: str, *, progress: Progress = silent) -> Calibration:
    """Choose the thresholds of the highest gIoU on a split, and store them in the checkpoint's folder.

    The mask threshold is one of `curves.MASK_THRESHOLDS`; with it goes the no-target head's threshold, or, for a model
    without such a head, the least number of pixels. Thresholds that are already as good stay.

    request: says which model, data, device and batches; its splits and records are not looked at.

    Raises:
        RefsegError: the model is the bundled one, which is not the user's to change, or an exported one; no such data
            or split; nothing in the split; or the folder cannot be written.
    """
    if request.model is None:
        raise RefsegError("the bundled model keeps its thresholds", hint="name a trained one with --model RUN")
    if is_exported(request.model):
        raise RefsegError(
            f"{request.model}: an exported model keeps its thresholds", hint="calibrate the checkpoint and export it"
        )
    folder = checkpoint.resolve(request.model)
    passed = replace(request, splits=(split,), protocols=("refseg",), curve=True, records=None, disturb=None)
    answers = evaluate(passed, progress=progress).evaluations[split].answers
    if not len(answers):
        raise RefsegError(f"{request.data}: no expression in {split} to calibrate on")
    old, levels = answers.about.thresholds, answers.about.mask_thresholds
    before = scores(answers.counts()).values["gIoU"]
    best = tune([answers.counts_at(i) for i in range(len(levels))], levels, min_pixels=old.min_pixels)
    if best.g_iou <= before + ROUNDING:
        return Calibration(folder, split, old, old, before, before)
    new = Thresholds(best.mask, old.exists if best.exists is None else best.exists, best.min_pixels)
    about = {"data": answers.about.dataset, "split": split, "expressions": len(answers), "gIoU": [before, best.g_iou]}
    checkpoint.store_thresholds(folder, new, info=about)
    return Calibration(folder, split, old, new, before, best.g_iou)
