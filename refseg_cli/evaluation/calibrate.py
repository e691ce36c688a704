"""Thresholds chosen on a held-out split and kept in the checkpoint: `refseg calibrate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from refseg_cli import checkpoint, hub
from refseg_cli.data import shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import Answers
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.evaluation.parts import Part, sharing
from refseg_cli.metrics.scores import scores
from refseg_cli.metrics.tuning import tune
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.choice import is_exported
from refseg_cli.segmenters.zero_shot import is_zero_shot, open_zero_shot, own_folder, store_thresholds

ROUNDING = 1e-9  # of a gIoU: no gain


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was chosen on `split`, kept in `folder`.

    before, after: gIoU there, fractions.  caution: what a reader must know of the choice; may be empty.
    """

    folder: Path
    split: str
    old: Thresholds
    new: Thresholds
    before: float
    after: float
    caution: str = ""


def calibrate(request: EvalRequest, split: str, *, progress: Progress = silent) -> Calibration:
    """Choose the thresholds of the highest gIoU on a split, and store them in the checkpoint's folder.

    Several processes share the questions; the first one chooses and stores for all.

    The mask threshold is one of `curves.MASK_THRESHOLDS`; with it goes the no-target head's threshold, or, for a model
    without such a head, the least number of pixels. Thresholds that are already as good stay. Of a zero-shot model,
    whose masks come finished, the no-target threshold alone is chosen.

    request: says which model, data, device and batches; its splits and records are not looked at.

    Raises:
        RefsegError: the model is a bundled one, which is not the user's to change, or an exported one; no such data or
            split; no phrase with a target in the split; or the folder cannot be written.
    """
    _refuse_cached(request.model)
    if request.model is not None and is_zero_shot(request.model):
        return _calibrate_zero_shot(request, request.model, split, progress)
    folder = own_checkpoint(request.model)
    with sharing() as part:
        return _calibrate_checkpoint(request, folder, split, part, progress)


def _calibrate_checkpoint(
    request: EvalRequest, folder: Path, split: str, part: Part, progress: Progress
) -> Calibration:
    passed = replace(request, splits=(split,), protocols=("refseg",), curve=True, records=None, disturb=None)
    answers = evaluate(passed, progress=progress).evaluations[split].answers
    _need_targets(answers.has_target, request, split)
    return part.decided(lambda: _chosen(answers, folder, split))


def _chosen(answers: Answers, folder: Path, split: str) -> Calibration:
    """From answers with counts at every mask threshold; stored."""
    old, levels = answers.about.thresholds, answers.about.mask_thresholds
    before = scores(answers.counts()).values["gIoU"]
    best = tune([answers.counts_at(i) for i in range(len(levels))], levels, min_pixels=old.min_pixels)
    if best.g_iou <= before + ROUNDING:
        return Calibration(folder, split, old, old, before, before)
    new = Thresholds(best.mask, old.exists if best.exists is None else best.exists, best.min_pixels)
    about = {"data": answers.about.dataset, "split": split, "expressions": len(answers), "gIoU": [before, best.g_iou]}
    checkpoint.store_thresholds(folder, new, info=about)
    return Calibration(folder, split, old, new, before, best.g_iou, _caution(answers.has_target, split))


def _need_targets(has_target: np.ndarray, request: EvalRequest, split: str) -> None:
    """has_target: (n,) bool, of the split's expressions. Raises RefsegError: none has."""
    if not has_target.any():  # a model that never finds anything would be the best
        raise RefsegError(
            f"{request.data}: no expression in {split} has a target to calibrate on", hint="name another --split"
        )


def _caution(has_target: np.ndarray, split: str) -> str:
    if not has_target.all():
        return ""
    return f"{split}: every phrase has a target, so the no-target threshold is not tested on phrases without one"


def own_checkpoint(model: str | None) -> Path:
    """The checkpoint folder of that name, in which something is to be stored.

    Raises:
        RefsegError: there is none, or it is not the user's to change: bundled, exported, in the hub's cache.
    """
    _refuse_cached(model)
    if is_exported(model):
        raise RefsegError(
            f"{model}: an exported model keeps its thresholds", hint="calibrate the checkpoint and export it"
        )
    folder = checkpoint.resolve(model)
    if folder.parent == checkpoint.BUNDLE:
        raise RefsegError("a bundled model keeps its thresholds", hint="name a trained one with --model RUN")
    return folder


def _refuse_cached(model: str | None) -> None:
    if model is not None and hub.is_hub_name(model):
        repository = hub.split_name(model.partition("+")[0])[0]
        raise RefsegError(
            f"{model}: thresholds are stored in the model's folder, and this one is in the hub's cache",
            hint=f"hf download {repository} --local-dir DIR, then --model DIR",
        )


def _calibrate_zero_shot(request: EvalRequest, name: str, split: str, progress: Progress) -> Calibration:
    """From one pass in which every phrase's candidate is reported, however improbable."""
    with sharing() as part:
        return part.decided(lambda: _chosen_zero_shot(request, name, split, progress))


def _chosen_zero_shot(request: EvalRequest, name: str, split: str, progress: Progress) -> Calibration:
    from refseg_cli.evaluation.asked import counts_of

    opened = shards.open_shards(request.data, split)
    segmenter = open_zero_shot(name, device=request.device)
    old = segmenter.thresholds
    counts = counts_of(request, segmenter.reporting_all(), opened, progress=progress)
    _need_targets(counts.has_target, request, split)
    says = (counts.predicted >= max(1, old.min_pixels)) & (counts.p_target >= old.exists)
    before = scores(replace(counts, says_target=says)).values["gIoU"]
    best = tune([counts], [old.mask], min_pixels=old.min_pixels)
    folder = own_folder(name)
    if best.exists is None or best.g_iou <= before + ROUNDING:
        return Calibration(folder, split, old, old, before, before)
    new = replace(old, exists=best.exists)
    about = {"data": opened.manifest.dataset, "split": split, "expressions": len(counts), "gIoU": [before, best.g_iou]}
    store_thresholds(name, new, info=about)
    return Calibration(folder, split, old, new, before, best.g_iou, _caution(counts.has_target, split))
