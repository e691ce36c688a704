"""Masks as others write them: whatever COCO has, a flat polygon, a PNG file; several of them are one.

Axes: h w of the picture.
"""

from __future__ import annotations

from typing import Any

from refseg_cli.data import mask_values, masks
from refseg_cli.data.orientation import turned, turned_size
from refseg_cli.evaluation.predictions import Given
from refseg_cli.records import Rle


def as_rle(entry: Given, size: tuple[int, int], orientation: int, *, source: str) -> Rle:
    """The entry's masks in one, on the upright picture.

    Args:
        size: (height, width) of its picture, upright.
        orientation: EXIF's number; an RLE or a PNG of the size of the stored pixels is turned by it.
        source: the file of the entry; where a mask is a file, its path begins at that one's folder.

    Raises:
        MaskTooLarge: it was made for a picture of another size.
        ValueError: it is no mask.
    """
    return masks.union([_mask(value, size, orientation, source) for value in entry.masks], size)


def _mask(value: Any, size: tuple[int, int], orientation: int, source: str) -> Rle:
    if isinstance(value, str):
        stored = turned_size(size, orientation)
        mask = mask_values.read_png(value, beside=source, sizes=(size, stored))
        return masks.encode(mask if mask.shape == size else turned(mask, orientation))
    return masks.upright(mask_values.as_coco(value, size), size, orientation)
