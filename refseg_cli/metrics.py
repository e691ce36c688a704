"""The scores of referring segmentation, from integer counts (Liu, thesis 2024, section 6.4.1).

Count first, divide last: a pair of masks becomes four pixel counts and two flags, and every ratio is formed here, once,
from the counts of all expressions. The counts of a run can be kept, and its scores formed again without a model.
Fractions in [0, 1] everywhere but in `Scores.table`, which is in percent.

Axes: n expressions (the thesis' "samples"), each of which has a target or has none.

"No target" is an empty mask on both sides: a no-target expression has an empty ground truth, and a prediction says
"no target" exactly where it has no foreground pixel (6.4.1: "prediction without any foreground pixels"), whatever
emptied it. A score without any expression to divide by is NaN, never 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)  # RES begins at 0.5; 6.4.1 begins at 0.7 for multi-target data


class Pixels(NamedTuple):
    """How many pixels are in P ∩ G, P ∪ G, P and G, of a predicted mask P and a true mask G."""

    intersection: int
    union: int
    predicted: int
    target: int


def count_pixels(predicted: np.ndarray, target: np.ndarray) -> Pixels:
    """Count two (h, w) bool masks of the same image, at its original size.

    Raises:
        ValueError: the masks differ in shape; broadcasting one over the other would count pixels that do not exist.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"a predicted mask of {predicted.shape} against a target of {target.shape}")
    p, g = np.count_nonzero(predicted), np.count_nonzero(target)
    both = np.count_nonzero(np.logical_and(predicted, target)) if p and g else 0
    return Pixels(intersection=int(both), union=int(p + g - both), predicted=int(p), target=int(g))


@dataclass(frozen=True, eq=False, slots=True)
class Counts:
    """The columns of n expressions: pixels (n,) int64, flags (n,) bool.

    intersection: |P ∩ G|, where P is the predicted and G the true mask, both at the image's original size.
    union:        |P ∪ G|.
    predicted:    |P|.
    target:       |G|; 0 for every no-target expression, and for a target that was annotated without a pixel.
    has_target:   the annotation names at least one instance.
    says_target:  what the model decided. Where it is False, P counts as empty. Where it is True, P may still be empty;
                  the thesis' scores look at P alone, other protocols look here.

    Raises:
        TypeError: a column that is neither whole numbers nor, for a flag, bool.
        ValueError: columns that differ in shape, or counts that no two masks have.
    """

    intersection: np.ndarray
    union: np.ndarray
    predicted: np.ndarray
    target: np.ndarray
    has_target: np.ndarray
    says_target: np.ndarray

    def __post_init__(self) -> None:
        for f in fields(self):
            dtype = np.int64 if f.name in Pixels._fields else np.bool_
            column = np.asarray(getattr(self, f.name))
            if column.size == 0:  # an empty list is an array of floats
                column = column.astype(dtype)
            object.__setattr__(self, f.name, column.astype(dtype, casting="same_kind"))
        shapes = {getattr(self, f.name).shape for f in fields(self)}
        if shapes != {(len(self.union),)}:
            raise ValueError(f"the columns of Counts differ in shape: {sorted(shapes)}")
        impossible = {
            "an intersection that is negative or larger than a mask": (self.intersection < 0)
            | (self.intersection > np.minimum(self.predicted, self.target)),
            "a union other than predicted + target - intersection": self.union
            != self.predicted + self.target - self.intersection,
            "target pixels but no target": ~self.has_target & (self.target > 0),
            "predicted pixels where the model says no target": ~self.says_target & (self.predicted > 0),
        }
        for what, rows in impossible.items():
            if rows.any():
                raise ValueError(f"expression {int(np.argmax(rows))} has {what}")

    def __len__(self) -> int:
        return len(self.union)


def concatenate(parts: Sequence[Counts]) -> Counts:
    """The expressions of all `parts` in order; no parts give a `Counts` of length 0."""
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Counts)}
    return Counts(**{name: np.concatenate(arrays) if arrays else np.zeros(0) for name, arrays in columns.items()})


def overall_iou(counts: Counts) -> float:
    """cIoU = oIoU: "total intersection pixels over total union pixels" (6.4.1), over all n expressions.

    No-target expressions take part: a mask predicted for one adds its pixels to the union and nothing to the
    intersection, a right answer adds nothing to either. A target that was missed adds its pixels to the union.
    NaN where nothing was annotated and nothing predicted, which is also so for n = 0.
    """
    return _ratio(int(counts.intersection.sum()), int(counts.union.sum()))


def sample_iou(counts: Counts) -> np.ndarray:
    """(n,) float64: the IoU of each expression, as gIoU reads it (6.4.1), never NaN.

    With a target: |P ∩ G| / |P ∪ G|, hence 0 for an empty prediction. Where the target was annotated without a pixel
    and none is predicted, the ratio is 0/0; it counts as 0, because a target that is there was not found.
    Without a target: 1 where no pixel is predicted (true positive), 0 where any is (false negative).
    """
    ratio = counts.intersection / np.maximum(counts.union, 1)
    return np.where(counts.has_target, ratio, counts.predicted == 0)


def mean_iou(counts: Counts) -> float:
    """mIoU of classic RES: the mean of `sample_iou` over the expressions that have a target; NaN without any.

    Each expression has the same weight. No-target expressions are left out, so that the figure does not rise by
    predicting nothing; with them it is `generalized_iou`.
    """
    return _mean(sample_iou(counts)[counts.has_target])


def generalized_iou(counts: Counts) -> float:
    """gIoU: "the mean value of per-image IoU over all samples" (6.4.1), no-target ones by right = 1, wrong = 0.

    It is `mean_iou` where every expression has a target, `no_target_accuracy` where none has, and otherwise their mean
    weighted by the number of expressions. NaN for n = 0. (No relation to the box loss of the same name.)
    """
    return _mean(sample_iou(counts))


def precision_at(counts: Counts, threshold: float) -> float:
    """Pr@X: the share of expressions with "IoU higher than the threshold X" (6.4.1): strictly, an IoU of X fails.

    "No-target samples are excluded in Pr@X"; NaN without any target. Strict as in the thesis and in VLT's evaluation;
    LAVT's and gRefCOCO's evaluators use >=. Division of doubles is correctly rounded, so that the IoU of 7/10 pixels is
    the very number that `0.7` denotes, and the comparison is as exact as one of integers.
    """
    return _mean(sample_iou(counts)[counts.has_target] > threshold)


def no_target_accuracy(counts: Counts) -> float:
    """N-acc = TP / (TP + FN) (6.4.1): the share of no-target expressions with no predicted pixel; NaN without any."""
    return _mean(counts.predicted[~counts.has_target] == 0)


def target_accuracy(counts: Counts) -> float:
    """T-acc = TN / (TN + FP) (6.4.1): the share of expressions with a target and at least one predicted pixel.

    Where that pixel is does not matter: it is the price of N-acc, not a measure of the mask. NaN without any target.
    """
    return _mean(counts.predicted[counts.has_target] > 0)


@dataclass(frozen=True, slots=True)
class Scores:
    """The thesis' scores of one set of expressions, as fractions; NaN where the set does not define one.

    precision: Pr@X by its X.  expressions, no_target: how many there are, and how many of them have no target.
    """

    overall_iou: float
    mean_iou: float
    generalized_iou: float
    precision: dict[float, float]
    no_target_accuracy: float
    target_accuracy: float
    expressions: int
    no_target: int

    def table(self) -> dict[str, float | None]:
        """Percent by the names that the papers print, None where undefined (JSON has no NaN).

        `cIoU` is what other papers call oIoU or overall IoU.
        """
        fractions = {
            "cIoU": self.overall_iou,
            "mIoU": self.mean_iou,
            "gIoU": self.generalized_iou,
            **{f"Pr@{threshold:g}": share for threshold, share in self.precision.items()},
            "N-acc": self.no_target_accuracy,
            "T-acc": self.target_accuracy,
        }
        return {name: None if math.isnan(value) else 100 * value for name, value in fractions.items()}


def scores(counts: Counts) -> Scores:
    """Every score of section 6.4.1, and mIoU."""
    return Scores(
        overall_iou=overall_iou(counts),
        mean_iou=mean_iou(counts),
        generalized_iou=generalized_iou(counts),
        precision={threshold: precision_at(counts, threshold) for threshold in PRECISION_THRESHOLDS},
        no_target_accuracy=no_target_accuracy(counts),
        target_accuracy=target_accuracy(counts),
        expressions=len(counts),
        no_target=int(np.count_nonzero(~counts.has_target)),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: np.ndarray) -> float:
    """Correctly rounded, so that the scores do not depend on the order of the expressions, not even in the last bit."""
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan
