"""Fractions whose sums are exact: the same in any order, on any processor."""

from __future__ import annotations

import math

import numpy as np

EXACT_BITS = 52  # of whole numbers whose sums and differences a double holds


def grid_bits(count: int) -> int:
    """b such that any sum of `count` fractions in [-1, 1], multiples of 2^-b, is exact in double precision."""
    return EXACT_BITS - count.bit_length()


def on_grid(values: np.ndarray, bits: int) -> np.ndarray:
    """The nearest multiples of 2^-bits, float64; whole numbers stay as they are."""
    if values.dtype.kind != "f":
        return values.astype(np.float64)
    return np.ldexp(np.rint(np.ldexp(values, bits)), -bits)


def exact_sum(values: np.ndarray) -> float:
    """The sum of (n,) finite float64, correctly rounded, so in any order: `math.fsum` of an array, without a list.

    What is left of the values is put on ever finer grids, whose sums are exact, until nothing is.
    """
    largest = float(np.abs(values).max(initial=0.0))
    bits, exponent = grid_bits(len(values)), math.frexp(largest)[1]
    left, sums = np.ldexp(values, -exponent), []
    while left.any():
        left = np.ldexp(left, bits)
        whole = np.rint(left)
        left -= whole
        exponent -= bits
        sums.append(math.ldexp(float(whole.sum()), exponent))
    return math.fsum(sums)
