"""Many polygons to COCO's run lengths at once, each equal to what pycocotools' `rleFrPoly` makes of it.

That walks along each edge in fifths of a pixel and keeps the steps that pass the middle of a column, one in five in x.
Here only those places are computed, of all edges together, with the same roundings: a place along a flat edge by the
same product, one along a steep edge by a division whose result the same product then confirms or moves by one.

Axes: p corners of all polygons, n polygons, e edges that pass a column, k places where they do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FINE = 5  # steps a pixel
AT_A_TIME = 1 << 18  # places whose arrays are held at once, some 50 bytes for each, and more only of one polygon
MOST_PIXELS = 1 << 27  # of a picture: fifths of a pixel, places and lengths are numbers of 32 bits
MOST_PLACES = 1 << 20  # that one polygon may have, its corners times the picture's columns
_SHORT = 512  # numbers from -512 on and below 512 have one or two characters


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
    counts = np.bincount(edges.polygon, weights=edges.places, minlength=len(corners)).astype(np.int64) + 1
    ends = np.cumsum(counts)
    borders = np.empty(ends[-1], np.int32)
    number = _counted(edges.places)
    borders[_destinations(edges, number)] = _borders(edges, number)
    borders[ends - 1] = sizes.prod(1)
    for start, end in zip((ends - counts).tolist(), ends.tolist(), strict=True):
        borders[start:end].sort()  # for numbers of 32 bits, a fifth of the time that sorting all at once takes
    borders, counts = _without_empty(borders, counts)
    heads = np.cumsum(counts) - counts
    lengths = np.diff(borders, prepend=np.int32(0))
    lengths[heads] = borders[heads]
    return compressed(lengths, counts)


class _Edges(NamedTuple):
    """Edges that pass the middle of a column, the flat ones first: (e,) each; in fifths of a pixel, but for `column`.

    flat: how many are no steeper than 45 degrees.  polygon: which they belong to, ascending among the flat and among
    the steep.  x, y: the corner that the walk begins at.  slope: of y by x of a flat one, of x by y of a steep one.
    column: the first that is passed.  places: how many are.  height: of the picture, in pixels.
    """

    flat: int
    polygon: np.ndarray
    x: np.ndarray
    y: np.ndarray
    slope: np.ndarray
    column: np.ndarray
    places: np.ndarray
    height: np.ndarray


def _edges(points: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> _Edges:
    ends = np.cumsum(corners)
    after = np.arange(1, len(points) + 1)
    after[ends - 1] = ends - corners
    x, y = (FINE * points + 0.5).astype(np.int32).T  # C's cast, too, drops what is behind the point
    across, down = x[after] - x, y[after] - y
    polygon = np.repeat(np.arange(len(corners)), corners)
    # A column's middle lies between its steps 2 and 3.
    column = np.maximum((np.minimum(x, x[after]) + 2) // FINE, 0)
    last = np.minimum((np.maximum(x, x[after]) - 3) // FINE, sizes[polygon, 1] - 1)
    passing, steep = last >= column, np.abs(down) > np.abs(across)
    flat = np.flatnonzero(passing & ~steep)
    chosen = np.concatenate([flat, np.flatnonzero(passing & steep)])
    across, down = across[chosen], down[chosen]
    along, aside = np.where(steep[chosen], (down, across), (across, down))
    start = np.where(along < 0, after[chosen], chosen)
    return _Edges(
        flat=len(flat),
        polygon=polygon[chosen],
        x=x[start],
        y=y[start],
        slope=aside / along,
        column=column[chosen].astype(np.int32),
        places=(last[chosen] - column[chosen] + 1).astype(np.int32),
        height=sizes[polygon[chosen], 0].astype(np.int32),
    )


def _borders(edges: _Edges, number: np.ndarray) -> np.ndarray:
    """(k,) int32: the pixel, counted down the columns, before which each place is a border of the mask.

    number: (k,) int32, of each place among those of its edge.
    """
    flat, places = edges.flat, edges.places
    slope, y = np.repeat(edges.slope, places), np.repeat(edges.y, places)
    # Of the two steps beside the middle of a column, the upper counts.
    first = FINE * edges.column + 2 - edges.x
    first[:flat] += edges.slope[:flat] < 0
    step = FINE * number + np.repeat(first, places)
    few = int(places[:flat].sum())
    fine = np.empty(len(number), np.int32)
    fine[:few] = y[:few] + slope[:few] * step[:few] + 0.5
    fine[few:] = y[few:] + _last_before(step[few:], slope[few:], np.repeat(edges.x[flat:], places[flat:]))
    height = np.repeat(edges.height, places)
    row = np.clip((fine + 2) // FINE, 0, height)
    return row + height * number + np.repeat(edges.height * edges.column, places)


def _last_before(middle: np.ndarray, slope: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The last step of a walk down that is on its first side of the middle of a column: behind `middle` steps of x."""
    step = np.rint((middle + 0.5) / slope)
    is_left = x + slope * step + 0.5 < middle + 1 + x
    return step - (is_left != (slope > 0))


def _destinations(edges: _Edges, number: np.ndarray) -> np.ndarray:
    """(k,) where each place goes for a polygon's to lie together, with room for one more behind them."""
    by_polygon = np.argsort(edges.polygon, kind="stable")
    places = edges.places[by_polygon]
    first = np.empty_like(places)
    first[by_polygon] = np.cumsum(places) - places
    return number + np.repeat(first + edges.polygon.astype(np.int32), edges.places)


def _counted(counts: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... for each count, as many as it says."""
    starts = np.cumsum(counts, dtype=np.int32) - counts
    return np.arange(counts.sum(), dtype=np.int32) - np.repeat(starts, counts)


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
