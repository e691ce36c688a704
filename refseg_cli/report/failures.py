"""How an answer fails, from its mask and the picture's annotated objects; the first type that fits.

Axes: n expressions, m pairs of an expression and an object annotated in its picture. P is the predicted mask, G the
union of the targets, I one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refseg_cli.data import masks
from refseg_cli.records import Record, Rle

# In the order in which they are tried. docs/report.md says the same.
FAILURES = {
    "false alarm": "Nothing is referred to, and yet a mask is predicted.",
    "missed target": "Something is referred to, and no pixel is predicted.",
    "wrong instance": (
        "Another object is taken: the mask covers at least half of an object that is not referred to (a tenth of the "
        "mask or more, target pixels apart); or it finds no target and lies mostly outside of them."
    ),
    "missed instance": "One of several targets is not found: less than half of it is covered.",
    "ragged mask": "The right objects, but an IoU of 0.7 or less.",
    "right": "None of these.",
}
FALSE_ALARM, MISSED_TARGET, WRONG_INSTANCE, MISSED_INSTANCE, RAGGED_MASK, RIGHT = range(len(FAILURES))
FOUND = 0.5  # an object is covered, and a target found, if this share of it is in P
CRUMB = 0.1  # what is covered of another object counts from this share of P: a neighbour's edge is no choice
RAGGED = 0.7  # IoU; where Pr@X begins for multi-target data (thesis, 6.4.1)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Expressions against the objects of their pictures, (m,) each; pixels as int64.

    expression: which of the n it is.  is_target: whether the expression refers to the object.
    area: |I|.  covered: |P ∩ I|.  outside: |P ∩ I \\ G|.
    """

    expression: np.ndarray
    is_target: np.ndarray
    area: np.ndarray
    covered: np.ndarray
    outside: np.ndarray


def pair_up(
    record: Record, answered: Sequence[int], predicted: Sequence[Rle], truths: Sequence[Rle], *, first: int = 0
) -> Pairs:
    """The pairs of one picture; crowds, which are no single objects, take part as targets only.

    Args:
        answered: positions in `record.expressions`.
        predicted, truths: the mask P and the targets' union G of each.
        first: the number of the first of them among all expressions.
    """
    objects = [instance.rle for instance in record.instances]
    k, o = len(answered), len(objects)
    on_target = [masks.intersection(p, g) for p, g in zip(predicted, truths, strict=True)]
    covered = masks.shared_pixels(predicted, objects)  # (k, o)
    is_target = np.zeros((k, o), bool)
    for row, e in enumerate(answered):
        is_target[row, list(record.expressions[e].targets)] = True
    counts = np.array([not instance.iscrowd for instance in record.instances], bool) | is_target
    area = np.broadcast_to(np.array([masks.area(rle) for rle in objects], np.int64), (k, o))
    rows = np.broadcast_to(np.arange(first, first + k)[:, None], (k, o))
    outside = covered - masks.shared_pixels(on_target, objects)
    return Pairs(rows[counts], is_target[counts], area[counts], covered[counts], outside[counts])


def join(parts: Sequence[Pairs]) -> Pairs:
    """All pairs of `parts`, one after the other."""
    empty = np.zeros(0, np.int64)

    def column(name: str, dtype: type) -> np.ndarray:
        return np.concatenate([empty, *(getattr(part, name) for part in parts)]).astype(dtype)

    return Pairs(
        column("expression", np.int64),
        column("is_target", np.bool_),
        column("area", np.int64),
        column("covered", np.int64),
        column("outside", np.int64),
    )


def failure_types(
    has_target: np.ndarray, intersection: np.ndarray, union: np.ndarray, predicted: np.ndarray, pairs: Pairs
) -> np.ndarray:
    """(n,) int64 positions in `FAILURES`.

    Args:
        has_target: (n,) bool.  intersection, union, predicted: (n,) |P ∩ G|, |P ∪ G|, |P|.
    """
    n, e = len(has_target), pairs.expression
    real = pairs.area > 0
    chosen = ~pairs.is_target & real & (pairs.outside >= FOUND * pairs.area) & (pairs.outside >= CRUMB * predicted[e])
    found = pairs.is_target & real & (pairs.covered >= FOUND * pairs.area)
    another = np.bincount(e[chosen], minlength=n) > 0
    found_count = np.bincount(e[found], minlength=n)
    target_count = np.bincount(e[pairs.is_target & real], minlength=n)
    astray = (found_count == 0) & (2 * intersection < predicted)
    ragged = intersection / np.maximum(union, 1) <= RAGGED  # not the ">" of Pr@0.7
    return np.select(
        [
            ~has_target & (predicted > 0),
            has_target & (predicted == 0),
            has_target & (another | astray),
            has_target & (target_count > 1) & (found_count < target_count),
            has_target & ragged,
        ],
        [FALSE_ALARM, MISSED_TARGET, WRONG_INSTANCE, MISSED_INSTANCE, RAGGED_MASK],
        RIGHT,
    )
