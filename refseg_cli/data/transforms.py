"""Pictures to network input and masks back to pictures: fit, flip, normalise.

Axes: h w of the original picture, H W of the network input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.config import DataConfig

_OTHER_SIDE = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE_WORDS = re.compile(r"\b(leftmost|rightmost|left|right)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies in the network input: (top, left, height, width) in input pixels."""

    top: int
    left: int
    height: int
    width: int


def place(size: tuple[int, int], config: DataConfig) -> Placement:
    """Where a picture of `size` (height, width) goes in the network input."""
    (height, width), (H, W) = size, config.size
    if config.resize == "squash":
        return Placement(0, 0, H, W)
    scale = min(H / height, W / width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    return Placement((H - h) // 2, (W - w) // 2, h, w)


def to_input(image: Tensor, placement: Placement, config: DataConfig) -> Tensor:
    """(3, h, w) uint8 -> (3, H, W) float32 in [0, 1], the padding filled with `config.fill`; not yet normalised."""
    fitted = _resize(image, placement, mode="bilinear", antialias=True)
    canvas = torch.full((3, *config.size), config.fill)
    canvas[:, placement.top : placement.top + placement.height, placement.left : placement.left + placement.width] = (
        fitted.float() / 255
    )
    return canvas


def masks_to_input(masks: Tensor, placement: Placement, config: DataConfig) -> Tensor:
    """(K, h, w) uint8 -> (K, H, W) uint8, nearest neighbour at pixel centres, zero in the padding."""
    canvas = torch.zeros(len(masks), *config.size, dtype=torch.uint8)
    if len(masks):
        fitted = _resize(masks, placement, mode="nearest-exact")
        rows, columns = (
            slice(placement.top, placement.top + placement.height),
            slice(placement.left, placement.left + placement.width),
        )
        canvas[:, rows, columns] = fitted
    return canvas


def _resize(pixels: Tensor, placement: Placement, *, mode: str, antialias: bool = False) -> Tensor:
    """(c, h, w) uint8 -> the same at the placement's size, bit for bit what torchvision's v2 resize gives.

    Not called through torchvision: importing its transforms costs `refseg predict` four seconds.
    """
    size = (placement.height, placement.width)
    if tuple(pixels.shape[1:]) == size:
        return pixels
    return F.interpolate(pixels[None], size, mode=mode, antialias=antialias)[0]


def normalise(image: Tensor, config: DataConfig) -> Tensor:
    """(3, H, W) in [0, 1] -> normalised with the recipe's mean and standard deviation."""
    return (image - image.new_tensor(config.mean).view(3, 1, 1)) / image.new_tensor(config.std).view(3, 1, 1)


def jitter(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Random brightness and contrast by up to `strength`; the hue stays, since phrases name colours."""
    brightness, contrast = 1 + rng.uniform(-strength, strength, 2)
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
    if (placement.height, placement.width) != input_size:
        scores = F.interpolate(scores, input_size, mode="bilinear", align_corners=False)
        rows = slice(placement.top, placement.top + placement.height)
        scores = scores[:, :, rows, placement.left : placement.left + placement.width]
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)[:, 0]
