"""J and F of videos: by hand, and against every pair of boundary pixels looked at in turn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from refseg_cli.metrics.video import boundaries, boundary_accuracy, region_similarity, steady


def square(size: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def edge_pixels(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixel by pixel: another value to the right, below, or to the right below, as far as the frame goes."""
    h, w = mask.shape
    return [
        (y, x)
        for y in range(h)
        for x in range(w)
        if any(y + dy < h and x + dx < w and mask[y + dy, x + dx] != mask[y, x] for dy, dx in ((0, 1), (1, 0), (1, 1)))
    ]


def f_of(predicted: np.ndarray, true: np.ndarray) -> float:
    ours, theirs = edge_pixels(predicted), edge_pixels(true)
    if not ours or not theirs:
        return float(ours == theirs)
    reach = math.ceil(0.008 * math.sqrt(true.shape[0] ** 2 + true.shape[1] ** 2))
    near = lambda one, others: any((one[0] - y) ** 2 + (one[1] - x) ** 2 <= reach**2 for y, x in others)  # noqa: E731
    precision = sum(near(one, theirs) for one in ours) / len(ours)
    recall = sum(near(one, ours) for one in theirs) / len(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(deadline=None, max_examples=60)
@given(array_shapes(min_dims=3, max_dims=3, max_side=9).flatmap(lambda s: st.tuples(*[arrays(bool, s)] * 2)))
def test_equal_to_every_pixel_looked_at(pair):
    predicted, true = pair
    assert [set(map(tuple, np.argwhere(b).tolist())) for b in boundaries(true)] == [set(edge_pixels(m)) for m in true]
    for n, (p, g) in enumerate(zip(predicted, true, strict=True)):
        assert boundary_accuracy(predicted, true)[n] == pytest.approx(f_of(p, g), abs=1e-12)
        assert region_similarity(predicted, true)[n] == ((p & g).sum() / (p | g).sum() if (p | g).any() else 1)


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 4, 5, 6])
def test_boundaries_match_as_far_as_the_tolerance_goes(shift):
    """300 x 400: a diagonal of 500, 4 pixels."""
    true, predicted = square((300, 400), 100, 100, 60), square((300, 400), 100, 100 + shift, 60)
    assert boundary_accuracy(predicted[None], true[None])[0] == pytest.approx(f_of(predicted, true), abs=1e-12)
    assert (boundary_accuracy(predicted[None], true[None])[0] == 1) == (shift <= 4)


def test_the_tolerance_is_rounded_up():
    """1.008 pixels of a frame of 126 x 1 are two, 0.992 of 124 x 1 are one."""
    for height, reach in ((126, 2), (124, 1)):
        true, predicted = np.zeros((2, height, 1), dtype=bool)
        true[:50], predicted[: 50 + reach] = True, True
        assert boundary_accuracy(predicted[None], true[None]) == [1]
        predicted[50 + reach] = True
        assert boundary_accuracy(predicted[None], true[None]) == [0]


def test_nothing_against_nothing_and_against_something():
    one, none, whole = square((20, 30), 5, 5, 8), np.zeros((20, 30), bool), np.ones((20, 30), bool)
    predicted, true = np.stack([none, none, one, one, whole]), np.stack([none, one, none, one, whole])
    assert region_similarity(predicted, true).tolist() == [1, 0, 0, 1, 1]
    assert boundary_accuracy(predicted, true).tolist() == [1, 0, 0, 1, 1]
    # A mask that fills the frame has no boundary either.
    assert boundary_accuracy(whole[None], none[None]) == [1]
    assert region_similarity(whole[None], none[None]) == [0]


def test_boundaries_that_lie_far_apart_match_nowhere():
    predicted, true = square((60, 60), 0, 0, 10)[None], square((60, 60), 40, 40, 10)[None]
    assert (region_similarity(predicted, true), boundary_accuracy(predicted, true)) == ([0], [0])


def steadiness(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    return steady(*(region_similarity(masks[1:], masks[:-1]) for masks in (predicted, true)))


def test_an_answer_is_as_steady_as_the_truth_lets_it_be():
    still = np.stack([square((20, 20), 2, 2, 6)] * 3)
    moving = np.stack([square((20, 20), 2, left, 6) for left in (2, 5, 8)])
    beside = np.stack([square((20, 20), 12, left, 6) for left in (2, 5, 8)])
    blinking = np.stack([still[0], np.zeros((20, 20), bool), still[0]])
    nothing = np.zeros((3, 20, 20), bool)
    assert steadiness(still, still).tolist() == steadiness(moving, moving).tolist() == [1, 1]
    assert steadiness(beside, moving).tolist() == [1, 1], "wrong, and moving along"
    assert steadiness(still, moving).tolist() == [1, 1], "standing is steady, whatever moves"
    assert steadiness(blinking, still).tolist() == steadiness(blinking, nothing).tolist() == [0, 0]
    # A third of the union is left of 6 x 6 pixels that move by 3; the truth stands.
    assert steadiness(moving, still) == pytest.approx([1 / 3, 1 / 3])
    assert len(steadiness(still[:1], still[:1])) == 0
