"""A picture by itself as a model takes it, in floats."""

from __future__ import annotations

from torch import Tensor

from refseg_cli.config import DataConfig
from refseg_cli.data import transforms
from refseg_cli.data.placement import Placement
from refseg_cli.normalisation import Light, normalised


def network_input(image: Tensor, placement: Placement, config: DataConfig, light: Light | None = None) -> Tensor:
    """(3, H, W) float32."""
    how = transforms.normalisation_of(placement, config, light)
    return normalised(transforms.to_input(image, placement, config)[None], [how], [how.inside])[0]


def small_input(image: Tensor, placement: Placement, config: DataConfig) -> Tensor:
    """(3, h, w) float32: the picture of `Batch.small`."""
    how, pixels = transforms.normalisation_of(placement, config), transforms.to_small(image, placement, config)
    assert pixels is not None
    return normalised(pixels[None], [how], [how.inside_small])[0]
