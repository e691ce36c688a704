"""From scores to decisions: the rule that all models share. Knows no torch.

Axes: N expressions, h w original picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from refseg_cli.records import Thresholds


@dataclass(frozen=True, slots=True)
class Decision:
    """What the model says of one expression.

    mask: (h, w) bool at original size, all False where there is no target.
    raw: the same before the no-target rule emptied it.
    p_target: probability that there is a target; for models without a no-target head the mask's peak probability.
    soft: (h, w) float32, the probability of each pixel, if it was asked for.
    """

    mask: np.ndarray
    raw: np.ndarray
    exists: bool
    p_target: float
    soft: np.ndarray | None = None


def logit(probability: float) -> float:
    """What a logit is compared with in place of its probability, so that no sigmoid is needed at full size."""
    if probability <= 0 or probability >= 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))


def decide(masks: np.ndarray, scores: Sequence[float], thresholds: Thresholds, *, has_head: bool) -> list[Decision]:
    """The no-target rule: the head's word, where there is a head, and enough pixels in any case.

    masks: (N, h, w) bool.  scores: N probabilities of a target.
    """
    pixels = masks.reshape(len(masks), -1).sum(1)
    decisions = []
    for mask, count, score in zip(masks, pixels, scores, strict=True):
        present = int(count) >= thresholds.min_pixels and (not has_head or score >= thresholds.exists)
        decisions.append(Decision(mask if present else np.zeros_like(mask), mask, present, float(score)))
    return decisions


def override(thresholds: Thresholds, *, mask: float | None, exists: float | None) -> Thresholds:
    """The thresholds with those in place that somebody asked for; None keeps the model's own."""
    return replace(
        thresholds,
        mask=thresholds.mask if mask is None else mask,
        exists=thresholds.exists if exists is None else exists,
    )
