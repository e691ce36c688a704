"""Whether two models differ: what would be seen if it were all the same which of them gave which picture's answers.

If they do not differ, each picture's answers of A may as well be B's. So the two are swapped on some of the pictures,
and the difference of the swapped is set against the one that was seen: over all ways to swap, where there are few,
and over random ones otherwise. That holds its level with any number of pictures (Fisher 1935; Noreen 1989).

What is added up over pictures is z = x·D - N·y: x and y are what B adds to the metric's numerator and denominator
beyond A, N and D are the sums of both models. With signs for the swaps, its sum is the difference of the two ratios but
for a positive factor. z is a whole number and all its sums are exact, so that ties are ties, on any processor.

Axes: c pictures, m metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from refseg_cli.metrics.concepts import Kind, figure
from refseg_cli.metrics.exact import EXACT_BITS
from refseg_cli.metrics.pictures import PictureSums
from refseg_cli.metrics.rules import Metric

SWAPS = 10_000
APART = 1e-12  # of two figures that should be equal
BLOCK = 4_000_000  # signs held at a time: 32 MB


class _Tested(NamedTuple):
    """One metric. weights: (c,) float64, whole numbers.  reach: the least sum that is as far as what was seen."""

    weights: np.ndarray
    reach: float


def p_values(
    metrics: Sequence[Metric],
    a: PictureSums,
    b: PictureSums,
    *,
    expressions: int,
    swaps: int = SWAPS,
    seed: int = 0,
) -> np.ndarray:
    """(m,) two-sided: the share of swaps with a difference at least as large as the one seen. NaN where undefined.

    All 2^k swaps of the k pictures that differ are tried if these are no more than `swaps`; otherwise so many random
    ones, and what was seen is counted among them, so that p is never 0.

    Args:
        expressions: behind the sums of either model.
        swaps: 0 for no p-values (NaN).
    """
    p = np.full(len(metrics), np.nan)
    sampled: dict[int, _Tested] = {}
    for j, metric in enumerate(metrics):
        if not swaps or not a.wholes[:, j].any() or not b.wholes[:, j].any():
            continue
        if metric.concept:
            p[j] = _concept_p(metric.concept, a.concepts, b.concepts, swaps, seed)
            continue
        tested = _tested(metric, j, a, b, expressions)
        differing = tested.weights[tested.weights != 0]
        if 2 ** len(differing) <= swaps:
            p[j] = np.mean(np.abs(_all_swaps(len(differing)) @ differing) >= tested.reach)
        else:
            sampled[j] = tested
    if sampled:
        p[list(sampled)] = _sampled(list(sampled.values()), swaps, seed)
    return p


def _tested(metric: Metric, j: int, a: PictureSums, b: PictureSums, expressions: int) -> _Tested:
    """Metric j, in units so large that sums stay exact."""
    scale = 2**a.bits
    n_a, n_b = ([int(part * scale) for part in sums.parts[:, j].tolist()] for sums in (a, b))
    d_a, d_b = ([int(whole) for whole in sums.wholes[:, j].tolist()] for sums in (a, b))
    n, d = sum(n_a) + sum(n_b), sum(d_a) + sum(d_b)
    z = [(q - p) * d - n * (s - r) for p, q, r, s in zip(n_a, n_b, d_a, d_b, strict=True)]
    # Two sums that should be equal are apart by what rounding did: by half a unit and a little more to each IoU of
    # either model, in both sums.
    apart = 3 * expressions * d if metric.adds_fractions else 0
    common = math.gcd(*z) or 1
    z, apart = [value // common for value in z], -(-apart // common)
    shift = max(0, sum(map(abs, z)).bit_length() - EXACT_BITS)
    if shift:  # which rounds each weight by half a unit
        z, apart = [(value + (1 << shift - 1)) >> shift for value in z], (apart >> shift) + 1 + len(z)
    return _Tested(np.array(z, dtype=np.float64), float(abs(sum(z)) - apart))


def _concept_p(kind: Kind, a: np.ndarray, b: np.ndarray, swaps: int, seed: int) -> float:
    """The same of a figure that is no ratio, formed anew for each swap; a, b: (c, k) sums of pictures."""
    changes = (b - a)[(a != b).any(1)]
    seen = abs(float(figure(kind, b.sum(0)) - figure(kind, a.sum(0)))) - APART

    def far(chosen: np.ndarray) -> int:
        moved = chosen @ changes  # whole numbers: exact
        return int(np.count_nonzero(np.abs(figure(kind, b.sum(0) - moved) - figure(kind, a.sum(0) + moved)) >= seen))

    if 2 ** len(changes) <= swaps:
        return far((1 - _all_swaps(len(changes))) / 2) / 2 ** len(changes)
    return (1 + sum(map(far, _random_subsets(len(changes), swaps, seed)))) / (1 + swaps)


def _all_swaps(pictures: int) -> np.ndarray:
    """(2^pictures, pictures) of -1 and 1."""
    return 1.0 - 2.0 * (np.arange(2**pictures)[:, None] >> np.arange(pictures) & 1)


def _sampled(tested: Sequence[_Tested], swaps: int, seed: int) -> np.ndarray:
    weights = np.stack([metric.weights for metric in tested], axis=1)
    reach = np.array([metric.reach for metric in tested])
    weights = weights[weights.any(1)]
    total, far = weights.sum(0), np.zeros(len(tested), dtype=np.int64)
    for chosen in _random_subsets(len(weights), swaps, seed):
        # Swapping a set of pictures takes twice their sum away. Whole numbers below 2^53: exact in any order.
        far += np.count_nonzero(np.abs(total - 2 * (chosen @ weights)) >= reach, axis=0)
    return (1 + far) / (1 + swaps)


def _random_subsets(pictures: int, swaps: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (r, pictures) float64, 0 or 1; the same ones however they are cut into blocks."""
    rng = np.random.default_rng(seed)
    words = -(-pictures // 64)
    rows = max(1, BLOCK // pictures)
    for start in range(0, swaps, rows):
        r = min(rows, swaps - start)
        drawn = rng.integers(0, 2**64, (r, words), dtype=np.uint64).astype("<u8").view(np.uint8)
        yield np.unpackbits(drawn, axis=1, count=pictures, bitorder="little").astype(np.float64)
