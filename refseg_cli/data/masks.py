"""Binary masks as run lengths; the only door to pycocotools.

Axes: h, w pixels of the image. COCO's runs go down the columns and begin with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from refseg_cli.records import Rle

# Annotators overshoot the border by a little, and pycocotools clips it; a polygon that goes further out than this many
# pixels was drawn on another image.
OVERSHOOT = 8.0


class MaskTooLarge(ValueError):
    """The mask was made for an image of another size."""


def encode(mask: np.ndarray) -> Rle:
    """The runs of an (h, w) mask, True or non-zero inside."""
    found = coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return _rle(found)


def decode(rle: Rle) -> np.ndarray:
    """(h, w) uint8, 1 inside the mask."""
    return coco.decode(_plain(rle))


def union(rles: Sequence[Rle], size: tuple[int, int]) -> Rle:
    """The pixels that are in any of the masks; all-zero if there are none.

    size: (height, width) in pixels, which all masks share.
    """
    if not rles:
        return _rle(coco.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size))
    if len(rles) == 1:
        return rles[0]
    return _rle(coco.merge([_plain(rle) for rle in rles]))


def area(rle: Rle) -> int:
    """Pixels inside the mask."""
    return int(coco.area(_plain(rle)))


def intersection(first: Rle, second: Rle) -> Rle:
    """The pixels that are in both masks, of one size."""
    return _rle(coco.merge([_plain(first), _plain(second)], intersect=True))


def shared_pixels(first: Sequence[Rle], second: Sequence[Rle]) -> np.ndarray:
    """(len(first), len(second)) int64: how many pixels each two masks have in common; all of one size."""
    if not first or not second:
        return np.zeros((len(first), len(second)), np.int64)
    rows, columns = [_plain(rle) for rle in first], [_plain(rle) for rle in second]
    # For a "crowd" pycocotools divides the common pixels by the first mask's: no decoding, and exact after rounding.
    shares = coco.iou(rows, columns, [1] * len(columns))
    return np.rint(shares * coco.area(rows).astype(np.float64)[:, None]).astype(np.int64)


def box(rle: Rle) -> tuple[float, float, float, float]:
    """(x, y, width, height) in pixels of the tightest box around the mask; zeros for an empty mask."""
    x, y, w, h = (float(value) for value in coco.toBbox(_plain(rle)))
    return (x, y, w, h)


def from_segmentation(segmentation: Any, height: int, width: int) -> Rle:
    """The mask of a COCO annotation, equal to what `COCO.annToRLE` makes of it.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, an uncompressed RLE (`counts` is a list), a
            compressed one (`counts` is a string), or a list of these two, as RefClef has it.

    Raises:
        MaskTooLarge: it was made for an image of another size.
        ValueError: it is none of these, or damaged.
    """
    if isinstance(segmentation, Mapping):
        return _from_runs(segmentation, height, width)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str) or not segmentation:
        raise ValueError("no polygon and no RLE")
    if isinstance(segmentation[0], Mapping):
        return union([_from_runs(part, height, width) for part in segmentation], (height, width))
    return _from_polygons(segmentation, height, width)


def runs(rle: Rle) -> np.ndarray:
    """Lengths of the runs, (n,) int64, zeros first.

    Raises:
        ValueError: the string does not follow COCO's format. pycocotools itself does not look.
    """
    codes = np.frombuffer(rle.counts, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 0x20) == 0)  # a number is five bits a character, the sixth bit says "more"
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or ends[-1:].tolist() != [codes.size - 1]:
        raise ValueError("damaged RLE string")
    starts = np.concatenate([[0], ends[:-1] + 1])
    digit = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if digit.max() > 6:  # 35 bits: more than any image has pixels
        raise ValueError("damaged RLE string")
    numbers = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    numbers -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * (ends - starts + 1)), 0)
    # From the fourth number on, what is stored is the difference to the run before the last one.
    lengths = numbers.copy()
    lengths[1::2] = np.cumsum(numbers[1::2])
    lengths[2::2] = np.cumsum(numbers[2::2])
    return lengths


def _from_runs(segmentation: Mapping[str, Any], height: int, width: int) -> Rle:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError("RLE without a size")
    if tuple(size) != (height, width):
        raise MaskTooLarge(f"mask of {size[1]}x{size[0]} pixels")
    if isinstance(counts, list):
        lengths = np.asarray(counts)
        if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or not _fills(lengths, height, width):
            raise ValueError("RLE counts that do not add up to the image")
        return _rle(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    if not isinstance(counts, str | bytes):
        raise ValueError("RLE without counts")
    rle = Rle((height, width), counts.encode() if isinstance(counts, str) else counts)
    if not _fills(runs(rle), height, width):
        raise ValueError("RLE counts that do not add up to the image")
    return rle


def _fills(lengths: np.ndarray, height: int, width: int) -> bool:
    pixels = height * width
    # Each within the mask first: a sum of larger ones may wrap.
    return bool(lengths.size and lengths.min() >= 0 and lengths.max() <= pixels and int(lengths.sum()) == pixels > 0)


def _from_polygons(polygons: Sequence[Any], height: int, width: int) -> Rle:
    # Two points enclose nothing, and pycocotools would take four numbers for a box.
    points = [polygon for polygon in polygons if len(_checked(polygon, height, width)) >= 6]
    if not points:
        raise ValueError("no polygon of three points")
    found = coco.frPyObjects(points, height, width)
    return _rle(found[0] if len(found) == 1 else coco.merge(found))


def _checked(polygon: Any, height: int, width: int) -> Sequence[float]:
    """The polygon itself; plain Python, which for some twenty points is faster than numpy."""
    try:
        low, right, bottom = float(min(polygon)), float(max(polygon[0::2])), float(max(polygon[1::2]))
        finite = math.isfinite(sum(polygon))
    except OverflowError:  # a whole number that no float holds
        raise ValueError("a polygon with NaN or infinite coordinates") from None
    except (TypeError, ValueError, KeyError):
        raise ValueError("a polygon that is no list of numbers") from None
    if len(polygon) % 2:
        raise ValueError("a polygon that is no list of x, y pairs")
    if not finite:
        raise ValueError("a polygon with NaN or infinite coordinates")
    if low < -OVERSHOOT or right > width + OVERSHOOT or bottom > height + OVERSHOOT:
        raise MaskTooLarge(f"polygon up to ({right:g}, {bottom:g})")
    return polygon


def _rle(found: Mapping[str, Any]) -> Rle:
    height, width = found["size"]
    return Rle((int(height), int(width)), bytes(found["counts"]))


def _plain(rle: Rle) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.counts}
