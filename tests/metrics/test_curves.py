"""Curves against one evaluation for each threshold, areas against all pairs, calibration by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.curves import mask_curve, no_target_curve, reliability
from refseg_cli.metrics.scores import scores
from refseg_cli.metrics.tuning import tune

probabilities = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.9, 1.0])


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
    assert (curve.chosen_n_acc, curve.chosen_t_acc) == pytest.approx((values["N-acc"], values["T-acc"]))
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


# The thresholds of the highest gIoU


def best_by_search(at: list[Counts], pixels: int) -> float:
    """gIoU of every mask threshold with every no-target threshold that could matter."""
    best = 0.0
    for counts in at:
        head = counts.has_head.any()
        cuts = [*counts.p_target, 0.0, 1.1] if head else [1, *(counts.predicted + 1)]
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
    if not (found.exists == 1.0 and (at.p_target == 1.0).any()):  # nothing lies above a certain target
        assert scores(decided(at, found.exists, pixels)).values["gIoU"] == pytest.approx(found.g_iou)


@settings(deadline=None)
@given(answered(head=False), answered(head=False))
def test_tuned_pixels_without_a_head_are_the_best_and_give_what_they_promise(a, b):
    found = tune([a, b], [0.4, 0.6], min_pixels=1)
    at = {0.4: a, 0.6: b}[found.mask]
    assert found.exists is None
    assert found.g_iou == pytest.approx(best_by_search([a, b], 1))
    assert scores(decided(at, 0.0, found.min_pixels)).values["gIoU"] == pytest.approx(found.g_iou)


def test_a_cut_lies_half_way_between_the_scores_that_it_tells_apart():
    counts = Counts([5, 0], [5, 5], [5, 0], [True, False], [True, True], [0.8, 0.2])
    found = tune([counts], [0.5])
    assert (found.exists, found.g_iou) == (0.5, 1.0)
    with pytest.raises(ValueError, match="nothing to tune"):
        tune([], [])
