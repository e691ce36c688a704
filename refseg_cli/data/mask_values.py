"""Masks as people write them: COCO's forms, a flat polygon, a PNG file.

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
from refseg_cli.data.sources.values import brief
from refseg_cli.errors import RefsegError


def read_png(name: str, *, beside: str, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """(h, w) bool of a PNG file with two values, of which the one for outside is 0.

    Args:
        name: its path; a relative one begins at the folder of the file `beside`, which names it.
        sizes: (height, width) that it may have.

    Raises:
        MaskTooLarge: it was made for a picture of another size.
        ValueError: it is no mask.
    """
    if not name.lower().endswith(".png") or "://" in name:  # a file that names masks sends nobody to the network
        raise ValueError(f"{brief(name)} is neither COCO's mask nor a PNG file")
    path = posixpath.join(posixpath.dirname(beside), name.replace("\\", "/"))
    try:
        data = storage.locate(path).read()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            # Before anything is decoded: a small file may hold a picture that no memory does.
            if (image.height, image.width) not in sizes:
                raise masks.MaskTooLarge(f"{path}: mask of {image.width}x{image.height} pixels")
            bands, pixels, palette = image.getbands(), np.asarray(image), image.getpalette("RGB")
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
    first = 3 * int(values[-1])
    if palette and any(palette[:3]) and palette[first : first + 3] == [0, 0, 0]:
        # The numbers say one thing, and what everybody sees another.
        raise ValueError(f"{path}: its palette shows what is inside in black: save it in shades of grey")
    return pixels != 0


def as_coco(value: Any, size: tuple[int, int]) -> Any:
    """A segmentation as COCO has it: a flat polygon in a list, counts that were made floats as whole numbers.

    size: (height, width) of its picture.

    Raises:
        ValueError: an array of pixels.
    """
    if isinstance(value, list) and value:
        if isinstance(value[0], int | float):
            return [value]
        if _is_dense(value, size):
            raise ValueError("an array of pixels: encode it as COCO's RLE, or write it to a PNG file")
    if isinstance(value, Mapping):
        counts = value.get("counts")
        if isinstance(counts, list) and float in set(map(type, counts)):
            return {**value, "counts": [_whole(count) for count in counts]}
    return value


def _whole(count: Any) -> Any:
    """5.0 as 5; anything else as it is."""
    return int(count) if isinstance(count, float) and count.is_integer() else count


def _is_dense(rows: Sequence[Any], size: tuple[int, int]) -> bool:
    """Whether it is h lists of w zeros and ones, which would pass for polygons within a pixel of the corner."""
    height, width = size
    return len(rows) == height and all(
        isinstance(row, list) and len(row) == width and all(value in (0, 1) for value in row) for row in rows
    )
