"""Colour words: how each one is painted, and which of them people may take for one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True)
class Paint:
    """The look of a colour word: hue in degrees, mean saturation and mean value in 0..1."""

    hue: float
    saturation: float
    value: float


PAINTS = {
    "red": Paint(0, 0.85, 0.85),
    "orange": Paint(28, 0.90, 0.97),
    "yellow": Paint(52, 0.80, 0.97),
    "green": Paint(128, 0.70, 0.60),
    "blue": Paint(215, 0.80, 0.85),
    "purple": Paint(275, 0.65, 0.70),
    "pink": Paint(330, 0.42, 0.97),
    "white": Paint(0, 0.02, 0.95),
    "black": Paint(0, 0.05, 0.20),
}

# Where one person says "red" and another "orange": such a pair is neither clearly the same nor clearly different.
CONFUSABLE_WITH = {
    "red": ("orange", "pink", "brown", "purple"),
    "orange": ("yellow", "brown", "pink"),
    "yellow": ("brown", "green", "white"),
    "blue": ("green", "purple", "gray"),
    "pink": ("purple", "white"),
    "gray": ("white", "black", "brown"),
    "brown": ("black",),
}
CONFUSABLE = {frozenset((one, other)) for one, others in CONFUSABLE_WITH.items() for other in others}
# Lamps and shade make white things yellow or blue, and what is dark looks black.
IN_OTHER_LIGHT = {"white": ("orange", "brown", "blue"), "black": ("blue", "green", "red", "purple")}
CONFUSABLE_IN_PHOTOS = CONFUSABLE | {frozenset((one, other)) for one, row in IN_OTHER_LIGHT.items() for other in row}

# How photographs name colours. Pixels between the borders vote for nothing.
BLACK_BELOW, WHITE_ABOVE, COLOURLESS, VIVID = 0.18, 0.75, 0.12, 0.30  # value, value, saturation, saturation
BROWN_BELOW, ORANGE_ABOVE = 0.45, 0.65  # value: a ginger cat in the shade lies between
HUES = {"red": (-14, 10), "orange": (18, 36), "yellow": (46, 64), "green": (85, 160), "blue": (190, 250)}  # degrees
ENOUGH = 4096  # pixels of an object that are looked at, at most
MAJORITY = 0.65  # share of an object's pixels that must agree on a word

HUE_REACH = 35  # degrees around the main hue that still belong to the repaintable part
HUE_SEARCH = 60  # degrees around the word's hue in which the main hue of the sprite is sought
MIN_SATURATION = 0.2  # below it a pixel is an outline, a highlight or metal, and keeps its colour
KEPT_HUE_SPREAD = 0.3  # share of the artwork's hue differences that survives repainting


def repaint(sprite: NDArray[np.uint8], source: str, target: str) -> NDArray[np.uint8]:
    """Paint the parts of a sprite that are `source`-coloured in `target`, keeping the shading.

    sprite: (h, w, 4) uint8 RGBA, left as it is.
    """
    part = repaintable(sprite, source)
    hue, saturation, value = hsv(sprite)
    paint = PAINTS[target]
    offset = hue_difference(hue[part], PAINTS[source].hue)
    hue[part] = (paint.hue + KEPT_HUE_SPREAD * (offset - np.median(offset))) % 360
    saturation[part] *= paint.saturation / saturation[part].mean()
    value[part] *= paint.value / value[part].mean()
    planes = np.stack([hue / 360, saturation, value], axis=-1).clip(0, 1)
    painted = Image.fromarray((planes * 255).round().astype(np.uint8), "HSV").convert("RGB")
    return np.concatenate([np.where(part[..., None], np.asarray(painted), sprite[..., :3]), sprite[..., 3:]], axis=-1)


def repaintable(sprite: NDArray[np.uint8], source: str) -> NDArray[np.bool_]:
    """(h, w) bool: the pixels that share the sprite's main hue, the commonest one near that of `source`."""
    hue, saturation, _ = hsv(sprite)
    vivid = (saturation > MIN_SATURATION) & (sprite[..., 3] > 0)
    offset = hue_difference(hue, PAINTS[source].hue)
    histogram, edges = np.histogram(offset[vivid], bins=24, range=(-HUE_SEARCH, HUE_SEARCH))
    main = edges[histogram.argmax()] + HUE_SEARCH / 24
    return vivid & (np.abs(hue_difference(offset, main)) < HUE_REACH)


def name_of(pixels: NDArray[np.uint8]) -> str | None:
    """The colour word that leaves no doubt for an object in a photograph; None where none does.

    pixels: (n, 3) uint8 RGB of the object.
    """
    if not len(pixels):
        return None
    pixels = pixels[:: -(-len(pixels) // ENOUGH)]
    hue, saturation, value = (plane[0] for plane in hsv(pixels[None]))
    vivid = (saturation > VIVID) & (value > BLACK_BELOW)
    votes = {
        "black": np.count_nonzero(value < BLACK_BELOW),
        "white": np.count_nonzero((saturation < COLOURLESS) & (value > WHITE_ABOVE)),
    }
    for word, (low, high) in HUES.items():
        within = vivid & ((hue - low) % 360 <= high - low)
        votes[word] = np.count_nonzero(within & (value > ORANGE_ABOVE) if word == "orange" else within)
        if word == "orange":
            votes["brown"] = np.count_nonzero(within & (value < BROWN_BELOW))
    word = max(votes, key=lambda word: votes[word])
    return word if votes[word] > MAJORITY * len(pixels) else None


def hsv(sprite: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Hue in degrees, saturation and value in 0..1, each (h, w)."""
    planes = np.asarray(Image.fromarray(np.ascontiguousarray(sprite[..., :3])).convert("HSV"), dtype=np.float64) / 255
    return planes[..., 0] * 360, planes[..., 1], planes[..., 2]


def hue_difference(hue: NDArray[np.float64], reference: float) -> NDArray[np.float64]:
    """Signed distance on the colour circle, in -180..180 degrees."""
    return (hue - reference + 180) % 360 - 180
