"""How far a metric, or the difference of two models, can be believed: intervals from how much pictures differ.

Every metric is a ratio of sums over pictures (`scores.Ratios`), and the phrases of one picture share its difficulty. So
its variance is what leaving out one picture after the other changes (the jackknife), and single expressions are never
taken for independent. Nothing is drawn at random: the same answers give the same interval, to its last bit, on any
machine and in any order.

    a metric      Wilson's score interval, as if of R(1-R)/variance independent yes-or-no trials: it stays in [0, 1] and
                  has a width at 0 and 1. IoUs take Student's t; its degrees of freedom are the number of pictures that
                  the variance effectively comes from (a few large objects that fail decide a cIoU) and a little more.
                  Shares (Pr@X, N-acc, T-acc) take the normal quantile, and no more trials than expressions.
                  A sum of two shares is twice their mean.
    cgF1 and its parts are no ratios: their interval is Student's t about the figure.
    a difference  The paired jackknife, with Student's t for IoUs. A share is given one expression more that is answered
                  differently, half in either direction (Agresti and Min 2005): none seen is not none there.

`benchmarks/coverage.py` measures how often they hold the truth, and `FREEDOM` was chosen by it. With fewer than
`FEWEST` pictures that would be a promise without ground, and there is no interval.

Axes: n expressions, m metrics, c pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from refseg_cli.metrics.concepts import EPSILON, Kind, figure, kinds_of_pictures
from refseg_cli.metrics.exact import exact_sum
from refseg_cli.metrics.pictures import PictureSums, number_pictures, sum_by_picture
from refseg_cli.metrics.rules import Metric
from refseg_cli.metrics.scores import Ratios
from refseg_cli.metrics.swaps import SWAPS, p_values

LEVEL = 0.95
FEWEST = 10  # pictures that define a metric
NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)
SMOOTHED = 1e-6  # nearer to 0 or 1 than this is there: protocols that smooth leave an IoU of 1 so much below
FREEDOM = {"overall": 0.5, "mean": 2.0}  # degrees beyond `Influence.behind`, of IoUs over all expressions
FREEDOM_OF_OTHERS = 1.0  # figures by reference, F2, sums; shares of expressions have none
Pair = tuple[np.ndarray, np.ndarray]  # what the pictures add to a numerator and to its denominator, (c,) each


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its interval. value, low, high: fractions, NaN where undefined.

    count, images: the expressions that it is formed over, and the pictures that they are of.
    """

    value: float
    low: float
    high: float
    count: int
    images: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How B differs from A on the same expressions: b - a with its interval.

    p: two-sided, of no difference, see `swaps.p_values`.
    images: the pictures that define the metric for both.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    p: float
    images: int


class Influence(NamedTuple):
    """What leaving out each picture takes from a metric, (c,).

    pictures: those that define it.
    """

    each: np.ndarray
    pictures: int

    @property
    def variance(self) -> float:
        """By the jackknife, of the metric."""
        return (self.pictures - 1) / self.pictures * exact_sum(self.each**2)

    @property
    def behind(self) -> float:
        """How many pictures the variance effectively comes from: all if they weigh alike, 1 if one decides."""
        squares = self.each**2
        return exact_sum(squares) ** 2 / exact_sum(squares**2)


def estimates(
    parts: Sequence[tuple[Ratios, np.ndarray | None]], images: np.ndarray, *, intervals: bool = True
) -> list[dict[str, Estimate]]:
    """Each metric of each part with its interval, NaN where fewer than `FEWEST` pictures define it.

    Args:
        parts: tables of the same n expressions, each with the rows (n,) bool that it is about, None for all.
        images: (n,) the picture of each expression, any numbers.
        intervals: otherwise all are NaN.
    """
    pictures, count = number_pictures(images)
    results = []
    for table, rows in parts:
        places = None if rows is None else np.flatnonzero(rows)
        which = slice(None) if places is None else places
        sums = sum_by_picture(table, pictures, count, places)
        if places is not None:  # a picture that has none of them says nothing
            sums = sums.of(np.flatnonzero(np.bincount(pictures[places], minlength=count)))
        found = {}
        for j, (metric, value) in enumerate(zip(table.metrics, table.values(which), strict=True)):
            terms = table.terms(j)
            low, high = _interval(metric, sums, terms) if intervals else (math.nan, math.nan)
            expressions = sum(int(np.count_nonzero(table.denominators[k][which])) for k in terms)
            defined = int(np.count_nonzero(sums.wholes[:, j]))
            found[metric.name] = Estimate(float(value), low, high, expressions, defined)
        results.append(found)
    return results


def differences(
    a: Ratios, b: Ratios, images: np.ndarray, *, swaps: int = SWAPS, seed: int = 0
) -> dict[str, Difference]:
    """Two sets of answers to the same n expressions, against each other.

    Args:
        images: (n,) as for `estimates`.
        swaps: at random, for the p-values; 0 for neither these nor intervals (NaN).
    """
    pictures, count = number_pictures(images)
    one, other = (sum_by_picture(table, pictures, count) for table in (a, b))
    p = p_values(a.metrics, one, other, expressions=len(images), swaps=swaps, seed=seed)
    found = {}
    for j, (metric, x, y) in enumerate(zip(a.metrics, a.values(), b.values(), strict=True)):
        low, high = _difference(metric, one, other, a.terms(j)) if swaps else (math.nan, math.nan)
        defined = int(min(np.count_nonzero(sums.wholes[:, j]) for sums in (one, other)))
        found[metric.name] = Difference(float(x), float(y), float(y - x), low, high, float(p[j]), defined)
    return found


def _pairs(sums: PictureSums, terms: Sequence[int]) -> list[Pair]:
    return [(sums.parts[:, j], sums.wholes[:, j]) for j in terms]


def _interval(metric: Metric, sums: PictureSums, terms: Sequence[int]) -> tuple[float, float]:
    """Of one metric, the sum of the terms' ratios."""
    if metric.concept:
        return _concept_interval(metric.concept, sums.concepts)
    pairs = _pairs(sums, terms)
    influence = _influence(pairs)
    if influence.pictures < FEWEST:
        return math.nan, math.nan
    k = len(pairs)
    low, high = _fraction(metric, _total(pairs) / k, influence, pairs)
    return k * low, k * high


def _fraction(metric: Metric, rate: float, influence: Influence, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Of the pairs' mean."""
    variance = influence.variance / len(pairs) ** 2
    if not variance or not SMOOTHED < rate < 1 - SMOOTHED:  # no spread to see: a picture is one trial
        return _wilson(rate, influence.pictures, NORMAL)
    trials = rate * (1 - rate) / variance
    if metric.counts_expressions:
        return _wilson(rate, min(trials, float(pairs[0][1].sum())), NORMAL)
    more = FREEDOM.get(metric.kind, FREEDOM_OF_OTHERS) if metric.by == "expression" else FREEDOM_OF_OTHERS
    return _wilson(rate, trials, student(influence.behind + more))


def _concept_interval(kind: Kind, sums: np.ndarray) -> tuple[float, float]:
    """Student's t about the figure: it may be negative, so Wilson's does not serve."""
    influence = _concept_influence(kind, sums)
    if influence.pictures < FEWEST:
        return math.nan, math.nan
    value = float(figure(kind, sums.sum(0)))
    if influence.variance < EPSILON**2:  # no spread to see but the epsilons': a picture is one trial
        return _wilson(min(1.0, max(0.0, value)), influence.pictures, NORMAL)
    half = student(influence.behind + FREEDOM_OF_OTHERS) * math.sqrt(influence.variance)
    return max(0.0 if kind == "pmF1" else -1.0, value - half), min(1.0, value + half)


def _concept_influence(kind: Kind, sums: np.ndarray) -> Influence:
    """sums: (c, k)."""
    with_instances, without = kinds_of_pictures(sums)
    fewest = int(with_instances.sum() if kind == "pmF1" else min(with_instances.sum(), without.sum()))
    if fewest < FEWEST:
        return Influence(np.zeros(len(sums)), fewest)
    total = sums.sum(0)
    each = figure(kind, total) - figure(kind, total - sums)
    defining = with_instances if kind == "pmF1" else with_instances | without
    return Influence(each, int(np.count_nonzero(defining)))


def _concept_difference(kind: Kind, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    before, after = (_concept_influence(kind, sums) for sums in (a, b))
    if min(before.pictures, after.pictures) < FEWEST:
        return math.nan, math.nan
    value = float(figure(kind, b.sum(0)) - figure(kind, a.sum(0)))
    half = student(after.pictures - 1) * math.sqrt(Influence(after.each - before.each, after.pictures).variance)
    reach = 1.0 if kind == "pmF1" else 2.0
    return max(-reach, value - half), min(reach, value + half)


def _difference(metric: Metric, one: PictureSums, other: PictureSums, terms: Sequence[int]) -> tuple[float, float]:
    """Of the other less the one in one metric."""
    if metric.concept:
        return _concept_difference(metric.concept, one.concepts, other.concepts)
    a, b = _pairs(one, terms), _pairs(other, terms)
    before, after = _influence(a), _influence(b)
    if min(before.pictures, after.pictures) < FEWEST:
        return math.nan, math.nan
    either = int(np.count_nonzero(sum(whole for _, whole in (*a, *b))))
    value = _total(b) - _total(a)
    variance = Influence(after.each - before.each, either).variance
    quantile = student(either - 1)
    if metric.counts_expressions:
        expressions = float(a[0][1].sum())
        shrunk = expressions / (expressions + 2)
        value, variance = shrunk * value, shrunk**2 * variance + 1 / (expressions + 2) ** 2
        quantile = NORMAL
    half = quantile * math.sqrt(variance)
    return max(-float(len(a)), value - half), min(float(len(a)), value + half)


def _total(pairs: Sequence[Pair]) -> float:
    return sum(float(part.sum() / whole.sum()) for part, whole in pairs)


def _influence(pairs: Sequence[Pair]) -> Influence:
    """Of the sum of the pairs' ratios."""
    fewest = min(int(np.count_nonzero(whole)) for _, whole in pairs)
    if fewest < FEWEST:
        return Influence(np.zeros(len(pairs[0][1])), fewest)
    each = np.zeros(len(pairs[0][1]))
    for part, whole in pairs:
        n, d = part.sum(), whole.sum()  # exact, see `pictures`
        each += n / d - (n - part) / (d - whole)
    return Influence(each, int(np.count_nonzero(sum(whole for _, whole in pairs))))


def _wilson(rate: float, trials: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval of a share seen in so many trials."""
    q = quantile**2 / trials
    middle = (rate + q / 2) / (1 + q)
    half = math.sqrt(q * rate * (1 - rate) + q**2 / 4) / (1 + q)
    return max(0.0, middle - half), min(1.0, middle + half)


def student(freedom: float) -> float:
    """The quantile of Student's t that leaves (1 - `LEVEL`) / 2 above it.

    Abramowitz and Stegun 26.7.5: too small by 2.5 % at 1.5 degrees of freedom, 1 % at 2, 0.1 % at 4.
    """
    x, v = NORMAL, freedom
    return (
        x
        + (x**3 + x) / (4 * v)
        + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * v**2)
        + (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * v**3)
        + (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / (92160 * v**4)
    )
