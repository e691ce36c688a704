from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from refseg_cli.annotate.shapes import label_point, path_of
from refseg_cli.annotate.views import drawn_size, view_of
from refseg_cli.data import masks
from refseg_cli.records import Instance, Record

small = arrays.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


def filled(path: str, size: tuple[int, int]) -> np.ndarray:
    """The pixels that a path fills by the even-odd rule: those with an odd number of vertical edges to their left."""
    crossings = np.zeros((size[0], size[1] + 1), dtype=int)
    for loop in re.findall(r"M[^z]*z", path):
        [(x, y)] = [(int(a), int(b)) for a, b in re.findall(r"M(\d+) (\d+)", loop)]
        start = (x, y)
        for across, down in re.findall(r"h(-?\d+)v(-?\d+)", loop):
            x += int(across)
            top, bottom = sorted((y, y + int(down)))
            crossings[top:bottom, x] += 1
            y += int(down)
        assert (x, y) == start
    return crossings.cumsum(axis=1)[:, :-1] % 2 == 1


@given(small)
def test_a_path_fills_exactly_the_mask(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(filled(path_of(mask), mask.shape), mask)


def test_paths_are_short_where_masks_are_plain() -> None:
    mask = np.zeros((480, 640), dtype=bool)
    assert path_of(mask) == ""
    mask[100:200, 50:300] = True
    assert path_of(mask) == "M50 100h250v100h-250v-100z"


@given(small.filter(np.any))
def test_labels_lie_on_their_objects(mask: np.ndarray) -> None:
    x, y = label_point(mask)
    assert mask[y, x]


def record(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Record:
    """A picture with rectangles (top, left, bottom, right), without its pixels."""
    objects = []
    for n, (top, left, bottom, right) in enumerate(boxes, start=1):
        mask = np.zeros(size, dtype=bool)
        mask[top:bottom, left:right] = True
        objects.append(Instance(n, 1, "dog", (0, 0, 0, 0), masks.encode(mask), iscrowd=n == 4))
    return Record(1, "a.jpg", "val", *size, b"", tuple(objects), ())


def test_small_objects_lie_on_top_of_large_ones_and_crowds_are_left_out() -> None:
    view = view_of(record((60, 90), (0, 0, 5, 5), (0, 0, 60, 60), (50, 70, 60, 90), (0, 0, 60, 90)))
    assert [shape.ann_id for shape in view.shapes] == [2, 3, 1]
    assert [shape.name for shape in view.shapes] == ["dog, left", "dog, bottom right", "dog, top left"]


@pytest.mark.parametrize(("size", "drawn"), [((60, 90), (60, 90)), ((4096, 2048), (1024, 512)), ((1, 5000), (1, 1024))])
def test_large_pictures_are_drawn_reduced(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert drawn_size(size) == drawn
    view = view_of(record(size, (0, 0, *size)))
    assert view.shapes[0].path == f"M0 0h{drawn[1]}v{drawn[0]}h-{drawn[1]}v-{drawn[0]}z"
