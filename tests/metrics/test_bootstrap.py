"""Intervals against loops over every resample, exact enumeration, and what must not change them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg_cli.metrics import bootstrap
from refseg_cli.metrics.bootstrap import differences, estimates
from refseg_cli.metrics.counts import Counts, concatenate
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import Ratios, ratios


def drawn_counts(n: int, seed: int, *, none: float = 0.3) -> Counts:
    rng = np.random.default_rng(seed)
    has = rng.random(n) > none
    target = np.where(has, rng.integers(1, 200, n), 0)
    predicted = rng.integers(0, 200, n) * (rng.random(n) > 0.2)
    intersection = (np.minimum(target, predicted) * rng.random(n)).astype(np.int64)
    return Counts(intersection, predicted, target, has, predicted > 0)


def by_loops(table: Ratios, clusters: np.ndarray, drawn: list[list[int]]) -> np.ndarray:
    """(resamples, metrics): every resample written out as the rows of its pictures."""
    values = []
    for pictures in drawn:
        rows = [row for picture in pictures for row in np.flatnonzero(clusters == picture)]
        with np.errstate(invalid="ignore"):
            values.append(table.numerators[rows].sum(0) / table.denominators[rows].sum(0))
    return np.array(values)


def bounds(values: np.ndarray) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    return tuple(np.quantile(known, [0.025, 0.975])) if len(known) else (math.nan, math.nan)


@pytest.mark.parametrize("protocol", ["refseg", "rela", "vlt"])
def test_equal_to_loops_over_the_same_draws(protocol):
    n, pictures, resamples, seed = 40, 7, 200, 3
    clusters = np.random.default_rng(0).integers(0, pictures, n)
    table = ratios(drawn_counts(n, 1), PROTOCOLS[protocol])
    draws = np.random.default_rng(seed).integers(0, pictures, (resamples, pictures)).tolist()
    values = by_loops(table, clusters, draws)
    (found,) = estimates([(table, None)], clusters, resamples=resamples, seed=seed)
    for j, name in enumerate(table.names):
        assert (found[name].low, found[name].high) == pytest.approx(bounds(values[:, j])), name
        assert found[name].value == table.values()[j]
        assert found[name].count == np.count_nonzero(table.denominators[:, j])


def test_three_pictures_against_all_twenty_seven_resamples():
    clusters = np.array([0, 0, 1, 2, 2, 2])
    counts = Counts([2, 6, 0, 5, 9, 1], [4, 6, 3, 5, 9, 2], [8, 8, 4, 6, 10, 4], [True] * 6, [True] * 6)
    table = ratios(counts)
    values = by_loops(table, clusters, [list(d) for d in itertools.product(range(3), repeat=3)])
    drawn = bootstrap._resampled([bootstrap.cluster_sums(table, clusters, 3)], 20_000, 0)
    for j in range(len(table.names)):
        # the same ten or so possible values, each as often as it should be
        for value in np.unique(values[:, j].round(12)):
            expected = np.mean(np.isclose(values[:, j], value))
            assert np.mean(np.isclose(drawn[:, j], value)) == pytest.approx(expected, abs=0.015)


def test_the_same_seed_gives_the_same_interval_however_the_work_is_cut(monkeypatch):
    table, clusters = ratios(drawn_counts(300, 2)), np.arange(300) // 5
    (whole,) = estimates([(table, None)], clusters, resamples=500, seed=7)
    monkeypatch.setattr(bootstrap, "BLOCK", 60 * 37)
    (cut,) = estimates([(table, None)], clusters, resamples=500, seed=7)
    assert cut == whole
    (other,) = estimates([(table, None)], clusters, resamples=500, seed=8)
    assert other != whole


def test_repeating_the_phrases_of_every_picture_makes_nothing_surer():
    """The spread is between pictures: ten paraphrases of each phrase are no new evidence."""
    counts, clusters = drawn_counts(50, 4), np.arange(50) // 2
    (once,) = estimates([(ratios(counts), None)], clusters, resamples=400)
    often = concatenate([counts] * 10)
    (ten,) = estimates([(ratios(often), None)], np.tile(clusters, 10), resamples=400)
    for name, estimate in once.items():
        assert (ten[name].low, ten[name].high) == pytest.approx((estimate.low, estimate.high), nan_ok=True), name
        assert ten[name].count == 10 * estimate.count


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.permutations(range(30)))
def test_names_of_pictures_and_order_of_rows_do_not_matter(seed, order):
    counts, clusters = drawn_counts(30, seed), np.arange(30) // 3
    (found,) = estimates([(ratios(counts), None)], clusters, resamples=50)
    moved = counts.rows(np.array(order))
    (again,) = estimates([(ratios(moved), None)], 1000 + 17 * clusters[list(order)], resamples=50)
    for name, estimate in found.items():
        other = again[name]
        assert (other.value, other.low, other.high) == pytest.approx(
            (estimate.value, estimate.low, estimate.high), nan_ok=True
        )


def test_parts_see_the_same_resamples_and_only_their_rows():
    counts, clusters = drawn_counts(60, 5), np.arange(60) // 4
    table, rows = ratios(counts), np.arange(60) % 3 == 0
    whole, part = estimates([(table, None), (table, rows)], clusters, resamples=100)
    (alone,) = estimates([(table, None)], clusters, resamples=100)
    assert whole == alone
    blanked = Ratios(table.metrics, table.numerators * rows[:, None], table.denominators * rows[:, None])
    (expected,) = estimates([(blanked, None)], clusters, resamples=100)
    for name, estimate in expected.items():
        found = part[name]
        assert (found.low, found.high, found.count) == pytest.approx(
            (estimate.low, estimate.high, estimate.count), nan_ok=True
        )


def test_what_a_single_picture_says_has_no_interval():
    counts = drawn_counts(6, 6, none=0.0)
    (found,) = estimates([(ratios(counts), None)], np.zeros(6), resamples=100)
    assert not math.isnan(found["gIoU"].value)
    assert math.isnan(found["gIoU"].low)
    assert math.isnan(found["gIoU"].high)
    one_of_two = np.array([True] * 3 + [False] * 3)
    (part,) = estimates([(ratios(counts), one_of_two)], np.array([0, 0, 0, 1, 1, 1]), resamples=100)
    assert math.isnan(part["gIoU"].low)


def test_nothing_and_no_resamples():
    empty = ratios(Counts([], [], [], [], []))
    (found,) = estimates([(empty, None)], np.zeros(0, dtype=int), resamples=10)
    assert all(math.isnan(e.value) and math.isnan(e.low) and e.count == 0 for e in found.values())
    (point,) = estimates([(ratios(drawn_counts(9, 0)), None)], np.arange(9), resamples=0)
    assert not math.isnan(point["gIoU"].value)
    assert math.isnan(point["gIoU"].low)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    """Sixty pictures of a population whose mean gIoU is known, four hundred times over."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(400):
        difficulty = np.repeat(rng.uniform(0, 1, 60), 4)  # the phrases of a picture share it
        hits = (rng.random(240) < difficulty).astype(np.int64)
        ones, yes = np.ones(240, int), np.ones(240, bool)
        counts = Counts(hits, ones, ones, yes, yes)
        (found,) = estimates([(ratios(counts), None)], np.repeat(np.arange(60), 4), resamples=300, seed=trial)
        held += found["gIoU"].low <= 0.5 <= found["gIoU"].high
    assert 0.91 <= held / 400 <= 0.98


# Two sets of answers


def test_paired_against_loops():
    n, pictures, resamples = 40, 8, 300
    clusters = np.random.default_rng(1).integers(0, pictures, n)
    a, b = drawn_counts(n, 10), drawn_counts(n, 10)
    shifted = Counts(np.minimum(b.target, b.intersection + 5), b.target + 5, b.target, b.has_target, b.says_target)
    one, other = ratios(a), ratios(shifted)
    draws = np.random.default_rng(0).integers(0, pictures, (resamples, pictures)).tolist()
    gaps = by_loops(other, clusters, draws) - by_loops(one, clusters, draws)
    found = differences(one, other, clusters, resamples=resamples, seed=0)
    for j, (name, d) in enumerate(found.items()):
        known = gaps[:, j][~np.isnan(gaps[:, j])]
        assert (d.low, d.high) == pytest.approx(bounds(gaps[:, j])), name
        tail = min(np.sum(known <= 0), np.sum(known >= 0))
        assert d.p == pytest.approx(min(1, 2 * (1 + tail) / (1 + len(known)))), name
        assert d.value == d.b - d.a


def test_the_same_answers_do_not_differ():
    table, clusters = ratios(drawn_counts(50, 3)), np.arange(50) // 2
    for d in differences(table, table, clusters, resamples=200).values():
        assert (d.value, d.low, d.high, d.p) == (0, 0, 0, 1)


def test_a_gain_on_every_picture_is_as_sure_as_resamples_allow_and_a_swap_changes_its_sign():
    worse = Counts([5] * 40, [10] * 40, [10] * 40, [True] * 40, [True] * 40)
    better = Counts([8] * 40, [10] * 40, [10] * 40, [True] * 40, [True] * 40)
    clusters = np.arange(40) // 4
    up = differences(ratios(worse), ratios(better), clusters, resamples=999)["gIoU"]
    down = differences(ratios(better), ratios(worse), clusters, resamples=999)["gIoU"]
    assert up.p == down.p == 2 / 1000
    assert up.value == pytest.approx(8 / 12 - 5 / 15)
    assert (down.low, down.high) == (-up.high, -up.low)
