"""Pictures to network input, in bytes, and masks back to pictures: fit, flip.

Axes: h w of the original picture, H W of the network input.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.config import DataConfig
from refseg_cli.data import masks, sampling
from refseg_cli.data.placement import Placement
from refseg_cli.data.sampling import Asked
from refseg_cli.normalisation import Box, Light, Normalisation

_OTHER_SIDE = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE_WORDS = re.compile(r"\b(?ai:leftmost|rightmost|left|right)\b")  # whose letters are ASCII, in a phrase of any


def to_input(image: Tensor, placement: Placement, config: DataConfig, mirrored: bool = False) -> Tensor:
    """(3, h, w) uint8 -> (3, H, W) uint8, zero in the padding, which `normalisation_of` tells apart.

    Args:
        placement: before it is mirrored.
        mirrored: left and right change places.
    """
    if config.resize == "warp":
        of_input = placement.inverse((image.shape[1], image.shape[2]), config.size)
        # Beyond the picture is the padding's colour, which pixels at its border are mixed with; rounded as upstream.
        fill = 255 * torch.tensor(_fill(config)).view(3, 1, 1)
        pixels = resample(image.float() - fill, of_input, config.size, mode="bicubic", padding="zeros")
        pixels = (pixels + fill).round().clamp(0, 255).byte()
    else:
        pixels = _resize(image, placement, smooth=config.smooth)
    pixels = pixels.flip(-1) if mirrored else pixels
    inside = _inside(placement, config, mirrored)
    if inside is None:
        return pixels
    canvas = torch.zeros(*config.size, 3, dtype=torch.uint8).permute(2, 0, 1)
    canvas[:, *inside] = pixels
    return canvas


def to_small(image: Tensor, placement: Placement, config: DataConfig, mirrored: bool = False) -> Tensor | None:
    """As `to_input`, made of the picture itself at `config.small`'s size; None where there is none."""
    small = _small(placement, config)
    return None if small is None else to_input(image, *small, mirrored)


def normalisation_of(
    placement: Placement, config: DataConfig, light: Light | None = None, mirrored: bool = False
) -> Normalisation:
    """How what `to_input` and `to_small` give becomes what a model takes: with the recipe's mean and deviation, and
    `config.fill` around it.

    light: changes of brightness and contrast, which `drawn_light` draws; None for none.
    """
    small = _small(placement, config)
    return Normalisation(
        mean=config.mean,
        std=config.std,
        light=light,
        fill=_fill(config),
        inside=_inside(placement, config, mirrored),
        inside_small=None if small is None else _inside(*small, mirrored),
    )


def _inside(placement: Placement, config: DataConfig, mirrored: bool) -> Box | None:
    """Where the picture lies in the input; None where there is no padding, or where it is mixed with the picture."""
    if config.resize == "warp" or placement.fills(config.size):
        return None
    return (placement.mirrored(config.size) if mirrored else placement).box()


def _small(placement: Placement, config: DataConfig) -> tuple[Placement, DataConfig] | None:
    """Place and configuration of the small picture; None where there is none."""
    if config.small == (0, 0):
        return None
    return placement.scaled(config.size, config.small), replace(config, size=config.small)


def _fill(config: DataConfig) -> tuple[float, float, float]:
    return config.fill if isinstance(config.fill, tuple) else (config.fill,) * 3


def drawn_light(strength: float, rng: np.random.Generator) -> Light:
    """Up to `strength` more or less of brightness and contrast; the hue stays, since phrases name colours."""
    brightness, contrast = (1 + rng.uniform(-strength, strength, 2)).tolist()
    return brightness, contrast


def masks_to_input(pictures: Sequence[Asked], config: DataConfig) -> Tensor:
    """What is wanted of all pictures' masks, (N, H, W), zero in the padding.

    uint8 in {0, 1}, nearest neighbour at pixel centres; with `warp` float32 in [0, 1], bilinear.

    Raises:
        ValueError: a mask of another size than its picture, or damaged runs.
    """
    if config.resize == "warp":
        return torch.cat([_warped_masks(picture, config) for picture in pictures])
    return torch.from_numpy(sampling.united(pictures, config.size))


def _warped_masks(picture: Asked, config: DataConfig) -> Tensor:
    found, used = torch.zeros(len(picture.unions), *config.size), picture.used()
    if used:
        masks.stretches(list(used.values()))  # pycocotools itself does not look
        whole = torch.from_numpy(np.stack([masks.decode(rle) for rle in used.values()])).float()
        of_input = picture.placement.inverse(picture.size, config.size)
        fitted = dict(zip(used, resample(whole, of_input, config.size, mode="bilinear", padding="zeros"), strict=True))
        for mask, union in zip(found, picture.unions, strict=True):
            for place in union:
                torch.maximum(mask, fitted[place], out=mask)
    return found.flip(-1) if picture.mirrored else found


def _resize(pixels: Tensor, placement: Placement, *, smooth: bool) -> Tensor:
    """(c, h, w) uint8 -> the same at the placement's size, bit for bit what torchvision's v2 resize gives.

    Not called through torchvision: importing its transforms costs `refseg predict` four seconds.
    """
    size = (int(placement.height), int(placement.width))
    if tuple(pixels.shape[1:]) == size:
        return pixels
    # Channels last, as decoders have them, with strides that say so: `pixels[None]`, of which torch cannot tell, takes
    # twice the time.
    alone = pixels.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    return F.interpolate(alone, size, mode="bilinear", antialias=smooth)[0]


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


def swap_sides(phrase: str) -> str:
    """The phrase for the mirrored picture: left and right change places, whatever their case."""
    lower = phrase.lower()
    if "left" not in lower and "right" not in lower:  # most phrases, in a tenth of the time
        return phrase
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
