"""EXIF orientation against Pillow's own turning, and which pixels an annotation was drawn on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco

from refseg_cli.data import masks
from refseg_cli.data.orientation import ORIENTATIONS, Frame, frame_of, turned, turned_box, turned_size

STORED = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_pixels_are_turned_as_pillow_turns_them(orientation: int) -> None:
    image = Image.fromarray(STORED)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(turned(STORED, orientation), upright)
    assert turned_size(STORED.shape, orientation) == upright.shape
    assert turned_size(upright.shape, orientation) == STORED.shape


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_a_box_stays_around_its_mask(orientation: int) -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    box = turned_box(masks.box(masks.encode(mask)), mask.shape, orientation)
    assert box == masks.box(masks.encode(turned(mask, orientation)))


@pytest.mark.parametrize(
    ("annotated", "stored", "orientation", "frame"),
    [
        ((7, 5), (5, 7), 6, "upright"),
        ((5, 7), (5, 7), 6, "stored"),
        ((5, 7), (5, 7), 3, "otherwise"),
        ((7, 5), (5, 7), 3, None),
        ((5, 5), (5, 5), 8, "otherwise"),
        ((5, 6), (5, 7), 8, None),
    ],
)
def test_the_size_tells_what_was_drawn_on(annotated: Any, stored: Any, orientation: int, frame: str | None) -> None:
    for otherwise in ("upright", "stored"):
        expected = otherwise if frame == "otherwise" else frame
        assert frame_of(annotated, stored, orientation, otherwise=otherwise) == expected


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_masks_of_either_frame_become_upright(orientation: int, frame: Frame) -> None:
    as_stored = np.zeros((5, 7), bool)
    as_stored[1:3, 2:6] = True
    upright = turned(as_stored, orientation)
    x, y, w, h = masks.box(masks.encode(upright if frame == "upright" else as_stored))
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    rle = coco.encode(np.asfortranarray(upright if frame == "upright" else as_stored, dtype=np.uint8))
    counts = masks.runs(masks.encode(upright if frame == "upright" else as_stored)).tolist()
    for segmentation in (polygon, rle, {**rle, "counts": counts}, [rle]):
        found = masks.upright(segmentation, upright.shape, orientation, frame)
        np.testing.assert_array_equal(masks.decode(found), upright)


def test_the_size_of_a_mask_is_heeded_before_what_was_said() -> None:
    as_stored = np.zeros((5, 7), bool)
    as_stored[1:3, 2:6] = True
    for mask, said in ((as_stored, "upright"), (turned(as_stored, 6), "stored")):
        rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        found = masks.upright(rle, (7, 5), 6, said)
        np.testing.assert_array_equal(masks.decode(found), turned(as_stored, 6))
    with pytest.raises(masks.MaskTooLarge):
        masks.upright({"size": [5, 7], "counts": [35]}, (7, 5), 3)
    with pytest.raises(ValueError, match="RLE without a size"):
        masks.upright({"size": [[5], 7], "counts": [35]}, (7, 5), 6)
