"""Sums over the phrases of each picture, exact in any order.

The phrases of one picture share its difficulty, so pictures are what intervals and comparisons rest on. They must not
hang on the last bit of a sum: two models that have the same IoUs on a picture, in another order, have the same sum
there. Pixels and shares are whole numbers, and an IoU is rounded to a multiple of 2^-b, with b as large as exact sums
allow: 32 for a million expressions. A double then holds every partial sum as it is.

Axes: n expressions, m metrics, c pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refseg_cli.metrics.exact import grid_bits, on_grid
from refseg_cli.metrics.scores import Ratios


@dataclass(frozen=True, eq=False, slots=True)
class PictureSums:
    """parts, wholes: (c, m) float64, numerators and denominators of each picture, multiples of 2^-bits.

    Those of a metric of kind `sum` are what its terms add to the numerator over their common denominator, and how many
    expressions they are formed over: two sets of answers to the same expressions differ in the former alone.
    concepts: (c, k), likewise of `Ratios.concepts`.
    """

    parts: np.ndarray
    wholes: np.ndarray
    bits: int
    concepts: np.ndarray

    def of(self, pictures: np.ndarray) -> PictureSums:
        """Those of some pictures, by their numbers."""
        return PictureSums(self.parts[pictures], self.wholes[pictures], self.bits, self.concepts[pictures])


def number_pictures(images: np.ndarray) -> tuple[np.ndarray, int]:
    """0 .. c-1 in place of any numbers of pictures (n,), and c."""
    names, found = np.unique(images, return_inverse=True)
    return found, len(names)


def sum_by_picture(table: Ratios, pictures: np.ndarray, count: int, rows: np.ndarray | None = None) -> PictureSums:
    """What each of `count` pictures adds to each metric.

    Args:
        pictures: (n,) of each expression, 0 <= p < count.
        rows: the expressions that count, (n,) bool or their places; None for all.
    """
    which = slice(None) if rows is None else rows
    chosen = pictures[which]
    bits = grid_bits(len(chosen))

    def summed(column: np.ndarray) -> np.ndarray:
        return np.bincount(chosen, weights=on_grid(column[which], bits), minlength=count)

    shape = (len(table.metrics), count)
    parts, wholes = (
        np.array([summed(column) for column in columns]).reshape(shape).T
        for columns in (table.numerators, table.denominators)
    )
    totals = wholes.sum(0)
    for j, metric in enumerate(table.metrics):
        if metric.terms:
            first, second = table.terms(j)
            parts[:, j] = parts[:, first] * totals[second] + parts[:, second] * totals[first]
            wholes[:, j] = wholes[:, first] + wholes[:, second]
    k = table.concepts.shape[1]
    concepts = np.array([summed(column) for column in table.concepts.T]).reshape(k, count).T
    return PictureSums(parts, wholes, bits, concepts)
