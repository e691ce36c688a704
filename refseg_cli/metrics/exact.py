"""Fractions whose sums are exact: the same in any order, on any processor."""

from __future__ import annotations

import numpy as np

EXACT_BITS = 52  # of whole numbers whose sums and differences a double holds


def grid_bits(count: int) -> int:
    """b such that any sum of `count` fractions in [-1, 1], multiples of 2^-b, is exact in double precision."""
    return EXACT_BITS - count.bit_length()


def on_grid(values: np.ndarray, bits: int) -> np.ndarray:
    """The nearest multiples of 2^-bits, float64; whole numbers stay as they are."""
    return np.ldexp(np.rint(np.ldexp(values, bits)), -bits)
