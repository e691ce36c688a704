"""What runs without torch gives what torch gives: the same network input, the same masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from normalising import network_input, small_input

from refseg_cli.config import DataConfig
from refseg_cli.data import arrays, transforms
from refseg_cli.data.placement import Placement, place

SIZES = [(48, 64), (60, 33), (333, 500), (64, 64), (10, 12), (1, 90), (700, 41)]
RESIZES = ["letterbox", "squash", "warp"]
STEP = 1 / 255 / min(DataConfig().std)  # of one of the 256 values, normalised


def a_picture(size: tuple[int, int]) -> np.ndarray:
    """Noise over a slope, so that both a shift and a wrong weight show."""
    rng = np.random.default_rng(size[0])
    slope = np.linspace(0, 180, size[0])[:, None] + np.linspace(0, 40, size[1])
    return (slope + rng.integers(0, 36, (3, *size))).astype(np.uint8)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", SIZES)
def test_the_network_input_is_that_of_torch(resize: str, size: tuple[int, int]) -> None:
    config = DataConfig(size=(48, 64), resize=resize, fill=(0.2, 0.5, 0.7))  # type: ignore[arg-type]
    image, placement = a_picture(size), place(size, config)
    expected = network_input(torch.from_numpy(image), placement, config)
    found = arrays.to_input(image, placement, config)
    assert found.shape == (3, 48, 64)
    assert found.dtype == np.float32
    difference = np.abs(found - expected.numpy())
    assert difference.max() < 1.01 * STEP
    # Each rounds the rows before the columns, or the other way round.
    assert (difference > 0.01 * STEP).mean() < 0.25


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_so_is_one_without_smoothing_and_its_small_copy(resize: str, size: tuple[int, int]) -> None:
    config = DataConfig(size=(48, 64), small=(24, 32), resize=resize, smooth=False)  # type: ignore[arg-type]
    image, placement = a_picture(size), place(size, config)
    for ours, theirs in ((arrays.to_input, network_input), (arrays.to_small, small_input)):
        made, expected = ours(image, placement, config), theirs(torch.from_numpy(image), placement, config)
        assert made is not None
        assert np.abs(made - expected.numpy()).max() < 1.01 * STEP
    assert arrays.to_small(image, placement, DataConfig(size=(48, 64))) is None


def test_one_fill_serves_all_channels() -> None:
    config = DataConfig(size=(20, 40), fill=0.25)
    found = arrays.to_input(a_picture((20, 10)), place((20, 10), config), config)
    expected = (0.25 - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(found[:, 3, 2], expected, rtol=1e-5)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", SIZES)
def test_masks_come_back_as_torch_brings_them(resize: str, size: tuple[int, int]) -> None:
    config = DataConfig(size=(48, 64), resize=resize)  # type: ignore[arg-type]
    logits = np.random.default_rng(1).normal(size=(3, 12, 16)).astype(np.float32)
    placement = place(size, config)
    expected = transforms.to_original(torch.from_numpy(logits), placement, config.size, size).numpy()
    found = np.stack(list(arrays.to_original(logits, placement, config.size, size)))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_logits_of_the_input_size_are_cut_out() -> None:
    logits = np.arange(12 * 8, dtype=np.float32).reshape(1, 12, 8)
    (found,) = arrays.to_original(logits, Placement(3, 0, 6, 8), (12, 8), (6, 8))
    np.testing.assert_array_equal(found, logits[0, 3:9])
