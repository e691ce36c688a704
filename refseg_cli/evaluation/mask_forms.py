"""Masks as others write them: whatever COCO has, a flat polygon, a PNG file; several of them are one.

Axes: h w of the picture.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from refseg_cli.data import masks, storage
from refseg_cli.data.orientation import turned, turned_size
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.predictions import Given, quoted
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
        mask = _from_file(value, (size, stored), source)
        return masks.encode(mask if mask.shape == size else turned(mask, orientation))
    if isinstance(value, list) and value:
        if isinstance(value[0], int | float):  # one polygon, where COCO has a list of them
            value = [value]
        elif _is_dense(value, size):
            raise ValueError("an array of pixels: encode it as COCO's RLE, or write it to a PNG file")
    if isinstance(value, Mapping):
        counts = value.get("counts")
        if isinstance(counts, list) and float in set(map(type, counts)):
            value = {**value, "counts": [_whole(count) for count in counts]}
    return masks.upright(value, size, orientation)


def _whole(count: Any) -> Any:
    """5.0 as 5; anything else as it is."""
    return int(count) if isinstance(count, float) and count.is_integer() else count


def _is_dense(rows: Sequence[Any], size: tuple[int, int]) -> bool:
    """Whether it is h lists of w zeros and ones, which would pass for polygons within a pixel of the corner."""
    height, width = size
    return len(rows) == height and all(
        isinstance(row, list) and len(row) == width and all(value in (0, 1) for value in row) for row in rows
    )


def _from_file(name: str, sizes: Sequence[tuple[int, int]], source: str) -> np.ndarray:
    """(h, w) bool of a PNG file with two values, of which the one for outside is 0.

    sizes: those that it may have.

    Raises:
        MaskTooLarge, ValueError: as `as_rle`.
    """
    if not name.lower().endswith(".png") or "://" in name:  # a file of predictions sends nobody to the network
        raise ValueError(f"{quoted(name)} is neither COCO's mask nor a PNG file")
    path = posixpath.join(posixpath.dirname(source), name.replace("\\", "/"))
    try:
        data = storage.locate(path).read()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            # Before anything is decoded: a small file may hold a picture that no memory does.
            if (image.height, image.width) not in sizes:
                raise masks.MaskTooLarge(f"{path}: mask of {image.width}x{image.height} pixels")
            bands, pixels = image.getbands(), np.asarray(image)
    except RefsegError as error:
        raise ValueError(error.message) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot read the image: {error}") from error
    if pixels.ndim == 3:
        colours = pixels[..., : len(bands) - (bands[-1] == "A")]
        if (pixels[..., colours.shape[2] :] != 255).any() or (colours != colours[..., :1]).any():
            raise ValueError(f"{path}: a picture in colours or with transparency, no mask")
        pixels = colours[..., 0]
    values = np.unique(pixels)
    if len(values[values != 0]) > 1:
        raise ValueError(f"{path}: {len(values)} different values, where a mask has 0 and one other")
    return pixels != 0
