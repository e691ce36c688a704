"""Many polygons to COCO's run lengths at once, each equal to what pycocotools' `rleFrPoly` makes of it.

That walks along each edge in fifths of a pixel and keeps the steps that pass the middle of a column, one in five in x:
where they do so is the whole part of what grows evenly from column to column. Here it is summed up for all edges
together, in numbers of 32 bits before and 32 behind the point. Where that comes close to a whole number, pycocotools'
own roundings decide, and so they do here: a place along a flat edge by the same product, one along a steep edge by a
division whose result the same product then confirms or moves by one.

Axes: p corners of all polygons, n polygons, e edges that pass a column, k places where they do, d doubtful ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FINE = 5  # steps a pixel
AT_A_TIME = 1 << 18  # places whose arrays are held at once, some 50 bytes for each, and more only of one polygon
MOST_PIXELS = 1 << 27  # of a picture: fifths of a pixel, places and lengths are numbers of 32 bits
MOST_PLACES = 1 << 20  # that one polygon may have, its corners times the picture's columns
_SHORT = 512  # numbers from -512 on and below 512 have one or two characters
_FIXED = np.dtype([("part", "<u4"), ("whole", "<i4")])  # the halves of a sum of 64 bits
_ONE = 1 << 32
# Along an edge of at most so many steps a border is a whole number, or a tenth of their inverse away from one. Half of
# that is doubtful, as it is added to all of them; sums are exact to a 16th of what is added.
_LONGEST, _CLOSE = 1 << 13, 1 << 14


def run_lengths(points: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> list[bytes]:
    """The compressed strings of polygons, as in `records.Rle`.

    Args:
        points: (p, 2) float64, x and y in pixels, of one polygon after the other; at most some pixels off its picture.
        corners: (n,) how many of them each has, at least one.
        sizes: (n, 2) int64, (height, width) of each one's picture; of `MOST_PIXELS` at most.
    """
    edges = _edges(points, corners, sizes)
    if edges.places.sum() > AT_A_TIME and len(corners) > 1:
        half = len(corners) // 2
        cut = int(corners[:half].sum())
        return [
            *run_lengths(points[:cut], corners[:half], sizes[:half]),
            *run_lengths(points[cut:], corners[half:], sizes[half:]),
        ]
    borders = _borders(edges)
    ends = np.cumsum(edges.places)[edges.is_end]
    counts = np.diff(ends, prepend=0)
    for start, end in zip((ends - counts).tolist(), ends.tolist(), strict=True):
        borders[start:end].sort()  # for numbers of 32 bits, a fifth of the time that sorting all at once takes
    borders, counts = _without_empty(borders, counts)
    heads = np.cumsum(counts) - counts
    lengths = np.diff(borders, prepend=np.int32(0))
    lengths[heads] = borders[heads]
    return compressed(lengths, counts)


class _Edges(NamedTuple):
    """Edges that pass the middle of a column, of one polygon after the other: (e,) each; in fifths of a pixel, but for
    `column`. Behind those of each polygon comes one with a single place, the end of its picture.

    is_end: whether it is that.  x, y: where it begins.  across, down: from there to where it ends.  height: of the
    picture, in pixels.  column: the first that is passed.  places: how many are.
    """

    is_end: np.ndarray
    x: np.ndarray
    y: np.ndarray
    across: np.ndarray
    down: np.ndarray
    height: np.ndarray
    column: np.ndarray
    places: np.ndarray


def _edges(points: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> _Edges:
    ends = np.cumsum(corners)
    order = np.insert(np.arange(len(points)), ends, ends - corners)  # back to the first corner
    is_end = np.zeros(len(order), bool)
    is_end[ends + np.arange(len(ends))] = True
    x, y = (FINE * points + 0.5).astype(np.int32).take(order, 0).T  # C's cast, too, drops what is behind the point
    across, down = (np.diff(values, append=np.int32(0)) for values in (x, y))
    height, width = np.repeat(sizes.astype(np.int32), corners + 1, axis=0).T
    # A column's middle lies between its steps 2 and 3.
    column = np.maximum((np.minimum(x, x + across) + 2) // FINE, 0)
    last = np.minimum((np.maximum(x, x + across) - 3) // FINE, width - 1)
    places = np.where(is_end, 1, last - column + 1)
    column = np.where(is_end, width, column)
    passing = np.flatnonzero(places > 0)
    return _Edges(*(values[passing] for values in (is_end, x, y, across, down, height, column, places)))


def _borders(edges: _Edges) -> np.ndarray:
    """(k,) int32: the pixel, counted down the columns, before which each place is a border of the mask."""
    first, way = _lines(edges)
    starts = np.cumsum(edges.places) - edges.places
    sums = np.repeat(way, edges.places)
    sums[starts] = first
    sums[starts[1:]] -= (first + way * (edges.places - 1))[:-1]  # where the edge before it has come to
    halves = np.cumsum(sums, out=sums).view(_FIXED)
    borders = halves["whole"].copy()
    doubtful = np.flatnonzero(halves["part"] < 2 * _CLOSE)
    borders[doubtful] = _rounded(edges, starts, doubtful)
    return borders


def _lines(edges: _Edges) -> tuple[np.ndarray, np.ndarray]:
    """(e,) each, int64 with 32 bits behind the point: an edge's first border, and the way from each to the next one.

    What is not to be told this way is doubtful all along.
    """
    _, x, y, across, down, height, column, _ = edges
    steep = np.abs(down) > np.abs(across)
    slope = down / np.where(edges.is_end, 1, across)
    # Of the two steps beside the middle of a column, the upper counts; along a steep edge, the last one before it.
    step = FINE * column + 2 - x + np.where(steep, 0.5, slope < 0)
    row = (y + np.where(steep, 2, 2.5) + slope * step) / FINE
    told = (np.minimum(y, y + down) >= 0) & (np.maximum(y, y + down) <= FINE * height)
    told &= np.maximum(np.abs(across), np.abs(down)) <= _LONGEST
    row, slope = np.where(told, row, 0), np.where(told, slope, 0)
    row[edges.is_end] = 0.5  # the first pixel of the column behind the last one, and no doubt of it
    first = np.rint((height * column.astype(np.float64) + row) * _ONE).astype(np.int64) + _CLOSE
    return first, np.rint((height + slope) * _ONE).astype(np.int64)


def _rounded(edges: _Edges, starts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(d,) the borders at some places, with all roundings of pycocotools.  starts: (e,) each edge's first place."""
    edge = np.searchsorted(starts, places, side="right") - 1
    _, x, y, across, down, height, column, _ = (values[edge] for values in edges)
    column += (places - starts[edge]).astype(np.int32)
    steep = np.abs(down) > np.abs(across)
    along, aside = np.where(steep, (down, across), (across, down))
    slope = aside / along
    x, y = (np.where(along < 0, begin + way, begin) for begin, way in ((x, across), (y, down)))
    before = FINE * column + 2 - x
    with np.errstate(divide="ignore", invalid="ignore"):  # a flat edge may be level
        fine = np.where(steep, y + _last_before(before, slope, x), y + slope * (before + (slope < 0)) + 0.5)
    return np.clip((fine.astype(np.int64) + 2) // FINE, 0, height) + height * column


def _last_before(middle: np.ndarray, slope: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The last step of a walk down that is on its first side of the middle of a column: behind `middle` steps of x."""
    step = np.rint((middle + 0.5) / slope)
    is_left = x + slope * step + 0.5 < middle + 1 + x
    return step - (is_left != (slope > 0))


def _without_empty(borders: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two borders at one place enclose nothing, but the end of the picture stays the last of each polygon.

    borders: sorted, of one polygon after the other.  counts: (n,) of each.
    """
    ends = np.cumsum(counts)
    equal = borders[1:] == borders[:-1]
    equal[ends[:-1] - 1] = False
    if not equal.any():
        return borders, counts
    again = np.flatnonzero(equal) + 1
    opens = np.flatnonzero(np.diff(again, prepend=-1) != 1)
    firsts = again[opens] - 1
    lasts = again[np.append(opens[1:], len(again)) - 1]
    even = (lasts - firsts) % 2 == 1
    gone = np.concatenate([again, firsts[even & ~np.isin(lasts, ends - 1)]])
    lost = np.bincount(np.searchsorted(ends, gone, side="right"), minlength=len(counts))
    return np.delete(borders, gone), counts - lost


def compressed(lengths: np.ndarray, counts: np.ndarray) -> list[bytes]:
    """COCO's strings of lengths: from the fourth on, each is stored as its difference to the one before the last.

    Args:
        lengths: (k,) int32, of one mask after the other.  counts: (n,) how many each has, at least one.
    """
    ends = np.cumsum(counts)
    numbers = lengths.copy()
    numbers[2:] -= lengths[:-2]
    for place in range(3):
        at = (ends - counts)[counts > place] + place
        numbers[at] = lengths[at]
    numbers += _SHORT
    long = np.flatnonzero(numbers.view(np.uint32) >= 2 * _SHORT)  # those below 0, too
    rare = _characters(numbers[long] - _SHORT)
    numbers[long] = 0
    kind = np.uint64 if (rare >> np.uint64(32)).any() else np.uint32
    characters = _TWO_AT_MOST.astype(kind).take(numbers)
    characters[long] = rare
    data = characters.tobytes()
    cuts = (ends * characters.itemsize).tolist()
    return [data[a:b].translate(None, b"\0") for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]


def _characters(numbers: np.ndarray) -> np.ndarray:
    """(k,) of uint64, the bytes of which are a number's characters, and zeros behind them.

    Five bits a character, the lowest first; the last one's highest bit is the sign.
    """
    size = numbers ^ (numbers >> 31)
    found = np.zeros(len(numbers), np.uint64)
    for place in range(7):
        goes_on = size >> min(5 * place + 4, 31) > 0
        character = ((numbers >> min(5 * place, 31)) & 0x1F) + 48 + (goes_on << 5)
        there = (size >> min(5 * place - 1, 31) > 0) if place else True
        found |= np.where(there, character, 0).astype(np.uint64) << np.uint64(8 * place)
    return found


_TWO_AT_MOST = _characters(np.arange(-_SHORT, _SHORT, dtype=np.int32)).astype(np.uint16)
