"""Masks as polygons: what pycocotools fills is the mask again, with its holes."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco
from scipy import ndimage

from refseg_cli.data.polygons import joined, polygons


def filled(outlines: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    found = coco.frPyObjects([corners.ravel().astype(float).tolist() for corners in outlines], *map(int, shape))
    return coco.decode(coco.merge(found)).astype(bool)


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(200):
        shape = tuple(rng.integers(1, 30, 2))
        noise = rng.random(shape) < rng.random()
        found.append(ndimage.gaussian_filter(rng.standard_normal(shape), 2) > 0 if number % 2 else noise)
    return [mask for mask in found if mask.any()]


def test_a_square_has_four_corners() -> None:
    mask = np.zeros((5, 9), bool)
    mask[1:3, 2:7] = True
    [corners] = polygons(mask)
    assert corners.tolist() == [[2, 1], [7, 1], [7, 3], [2, 3]]
    assert polygons(np.zeros((5, 9), bool)) == []


@pytest.mark.parametrize("mask", masks())
def test_filled_again_they_are_the_mask(mask: np.ndarray) -> None:
    """Also of pictures of noise, where parts lie in holes of others and touch at their corners."""
    outlines = polygons(mask)
    parts, count = ndimage.label(mask)
    assert len(outlines) == count
    np.testing.assert_array_equal(filled(outlines, mask.shape), mask)
    for number, corners in enumerate(outlines, start=1):
        np.testing.assert_array_equal(filled([corners], mask.shape), parts == number)
    np.testing.assert_array_equal(filled([joined(outlines)], mask.shape), mask)


def test_borders_go_clockwise_and_holes_the_other_way() -> None:
    """So that readers that count turns, and not crossings, leave holes empty, too: the area has a sign."""
    mask = np.ones((6, 6), bool)
    mask[2:4, 2:4] = False
    [corners] = polygons(mask)
    x, y = corners.T
    assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2 == mask.sum()


def test_a_tolerance_takes_corners_away_and_moves_no_border_further() -> None:
    y, x = np.mgrid[:80, :120]
    ring = np.hypot(y - 40, x - 40)
    mask = ((ring < 35) & (ring > 15)) | (np.hypot(y - 40, x - 100) < 12)  # a hole, and a second part
    exact, fewer = polygons(mask), polygons(mask, 1.5)
    assert len(fewer) == len(exact) == 2
    assert sum(map(len, fewer)) < 0.3 * sum(map(len, exact))
    again = filled(fewer, mask.shape)
    inside, outside = (ndimage.distance_transform_edt(side) for side in (mask, ~mask))
    assert max(inside[~again].max(), outside[again].max()) <= 1.5 + 1
    assert not again[40, 40], "the hole is one still"
    assert filled([joined(fewer)], mask.shape).sum() == again.sum()


def test_what_is_too_small_to_simplify_stays() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = mask[0, :7] = True
    assert [p.tolist() for p in polygons(mask, 50)] == [p.tolist() for p in polygons(mask)]
