"""Intervals against the jackknife written out in loops, tables from the literature, and what must not change them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg_cli.metrics.counts import Counts, concatenate
from refseg_cli.metrics.intervals import FEWEST, differences, estimates, student
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import Ratios, ratios

Z = 1.959963985


def drawn_counts(n: int, seed: int, *, none: float = 0.3) -> Counts:
    rng = np.random.default_rng(seed)
    has = rng.random(n) > none
    target = np.where(has, rng.integers(1, 200, n), 0)
    predicted = rng.integers(0, 200, n) * (rng.random(n) > 0.2)
    intersection = (np.minimum(target, predicted) * rng.random(n)).astype(np.int64)
    return Counts(intersection, predicted, target, has, predicted > 0)


def shares(right: list[int], of: list[int]) -> tuple[Counts, np.ndarray]:
    """N-acc: on each picture, so many no-target expressions answered right of so many."""
    says = [n >= r for r, k in zip(right, of, strict=True) for n in range(k)]
    n = len(says)
    zeros = np.zeros(n, int)
    return Counts(zeros, np.array(says, int), zeros, zeros > 0, says), np.repeat(np.arange(len(of)), of)


def left_out(table: Ratios, images: np.ndarray, j: int) -> tuple[float, list[float]]:
    """A metric, and what it is without each of its pictures."""
    part, whole = table.numerators[j], table.denominators[j]
    pictures = [p for p in np.unique(images) if whole[images == p].sum() > 0]
    rest = [part[images != p].sum() / whole[images != p].sum() for p in pictures]
    return part.sum() / whole.sum(), rest


def wilson(rate: float, trials: float, quantile: float) -> tuple[float, float]:
    """The two shares p with |rate - p| = quantile * sqrt(p (1 - p) / trials), by the roots of that quadratic."""
    a, b, c = trials + quantile**2, -(2 * trials * rate + quantile**2), trials * rate**2
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize("protocol", ["refseg", "rela", "vlt"])
def test_equal_to_the_jackknife_in_loops(protocol):
    images = np.random.default_rng(0).integers(0, 17, 70)
    table = ratios(drawn_counts(70, 1), PROTOCOLS[protocol])
    (found,) = estimates([(table, None)], images)
    for j, metric in enumerate(table.metrics):
        value, rest = left_out(table, images, j)
        c, squares = len(rest), [(value - r) ** 2 for r in rest]
        trials = value * (1 - value) / ((c - 1) / c * sum(squares)) if sum(squares) else c
        if metric.kind in ("precision", "no-target", "target"):
            trials, quantile = min(trials, table.denominators[j].sum()), Z
        else:
            behind = sum(squares) ** 2 / sum(s * s for s in squares)
            quantile = student(behind + (0.5 if metric.kind == "overall" else 2))
        if value in (0, 1):
            trials = c
        low, high = wilson(value, trials, quantile)
        e = found[metric.name]
        assert (e.value, e.low, e.high) == pytest.approx((value, low, high), abs=1e-9), metric.name
        assert (e.count, e.images) == (np.count_nonzero(table.denominators[j]), c)


def both_accuracies(counts: Counts) -> float:
    has, absent = counts.has_target, counts.predicted < 50
    return float(absent[~has].mean() + (~absent)[has].mean())


def test_a_sum_of_two_shares_is_left_out_together():
    """N+T accuracy: pictures take both kinds of phrases with them; as twice the mean it has Wilson's interval."""
    images, counts = np.arange(90) ** 2 % 17 + np.arange(90) // 45, drawn_counts(90, 1)
    pictures = np.unique(images)
    (found,) = estimates([(ratios(counts, PROTOCOLS["cohd"]), None)], images)
    value = both_accuracies(counts)
    squares = [(value - both_accuracies(counts.rows(images != p))) ** 2 / 4 for p in pictures]
    c = len(pictures)
    trials = value / 2 * (1 - value / 2) / ((c - 1) / c * sum(squares))
    quantile = student(1 + sum(squares) ** 2 / sum(s * s for s in squares))
    low, high = wilson(value / 2, trials, quantile)
    e = found["N+T-acc"]
    assert (e.value, e.low, e.high) == pytest.approx((value, 2 * low, 2 * high), abs=1e-9)
    assert (e.count, e.images) == (90, c)


def test_the_difference_of_two_sums_of_shares():
    """By loops, and its p-value by every way to swap the pictures."""
    images, a = np.repeat(np.arange(12), 4), drawn_counts(48, 1, none=0.5)
    b = replace(
        a,
        predicted=np.where(a.has_target & (np.arange(48) % 3 > 0), 100, a.predicted),
        intersection=np.zeros(48, np.int64),
    )
    found = differences(ratios(a, PROTOCOLS["cohd"]), ratios(b, PROTOCOLS["cohd"]), images)["N+T-acc"]
    value = both_accuracies(b) - both_accuracies(a)
    rest = [both_accuracies(b.rows(images != p)) - both_accuracies(a.rows(images != p)) for p in range(12)]
    half = student(11) * math.sqrt(11 / 12 * sum((value - r) ** 2 for r in rest))
    assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half), abs=1e-9)
    swapped = []
    for ways in range(2**12):
        taken = ways >> images & 1 == 1
        one, other = (
            replace(a, intersection=a.intersection * 0, predicted=np.where(chosen, a.predicted, b.predicted))
            for chosen in (~taken, taken)
        )
        swapped.append(abs(both_accuracies(other) - both_accuracies(one)))
    assert found.p == np.mean(np.array(swapped) >= abs(value) - 1e-12)
    assert 0 < found.p < 1


def test_references_are_left_out_with_their_pictures():
    """By loops over pictures of two references each; means of fractions take Student's t."""
    counts, references = drawn_counts(120, 3, none=0.5), np.arange(120) // 5
    images = references // 2
    protocol = PROTOCOLS["r-refcoco"]
    (found,) = estimates([(ratios(counts, protocol, references), None)], images)

    def value(rows: np.ndarray, metric: str) -> float:
        return ratios(counts.rows(rows), protocol, references[rows]).values()[list(found).index(metric)]

    for metric in ("mRR", "rIoU", "mIoU"):
        e, whole = found[metric], value(images >= 0, metric)
        squares = [(whole - value(images != p, metric)) ** 2 for p in range(12)]
        trials = whole * (1 - whole) / (11 / 12 * sum(squares))
        low, high = wilson(whole, trials, student(1 + sum(squares) ** 2 / sum(s * s for s in squares)))
        assert (e.value, e.low, e.high) == pytest.approx((whole, low, high), abs=1e-9), metric
        assert e.images == 12


def test_shares_of_one_expression_a_picture_have_wilsons_interval():
    """Of published tables: 81 of 263 (Newcombe 1998), and 0 of 10."""
    (found,) = estimates([(ratios(shares([1] * 81 + [0] * 182, [1] * 263)[0]), None)], np.arange(263))
    assert (found["N-acc"].low, found["N-acc"].high) == pytest.approx((0.2553, 0.3662), abs=2e-4)
    (none,) = estimates([(ratios(shares([0] * 10, [1] * 10)[0]), None)], np.arange(10))
    assert (none["N-acc"].low, none["N-acc"].high) == pytest.approx((0, 0.2775), abs=1e-4)


def test_students_quantiles():
    table = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 30: 2.042, 120: 1.980}
    for freedom, quantile in table.items():
        assert student(freedom) == pytest.approx(quantile, rel=0.01 if freedom < 4 else 0.001)


@pytest.mark.parametrize("right", [0, 1])
def test_all_or_nothing_has_a_width(right):
    """It was an interval of width 0: ten pictures of ten said that the eleventh cannot fail."""
    pixels = np.full(20, 10)
    counts = Counts(pixels * right, pixels, pixels, np.ones(20, bool), np.ones(20, bool))
    for protocol in ("refseg", "cris", "vlt"):
        (found,) = estimates([(ratios(counts, PROTOCOLS[protocol]), None)], np.arange(20) // 2)
        for name, e in found.items():
            if name != "T-acc" and e.count:
                assert (e.high - e.low) == pytest.approx(0.2775, abs=1e-3), (protocol, name)


@pytest.mark.parametrize("pictures", [1, 2, 3, FEWEST - 1])
def test_few_pictures_have_no_interval(pictures):
    counts, images = drawn_counts(30, 6, none=0.0), np.arange(30) % pictures
    (found,) = estimates([(ratios(counts), None)], images)
    assert not math.isnan(found["gIoU"].value)
    assert math.isnan(found["gIoU"].low)
    assert math.isnan(found["gIoU"].high)
    assert found["gIoU"].images == pictures
    d = differences(ratios(counts), ratios(counts), images)["gIoU"]
    assert (d.value, d.images) == (0, pictures)
    assert math.isnan(d.low)


def test_pictures_that_do_not_define_a_metric_do_not_count():
    counts, images = shares([1] * 9 + [0], [1] * 10)
    more = concatenate([counts, drawn_counts(60, 1, none=0.0)])
    (found,) = estimates([(ratios(more), None)], np.concatenate([images, np.arange(10, 70)]))
    (alone,) = estimates([(ratios(counts), None)], images)
    assert found["N-acc"] == alone["N-acc"]
    assert found["N-acc"].images == 10
    few = np.append(np.ones(9, bool), np.zeros(61, bool))
    (part,) = estimates([(ratios(more), few)], np.concatenate([images, np.arange(10, 70)]))
    assert (part["N-acc"].images, part["N-acc"].count) == (9, 9)
    assert math.isnan(part["N-acc"].low)


def test_repeating_the_phrases_of_every_picture_makes_nothing_surer():
    """The spread is between pictures: ten paraphrases of each phrase are no new evidence."""
    counts, images = drawn_counts(50, 4), np.arange(50) // 2
    (once,) = estimates([(ratios(counts), None)], images)
    often = concatenate([counts] * 10)
    (ten,) = estimates([(ratios(often), None)], np.tile(images, 10))
    for name in ("cIoU", "mIoU", "gIoU"):
        assert (ten[name].low, ten[name].high) == pytest.approx((once[name].low, once[name].high)), name
        assert ten[name].count == 10 * once[name].count
    for name in ("Pr@0.5", "N-acc", "T-acc"):  # without the cap on trials, which ten paraphrases lift
        assert ten[name].high - ten[name].low >= 0.8 * (once[name].high - once[name].low), name


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.permutations(range(36)))
def test_names_of_pictures_and_order_of_rows_do_not_matter_to_the_last_bit(seed, order):
    counts, images = drawn_counts(36, seed), np.arange(36) // 3
    (found,) = estimates([(ratios(counts), None)], images)
    moved = ratios(counts.rows(np.array(order)))
    (again,) = estimates([(moved, None)], 1000 + 17 * images[list(order)])
    assert str(again) == str(found)  # which shows all digits, and takes NaN for NaN


def test_parts_see_only_their_rows():
    counts, images = drawn_counts(120, 5), np.arange(120) // 4
    table, rows = ratios(counts), np.arange(120) % 3 == 0
    whole, part = estimates([(table, None), (table, rows)], images)
    (alone,) = estimates([(table, None)], images)
    assert whole == alone
    (expected,) = estimates([(ratios(counts.rows(rows)), None)], images[rows])
    assert part == expected


def test_nothing_and_no_intervals():
    empty = ratios(Counts([], [], [], [], []))
    (found,) = estimates([(empty, None)], np.zeros(0, dtype=int))
    assert all(math.isnan(e.value) and math.isnan(e.low) and e.count == 0 for e in found.values())
    (point,) = estimates([(ratios(drawn_counts(90, 0)), None)], np.arange(90), intervals=False)
    assert not math.isnan(point["gIoU"].value)
    assert math.isnan(point["gIoU"].low)


@pytest.mark.parametrize("pictures", [10, 60])
def test_nineteen_of_twenty_intervals_hold_the_truth(pictures):
    """Pictures of a population whose mean gIoU is known, a thousand times over; benchmarks/coverage.py has more."""
    rng = np.random.default_rng(0)
    held, n = 0, 4 * pictures
    for _ in range(1000):
        difficulty = np.repeat(rng.uniform(0, 1, pictures), 4)  # the phrases of a picture share it
        hits = (rng.random(n) < difficulty).astype(np.int64)
        ones, yes = np.ones(n, int), np.ones(n, bool)
        (found,) = estimates([(ratios(Counts(hits, ones, ones, yes, yes)), None)], np.repeat(np.arange(pictures), 4))
        held += found["gIoU"].low <= 0.5 <= found["gIoU"].high
    assert 0.93 <= held / 1000 <= 0.98


# Two sets of answers


def better(counts: Counts) -> Counts:
    more = np.minimum(counts.target, counts.intersection + 5)
    return Counts(more, counts.predicted + 5, counts.target, counts.has_target, counts.predicted + 5 > 60)


def test_a_difference_by_loops():
    images = np.random.default_rng(1).integers(0, 16, 80)
    a = drawn_counts(80, 10)
    one, other = ratios(a), ratios(better(a))
    found = differences(one, other, images)
    for j, (metric, d) in enumerate(zip(one.metrics, found.values(), strict=True)):
        (x, rest_x), (y, rest_y) = left_out(one, images, j), left_out(other, images, j)
        c, gap = len(rest_x), y - x
        assert len(rest_y) == c == d.images
        variance = (c - 1) / c * sum((gap - (q - p)) ** 2 for p, q in zip(rest_x, rest_y, strict=True))
        quantile = student(c - 1)
        if metric.kind in ("precision", "no-target", "target"):
            n = one.denominators[j].sum()
            gap, variance = gap * n / (n + 2), variance * (n / (n + 2)) ** 2 + 1 / (n + 2) ** 2
            quantile = Z
        half = quantile * math.sqrt(variance)
        assert (d.low, d.high) == pytest.approx((max(-1, gap - half), min(1, gap + half))), metric.name
        assert d.value == d.b - d.a


def test_the_same_answers_do_not_differ():
    table, images = ratios(drawn_counts(50, 3)), np.arange(50) // 2
    found = differences(table, table, images)
    assert {(d.value, d.p) for d in found.values()} == {(0, 1)}
    for name in ("cIoU", "mIoU", "gIoU"):
        assert (found[name].low, found[name].high) == (0, 0)
    # that none of 50 answers changed does not say that none would
    n = int((~drawn_counts(50, 3).has_target).sum())
    assert found["N-acc"].high == -found["N-acc"].low == pytest.approx(Z / (n + 2))


def test_a_swap_changes_the_sign():
    a = drawn_counts(60, 7)
    images = np.arange(60) // 3
    up, down = differences(ratios(a), ratios(better(a)), images), differences(ratios(better(a)), ratios(a), images)
    for name, d in up.items():
        assert (down[name].value, down[name].low, down[name].high) == pytest.approx((-d.value, -d.high, -d.low)), name
        assert down[name].p == d.p
