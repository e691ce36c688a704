"""Masks of many pictures at the network's size, sampled from their runs all at once: nothing is decoded.

Axes: N masks asked for, H W network input, h w of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

from refseg_cli.data import masks
from refseg_cli.data.placement import Placement
from refseg_cli.records import Rle

MASKS_A_SHEET = 8  # one bit for each
BLOCK = 12  # rows
_BITS = 1 << np.arange(MASKS_A_SHEET, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which masks of a picture are wanted, and where they go.

    rles:   of its instances.
    unions: for each mask that is wanted, the places in `rles` of those that it unites; none for an empty one.
    size:   (h, w).
    placement, mirrored: as in `transforms.to_input`.
    """

    rles: Sequence[Rle]
    unions: Sequence[Sequence[int]]
    size: tuple[int, int]
    placement: Placement
    mirrored: bool = False

    def used(self) -> dict[int, Rle]:
        """The masks that are united, by their places.

        Raises:
            ValueError: a mask of another size than its picture.
        """
        used = {place: self.rles[place] for union in self.unions for place in union}
        if others := [rle.size for rle in used.values() if rle.size != self.size]:
            raise ValueError(f"a mask of {others[0][1]}x{others[0][0]} pixels")
        return used


def united(pictures: Sequence[Asked], size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) uint8, 1 inside: what is wanted of all pictures, at the pixels that `nearest-exact` takes.

    size: (H, W).

    Raises:
        ValueError: a mask of another size than its picture, or runs that do not follow COCO's format or do not add up.
    """
    sheets, firsts = list[_Sheet](), list[int]()  # and each picture's first sheet
    masks_of, bits = list[int](), list[int]()  # which bits of its picture's sheets make a mask
    count = 0
    for picture in pictures:
        firsts.append(len(sheets))
        used = picture.used()
        rles, bit = list(used.values()), {place: n for n, place in enumerate(used)}
        for union in picture.unions:
            for place in union:
                masks_of.append(count)
                bits.append(bit[place])
            count += 1
        sheets += [_Sheet(picture, rles[n : n + MASKS_A_SHEET], size) for n in range(0, len(rles), MASKS_A_SHEET)]
    if not sheets:
        return np.zeros((count, *size), np.uint8)
    wanted = np.zeros((count, max(bits) + 1), bool)
    wanted[masks_of, bits] = True
    words = np.packbits(wanted, axis=1, bitorder="little")[:, :, None, None]
    found, sampled, start = np.empty((count, *size), np.uint8), _sampled(sheets, size), 0
    for picture, first, behind in zip(pictures, firsts, [*firsts[1:], len(sheets)], strict=True):
        of_picture = slice(start, start := start + len(picture.unions))
        own, bits_of = found[of_picture], words[of_picture]
        first = min(first, len(sheets) - 1)  # of a picture without sheets no bit is wanted
        np.bitwise_and(np.ascontiguousarray(sampled[first]), bits_of[:, 0], out=own)
        for n in range(1, behind - first):
            own |= sampled[first + n] & bits_of[:, n]
        np.not_equal(own, 0, out=own.view(bool))
    return found


@dataclass(frozen=True, slots=True)
class _Line:
    """The pixels that are taken of a row or column of `of` pixels to make one of `to`.

    taken:  (to,) ascending.
    before: (of + 1,) how many of those taken lie before a pixel.
    times:  (of + 1,) how often a pixel is taken.
    """

    taken: np.ndarray
    before: np.ndarray
    times: np.ndarray


@lru_cache(maxsize=4096)
def _line(of: int, to: int) -> _Line:
    """By `nearest-exact`, which torch itself is asked for."""
    pixels = torch.arange(of, dtype=torch.float32)[None, None]
    taken = F.interpolate(pixels, to, mode="nearest-exact").view(-1).long().numpy()
    before, until = (np.searchsorted(taken, np.arange(of + 1), side) for side in ("left", "right"))
    return _Line(taken, before, until - before)


class _Sheet:
    """Up to `MASKS_A_SHEET` masks of one picture, and where its pixels go.

    rows, columns: the part of the input in which it lies.
    taken:     (W',) which of its columns each of these columns shows.
    row_of:    (h + 1,) the row of the input from which on it shows what begins at a row of the picture.
    column_of: (w + 1,) the first column of the input that shows a column of the picture.
    times:     (w + 1,) how many show it.
    """

    def __init__(self, picture: Asked, rles: Sequence[Rle], input_size: tuple[int, int]) -> None:
        self.rles, self.size = rles, picture.size
        placement = picture.placement.mirrored(input_size) if picture.mirrored else picture.placement
        self.rows, self.columns = placement.box()
        down = _line(picture.size[0], self.rows.stop - self.rows.start)
        across = _line(picture.size[1], self.columns.stop - self.columns.start)
        self.row_of, self.times = self.rows.start + down.before, across.times
        if picture.mirrored:
            self.taken, self.column_of = across.taken[::-1], self.columns.stop - across.before - across.times
        else:
            self.taken, self.column_of = across.taken, self.columns.start + across.before


def _sampled(sheets: Sequence[_Sheet], size: tuple[int, int]) -> np.ndarray:
    """(sheets, H, W) uint8: bit n is set inside the n-th mask of a sheet.

    Going down the picture's columns, a mask begins and ends at some pixels. Each of these changes adds a mask's bit to
    the row of the input from which on it shows, or subtracts it; then a sum down the rows gives all bits of all masks.
    Each column begins with the sum of all changes before it, and below the picture ends with none. Sums wrap around,
    which does no bit any harm.
    """
    stretches, counts = masks.stretches([rle for sheet in sheets for rle in sheet.rles])
    pixels = stretches.reshape(-1)
    bits = np.concatenate([_BITS[: len(sheet.rles)] for sheet in sheets]).repeat(counts)
    changes = np.stack([bits, -bits], axis=1).reshape(-1)

    # The tables of all sheets, one after the other, as one.
    heights, widths = np.array([sheet.size for sheet in sheets]).T
    first_row, first_column = ((sides + 1).cumsum() - sides - 1 for sides in (heights, widths))
    of = np.arange(len(sheets)).repeat([len(sheet.rles) for sheet in sheets]).repeat(2 * counts)
    column = pixels // heights[of]
    row = pixels - column * heights[of] + first_row[of]
    column += first_column[of]
    before = np.zeros(int(widths.sum()) + len(sheets) + 1, np.uint8)  # what was changed in the columns before each
    np.add.at(before, column + 1, changes)
    before.cumsum(out=before)

    times = np.concatenate([sheet.times for sheet in sheets])[column]
    shown = times.nonzero()[0]
    row, column, of, times = row[shown], column[shown], of[shown], times[shown]
    places = np.concatenate([sheet.row_of for sheet in sheets])[row] * len(sheets) + of
    places = places * size[1] + np.concatenate([sheet.column_of for sheet in sheets])[column]
    changes = changes[shown]
    if times.size and times.max() > 1:
        places, changes = places.repeat(times), changes.repeat(times)
        places += np.arange(places.size) - (times.cumsum() - times).repeat(times)
    found = np.zeros((-(-(size[0] + 1) // BLOCK) * BLOCK, len(sheets), size[1]), np.uint8)
    np.add.at(found.reshape(-1), places, changes)
    for n, (sheet, start) in enumerate(zip(sheets, first_column.tolist(), strict=True)):
        found[sheet.rows.start, n, sheet.columns] += before[start + sheet.taken]
        if sheet.rows.stop < size[0]:
            found[sheet.rows.stop, n, sheet.columns] -= before[start + sheet.taken + 1]
    _sum_down(found)
    return found[: size[0]].transpose(1, 0, 2)


def _sum_down(rows: np.ndarray) -> None:
    """To each row all above it are added: in blocks, of which all go on at the same time."""
    blocks = rows.reshape(-1, BLOCK, *rows.shape[1:])
    for above, here in pairwise(blocks.swapaxes(0, 1)):
        here += above
    for above, here in pairwise(blocks):
        here += above[-1]
