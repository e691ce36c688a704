"""EXIF orientation: from the pixels that a file stores to the picture as a viewer shows it, upright.

An orientation is EXIF's number, 1 to 8: 1 as stored, 2 mirrored, 3 turned by half, 4 upside down and mirrored, 6 and 8
turned by a quarter, 5 and 7 that and mirrored. Masks, boxes and sizes are upright everywhere but in raw annotations.

Axes: h w of the picture.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

# Which pixels an annotation's coordinates count.
Frame = Literal["upright", "stored"]
Box = tuple[float, float, float, float]

AS_STORED = 1
# orientation -> whether rows and columns change places, then whether rows, then whether columns are reversed
_STEPS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
ORIENTATIONS = frozenset(_STEPS)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(..., h, w) as stored to (..., h, w) upright; a view."""
    swap, rows, columns = _STEPS[orientation]
    if swap:
        pixels = pixels.swapaxes(-1, -2)
    return pixels[..., :: -1 if rows else 1, :: -1 if columns else 1]


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) as stored to those upright, or back."""
    return size[::-1] if _STEPS[orientation][0] else size


def turned_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """(x, y, width, height) in the pixels as stored, whose (height, width) are `size`, to the same box upright."""
    swap, rows, columns = _STEPS[orientation]
    (x, y, w, h), (height, width) = box, turned_size(size, orientation)
    if swap:
        x, y, w, h = y, x, h, w
    return (width - x - w if columns else x, height - y - h if rows else y, w, h)


def frame_of(
    annotated: tuple[int, int], stored: tuple[int, int], orientation: int, *, otherwise: Frame
) -> Frame | None:
    """The pixels that an annotation of the size `annotated` was drawn on; None if it is of another picture.

    Args:
        stored: (height, width) as stored.
        otherwise: what holds where the size does not tell: half a turn, a mirror, a square.
    """
    upright = turned_size(stored, orientation)
    if annotated not in (stored, upright):
        return None
    if stored == upright:
        return otherwise
    return "upright" if annotated == upright else "stored"
