"""Masks as polygons along the edges of their pixels: filled again, they are the mask, pixel by pixel; or with fewer
corners, and not quite.

Parts of a mask that share no edge of a pixel are polygons of their own. Holes, and objects in several parts, for which
polygons in files have no word, are one closed line all the same: it goes there and back on one path, which encloses
nothing.

Axes: h w pixels of the picture, k corners. A corner is (x, y); pixel (row r, column c) covers x from c to c + 1 and y
from r to r + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def polygons(mask: np.ndarray, tolerance: float = 0) -> list[np.ndarray]:
    """The connected parts of an (h, w) bool mask, the upper first: (k, 2) int64 corners each, with their holes.

    tolerance: pixels that a border may be moved to do with fewer corners.
    """
    parts: dict[int, list[np.ndarray]] = {}
    for owner, ring in _rings(mask):
        parts.setdefault(owner, []).append(_simplified(ring, tolerance))
    return [joined(rings) for rings in parts.values()]


def joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """One closed line around all of them: each is reached from the nearest corner before it, and left the same way.

    rings: (k, 2) each; at least one.
    """
    line = rings[0]
    for ring in rings[1:]:
        at = int(((line - ring[0]) ** 2).sum(1).argmin())
        line = np.concatenate([line[: at + 1], ring, ring[:1], line[at:]])
    return line


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Those corners without which the border would move by more than `tolerance` pixels (Douglas and Peucker 1973).

    Of a border that is too small to enclose anything then, all corners.
    """
    if not tolerance:
        return ring
    closed = np.concatenate([ring, ring[:1]])
    farthest = int(((ring - ring[0]) ** 2).sum(1).argmax())
    kept = np.zeros(len(closed), bool)
    kept[[0, farthest]] = True
    spans = [(0, farthest), (farthest, len(ring))]
    while spans:
        start, end = spans.pop()
        along, between = closed[end] - closed[start], closed[start + 1 : end] - closed[start]
        if not len(between):
            continue
        reached = np.clip(between @ along / max(along @ along, 1), 0, 1)[:, None] * along
        distance = np.hypot(*(between - reached).T)
        middle = int(distance.argmax())
        if distance[middle] > tolerance:
            kept[start + 1 + middle] = True
            spans += [(start, start + 1 + middle), (start + 1 + middle, end)]
    corners = ring[kept[:-1]]
    return corners if len(corners) > 2 else ring


def _rings(mask: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The borders of a mask, each with the number of the outer one that it belongs to; holes go the other way round.

    Borders turn at corners. Along each row of corners the first is joined to the second, the third to the fourth and so
    on, and so they are along each column; where two pixels touch at a corner only, that corner counts twice.
    """
    inside = np.pad(mask, 1)
    nw, ne, sw, se = inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]
    crossing = (nw == se) & (ne == sw) & (nw != ne)
    y, x = np.nonzero((nw ^ ne ^ sw ^ se) | crossing)
    twice = crossing[y, x]
    y, x, twice = (np.repeat(values, np.where(twice, 2, 1)) for values in (y, x, twice))
    second = np.zeros(len(y), bool)
    second[1:] = twice[1:] & (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    # Of a corner that counts twice the first has its horizontal edge on the left. Its vertical one is above if the
    # pixel there is inside, and else below.
    below = np.where(nw[y, x], second, ~second) & twice
    down = np.lexsort((below, y, x))
    beside, across = _pairs(np.arange(len(y))), _pairs(down)
    keys = (x * len(inside) + y)[down]
    ring_of = np.full(len(y), -1)
    owners: list[int] = []
    found: list[tuple[int, np.ndarray]] = []
    for start in range(len(y)):  # the first corner of each border is its uppermost, and of these the leftmost
        if ring_of[start] >= 0:
            continue
        number, corners, at = len(found), [], start
        while ring_of[at] < 0:
            for corner in (at, beside[at]):
                ring_of[corner] = number
                corners.append(corner)
            at = across[corners[-1]]
        outer = bool(se[y[start], x[start]])
        if not outer:  # the border on its left is of the same part, and known
            edge = int(np.flatnonzero(~inside[y[start] + 1, : x[start] + 1])[-1])
            near = down[np.searchsorted(keys, edge * len(inside) + y[start], side="right") - 1]
        owners.append(number if outer else owners[ring_of[near]])
        ring = np.stack([x[corners], y[corners]], 1)
        found.append((owners[number], ring if outer else ring[::-1]))
    return found


def _pairs(order: np.ndarray) -> np.ndarray:
    """The partner of each where, in that order, the first belongs to the second, the third to the fourth and so on."""
    partners = np.empty_like(order)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return partners
