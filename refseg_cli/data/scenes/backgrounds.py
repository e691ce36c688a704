"""Backgrounds for the scenes: (h, w, 3) uint8 RGB pictures with nothing in them that a phrase could name."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Floats = NDArray[np.float64]


def background(rng: np.random.Generator, height: int, width: int) -> Picture:
    """One of the backgrounds below, at random."""
    paint = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    return paint(rng, height, width).clip(0, 255).astype(np.uint8)


def shade(rng: np.random.Generator) -> Floats:
    """(3,) a muted colour, 0..255, so that the objects stand out."""
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.45, 1.0)))


def blend(share: Floats, first: Floats, second: Floats) -> Floats:
    """Mix two colours. share: (h, w) of the second, 0..1."""
    return first + share[..., None] * (second - first)


def grid(height: int, width: int) -> tuple[Floats, Floats]:
    """Row and column of every pixel, (h, 1) and (1, w)."""
    return np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)[None]


def plain(rng: np.random.Generator, height: int, width: int) -> Floats:
    """One colour."""
    return np.broadcast_to(shade(rng), (height, width, 3)).copy()


def gradient(rng: np.random.Generator, height: int, width: int) -> Floats:
    """A colour that turns into another in some direction."""
    rows, columns = grid(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.sin(angle) * rows / height + np.cos(angle) * columns / width
    return blend((ramp - ramp.min()) / np.ptp(ramp), shade(rng), shade(rng))


def ground(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Sky over ground, with grain."""
    rows, _ = grid(height, width)
    horizon = height * rng.uniform(0.25, 0.7)
    sky = blend(np.broadcast_to(rows / height, (height, width)), shade(rng), shade(rng))
    earth = shade(rng) + rng.normal(0, 8, (height, width, 1))
    return np.where((rows < horizon)[..., None], sky, earth)


def texture(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Cloudy noise of a random grain."""
    grain = int(rng.choice([2, 8, 24]))
    coarse = rng.integers(0, 256, (height // grain + 2, width // grain + 2), dtype=np.uint8)
    cloud = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return blend(np.asarray(cloud) / 255 * rng.uniform(0.3, 1.0), shade(rng), shade(rng))


def stripes(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Stripes in some direction."""
    rows, columns = grid(height, width)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(12, 60)
    across = np.sin(angle) * rows + np.cos(angle) * columns
    return blend((across // pitch % 2) * rng.uniform(0.2, 0.7), shade(rng), shade(rng))


def checks(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Checkered tiles."""
    rows, columns = grid(height, width)
    pitch = rng.uniform(14, 60)
    return blend(((rows // pitch + columns // pitch) % 2) * rng.uniform(0.2, 0.7), shade(rng), shade(rng))


def blobs(rng: np.random.Generator, height: int, width: int) -> Floats:
    """A few soft spots of other colours."""
    rows, columns = grid(height, width)
    picture = plain(rng, height, width)
    for _ in range(rng.integers(3, 7)):
        row, column, reach = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.1, 0.35) * width
        near = np.exp(-(((rows - row) / reach) ** 2 + ((columns - column) / reach) ** 2))
        picture = picture + near[..., None] * (shade(rng) - picture)
    return picture


BACKGROUNDS: tuple[Callable[[np.random.Generator, int, int], Floats], ...] = (
    plain,
    gradient,
    gradient,
    ground,
    texture,
    stripes,
    checks,
    blobs,
)
