"""Polygons that are drawn together against pycocotools, which draws them one by one: equal strings, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from refseg_cli.data import masks, rasterise
from refseg_cli.records import Rle

SIZES = st.tuples(st.integers(1, 50), st.integers(1, 50))
# Where rounding decides: whole pixels, their halves, the fifths that pycocotools walks in and half of these; and any.
GRIDS = st.sampled_from((1, 2, 5, 10, 100, None))
FAR = masks.OVERSHOOT


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, int], list[list[float]]]:
    """A picture's size and one to three polygons: within it, beyond its borders, on one line, in one point."""
    height, width = draw(SIZES)
    grid = draw(GRIDS)

    def along(length: int) -> st.SearchStrategy[float]:
        if grid is None:
            return st.floats(-FAR, length + FAR)
        return st.integers(int(-FAR * grid), int((length + FAR) * grid)).map(lambda steps: steps / grid)

    corner = st.tuples(along(width), along(height))
    corners = st.lists(corner, min_size=3, max_size=9) | corner.map(lambda one: [one] * 3)
    polygon = corners.map(lambda several: [number for one in several for number in one])
    return (height, width), draw(st.lists(polygon, min_size=1, max_size=3))


def by_pycocotools(polygons: list[list[float]], size: tuple[int, int]) -> bytes:
    found = coco.frPyObjects(polygons, *size)
    return bytes((found[0] if len(found) == 1 else coco.merge(found))["counts"])


def blob(size: tuple[int, int], corners: int, seed: int) -> list[float]:
    """Corners anywhere on the picture and a little beyond it, so that edges cross each other."""
    rng = np.random.default_rng(seed)
    low, high = -FAR, np.array(size[::-1]) + FAR
    return rng.uniform(low, high, (corners, 2)).round(seed % 4).ravel().tolist()


@given(st.lists(shapes(), min_size=1, max_size=12))
def test_masks_drawn_together_are_those_of_pycocotools(
    objects: list[tuple[tuple[int, int], list[list[float]]]],
) -> None:
    found = masks.from_polygons((polygons, size) for size, polygons in objects)
    assert found == [Rle(size, by_pycocotools(polygons, size)) for size, polygons in objects]


def test_thousands_of_polygons_of_all_kinds() -> None:
    rng = np.random.default_rng(0)
    sizes = [tuple(size) for size in rng.integers(1, 300, (3000, 2)).tolist()]
    objects = [([blob(size, 3 + number % 20, number)], size) for number, size in enumerate(sizes)]
    found = masks.from_polygons(objects)
    assert found == [Rle(size, by_pycocotools(polygons, size)) for polygons, size in objects]


@pytest.mark.parametrize("size", [(3000, 2500), (1, 70_000), (70_000, 1), (9000, 9000)])
def test_numbers_of_many_characters(size: tuple[int, int]) -> None:
    objects = [([blob(size, corners, corners)], size) for corners in (3, 4, 9)]
    assert masks.from_polygons(objects) == [Rle(size, by_pycocotools(polygons, size)) for polygons, size in objects]


def test_a_few_places_at_a_time_are_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [([blob((90, 120), 8, seed)], (90, 120)) for seed in range(30)]
    together = masks.from_polygons(objects)
    monkeypatch.setattr(rasterise, "AT_A_TIME", 100)
    assert masks.from_polygons(objects) == together


def test_a_mask_with_pixels_is_told_by_its_string() -> None:
    objects = [([blob(size, 3 + seed % 5, seed)], size) for seed in range(300) for size in ((1, 3), (40, 50), (900, 9))]
    found = [rle for rle in masks.from_polygons(objects) if rle]
    assert {masks.area(rle) > 0 for rle in found} == {True, False}
    assert [masks.has_pixels(rle) for rle in found] == [masks.area(rle) > 0 for rle in found]


@given(st.lists(st.lists(st.integers(1, 1 << 28), min_size=1, max_size=6), min_size=1, max_size=5))
def test_lengths_are_written_as_pycocotools_writes_them(masks_of: list[list[int]]) -> None:
    lengths = np.array([length for mask in masks_of for length in mask], np.int32)
    found = rasterise.compressed(lengths, np.array(list(map(len, masks_of))))
    wanted = [coco.frPyObjects({"size": [1, sum(mask)], "counts": mask}, 1, sum(mask))["counts"] for mask in masks_of]
    assert found == wanted


TRIANGLE = [1.0, 1.0, 8.0, 1.0, 1.0, 8.0]


@pytest.mark.parametrize(
    "polygons",
    [
        [],
        [[]],
        [TRIANGLE, [1.0, 2.0]],
        [TRIANGLE[:4]],
        [[*TRIANGLE, 3.0]],
        [TRIANGLE, [*TRIANGLE[:-1], float("nan")]],
        [TRIANGLE, [*TRIANGLE[:-1], float("inf")]],
        [[*TRIANGLE[:-1], 1e300]],
        [[*TRIANGLE[:-1], 18.5]],
        [[-8.5, *TRIANGLE[1:]]],
    ],
)
def test_what_has_to_be_looked_at_is_left_to_that(polygons: list[list[float]]) -> None:
    first, other, last = masks.from_polygons([([TRIANGLE], (10, 10)), (polygons, (10, 10)), ([TRIANGLE], (10, 20))])
    assert other is None
    assert first == masks.from_segmentation([TRIANGLE], 10, 10)
    assert last == masks.from_segmentation([TRIANGLE], 10, 20)


@pytest.mark.parametrize(
    "size", [(0, 0), (0, 5), (-3, -5), (1 << 16, 1 << 15), (1 << 28, 1), (1, 400_000), (1 << 62, 1 << 62)]
)
def test_pictures_of_no_size_or_too_large_ones(size: tuple[int, int]) -> None:
    assert masks.from_polygons([([TRIANGLE], size)]) == [None]


def test_a_polygon_of_many_places_is_left_until_its_picture_was_seen() -> None:
    """A file may claim any size; what a polygon across it takes is known before it is drawn."""
    saw = [number for x in range(2000) for number in (float(x % 2 * 1000), float(x))]
    assert masks.from_polygons([([saw], (2000, 1000)), ([saw[:1000]], (2000, 1000))])[0] is None
