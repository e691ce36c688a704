"""What other thresholds would have given, and how far a no-target head's probabilities can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.exact import grid_bits, on_grid
from refseg_cli.metrics.scores import ratios
from refseg_cli.metrics.tuning import between

# Mask thresholds at which an evaluation also counts, so that a curve needs no second pass.
MASK_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
POINTS = 200  # of a drawn curve
BINS = 10  # of a reliability diagram


@dataclass(frozen=True, eq=False, slots=True)
class NoTargetCurve:
    """N-acc against T-acc as the no-target threshold rises. An answer says "target" from its threshold on.

    score:      what the threshold is held against: the head's probability of a target, or the mask's pixels.
    thresholds: (k,) rising; the last one, from which on nothing is a target, is above 1 where a probability is 1.
    n_acc, t_acc: (k,) at each.
    area:       under the whole curve: the probability that an expression with a target scores higher than one without,
                ties counting half. 0.5 is chance.
    chosen:     the threshold in force, and what it gives.
    """

    score: Literal["probability", "pixels"]
    thresholds: np.ndarray
    n_acc: np.ndarray
    t_acc: np.ndarray
    area: float
    chosen: float
    chosen_n_acc: float
    chosen_t_acc: float


@dataclass(frozen=True, eq=False, slots=True)
class MaskCurve:
    """gIoU and cIoU (rules of the protocol `refseg`) at each mask threshold, (k,).  chosen: the one in force."""

    thresholds: np.ndarray
    g_iou: np.ndarray
    c_iou: np.ndarray
    chosen: float


@dataclass(frozen=True, eq=False, slots=True)
class Reliability:
    """How often there is a target where the head says it is there with some probability.

    edges: (b+1,) of the bins, the last one closed.  counts: (b,) expressions.  predicted: (b,) their mean probability,
    observed: (b,) the share that has a target; both NaN in empty bins.
    ece:   expected calibration error: the mean of |predicted - observed|, weighted by counts.
    brier: the mean squared difference between probability and truth.
    """

    edges: np.ndarray
    counts: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    ece: float
    brier: float


def no_target_curve(counts: Counts, *, exists: float, min_pixels: int, points: int = POINTS) -> NoTargetCurve | None:
    """The curve of the answers' own thresholds; None where either kind of expression is missing.

    With a head, its probability is swept and masks below `min_pixels` are "no target" at any threshold; without one,
    the number of pixels is swept.
    """
    head = bool(counts.has_head.any())
    score = counts.predicted.astype(np.float64)
    if head:
        score = np.where(counts.predicted >= min_pixels, counts.p_target, -np.inf)
    present, absent = np.sort(score[counts.has_target]), np.sort(score[~counts.has_target])
    if not len(present) or not len(absent):
        return None
    known = np.unique(score[np.isfinite(score)])
    # Beyond the largest score nothing is a target any more: the curve's other end.
    largest = known[-1] if len(known) else 0.0
    beyond = 1.0 if head and largest < 1 else np.nextafter(largest, np.inf)
    scores_up = np.append(known, beyond)
    n_acc, t_acc = _accuracies(present, absent, scores_up)
    shown = np.unique(np.linspace(0, len(scores_up) - 1, points).round().astype(int))
    # From above the score before up to a score, all thresholds do the same: one that can be read and typed.
    lower = np.append(-np.inf, scores_up[:-1])
    thresholds = [between(lower[i], scores_up[i]) if head and i else scores_up[i] for i in shown]
    chosen = exists if head else float(min_pixels)
    at = _accuracies(present, absent, np.array([chosen]))
    return NoTargetCurve(
        score="probability" if head else "pixels",
        thresholds=np.array(thresholds),
        n_acc=n_acc[shown],
        t_acc=t_acc[shown],
        area=_area(present, absent),
        chosen=chosen,
        chosen_n_acc=float(at[0][0]),
        chosen_t_acc=float(at[1][0]),
    )


def digits(threshold: float) -> str:
    """As short as gives this very number when it is typed."""
    return np.format_float_positional(threshold, trim="-")


def _accuracies(present: np.ndarray, absent: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N-acc and T-acc at each threshold; the scores are sorted."""
    below_absent = np.searchsorted(absent, thresholds, side="left")
    below_present = np.searchsorted(present, thresholds, side="left")
    return below_absent / len(absent), (len(present) - below_present) / len(present)


def _area(present: np.ndarray, absent: np.ndarray) -> float:
    lower = np.searchsorted(absent, present, side="left")
    lower_or_equal = np.searchsorted(absent, present, side="right")
    return float((lower.sum() + lower_or_equal.sum()) / (2 * len(present) * len(absent)))


def mask_curve(at: Sequence[Counts], thresholds: Sequence[float], *, chosen: float) -> MaskCurve | None:
    """The scores at each mask threshold; None without expressions.

    at: what was counted at each of `thresholds`, with `says_target` as decided there.
    """
    if not at or not len(at[0]):
        return None
    values = [dict(zip(table.names, table.values(), strict=True)) for table in map(ratios, at)]
    return MaskCurve(
        thresholds=np.array(thresholds),
        g_iou=np.array([v["gIoU"] for v in values]),
        c_iou=np.array([v["cIoU"] for v in values]),
        chosen=chosen,
    )


def reliability(counts: Counts, *, bins: int = BINS) -> Reliability | None:
    """The head's probabilities against the truth, in bins of equal width; None where no head spoke."""
    rows = counts.has_head
    if not rows.any():
        return None
    p, truth = counts.p_target[rows], counts.has_target[rows].astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    which = np.minimum((p * bins).astype(int), bins - 1)
    found = np.bincount(which, minlength=bins)
    some = np.maximum(found, 1)
    predicted = np.where(found, np.bincount(which, on_grid(p, grid_bits(len(p))), bins) / some, np.nan)
    observed = np.where(found, np.bincount(which, truth, bins) / some, np.nan)
    return Reliability(
        edges=edges,
        counts=found,
        predicted=predicted,
        observed=observed,
        ece=math.fsum(np.abs(predicted - observed)[found > 0] * found[found > 0]) / len(p),
        brier=math.fsum(((p - truth) ** 2).tolist()) / len(p),
    )
