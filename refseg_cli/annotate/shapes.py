"""Masks as shapes that a browser draws and that a pointer can hit: the `d` of an SVG path, pixel for pixel.

Axes: h w pixels; a path's coordinates are x right and y down, in the corners between pixels.
"""

from __future__ import annotations

import numpy as np


def path_of(mask: np.ndarray) -> str:
    """The border of an (h, w) mask, for filling by the even-odd rule; empty for an empty mask.

    Every corner of the border ends one horizontal and one vertical edge. Along a row the corners are the ends of its
    edges, two by two, and so along a column; following edges of the two kinds in turn gives closed lines.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return ""
    top, left = rows[0], columns[0]
    padded = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1] != 0, 1)
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    # Where only diagonal neighbours touch, two corners lie on one another.
    corners = (nw ^ ne ^ sw ^ se) + 2 * ((nw == se) & (ne == sw) & (nw != ne)).astype(np.int64)
    y, x = np.nonzero(corners)
    y, x = (np.repeat(places, corners[y, x]) for places in (y + top, x + left))
    beside, below = _partners(np.lexsort((x, y))), _partners(np.lexsort((y, x)))
    return "".join(_loops(x.tolist(), y.tolist(), beside, below))


def _partners(order: np.ndarray) -> list[int]:
    """For each corner the one at the other end of its edge; order: corners along rows or columns."""
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner.tolist()


def _loops(x: list[int], y: list[int], beside: list[int], below: list[int]) -> list[str]:
    seen = [False] * len(x)
    parts: list[str] = []
    for start in range(len(x)):
        if seen[start]:
            continue
        parts.append(f"M{x[start]} {y[start]}")
        corner = start
        while not seen[corner]:
            across = beside[corner]
            down = below[across]
            seen[corner] = seen[across] = True
            parts.append(f"h{x[across] - x[corner]}v{y[down] - y[across]}")
            corner = down
        parts.append("z")
    return parts


def label_point(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of a pixel well inside a non-empty (h, w) mask: the middle of the longest run of its middle row."""
    rows = np.flatnonzero(mask.any(axis=1))
    pixels = np.cumsum(np.count_nonzero(mask[rows], axis=1))
    y = int(rows[np.searchsorted(pixels, pixels[-1] / 2)])
    edges = np.flatnonzero(np.diff(np.pad(mask[y] != 0, 1).astype(np.int8)))
    starts, ends = edges[0::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest] + ends[longest] - 1) // 2, y
