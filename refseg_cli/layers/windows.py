"""Swin's windows (Liu et al., ICCV 2021, section 3.2) as an order of a map's places.

Padding, rolling and cutting a map into windows is then one reading of rows, and putting it together again another. Only
the windows of the last row and column of a rolled map have a seam, so that there are four masks, however many windows.
User: layers/vision.py.

Axes: i images, h w of a map, w windows of an image, a cells of a window, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.layers.attention import attend

APART = -100.0  # what is added to the score of two cells that the seam divides [official code]


@dataclass(frozen=True, slots=True)
class Kind:
    """The windows of a map that are divided alike.

    places: (w, a) the place h * w that each cell shows, the last one plus 1 where it is padding.
    mask: (a, a) to add to the scores, or None where nothing is divided.
    """

    places: Tensor
    mask: Tensor | None


@lru_cache(maxsize=64)
def window_kinds(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], device: torch.device
) -> tuple[Kind, ...]:
    """All windows of a map of (height, width) places, padded to the right and below, then rolled by `shift`."""
    (h, w), (wh, ww), (sh, sw) = size, window, shift
    places = torch.arange(h * w, device=device).view(h, w)
    padded = F.pad(places, (0, -w % ww, 0, -h % wh), value=h * w).roll((-sh, -sw), (0, 1))
    windows = padded.unflatten(1, (-1, ww)).unflatten(0, (-1, wh)).transpose(1, 2).flatten(2)  # (rows, columns, a)
    kinds = []
    for low, rows in _seams(windows, 0, sh):
        for right, both in _seams(rows, 1, sw):
            if both.numel():
                mask = _mask(window, (sh if low else 0, sw if right else 0), device)
                kinds.append(Kind(both.flatten(0, 1), mask))
    return tuple(kinds)


def _seams(windows: Tensor, axis: int, shift: int) -> list[tuple[bool, Tensor]]:
    """Those along an axis without and with the seam of a roll."""
    if not shift:
        return [(False, windows)]
    last = windows.shape[axis] - 1
    return [(False, windows.narrow(axis, 0, last)), (True, windows.narrow(axis, last, 1))]


def _mask(window: tuple[int, int], shift: tuple[int, int], device: torch.device) -> Tensor | None:
    """(a, a) of a window whose last `shift` rows and columns came from the other side of the map."""
    if not any(shift):
        return None
    sides = [torch.arange(n, device=device) >= n - s for n, s in zip(window, shift, strict=True)]
    part = (2 * sides[0][:, None] + sides[1]).flatten()
    return torch.where(part[:, None] == part, 0.0, APART)


def attend_in_windows(qkv: Tensor, bias: Tensor, kinds: tuple[Kind, ...], images: int) -> Tensor:
    """Attention within the windows.

    Args:
        qkv: (i * h * w + 1, 3, heads, c / heads), all images' places, and behind them what padding holds.
        bias: (heads, a, a) of relative positions.

    Returns:
        (i * h * w, c)
    """
    padding = len(qkv) - 1
    first = torch.arange(images, device=qkv.device)[:, None, None] * (padding // images)
    out = qkv.new_empty(padding + 1, qkv.shape[2] * qkv.shape[3])  # the last row takes what padding attended to
    for kind in kinds:
        order = torch.where(kind.places < padding // images, kind.places + first, padding).flatten()
        q, k, v = qkv.index_select(0, order).unflatten(0, (-1, len(bias[0]))).permute(2, 0, 3, 1, 4).unbind(0)
        scores = bias if kind.mask is None else bias + kind.mask.to(bias.dtype)
        attended = attend(q, k, v, scores.to(q.dtype)[None])
        out.index_copy_(0, order, attended.transpose(1, 2).flatten(2).flatten(0, 1))
    return out[:-1]
