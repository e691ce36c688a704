"""Pictures to network input and masks back to pictures: fit, flip, normalise.

Axes: h w of the original picture, H W of the network input.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.config import DataConfig
from refseg_cli.data.placement import Placement

_OTHER_SIDE = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE_WORDS = re.compile(r"\b(leftmost|rightmost|left|right)\b", re.IGNORECASE)


def to_input(image: Tensor, placement: Placement, config: DataConfig) -> Tensor:
    """(3, h, w) uint8 -> (3, H, W) float32 in [0, 1], the padding filled with `config.fill`; not yet normalised."""
    fill = torch.tensor(config.fill).view(-1, 1, 1).expand(3, 1, 1)
    if config.resize == "warp":
        of_input = placement.inverse((image.shape[1], image.shape[2]), config.size)
        # Beyond the picture is the padding's colour, which pixels at its border are mixed with; rounded as upstream.
        pixels = resample(image.float() - 255 * fill, of_input, config.size, mode="bicubic", padding="zeros")
        return (pixels + 255 * fill).round().clamp(0, 255) / 255
    canvas = fill.repeat(1, *config.size)
    canvas[:, *placement.box()] = _resize(image, placement, mode="bilinear", antialias=config.smooth).float() / 255
    return canvas


def to_small(image: Tensor, placement: Placement, config: DataConfig) -> Tensor | None:
    """As `to_input`, made of the picture itself at `config.small`'s size; None where there is none."""
    if config.small == (0, 0):
        return None
    return to_input(image, placement.scaled(config.size, config.small), replace(config, size=config.small))


def masks_to_input(masks: Tensor, placement: Placement, config: DataConfig) -> Tensor:
    """(K, h, w) uint8 in {0, 1} -> (K, H, W), zero in the padding.

    uint8, nearest neighbour at pixel centres; with `warp` float32 in [0, 1], bilinear.
    """
    if config.resize == "warp":
        of_input = placement.inverse((masks.shape[1], masks.shape[2]), config.size)
        return resample(masks.float(), of_input, config.size, mode="bilinear", padding="zeros")
    canvas = torch.zeros(len(masks), *config.size, dtype=torch.uint8)
    if len(masks):
        canvas[:, *placement.box()] = _resize(masks, placement, mode="nearest-exact")
    return canvas


def _resize(pixels: Tensor, placement: Placement, *, mode: str, antialias: bool = False) -> Tensor:
    """(c, h, w) uint8 -> the same at the placement's size, bit for bit what torchvision's v2 resize gives.

    Not called through torchvision: importing its transforms costs `refseg predict` four seconds.
    """
    size = (int(placement.height), int(placement.width))
    if tuple(pixels.shape[1:]) == size:
        return pixels
    return F.interpolate(pixels[None], size, mode=mode, antialias=antialias)[0]


def resample(
    values: Tensor,
    placement: Placement,
    size: tuple[int, int],
    *,
    mode: Literal["bilinear", "bicubic"],
    padding: Literal["zeros", "border"],
) -> Tensor:
    """What lies at `placement` in (k, H, W) float32, as (k, *size), without smoothing.

    padding: what is read beyond the H x W: zeros, or its nearest pixel.
    """
    H, W = values.shape[-2:]
    y = _coordinates(size[0], placement.top, placement.height, H, values)
    x = _coordinates(size[1], placement.left, placement.width, W, values)
    places = torch.stack([x.expand(size[0], -1), y[:, None].expand(-1, size[1])], dim=-1)
    return F.grid_sample(values[None], places[None], mode=mode, padding_mode=padding, align_corners=False)[0]


def _coordinates(count: int, start: float, length: float, whole: int, like: Tensor) -> Tensor:
    """(count,) centres of `count` pixels spread over `length` of `whole` pixels; -1 and 1 are the outer edges."""
    centres = (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count
    return (start + length * centres) / whole * 2 - 1


def normalise(image: Tensor, config: DataConfig) -> Tensor:
    """(3, H, W) in [0, 1] -> normalised with the recipe's mean and standard deviation."""
    return (image - image.new_tensor(config.mean).view(3, 1, 1)) / image.new_tensor(config.std).view(3, 1, 1)


def jitter_of(strength: float, rng: np.random.Generator) -> tuple[float, float]:
    """Random factors of brightness and contrast, of up to `strength`; the hue stays, since phrases name colours."""
    brightness, contrast = 1 + rng.uniform(-strength, strength, 2)
    return brightness, contrast


def jitter(image: Tensor, brightness: float, contrast: float) -> Tensor:
    """(3, H, W) in [0, 1], and so it stays."""
    return ((image - 0.5) * contrast + 0.5 * brightness).clamp(0, 1)


def swap_sides(phrase: str) -> str:
    """The phrase for the mirrored picture: left and right change places, whatever their case."""
    return _SIDE_WORDS.sub(lambda m: _match_case(_OTHER_SIDE[m[0].lower()], m[0]), phrase)


def _match_case(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word


def to_original(logits: Tensor, placement: Placement, input_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Mask logits (K, h', w') in network coordinates -> (K, h, w) on the original picture, bilinear.

    The inverse of `to_input`'s geometry: logits are brought to input size, the padding is cut off, the rest resized.
    """
    scores = logits[:, None].float()
    if not placement.fills(input_size):
        scores = F.interpolate(scores, input_size, mode="bilinear", align_corners=False)
        if not placement.whole:
            return resample(scores[:, 0], placement, size, mode="bilinear", padding="border")
        scores = scores[:, :, *placement.box()]
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)[:, 0]
