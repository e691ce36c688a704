"""Binary masks as run lengths; the only door to pycocotools.

Axes: h, w pixels of the image. COCO's runs go down the columns and begin with zeros.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools import mask as coco

from refseg_cli.data import rasterise
from refseg_cli.data.orientation import AS_STORED, Frame, turned, turned_size
from refseg_cli.metrics.counts import Pixels
from refseg_cli.records import Expression, Record, Rle

# Annotators overshoot the border by a little, and pycocotools clips it; a polygon that goes further out than this many
# pixels was drawn on another image.
OVERSHOOT = 8.0
_LONGEST = 7  # characters of a number: 35 bits, more than any image has pixels
_NOT_WHOLE = "RLE counts that do not add up to the image"
MASKS_AT_A_TIME = 1024  # whose strings are looked through together: some 50 MB


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


def targets(record: Record, expression: Expression) -> Rle:
    """The union of what the expression refers to."""
    return union([record.instances[t].rle for t in expression.targets], (record.height, record.width))


def targets_without_crowds(record: Record, expression: Expression) -> Rle:
    """The same without crowd annotations; they stay where there is nothing else."""
    objects = tuple(t for t in expression.targets if not record.instances[t].iscrowd)
    return targets(record, replace(expression, targets=objects or expression.targets))


def area(rle: Rle) -> int:
    """Pixels inside the mask."""
    return int(coco.area(_plain(rle)))


def has_pixels(rle: Rle) -> bool:
    """Whether any pixel is inside, of a mask as `from_segmentation` gives it: no run is empty but the first."""
    return len(rle.counts) > _LONGEST or area(rle) > 0


def intersection(first: Rle, second: Rle) -> Rle:
    """The pixels that are in both masks, of one size."""
    return _rle(coco.merge([_plain(first), _plain(second)], intersect=True))


def count(predicted: Rle, target: Rle) -> Pixels:
    """The pixels of two masks of one size, counted in their runs: nothing is decoded."""
    both = [_plain(predicted), _plain(target)]
    p, g = (int(pixels) for pixels in coco.area(both))
    shared = int(coco.area(coco.merge(both, intersect=True))) if p and g else 0
    return Pixels(intersection=shared, predicted=p, target=g)


def shared_pixels(first: Sequence[Rle], second: Sequence[Rle]) -> np.ndarray:
    """(len(first), len(second)) int64: how many pixels each two masks have in common; all of one size."""
    if not first or not second:
        return np.zeros((len(first), len(second)), np.int64)
    rows, columns = [_plain(rle) for rle in first], [_plain(rle) for rle in second]
    # For a "crowd" pycocotools divides the common pixels by the first mask's: no decoding, and exact after rounding.
    shares = coco.iou(rows, columns, [1] * len(columns))
    return np.rint(shares * coco.area(rows).astype(np.float64)[:, None]).astype(np.int64)


def overlaps(first: Sequence[Rle], second: Sequence[Rle]) -> np.ndarray:
    """(len(first), len(second)) float64: the IoU of each two masks, all of one size; 0 of two empty ones."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    found = coco.iou([_plain(rle) for rle in first], [_plain(rle) for rle in second], [0] * len(second))
    return np.nan_to_num(found)


def coco_json(rle: Rle) -> dict[str, Any]:
    """A mask as COCO's files have it."""
    return {"size": list(rle.size), "counts": rle.counts.decode("ascii")}


def box(rle: Rle) -> tuple[float, float, float, float]:
    """(x, y, width, height) in pixels of the tightest box around the mask; zeros for an empty mask."""
    x, y, w, h = (float(value) for value in coco.toBbox(_plain(rle)))
    return (x, y, w, h)


def resize_by_centres(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) by the pixel under each new pixel's centre."""
    rows, columns = (((np.arange(to) + 0.5) * of / to).astype(int) for to, of in zip(size, mask.shape, strict=True))
    return mask[rows][:, columns]


def resize_as_pillow(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) by the pixels that `Image.resize` with NEAREST takes.

    It adds up its step in floating point: where a centre lies on the border of two pixels, the sum may fall short of it
    (findings/pillow-nearest-drift.sh).
    """
    steps = ((of / to, to) for to, of in zip(size, mask.shape, strict=True))
    rows, columns = (np.cumsum([step / 2, *[step] * (to - 1)]).astype(int) for step, to in steps)
    return mask[rows][:, columns]


def resize_by_corners(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) by the pixels in which each new pixel's upper left corner lies: OpenCV's INTER_NEAREST.

    It divides in floating point, so that a corner on the border of two pixels may fall short of the second.
    """
    steps = ((to, of, 1 / (to / of)) for to, of in zip(size, mask.shape, strict=True))
    rows, columns = (np.minimum(np.floor(np.arange(to) * step).astype(int), of - 1) for to, of, step in steps)
    return mask[rows][:, columns]


NEAREST = {"centres": resize_by_centres, "pillow": resize_as_pillow, "corners": resize_by_corners}


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


def from_polygons(objects: Iterable[tuple[Sequence[Sequence[float]], tuple[int, int]]]) -> list[Rle | None]:
    """The masks of many objects, which takes less time than `from_segmentation` does one by one.

    None for an object at which that must look: one that it refuses, one with a polygon that it leaves out, or one that
    takes much memory to draw, since nobody has seen yet whether its picture is as large as is said.

    Args:
        objects: the polygons of each, [x0, y0, x1, y1, ...] in pixels, and its picture's (height, width).
    """
    shares: list[int] = []  # polygons of each object
    sizes: list[tuple[int, int]] = []
    lengths: list[int] = []
    packed: list[bytes] = []
    for polygons, size in objects:  # and let go one by one: lists of numbers of all of them would not stay in the cache
        some = list(map(len, polygons))
        share = len(some) if _is_plain(some, size) else 0
        shares.append(share)
        sizes.append(size)
        if share:
            lengths += some
            packed += [struct.pack(f"{len(polygon)}d", *polygon) for polygon in polygons]
    if not lengths:
        return [None] * len(shares)
    points = np.frombuffer(b"".join(packed)).reshape(-1, 2)
    corners = np.array(lengths) // 2
    pictures = np.repeat(np.array(sizes), shares, axis=0)
    starts = np.cumsum(corners) - corners
    low, high = (reduced.reduceat(points, starts) for reduced in (np.minimum, np.maximum))
    inside = (low >= -OVERSHOOT) & (high <= pictures[:, ::-1] + OVERSHOOT)  # NaN is nowhere
    within = np.logical_and.reduce(inside, axis=1)
    if not within.all():
        points, corners, pictures = points[np.repeat(within, corners)], corners[within], pictures[within]
    strings = iter(rasterise.run_lengths(points, corners, pictures) if len(corners) else ())
    sound = iter(within.tolist())
    found: list[Rle | None] = []
    for share, size in zip(shares, sizes, strict=True):
        parts = [Rle(size, next(strings)) for _ in range(share) if next(sound)]
        found.append(union(parts, size) if share and len(parts) == share else None)
    return found


def _is_plain(lengths: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether there is nothing to say of how many numbers each of the polygons has, and of the picture's size."""
    height, width = size
    if not (lengths and height > 0 < width and height * width <= rasterise.MOST_PIXELS):
        return False
    most = 2 * rasterise.MOST_PLACES
    for length in lengths:  # noqa: SIM110 - there is one as a rule, for which `all` takes twice the time
        if length < 6 or length % 2 or length * width > most:
            return False
    return True


def upright(segmentation: Any, size: tuple[int, int], orientation: int, frame: Frame = "upright") -> Rle:
    """The mask of a COCO annotation or prediction as it lies on the upright picture.

    Args:
        size: (height, width), upright.
        orientation: EXIF's number, by which the stored pixels are turned.
        frame: the pixels that it was drawn on. An RLE of a picture turned by a quarter says so itself, by its size.

    Raises:
        As `from_segmentation`.
    """
    stored = turned_size(size, orientation)
    if stored != size and (said := _size(segmentation)) in (size, stored):
        frame = "upright" if said == size else "stored"
    if frame == "upright":
        return from_segmentation(segmentation, *size)
    return turned_upright(from_segmentation(segmentation, *stored), orientation, frame)


def turned_upright(rle: Rle, orientation: int, frame: Frame) -> Rle:
    """A mask that was drawn on the pixels of that frame as it lies on the upright picture."""
    return rle if frame == "upright" or orientation == AS_STORED else encode(turned(decode(rle), orientation))


def _size(segmentation: Any) -> tuple[Any, ...]:
    """The size that an RLE, or the first of several, says; () for anything else."""
    first = segmentation[0] if isinstance(segmentation, list) and segmentation else segmentation
    size = first.get("size") if isinstance(first, Mapping) else None
    return tuple(size) if isinstance(size, list | tuple) else ()


def runs(rle: Rle) -> np.ndarray:
    """Lengths of the runs, (n,) int64, zeros first.

    Raises:
        ValueError: the string does not follow COCO's format. pycocotools itself does not look.
    """
    return _runs([rle.counts])[0]


def stretches(rles: Sequence[Rle]) -> tuple[np.ndarray, np.ndarray]:
    """(k, 2) int64: where each run of ones begins and the first pixel behind it, of one mask after the other; and how
    many each mask has. The last one of a mask that ends with zeros is empty.

    Raises:
        ValueError: a string that does not follow COCO's format, or runs that do not add up to the mask's size.
    """
    numbers, counts = _numbers([rle.counts for rle in rles])
    table, _ = _table(numbers, counts)
    rows = (counts + 1) // 2
    wholes = np.array([height * width for height, width in (rle.size for rle in rles)]).cumsum()
    ends = table.cumsum().reshape(-1, 2)
    if table.min() < 0 or (ends[rows.cumsum() - 1, 1] != wholes).any():
        raise ValueError(_NOT_WHOLE)
    ends[rows[0] :] -= wholes[:-1].repeat(rows[1:])[:, None]
    return ends, rows


def normal(rles: Sequence[Rle]) -> list[Rle]:
    """The same masks without runs of length zero, but for a first one.

    COCO's format has them (writers that cap a run at 65,535 go on after one), and pycocotools decodes them, but its
    `merge` and `iou` stop at the first pixel where two masks have one.

    Raises:
        ValueError: a string that does not follow COCO's format, or runs that do not add up to the mask's size.
    """
    parts = (rles[i : i + MASKS_AT_A_TIME] for i in range(0, len(rles), MASKS_AT_A_TIME))
    return [rle for part in parts for rle in _normal(part)]


def _normal(rles: Sequence[Rle]) -> list[Rle]:
    lengths, counts = _checked_runs(rles)
    starts = np.cumsum(counts) - counts
    empty = lengths == 0
    empty[starts] = False
    found = list(rles)
    if empty.any():
        for i in np.flatnonzero(np.logical_or.reduceat(empty, starts)).tolist():
            found[i] = _compressed(lengths[starts[i] : starts[i] + counts[i]], rles[i].size)
    return found


def _checked_runs(rles: Sequence[Rle]) -> tuple[np.ndarray, np.ndarray]:
    """As `_runs`, of masks whose runs fill them.

    Raises:
        ValueError: a string that does not follow COCO's format, or runs that do not add up to the mask's size.
    """
    lengths, counts = _runs([rle.counts for rle in rles])
    pixels = [height * width for height, width in (rle.size for rle in rles)]
    if lengths.min() < 0 or np.add.reduceat(lengths, np.cumsum(counts) - counts).tolist() != pixels:
        raise ValueError(_NOT_WHOLE)
    return lengths, counts


def _runs(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of all runs of all strings, one string after the other, and how many each has; int64.

    Raises:
        ValueError: a string that does not follow COCO's format.
    """
    numbers, counts = _numbers(strings)
    table, places = _table(numbers, counts)
    return table.reshape(-1)[places], counts


def _numbers(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """What is stored in all strings, one string after the other, and how many numbers each has; int64.

    Raises:
        ValueError: a string that does not follow COCO's format.
    """
    codes = np.frombuffer(b"".join(strings), dtype=np.uint8) - np.uint8(48)  # what is below wraps round
    lasts = np.array([*map(len, strings)]).cumsum() - 1  # where each string ends
    if not all(strings) or codes.max() > 63 or codes[lasts].max() > 31:
        raise ValueError("damaged RLE string")
    ends = (codes < 32).nonzero()[0]  # a number is five bits a character, the sixth bit says "more"
    numbers = (codes[ends] & 0x1F).astype(np.int64)
    numbers -= (numbers & 0x10) << 1  # the sign, in a number's last character
    longer = (codes[ends - 1] > 31).nonzero()[0]  # before the first character comes the very last, which ends a number
    for k in range(1, _LONGEST):  # the characters before it are lower bits
        if not longer.size:
            break
        places = ends[longer] - k
        numbers[longer] = (numbers[longer] << 5) | (codes[places] & 0x1F)
        longer = longer[codes[places - 1] > 31]
    if longer.size:
        raise ValueError("damaged RLE string")
    behind = ends.searchsorted(lasts) + 1
    counts = behind.copy()
    counts[1:] -= behind[:-1]
    return numbers, counts


def _table(numbers: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stored numbers to lengths: from the fourth on, each is the difference to the run before the last one.

    Args:
        numbers: (n,) of all strings.  counts: how many of them each string has.

    Returns:
        table: (k, 2), the lengths of zeros and ones in turns; every string begins a row, and one of an odd number ends
            with a 0.
        places: (n,) where in it each length is.
    """
    rows = (counts + 1) // 2
    first = rows.cumsum() - rows
    places = np.arange(numbers.size) + (2 * first - (counts.cumsum() - counts)).repeat(counts)
    table = np.zeros((int(rows.sum()), 2), np.int64)
    table.reshape(-1)[places] = numbers
    start = table[first, 0]
    table[first, 0] = 0
    table[first[1:]] -= np.add.reduceat(table, first)[:-1]  # so that each string's sum begins with nothing
    for column in table.T:  # each by itself: both at once take twice the time
        column.cumsum(out=column)
    table[first, 0] = start
    table[first + rows - 1, 1] *= 1 - counts % 2
    return table, places


def _compressed(lengths: np.ndarray, size: tuple[int, int]) -> Rle:
    """The mask of these runs, (n,) zeros first, which fill it; runs of length zero may be among them."""
    values, kept = np.arange(lengths.size) % 2, np.flatnonzero(lengths)
    # Where the runs that have pixels change from zeros to ones or back.
    starts = np.flatnonzero(np.diff(values[kept], prepend=-1))
    merged = np.add.reduceat(lengths[kept], starts).tolist()
    counts = [0, *merged] if values[kept[0]] else merged
    return _rle(coco.frPyObjects({"size": list(size), "counts": counts}, *size))


def _from_runs(segmentation: Mapping[str, Any], height: int, width: int) -> Rle:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(side, int | float) for side in size):
        raise ValueError("RLE without a size")
    if tuple(size) != (height, width):
        raise MaskTooLarge(f"mask of {size[1]}x{size[0]} pixels")
    if isinstance(counts, list):
        lengths = np.asarray(counts)
        if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or not _fills(lengths, height, width):
            raise ValueError(_NOT_WHOLE)
        return _compressed(lengths, (height, width))
    if not isinstance(counts, str | bytes):
        raise ValueError("RLE without counts")
    return normal([Rle((height, width), counts.encode() if isinstance(counts, str) else counts)])[0]


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
        raise ValueError("a polygon that is not a list of numbers") from None
    if len(polygon) % 2:
        raise ValueError("a polygon that is not a list of x, y pairs")
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
