"""Pixel counts by hand and as sets, and columns that no two masks could have."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg_cli.metrics.counts import Counts, concatenate, count_pixels

GRID = 5  # masks are subsets of a 5 x 5 picture
masks = st.integers(0, 2 ** (GRID * GRID) - 1).map(  # each bit is a pixel; far faster to draw than sets
    lambda bits: np.array([bits >> place & 1 for place in range(GRID * GRID)], dtype=bool).reshape(GRID, GRID)
)


def test_count_pixels_by_hand():
    predicted = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    target = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)
    assert count_pixels(predicted, target) == (2, 3, 3)
    assert count_pixels(predicted, target).union == 4
    assert count_pixels(predicted, np.zeros_like(target)) == (0, 3, 0)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        count_pixels(predicted, target[:1])


@settings(deadline=None)
@given(masks, masks)
def test_masks_may_change_places_and_be_mirrored(p, g):
    counted = count_pixels(p, g)
    members = {tuple(place) for place in np.argwhere(p)}, {tuple(place) for place in np.argwhere(g)}
    assert counted == (len(members[0] & members[1]), len(members[0]), len(members[1]))
    assert counted.union == len(members[0] | members[1])
    assert count_pixels(g, p) == (counted.intersection, counted.target, counted.predicted)
    assert count_pixels(p[:, ::-1], g[:, ::-1]) == counted == count_pixels(p.T, g.T)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ((3, 2, 4, True, True), "expression 1 has an intersection"),
        ((-1, 2, 4, True, True), "expression 1 has an intersection"),
        ((0, 2, 4, False, True), "expression 1 has target pixels but no target"),
        ((0, 2, 4, True, True, 1.5), "expression 1 has a probability"),
    ],
)
def test_counts_that_no_masks_have_are_refused(broken, message):
    good = (6, 8, 8, True, True, 0.5)
    columns = zip(good[: len(broken)], broken, strict=True)
    with pytest.raises(ValueError, match=message):
        Counts(*map(list, columns))


def test_columns_of_other_shapes_or_of_ratios_are_refused():
    one, two = [1], [1, 1]
    with pytest.raises(ValueError, match="differ in shape"):
        Counts(one, one, two, [True], [True])
    with pytest.raises(ValueError, match="differ in shape"):
        Counts([one], [one], [one], [[True]], [[True]])
    with pytest.raises(TypeError, match="float64"):
        Counts(one, one, np.array([0.5]), [True], [True])
    with pytest.raises(TypeError, match="int64"):
        Counts(one, one, one, [1], [True])


def test_concatenate_keeps_the_order_and_the_types():
    empty = concatenate([])
    assert len(empty) == 0
    assert empty.union.dtype == np.int64
    assert empty.has_target.dtype == np.bool_
    first = Counts([1, 0], [2, 0], [3, 0], [True, False], [True, False])
    second = Counts([4], [4], [4], [True], [True], [0.25])
    joined = concatenate([first, second])
    assert joined.target.tolist() == [3, 0, 4]
    assert joined.union.tolist() == [4, 0, 4]
    assert joined.has_head.tolist() == [False, False, True]
    for f in fields(Counts):
        np.testing.assert_array_equal(getattr(joined.rows(np.array([2])), f.name), getattr(second, f.name))
