"""Intervals and paired comparisons by resampling images, never single expressions.

The phrases of one picture share its difficulty, so pictures are what is drawn, with replacement. Every metric is a sum
over a sum (`scores.Ratios`), so a resample is the pictures' sums times how often each picture was drawn:
(resamples x pictures) @ (pictures x metrics), and pictures without expressions of a slice cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from refseg_cli.metrics.scores import Ratios

RESAMPLES = 10_000
LEVEL = 0.95
BLOCK = 4_000_000  # weights held at a time: 32 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its interval. value, low, high: fractions, NaN where undefined.

    count: the expressions that it is formed over.
    """

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How B differs from A on the same expressions: b - a with its interval.

    p: two-sided, of no difference: twice the share of resamples on the far side of zero (at most 1), each of the two
    counted with one resample more than there were, so that it is never 0.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    p: float


def estimates(
    parts: Sequence[tuple[Ratios, np.ndarray | None]],
    clusters: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Estimate]]:
    """Each metric of each part with its percentile interval, over the resamples that define it.

    All parts see the same resamples. Where a single picture defines a metric there is no spread: the interval is NaN.

    Args:
        parts: tables of the same n expressions, each with the rows (n,) bool that it is about, None for all.
        clusters: (n,) the picture of each expression, any numbers.
        resamples: 0 for no intervals (NaN).
    """
    if not parts:
        return []
    found, count = _dense(clusters)
    sums = [cluster_sums(table, found, count, rows) for table, rows in parts]
    low, high = _interval(_resampled(sums, resamples, seed))
    results, first = [], 0
    for table, rows in parts:
        which = slice(None) if rows is None else rows
        values, counts = table.values(which), (table.denominators[which] > 0).sum(0)
        last = first + len(values)
        columns = zip(table.names, values, low[first:last], high[first:last], counts, strict=True)
        results.append({name: Estimate(float(v), float(lo), float(hi), int(c)) for name, v, lo, hi, c in columns})
        first = last
    return results


def differences(
    a: Ratios, b: Ratios, clusters: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """The paired bootstrap of two sets of answers to the same n expressions: both see the same resamples.

    clusters: (n,) as for `estimates`.
    """
    found, count = _dense(clusters)
    drawn_a, drawn_b = (_resampled([cluster_sums(table, found, count)], resamples, seed) for table in (a, b))
    drawn = drawn_b - drawn_a
    low, high = _interval(drawn)
    known = (~np.isnan(drawn)).sum(0)
    beyond = np.minimum((drawn <= 0).sum(0), (drawn >= 0).sum(0))
    p = np.where(known > 0, np.minimum(1.0, 2 * (1 + beyond) / (1 + known)), np.nan)
    columns = zip(a.names, a.values(), b.values(), low, high, p, strict=True)
    return {name: Difference(*map(float, (x, y, y - x, lo, hi, q))) for name, x, y, lo, hi, q in columns}


def cluster_sums(table: Ratios, clusters: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
    """(count, 2, m) numerators and denominators summed over the (chosen) rows of each cluster 0 <= c < count."""
    which = slice(None) if rows is None else rows
    sums = [
        np.bincount(clusters[which], weights=column, minlength=count)
        for columns in (table.numerators, table.denominators)
        for column in columns[which].T
    ]
    return np.array(sums).reshape(2, len(table.metrics), count).transpose(2, 0, 1)


def _dense(clusters: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers 0 .. c-1 for the clusters, and c."""
    names, found = np.unique(clusters, return_inverse=True)
    return found, len(names)


def _resampled(sums: Sequence[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """(resamples, all metrics) the ratios of every resample, NaN where one defines none."""
    together = np.concatenate(sums, axis=2)  # (c, 2, m)
    count, _, m = together.shape
    if not count or not resamples:
        return np.full((0, m), np.nan)
    ratios = np.full((resamples, m), np.nan)
    lonely = np.count_nonzero(together[:, 1] > 0, axis=0) < 2  # one picture, drawn often or not: no spread to see
    first = 0
    for weights in _weights(count, resamples, seed):
        part, whole = (weights @ together.reshape(count, 2 * m)).reshape(-1, 2, m).transpose(1, 0, 2)
        np.divide(part, whole, out=ratios[first : first + len(weights)], where=whole > 0)
        first += len(weights)
    ratios[:, lonely] = np.nan
    return ratios


def _weights(clusters: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (r, clusters) float64: how often each picture is drawn; multinomial, each row sums to `clusters`."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // clusters)
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = rng.integers(0, clusters, (r, clusters))
        drawn += np.arange(r)[:, None] * clusters  # a resample's own range of numbers
        yield np.bincount(drawn.ravel(), minlength=r * clusters).reshape(r, clusters).astype(np.float64)


def _interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) each: the bounds between which `LEVEL` of the defined resamples lie; NaN without any."""
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.full(drawn.shape[1], np.nan), np.full(drawn.shape[1], np.nan)
    for j, column in enumerate(drawn.T):
        known = column[~np.isnan(column)]
        if len(known):
            low[j], high[j] = np.quantile(known, tails)
    return low, high
