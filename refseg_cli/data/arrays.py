"""Pictures to network input and masks back to pictures in NumPy and Pillow alone, where torch would take longer to
import than the model to answer.

The geometry is that of transforms.py. Its bilinear resize of 8-bit pixels is, smoothing, Pillow's but for the rounding,
and else the one below: an input pixel differs by one step of 255 at most.

Axes: h w of the original picture, H W of the network input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from refseg_cli.config import DataConfig
from refseg_cli.data.placement import Placement

_CUBIC = -0.75  # torch's coefficient of cubic convolution: grid_sample's and interpolate's


def to_input(image: np.ndarray, placement: Placement, config: DataConfig) -> np.ndarray:
    """(3, h, w) uint8 RGB -> (3, H, W) float32, the padding filled with `config.fill`, normalised."""
    fill = np.broadcast_to(np.asarray(config.fill, np.float32).reshape(-1, 1, 1), (3, 1, 1))
    if config.resize == "warp":
        pixels = _warped(image.astype(np.float32) - 255 * fill, placement, config)
        canvas = np.rint(pixels + 255 * fill).clip(0, 255) / 255
    else:
        canvas = np.empty((3, *config.size), np.float32)
        canvas[:] = fill
        resized = _resized if config.smooth else _sampled_pixels
        canvas[:, *placement.box()] = resized(image, placement).astype(np.float32) / 255
    mean, std = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (config.mean, config.std))
    return (canvas - mean) / std


def to_small(image: np.ndarray, placement: Placement, config: DataConfig) -> np.ndarray | None:
    """As `to_input`, made of the picture itself at `config.small`'s size; None where there is none."""
    if config.small == (0, 0):
        return None
    return to_input(image, placement.scaled(config.size, config.small), replace(config, size=config.small))


def _sampled_pixels(image: np.ndarray, placement: Placement) -> np.ndarray:
    h, w = int(placement.height), int(placement.width)
    places = _centres(h, 0, image.shape[1]), _centres(w, 0, image.shape[2])
    return np.rint(np.stack([_sampled(channel.astype(np.float32), *places) for channel in image]))


def _resized(image: np.ndarray, placement: Placement) -> np.ndarray:
    size = (int(placement.height), int(placement.width))
    if image.shape[1:] == size:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def _warped(image: np.ndarray, placement: Placement, config: DataConfig) -> np.ndarray:
    """Bicubic, without smoothing, zeros beyond the picture."""
    of_input = placement.inverse((image.shape[1], image.shape[2]), config.size)
    y = _centres(config.size[0], of_input.top, of_input.height)
    x = _centres(config.size[1], of_input.left, of_input.width)
    rows, columns = _cubic_weights(y, image.shape[1]), _cubic_weights(x, image.shape[2])
    return rows @ image @ columns.T


def _centres(count: int, start: float, length: float) -> np.ndarray:
    """(count,) where the centres of `count` pixels spread over `length` lie, in indices of the pixels read."""
    return start + length * (np.arange(count, dtype=np.float64) + 0.5) / count - 0.5


def _cubic_weights(centres: np.ndarray, size: int) -> np.ndarray:
    """(len(centres), size) float32: what each pixel read has of each pixel made."""
    first = np.floor(centres).astype(np.int64)
    weights = np.zeros((len(centres), size), np.float32)
    for tap in range(-1, 3):
        at, distance = first + tap, np.abs(centres - (first + tap))
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
        inside = (at >= 0) & (at < size)
        weights[np.flatnonzero(inside), at[inside]] += np.where(distance <= 1, near, far)[inside]
    return weights


def to_original(
    logits: np.ndarray, placement: Placement, input_size: tuple[int, int], size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Mask logits (K, h', w') in network coordinates -> one (h, w) float32 after the other on the original picture,
    bilinear.
    """
    h, w = size
    for scores in logits.astype(np.float32):
        top, left, height, width = 0.0, 0.0, *map(float, scores.shape)
        if not placement.fills(input_size):
            scores = _sampled(scores, *(_centres(to, 0, of) for to, of in zip(input_size, scores.shape, strict=True)))
            top, left, height, width = placement.top, placement.left, placement.height, placement.width
            if placement.whole:
                scores, top, left = scores[placement.box()], 0.0, 0.0
        yield _sampled(scores, _centres(h, top, height), _centres(w, left, width))


def _sampled(values: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values (H, W) at rows y (h,) and columns x (w,), bilinear, the border's beyond it: (h, w) float32."""
    low, high, part = _neighbours(x, values.shape[1])
    columns = values[:, low] * (1 - part) + values[:, high] * part  # (H, w)
    low, high, part = _neighbours(y, values.shape[0])
    return columns[low] * (1 - part)[:, None] + columns[high] * part[:, None]


def _neighbours(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels before and behind each place, and the share of the one behind."""
    inside = places.clip(0, size - 1)
    low = np.floor(inside).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), (inside - low).astype(np.float32)
