"""Curves against one evaluation for each threshold, areas against all pairs, calibration by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.curves import digits, mask_curve, no_target_curve, reliability
from refseg_cli.metrics.scores import scores
from refseg_cli.metrics.tuning import Tuned, tune

NEARLY_ONE = [math.nextafter(1.0, 0.0), float(np.nextafter(np.float32(1), np.float32(0)))]
probabilities = st.sampled_from([0.0, 5e-324, 0.1, 0.25, 0.5, 0.5, math.nextafter(0.5, 1.0), 0.9, *NEARLY_ONE, 1.0])


@st.composite
def answered(draw, *, head: bool = True, size: int = 12):
    n = draw(st.integers(2, size))
    has = np.array([True, False, *draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))])
    pixels = st.lists(st.sampled_from([0, 1, 3, 10, 60]), min_size=n, max_size=n)
    predicted, target = np.array(draw(pixels)), np.where(has, np.maximum(np.array(draw(pixels)), 1), 0)
    share = np.array(draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
    intersection = (np.minimum(predicted, target) * share).astype(np.int64)
    p = np.array(draw(st.lists(probabilities, min_size=n, max_size=n))) if head else np.full(n, np.nan)
    return Counts(intersection, predicted, target, has, predicted > 0, p)


def decided(counts: Counts, exists: float, pixels: int) -> Counts:
    heard = np.where(counts.has_head, counts.p_target >= exists, True)
    return replace(counts, says_target=heard & (counts.predicted >= pixels))


@settings(deadline=None)
@given(answered(), st.integers(1, 5), probabilities)
def test_the_no_target_curve_is_an_evaluation_at_each_threshold(counts, pixels, exists):
    curve = no_target_curve(counts, exists=exists, min_pixels=pixels)
    assert curve.score == "probability"
    for t, n_acc, t_acc in zip(curve.thresholds, curve.n_acc, curve.t_acc, strict=True):
        values = scores(decided(counts, t, pixels)).values
        assert (n_acc, t_acc) == pytest.approx((values["N-acc"], values["T-acc"]))
    values = scores(decided(counts, exists, pixels)).values
    assert (curve.chosen_n_acc, curve.chosen_t_acc) == (values["N-acc"], values["T-acc"])
    assert curve.chosen == exists
    assert (curve.n_acc[-1], curve.t_acc[-1]) == (1, 0)
    assert (np.diff(curve.n_acc) >= 0).all()
    assert (np.diff(curve.t_acc) <= 0).all()


@settings(deadline=None)
@given(answered(head=False), st.integers(1, 60))
def test_without_a_head_the_pixels_are_swept(counts, pixels):
    curve = no_target_curve(counts, exists=0.5, min_pixels=pixels)
    assert (curve.score, curve.chosen) == ("pixels", pixels)
    for t, n_acc, t_acc in zip(curve.thresholds, curve.n_acc, curve.t_acc, strict=True):
        if t >= 1:  # a mask of no pixel is "no target" at any rate
            values = scores(decided(counts, 0.0, math.ceil(t))).values
            assert (n_acc, t_acc) == pytest.approx((values["N-acc"], values["T-acc"]))


@settings(deadline=None)
@given(answered(), st.integers(1, 5))
def test_the_area_is_the_share_of_pairs_in_the_right_order(counts, pixels):
    score = np.where(counts.predicted >= pixels, counts.p_target, -1.0)
    pairs = [(a, b) for a in score[counts.has_target] for b in score[~counts.has_target]]
    expected = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    assert no_target_curve(counts, exists=0.5, min_pixels=pixels).area == pytest.approx(expected)


def test_the_thresholds_of_a_curve_have_few_digits_and_are_shown_with_all():
    p = [0.99996, 0.98, 0.2, 1 / 3, 1.0]
    counts = Counts([0] * 5, [9] * 5, [9, 9, 0, 0, 0], [True, True, False, False, False], [True] * 5, p)
    curve = no_target_curve(counts, exists=0.5, min_pixels=1)
    assert [digits(t) for t in curve.thresholds] == ["0.2", "0.3", "0.7", "0.99", "0.99998", "1.0000000000000002"]
    sure = no_target_curve(replace(counts, p_target=np.array(p) / 2), exists=0.5, min_pixels=1)
    assert 0.5 < sure.thresholds[-1] <= 1


def test_a_long_curve_is_drawn_with_few_points_and_both_ends():
    n = 5000
    rng = np.random.default_rng(0)
    has = rng.random(n) > 0.5
    counts = Counts(np.zeros(n, int), np.full(n, 9), np.where(has, 9, 0), has, has, rng.random(n))
    curve = no_target_curve(counts, exists=0.5, min_pixels=1)
    assert len(curve.thresholds) <= 200
    assert (curve.n_acc[0], curve.t_acc[0], curve.n_acc[-1], curve.t_acc[-1]) == (0, 1, 1, 0)


def test_a_curve_needs_both_kinds_of_expression():
    for has in (True, False):
        one = Counts([0], [4], [4 * has], [has], [True], [0.7])
        assert no_target_curve(one, exists=0.5, min_pixels=1) is None
    assert no_target_curve(Counts([], [], [], [], []), exists=0.5, min_pixels=1) is None


def test_the_mask_curve_scores_what_was_counted_at_each_threshold():
    low = Counts([6, 0], [20, 5], [8, 0], [True, False], [True, True])
    high = Counts([6, 0], [8, 0], [8, 0], [True, False], [True, False])
    curve = mask_curve([low, high], [0.3, 0.7], chosen=0.5)
    assert curve.g_iou.tolist() == pytest.approx([6 / 22 / 2, (6 / 10 + 1) / 2])
    assert curve.c_iou.tolist() == pytest.approx([6 / 27, 6 / 10])
    assert (curve.thresholds.tolist(), curve.chosen) == ([0.3, 0.7], 0.5)
    assert mask_curve([], [], chosen=0.5) is None


def test_reliability_by_hand():
    p = [0.05, 0.05, 0.0, 0.95, 1.0, 0.5, math.nan]
    has = np.array([False, False, True, True, True, False, True])
    counts = Counts([0] * 7, [1] * 7, has * 1, has, has, p)
    told = reliability(counts, bins=10)
    assert told.counts.tolist() == [3, 0, 0, 0, 0, 1, 0, 0, 0, 2]  # 1.0 is in the last bin, NaN in none
    assert told.predicted[[0, 5, 9]].tolist() == pytest.approx([0.1 / 3, 0.5, 0.975])
    assert told.observed[[0, 5, 9]].tolist() == pytest.approx([1 / 3, 0, 1])
    assert np.isnan(told.predicted[1])
    assert told.ece == pytest.approx((3 * (1 / 3 - 0.1 / 3) + 0.5 + 2 * 0.025) / 6)
    assert told.brier == pytest.approx((0.05**2 * 2 + 1 + 0.05**2 + 0 + 0.25) / 6)
    assert reliability(replace(counts, p_target=np.full(7, np.nan))) is None


def test_reliability_does_not_depend_on_the_order_of_expressions():
    rng = np.random.default_rng(0)
    has, p = rng.random(999) > 0.5, rng.random(999)
    counts = Counts(np.zeros(999, int), np.ones(999, int), has * 1, has, has, p)
    one, other = reliability(counts), reliability(counts.rows(rng.permutation(999)))
    assert (one.ece, one.brier, one.predicted.tolist()) == (other.ece, other.brier, other.predicted.tolist())


# The thresholds of the highest gIoU


def best_by_search(at: list[Counts], pixels: int) -> float:
    """gIoU of every mask threshold with every no-target threshold that could matter."""
    best = 0.0
    for counts in at:
        head = counts.has_head.any()
        cuts = [*counts.p_target, 0.0, 1.0] if head else [1, *(counts.predicted + 1)]
        for cut in cuts:
            tried = decided(counts, cut, pixels) if head else decided(counts, 0.0, max(1, int(cut)))
            best = max(best, scores(tried).values["gIoU"])
    return best


@settings(deadline=None)
@given(answered(), answered(), st.integers(1, 5))
def test_tuned_thresholds_with_a_head_are_the_best_and_give_what_they_promise(a, b, pixels):
    found = tune([a, b], [0.4, 0.6], min_pixels=pixels)
    at = {0.4: a, 0.6: b}[found.mask]
    assert found.min_pixels == pixels
    assert found.g_iou == pytest.approx(best_by_search([a, b], pixels))
    assert 0 <= found.exists <= 1
    assert scores(decided(at, found.exists, pixels)).values["gIoU"] == found.g_iou


@settings(deadline=None)
@given(answered(head=False), answered(head=False))
def test_tuned_pixels_without_a_head_are_the_best_and_give_what_they_promise(a, b):
    found = tune([a, b], [0.4, 0.6], min_pixels=1)
    at = {0.4: a, 0.6: b}[found.mask]
    assert found.exists is None
    assert found.g_iou == pytest.approx(best_by_search([a, b], 1))
    assert scores(decided(at, 0.0, found.min_pixels)).values["gIoU"] == found.g_iou


def test_a_cut_lies_half_way_between_the_scores_that_it_tells_apart():
    counts = Counts([5, 0], [5, 5], [5, 0], [True, False], [True, True], [0.8, 0.2])
    found = tune([counts], [0.5])
    assert (found.exists, found.g_iou) == (0.5, 1.0)
    third = Counts([5, 0], [5, 5], [5, 0], [True, False], [True, True], [1.0, 0.33])
    assert tune([third], [0.5]).exists == 0.7  # 0.665 with few digits


def test_what_is_certain_cannot_be_called_no_target():
    """A threshold above 1 would do it, was cut down to 1, and then called it a target after all."""
    certain = Counts([0, 0, 0], [5, 5, 5], [0, 0, 0], [False] * 3, [True] * 3, [1.0, 1.0, 0.4])
    found = tune([certain], [0.5])
    assert found.g_iou == pytest.approx(1 / 3)
    assert 0.4 < found.exists <= 1
    assert tune([replace(certain, p_target=np.array([0.9, 0.9, 0.4]))], [0.5]) == Tuned(0.5, 1.0, 1, 1.0)


def test_neighbours_in_single_and_double_precision_are_told_apart():
    for low in (0.5, 0.0, NEARLY_ONE[0], NEARLY_ONE[1], 1e-30):
        high = math.nextafter(low, 2.0)
        counts = Counts([5, 0], [5, 5], [5, 0], [True, False], [True, True], [high, low])
        found = tune([counts], [0.5])
        assert (found.exists, found.g_iou) == (high, 1.0)


def test_equally_good_thresholds_are_equal_whatever_rounding_makes_of_them():
    """Saying "target" always gains IoUs of 5.0 together and loses five right answers; in doubles it seemed a gain."""
    tenths = [9, 1, 8, 4, 9, 4, 9, 2, 4]
    counts = Counts(
        [0] * 5 + tenths,
        [5] * 5 + tenths,
        [0] * 5 + [10] * 9,
        [False] * 5 + [True] * 9,
        [True] * 14,
        np.linspace(0.95, 0.6, 14),
    )
    assert tune([counts], [0.5]).exists == 1.0
    assert tune([counts, counts], [0.3, 0.5]).mask == 0.3


def test_nothing_to_tune_on():
    with pytest.raises(ValueError, match="nothing to tune"):
        tune([], [])
