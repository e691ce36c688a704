"""Spatial-Dynamic Fusion: every pixel with a language feature of its own (VLT, thesis 4.2.1).

Users: models/vlt.py, layers/pyramids.py.
Axes: i images, n expressions, t language features, c channels, h w feature grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from refseg_cli.layers.attention import as_map, as_places, take
from refseg_cli.layers.language import Language
from refseg_cli.layers.vision import conv_bn_relu


class SpatialDynamicFusion(nn.Module):
    """SDF: every pixel attends to the words and is fused with its own language feature."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.pixels = conv_bn_relu(dim, dim)
        self.keys, self.values = word_conv(dim), word_conv(dim)
        self.join = Join(dim)

    def forward(self, vision: Tensor, language: Language, image_index: Tensor) -> Tensor:
        F_t, (h, w) = language.features, vision.shape[-2:]
        pixels = take(as_places(self.pixels(vision)), image_index)  # (n, h*w, c)
        scores = pixels @ self.keys(F_t).transpose(1, 2) / math.sqrt(pixels.shape[-1])
        A_sd = scores.masked_fill(~language.keep[:, None], float("-inf")).softmax(-1)  # Eq. 4.1
        F_sdl = A_sd @ self.values(F_t)  # Eq. 4.2: (n, h*w, c)
        return self.join(vision, as_map(F_sdl, (h, w)), image_index)  # Eq. 4.3


class Join(nn.Module):
    """Conv(language (c) vision) of Eq. 4.3, the convolution split in two so that vision's half runs once an image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vision = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.language = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, vision: Tensor, language: Tensor, image_index: Tensor) -> Tensor:
        return torch.relu(self.norm(take(self.vision(vision), image_index) + self.language(language)))


def word_conv(dim: int) -> nn.Sequential:
    """The thesis' Conv on language features: 1x1. Batch statistics would depend on the padding: LayerNorm."""
    return nn.Sequential(nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU())
