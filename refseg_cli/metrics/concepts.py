"""Figures that no ratio of sums gives: cgF1 of SA-Co and its two parts (Meta, SAM 3, arXiv:2511.16719).

facebookresearch/sam3 `sam3/eval/cgf1_eval.py`: every threshold has its own F1 of instances, formed over the phrases
that have one ("positive micro"); whether a phrase has any instance at all is scored by Matthews' correlation.

Axes: n expressions, k sums, s thresholds of overlap; k = 6 + s.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Kind = Literal["pmF1", "IL_MCC", "cgF1"]
EPSILON = 1e-4  # of precision, recall and F1
MCC_EPSILON = 1e-6


def columns(present: np.ndarray, absent: np.ndarray, predicted: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """(n, k) float64, whole numbers: what `figure` adds up.

    Args:
        present: (n,) bool, there is an instance.  absent: (n,) bool, none is predicted.
        predicted: (n,) instances.
        matched: (n, 1 + s): true instances, and pairs at each threshold.
    """
    said = ~absent
    answers = (present & said, present & absent, ~present & said, ~present & absent)
    return np.column_stack([*answers, np.where(present, predicted, 0), matched]).astype(np.float64)


def figure(kind: Kind, sums: np.ndarray) -> np.ndarray:
    """(..., k) sums -> (...). NaN where the truth has no instance, or, but for pmF1, no phrase without any.

    There the official code gives 0.
    """
    hit, missed, alarm, quiet = np.moveaxis(sums[..., :4], -1, 0)
    predicted, true, matched = sums[..., 4:5], sums[..., 5:6], sums[..., 6:]
    precision, recall = matched / (predicted + EPSILON), matched / (true + EPSILON)
    f1 = (2 * precision * recall / (precision + recall + EPSILON)).mean(-1)
    f1 = np.where(true[..., 0] > 0, f1, np.nan)
    if kind == "pmF1":
        return f1
    square = (hit + alarm) * (hit + missed) * (quiet + alarm) * (quiet + missed)
    mcc = (hit * quiet - alarm * missed) / (np.sqrt(square) + MCC_EPSILON)
    mcc = np.where((hit + missed > 0) & (alarm + quiet > 0), mcc, np.nan)
    return mcc if kind == "IL_MCC" else f1 * mcc


def kinds_of_pictures(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(c, k) of pictures -> (c,) bool each: those with a phrase that has an instance, and with one that has none."""
    return sums[:, :2].sum(1) > 0, sums[:, 2:4].sum(1) > 0
