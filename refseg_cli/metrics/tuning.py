"""The thresholds that would have given the highest gIoU: one sweep over counts, no search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.exact import grid_bits, on_grid
from refseg_cli.metrics.scores import scores

MOST_DIGITS = 17  # of a decimal that tells any two doubles apart


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
    threshold is set near the middle of the two scores that it has to tell apart, with few digits. It is in [0, 1], so
    what is certain (probability 1) is a target at any.

    Args:
        at: what was counted at each of `thresholds`; `says_target` is not looked at.
        min_pixels: the least pixels of a target; kept where a head is tuned.
    """
    if not at or not len(at[0]):
        raise ValueError("nothing to tune on")
    swept = [_sweep(counts, min_pixels) for counts in at]
    best = _first_best(np.array([g_iou for _, g_iou in swept]), 2.0 ** -grid_bits(len(at[0])))
    counts, cut = at[best], swept[best][0]
    head = bool(counts.has_head.any())
    exists, pixels = (cut, min_pixels) if head else (None, int(cut))
    says = (counts.predicted >= pixels) & (~counts.has_head | (counts.p_target >= cut))
    g_iou = scores(replace(counts, says_target=says)).values["gIoU"]
    return Tuned(thresholds[best], exists, pixels, g_iou)


def between(low: float, high: float) -> float:
    """A decimal of few digits near the middle of low < t <= high; `high` where nothing lies between."""
    middle, room = (low + high) / 2, (high - low) / 4
    for digits in range(MOST_DIGITS + 1):
        rounded = round(middle, digits)
        if abs(rounded - middle) <= room and low < rounded <= high:
            return rounded
    return high


def _first_best(values: np.ndarray, rounding: float) -> int:
    """The first of those that are the highest but for what IoUs were rounded by."""
    return int(np.argmax(values >= values.max() - rounding))


def _sweep(counts: Counts, min_pixels: int) -> tuple[float, float]:
    """The cut of the highest gIoU, and that gIoU: from the cut on, an answer says "target".

    The cut is on the head's probability, or without a head on the number of pixels.
    """
    head = bool(counts.has_head.any())
    seen = counts.predicted >= (min_pixels if head else 1)  # the others mean "no target" whatever their score
    score = np.where(counts.has_head, counts.p_target, np.inf) if head else counts.predicted.astype(np.float64)
    score = np.where(seen, score, -np.inf)
    bits = grid_bits(len(counts))
    said = on_grid(np.where(counts.has_target, counts.intersection / np.maximum(counts.union, 1), 0.0), bits)
    unsaid = (~counts.has_target).astype(np.float64)
    order = np.argsort(-score, kind="stable")
    # total[k]: the k highest scores say "target", the others do not.
    total = unsaid.sum() + np.concatenate([[0.0], np.cumsum((said - unsaid)[order])])
    # The cut of each k lies above `lower` and up to `upper`; `top` is above all masks, or the highest probability.
    top = 1.0 if head else 1.0 + counts.predicted.max()
    above, lower = np.append(np.inf, score[order]), np.append(score[order], -np.inf)
    upper = np.minimum(above, top)
    k = _first_best(np.where(lower < upper, total, -np.inf), len(counts) * 2.0**-bits)
    apart = np.isfinite(above[k]) and np.isfinite(lower[k])  # otherwise all are answered alike
    cut = between(float(lower[k]), float(upper[k])) if apart else float(upper[k])
    return (cut if head else math.ceil(cut)), float(total[k] / len(counts))
