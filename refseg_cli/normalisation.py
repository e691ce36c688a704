"""Pictures in bytes to what a model takes: light, normalisation and padding, on the model's device.

Axes: I pictures, H W network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Light = tuple[float, float]  # by what brightness and contrast are multiplied
Box = tuple[slice, slice]  # rows and columns


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How the bytes of one picture become what a model takes.

    mean, std: of each channel of colours in [0, 1]; the same in all pictures of a batch.
    light: how that of this picture is changed; None for not, in all pictures of a batch.
    fill: the padding's colour, each channel in [0, 1].
    inside: where the picture lies in the input; None where there is no padding.
    inside_small: where it lies in `Batch.small`, likewise.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    light: Light | None
    fill: tuple[float, float, float]
    inside: Box | None
    inside_small: Box | None


def normalised(pixels: Tensor, how: Sequence[Normalisation], inside: Sequence[Box | None]) -> Tensor:
    """(I, 3, H, W) uint8, channels last in memory -> the same in float32, and what lies around the pictures filled.

    inside: where each picture lies.
    """
    values = _mapped(pixels.permute(0, 2, 3, 1).float(), 255, how)  # (I, H, W, 3), in the order of memory
    if any(inside):
        colours = _mapped(_along_rows([one.fill for one in how], values), 1, how)
        for picture, box, (colour,) in zip(values, inside, colours, strict=True):
            if box:
                rows, columns = box
                picture[: rows.start] = colour
                picture[rows.stop :] = colour
                picture[:, : columns.start] = colour[: columns.start]
                picture[:, columns.stop :] = colour[columns.stop :]
    return values.permute(0, 3, 1, 2)


def _mapped(values: Tensor, white: int, how: Sequence[Normalisation]) -> Tensor:
    """Colours (I, h, W, 3) from 0 to `white` as the network takes them, in place.

    Light and normalisation are one affine map of each channel: the same as one after the other, but for rounding.
    """
    along, mean, std = partial(_along_rows, like=values), how[0].mean, how[0].std
    lights = [one.light for one in how if one.light]
    if not lights:
        return values.div_(along([(white,) * 3])).sub_(along([mean])).div_(along([std]))
    factors = [[contrast / white / s for s in std] for _, contrast in lights]
    summands = [[(0.5 * (b - contrast) - m) / s for m, s in zip(mean, std, strict=True)] for b, contrast in lights]
    bounds = [[(colour - m) / s for m, s in zip(mean, std, strict=True)] for colour in (0, 1)]  # black and white
    return values.mul_(along(factors)).add_(along(summands)).clamp_(*along(bounds))


def _along_rows(colours: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """(n, 1, W, 3), each colour once for each column of (I, H, W, 3): rows are worked on as a whole, not by pixels.

    Numbers on the device, too: a GPU divides by one from outside less exactly.
    """
    numbers = torch.tensor(colours, dtype=torch.float32).to(like.device, non_blocking=True)
    return numbers.view(-1, 1, 1, 3).expand(-1, 1, like.shape[2], 3).contiguous()
