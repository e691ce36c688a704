"""Pixels of predicted and true masks, or their instances, as columns of expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np


class Pixels(NamedTuple):
    """How many pixels are in P ∩ G, P and G, of a predicted mask P and a true mask G."""

    intersection: int
    predicted: int
    target: int

    @property
    def union(self) -> int:
        return self.predicted + self.target - self.intersection


def count_pixels(predicted: np.ndarray, target: np.ndarray) -> Pixels:
    """Count two (h, w) bool masks of the same picture at the same size.

    Raises:
        ValueError: the masks differ in shape; broadcasting one over the other would count pixels that do not exist.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"a predicted mask of {predicted.shape} against a target of {target.shape}")
    p, g = np.count_nonzero(predicted), np.count_nonzero(target)
    both = np.count_nonzero(np.logical_and(predicted, target)) if p and g else 0
    return Pixels(intersection=int(both), predicted=int(p), target=int(g))


DTYPES = {"has_target": np.bool_, "says_target": np.bool_, "p_target": np.float64}  # the other columns are int64


@dataclass(frozen=True, eq=False, slots=True)
class Counts:
    """The columns of n expressions as one view sees them: pixels (n,) int64, flags (n,) bool.

    intersection: |P ∩ G|, where P is the predicted mask, before any no-target rule, and G the true mask.
    predicted:    |P|.
    target:       |G|; 0 for every no-target expression, and for a target that was annotated without a pixel.
    has_target:   the annotation names at least one instance.
    says_target:  what the model decided by its own thresholds. Where it is True, P may still be empty.
    p_target:     (n,) float64, its no-target head's probability of a target; NaN (all of it, if left away) without one.
    further:      (n, s) int64, pairs at further thresholds of a protocol that has several; (n, 0) without any.

    Where a protocol matches instances, these stand for pixels: pairs, predicted and true instances.

    Raises:
        TypeError: a column that is neither whole numbers nor, for a flag, bool.
        ValueError: columns that differ in shape, counts that no two masks have, or probabilities outside [0, 1].
    """

    intersection: np.ndarray
    predicted: np.ndarray
    target: np.ndarray
    has_target: np.ndarray
    says_target: np.ndarray
    p_target: np.ndarray = field(default_factory=lambda: np.zeros(0))
    further: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        if np.size(self.p_target) == 0:
            object.__setattr__(self, "p_target", np.full(np.shape(self.target), np.nan))
        if np.size(self.further) == 0:
            object.__setattr__(self, "further", np.zeros((np.size(self.target), np.shape(self.further)[-1])))
        for f in fields(self):
            dtype = DTYPES.get(f.name, np.int64)
            column = np.asarray(getattr(self, f.name))
            if column.size == 0:  # an empty list is an array of floats
                column = column.astype(dtype)
            object.__setattr__(self, f.name, column.astype(dtype, casting="same_kind", copy=False))
        shapes = {getattr(self, f.name).shape for f in fields(self) if f.name != "further"} | {self.further.shape[:1]}
        if shapes != {(len(self.target),)}:
            raise ValueError(f"the columns of Counts differ in shape: {sorted(shapes)}")
        impossible = {
            "an intersection that is negative or larger than a mask": (self.intersection < 0)
            | (self.intersection > np.minimum(self.predicted, self.target)),
            "more pairs than instances": (
                (self.further < 0) | (self.further > np.minimum(self.predicted, self.target)[:, None])
            ).any(1),
            "target pixels but no target": ~self.has_target & (self.target > 0),
            "a probability outside [0, 1]": (self.p_target < 0) | (self.p_target > 1),
        }
        for what, rows in impossible.items():
            if rows.any():
                raise ValueError(f"expression {int(np.argmax(rows))} has {what}")

    def __len__(self) -> int:
        return len(self.target)

    @property
    def union(self) -> np.ndarray:
        """(n,) int64, |P ∪ G|."""
        return self.predicted + self.target - self.intersection

    @property
    def has_head(self) -> np.ndarray:
        """(n,) bool, whether a no-target head spoke."""
        return ~np.isnan(self.p_target)

    def rows(self, which: np.ndarray) -> Counts:
        """Those of the expressions; which: (n,) bool, or indices."""
        return Counts(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def concatenate(parts: Sequence[Counts]) -> Counts:
    """The expressions of all `parts` in order; no parts give a `Counts` of length 0."""
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Counts)}
    return Counts(**{name: np.concatenate(arrays) if arrays else np.zeros(0) for name, arrays in columns.items()})
