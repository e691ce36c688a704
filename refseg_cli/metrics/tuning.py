"""The thresholds that would have given the highest gIoU: one sweep over counts, no search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refseg_cli.metrics.counts import Counts


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best thresholds on a set, and the gIoU (a fraction, of the set itself) that they give.

    exists: None where no head is listened to; then `min_pixels` is what was tuned.
    """

    mask: float
    exists: float | None
    min_pixels: int
    g_iou: float


def tune(at: Sequence[Counts], thresholds: Sequence[float], *, min_pixels: int = 1) -> Tuned:
    """The mask threshold and the no-target threshold that together give the highest gIoU.

    With a no-target head the second one is its probability, otherwise the number of pixels below which a mask means
    "no target". Of equally good ones the first: lower mask thresholds, then answers that say "target" less often. A
    threshold is set half-way between the two scores that it has to tell apart.

    Args:
        at: what was counted at each of `thresholds`; `says_target` is not looked at.
        min_pixels: the least pixels of a target; kept where a head is tuned.
    """
    best: Tuned | None = None
    for threshold, counts in zip(thresholds, at, strict=True):
        head = bool(counts.has_head.any())
        score = counts.p_target if head else counts.predicted.astype(np.float64)
        seen = counts.predicted >= (min_pixels if head else 1)
        cut, g_iou = _sweep(counts, score, seen)
        if best is None or g_iou > best.g_iou:
            pixels = min_pixels if head else max(1, int(np.ceil(cut)))
            best = Tuned(threshold, min(max(cut, 0.0), 1.0) if head else None, pixels, g_iou)
    if best is None or not len(at[0]):
        raise ValueError("nothing to tune on")
    return best


def _sweep(counts: Counts, score: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """The cut on `score` (from it on, an answer says "target") of the highest gIoU, and that gIoU.

    seen: (n,) bool, masks that are not empty: the others mean "no target" whatever their score.
    """
    n = len(score)
    said = np.where(counts.has_target, counts.intersection / np.maximum(counts.union, 1), 0.0) * seen
    unsaid = (~counts.has_target).astype(np.float64)
    said = np.where(seen, said, unsaid)
    order = np.argsort(-score, kind="stable")
    # total[k]: the k highest scores say "target", the others do not.
    total = unsaid.sum() + np.concatenate([[0.0], np.cumsum((said - unsaid)[order])])
    ordered = score[order]
    possible = np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])  # equal scores are answered alike
    k = int(np.argmax(np.where(possible, total, -np.inf)))
    if k == 0:
        return float(ordered[0] + 1), float(total[0] / n)
    cut = ordered[k - 1] if k == n else (ordered[k - 1] + ordered[k]) / 2
    return float(cut), float(total[k] / n)
