"""Masks against pycocotools, pixel for pixel, and what a damaged one is answered with."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from refseg_cli.data import masks
from refseg_cli.metrics.counts import count_pixels
from refseg_cli.records import Expression, Instance, Record, Rle

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def random_mask(size: tuple[int, int], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random(size) < rng.random()


@given(SIZES, st.integers(0, 99))
def test_a_mask_survives_encoding(size: tuple[int, int], seed: int) -> None:
    mask = random_mask(size, seed)
    rle = masks.encode(mask)
    assert rle.size == size
    np.testing.assert_array_equal(masks.decode(rle), mask)
    assert masks.area(rle) == mask.sum()


@given(SIZES, st.integers(0, 99))
def test_runs_are_those_that_numpy_counts(size: tuple[int, int], seed: int) -> None:
    mask = random_mask(size, seed)
    columns = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[False], columns])))
    expected = np.diff(np.concatenate([[0], changes, [columns.size]]))
    np.testing.assert_array_equal(masks.runs(masks.encode(mask)), expected)


@given(SIZES, st.lists(st.integers(0, 99), max_size=4))
def test_union_is_or(size: tuple[int, int], seeds: list[int]) -> None:
    parts = [random_mask(size, seed) for seed in seeds]
    expected = np.any(parts, axis=0) if parts else np.zeros(size, bool)
    np.testing.assert_array_equal(masks.decode(masks.union([masks.encode(part) for part in parts], size)), expected)


def test_box_is_tight() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert masks.box(masks.encode(mask)) == (3.0, 2.0, 6.0, 3.0)
    assert masks.box(masks.union([], (10, 12))) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("folder", ["refer/refcoco", "refer/refcoco+", "refer/refcocog", "grefcoco"])
def test_real_annotations_equal_pycocotools(shared: Path, folder: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(str(shared / "real" / folder / "instances.json"))
    assert api.anns
    for row in api.anns.values():
        image = api.imgs[row["image_id"]]
        made = masks.from_segmentation(row["segmentation"], image["height"], image["width"])
        np.testing.assert_array_equal(masks.decode(made), api.annToMask(row))


def coco_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """What pycocotools makes of an annotation."""
    api = COCO()
    api.imgs = {1: {"id": 1, "height": height, "width": width}}
    return api.annToMask({"image_id": 1, "segmentation": segmentation})


@given(st.integers(0, 999))
def test_random_polygons_equal_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Up to three parts, some of them a little over the border.
    parts = [rng.uniform(-6, 46, 2 * int(rng.integers(3, 9))).tolist() for _ in range(rng.integers(1, 4))]
    np.testing.assert_array_equal(masks.decode(masks.from_segmentation(parts, 40, 40)), coco_mask(parts, 40, 40))


def test_every_form_of_a_run_length_encoding_gives_the_same_mask() -> None:
    mask = random_mask((9, 7), 3)
    rle = masks.encode(mask)
    runs = {"size": [9, 7], "counts": masks.runs(rle).tolist()}
    text = {"size": [9, 7], "counts": rle.counts.decode()}
    for form in (runs, text, {**text, "counts": rle.counts}, [text], [runs, text]):
        assert masks.from_segmentation(form, 9, 7) == rle


def pieces(mask: np.ndarray, longest: int) -> list[int]:
    """The runs of a mask, none longer than `longest` pixels, and an empty one at the end."""
    counts: list[int] = []
    for length in masks.runs(masks.encode(mask)).tolist():
        while length > longest:
            counts += [longest, 0]
            length -= longest
        counts.append(length)
    return [*counts, 0]


def compressed(counts: list[int], size: tuple[int, int]) -> Rle:
    """The string of exactly these runs."""
    found = coco.frPyObjects({"size": list(size), "counts": counts}, *size)
    assert masks.runs(Rle(size, found["counts"])).tolist() == counts
    return Rle(size, found["counts"])


def test_crowds_stay_where_there_is_nothing_else() -> None:
    one, crowd = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[0], crowd[2:] = True, True
    instances = tuple(
        Instance(n, 1, "thing", (0, 0, 4, 4), masks.encode(mask), iscrowd=n == 1) for n, mask in enumerate((one, crowd))
    )
    record = Record(1, "1.png", "val", 4, 4, b"", instances, ())
    for targets, pixels in (((0, 1), 4), ((0,), 4), ((1,), 8), ((), 0)):
        expression = Expression("all", 1, 1, targets)
        assert masks.area(masks.targets_without_crowds(record, expression)) == pixels
        assert masks.area(masks.targets(record, expression)) == pixels + 8 * (targets == (0, 1))


def test_runs_of_no_pixel_are_joined() -> None:
    rle = masks.from_segmentation({"size": [4, 4], "counts": [2, 3, 0, 3, 8]}, 4, 4)
    assert masks.runs(rle).tolist() == [2, 6, 8]
    assert masks.area(rle) == 6
    assert masks.area(masks.union([rle, rle], (4, 4))) == 6
    assert masks.area(masks.intersection(rle, rle)) == 6
    assert masks.shared_pixels([rle], [rle]).tolist() == [[6]]


@given(SIZES, st.integers(0, 99), st.integers(1, 9))
def test_every_door_gives_the_runs_that_encoding_gives(size: tuple[int, int], seed: int, longest: int) -> None:
    mask = random_mask(size, seed)
    counts = pieces(mask, longest)
    text = compressed(counts, size)
    listed = {"size": list(size), "counts": counts}
    string = {"size": list(size), "counts": text.counts.decode()}
    for form in (listed, string, {**string, "counts": text.counts}, [listed], [string]):
        assert masks.from_segmentation(form, *size) == masks.encode(mask)


@given(st.lists(st.tuples(SIZES, st.integers(0, 99), st.integers(1, 50)), max_size=9))
def test_masks_are_brought_to_normal_runs_together(drawn: list[tuple[tuple[int, int], int, int]]) -> None:
    made = [(random_mask(size, seed), longest) for size, seed, longest in drawn]
    given_runs = [compressed(pieces(mask, longest), mask.shape) for mask, longest in made]
    assert masks.normal(given_runs) == [masks.encode(mask) for mask, _ in made]


def test_a_mask_in_runs_of_sixteen_bits_is_counted_right() -> None:
    """Two objects of one photo by a writer that caps a run at 65,535 pixels, as found in the wild."""
    left, right = np.zeros((480, 640), bool), np.zeros((480, 640), bool)
    left[:, 20:300], right[:, 310:620] = True, True
    objects = [
        masks.from_segmentation({"size": [480, 640], "counts": pieces(mask, 65535)}, 480, 640) for mask in (left, right)
    ]
    both = masks.union(objects, (480, 640))
    np.testing.assert_array_equal(masks.decode(both), left | right)
    assert masks.shared_pixels([both], objects).tolist() == [[left.sum(), right.sum()]]


@pytest.mark.parametrize("counts", [b"", b"~~", b"P", b"2", masks.encode(np.ones((9, 8))).counts])
def test_one_damaged_mask_among_others_is_found(counts: bytes) -> None:
    sound = masks.encode(random_mask((9, 7), 3))
    with pytest.raises(ValueError, match="RLE"):
        masks.normal([sound, Rle((9, 7), counts), sound])


def test_numbers_have_seven_characters_at_most() -> None:
    sound, long = masks.encode(random_mask((9, 7), 3)), b"PPPPPP1"
    assert masks.runs(Rle((1, 1 << 30), long)).tolist() == [1 << 30]
    assert masks.runs(Rle((9, 7), sound.counts + long)).size == masks.runs(sound).size + 1
    with pytest.raises(ValueError, match="damaged RLE string"):
        masks.runs(Rle((1, 1 << 35), b"P" + long))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)), min_size=1, max_size=4))
def test_stretches_are_the_pixels_of_each_mask(drawn: list[tuple[int, int, int]]) -> None:
    made = [random_mask((h, w), seed) for h, w, seed in drawn]
    found, counts = masks.stretches([masks.encode(mask) for mask in made])
    for mask, own in zip(made, np.split(found, np.cumsum(counts)[:-1]), strict=True):
        pixels = np.zeros(mask.size, bool)
        for start, end in own:
            assert not pixels[start:end].any()
            pixels[start:end] = True
        np.testing.assert_array_equal(pixels.reshape(mask.shape, order="F"), mask != 0)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [9, 8], "counts": [72]},
        {"size": [7, 9], "counts": masks.encode(np.ones((7, 9))).counts},
        [[0.0, 0.0, 50.0, 0.0, 50.0, 5.0]],
    ],
)
def test_a_mask_of_another_image_is_told_from_a_damaged_one(segmentation: Any) -> None:
    with pytest.raises(masks.MaskTooLarge):
        masks.from_segmentation(segmentation, 9, 7)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        "abc",
        7,
        [[]],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]],
        [[1.0, 2.0, float("nan"), 4.0, 5.0, 6.0]],
        [["a", 2, 3, 4, 5, 6]],
        [[[1, 2], [3, 4], [5, 6]]],
        {"counts": [63]},
        {"size": [9, 7]},
        {"size": [9, 7], "counts": [60]},
        {"size": [9, 7], "counts": [70, -7]},
        {"size": [9, 7], "counts": [2**63 - 1, 2**63 - 1, 65]},
        {"size": [9, 7], "counts": [31.5, 31.5]},
        {"size": [9, 7], "counts": ""},
        {"size": [9, 7], "counts": "~~"},
        {"size": [9, 7], "counts": "PPPPPPPPP0"},
        {"size": [9, 7], "counts": "P"},
        {"size": [9, 7], "counts": "oQ" + 5 * "P" + "0"},  # 63 in eight digits, one more than are needed for any image
        {"size": [9, 7], "counts": "oQ" + 11 * "P" + "0"},  # 63 in fourteen digits, more than a C long takes
        {"size": [9, 7], "counts": "2"},
    ],
)
def test_damaged_masks_are_refused(segmentation: Any) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        masks.from_segmentation(segmentation, 9, 7)
    assert not isinstance(caught.value, masks.MaskTooLarge)


def test_leading_zeros_are_read_as_far_as_an_image_may_need_them() -> None:
    rle = masks.from_segmentation({"size": [9, 7], "counts": "oQ" + 4 * "P" + "0"}, 9, 7)
    assert masks.runs(rle).tolist() == [63]


@given(st.binary(min_size=1, max_size=12))
def test_no_string_of_runs_reaches_pycocotools_unless_it_fits(counts: bytes) -> None:
    try:
        rle = masks.from_segmentation({"size": [5, 4], "counts": counts}, 5, 4)
    except ValueError:
        return
    assert masks.decode(rle).shape == (5, 4)
    assert masks.runs(Rle((5, 4), counts)).sum() == 20


def pillow(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As Pillow itself has it."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)) > 0


@pytest.mark.parametrize("seed", range(40))
def test_pillows_nearest_neighbours_are_pillows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    old, new = (tuple(rng.integers(1, 900, 2).tolist()) for _ in range(2))
    for size, to in ((old, new), (old, (480, 480)), ((old[0], 640), (480, 480))):
        mask = rng.random(size) < 0.5
        np.testing.assert_array_equal(masks.resize_as_pillow(mask, to), pillow(mask, to))


def test_pillow_takes_neighbours_where_others_take_the_pixel_under_the_centre() -> None:
    """From 640 to 480 pixels; from COCO's other usual sides it does not."""
    line = np.arange(640)[None]
    theirs, ours = masks.resize_as_pillow(line, (1, 480))[0], masks.resize_by_centres(line, (1, 480))[0]
    assert ours.tolist() == [(2 * i + 1) * 640 // 960 for i in range(480)]
    differ = np.flatnonzero(theirs != ours)
    assert (len(differ), differ[:4].tolist()) == (99, [4, 16, 19, 22])
    for side in (427, 480, 500, 375):
        line = np.arange(side)[None]
        assert (masks.resize_as_pillow(line, (1, 480)) == masks.resize_by_centres(line, (1, 480))).all()


def test_pixels_and_overlaps_without_decoding_are_those_of_the_pixels():
    rng = np.random.default_rng(0)
    drawn = [rng.random((7, 9)) < share for share in (0, 0, 0.1, 0.5, 0.9, 1)]
    rles = [masks.encode(mask) for mask in drawn]
    overlaps = masks.overlaps(rles, rles)
    for i, p in enumerate(drawn):
        for j, g in enumerate(drawn):
            assert masks.count(rles[i], rles[j]) == count_pixels(p, g)
            assert overlaps[i, j] == ((p & g).sum() / (p | g).sum() if (p | g).any() else 0)
    assert masks.overlaps([], rles).shape == (0, 6)


def test_corners_take_the_pixel_that_lies_upper_left() -> None:
    """Five pixels as three: they begin in pixels 0, 1.67 and 3.33; OpenCV's INTER_NEAREST."""
    line = np.array([[1, 2, 3, 4, 5]])
    assert masks.resize_by_corners(line, (2, 3)).tolist() == [[1, 2, 4]] * 2
    assert masks.resize_by_centres(line, (1, 3)).tolist() == [[1, 3, 5]]
