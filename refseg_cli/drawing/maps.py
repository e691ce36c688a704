"""A model's maps as one picture: the answer, then each map by its name, over the picture or over the words. No torch.

Axes: q rows of a map, h w cells, t words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from refseg_cli.drawing.overlay import STRIP, TEXT, caption, lay_over, png, printable
from refseg_cli.records import Explanation

WIDTH = 1080  # pixels of the whole
MARGIN, GAP = 10, 6
TILE = 170  # longest side of a map in pixels
LETTERS, SMALL = 15, 12  # pixels
SOFT = (160, 165, 172)
HEAT = np.array(
    [(12, 8, 38), (74, 12, 107), (150, 38, 103), (215, 72, 66), (250, 142, 10), (252, 222, 90)]
)  # dark is low, light is high
HEAT_OPACITY = 0.65
LIGHT = 0.6  # heat from which dark letters are read better
DIM = 0.5  # highest probability of maps that would be all dark if they were not brightened


def explanation_png(
    image: np.ndarray,
    mask: np.ndarray,
    phrase: str,
    maps: Sequence[Explanation],
    *,
    exists: bool,
    p_target: float,
) -> bytes:
    """The phrase and the answer, the picture without and with its mask, and a block for each map, several in a row.

    Args:
        image: (h, w, 3) uint8 RGB.
        mask: (h, w) bool.
    """
    head = caption(phrase, exists=exists, p_target=p_target, width=WIDTH, text_size=20)
    blocks = [head, _pair(image, mask), *(_block(image, one) for one in maps)]
    places, height = _laid_out([block.size for block in blocks])
    canvas = Image.new("RGB", (WIDTH, height + MARGIN), STRIP)
    for block, place in zip(blocks, places, strict=True):
        canvas.paste(block, place)
    return png(canvas)


def _laid_out(sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """Blocks' places (left, top) in reading order, as many in a row as fit, and the height of all.

    Args:
        sizes: (width, height) of each block.
    """
    places: list[tuple[int, int]] = []
    left = top = row = 0
    for width, height in sizes:
        if left and left + width > WIDTH:
            left, top, row = 0, top + row, 0
        places.append((left, top))
        left, row = left + width, max(row, height)
    return places, top + row


def _pair(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """The picture, and beside it the picture with its mask; as large as fits, and no higher than wide."""
    width, height = _fit(image.shape[:2], (WIDTH - 3 * MARGIN) // 2)
    canvas = Image.new("RGB", (WIDTH, height + MARGIN), STRIP)
    for n, pixels in enumerate((image, lay_over(image, mask))):
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        canvas.paste(resized, (MARGIN + n * (width + MARGIN), 0))
    return canvas


def _block(image: np.ndarray, one: Explanation) -> Image.Image:
    """The map's name and what is shown of it, above its tiles or its table; no wider than these need."""
    body = _table(one) if one.kind in ("words", "weights") else _tiles(image, one)
    font, name, about = ImageFont.load_default(LETTERS), one.name.replace("_", " "), _about(one)
    indent = MARGIN + round(font.getlength(name)) + 10
    width = min(WIDTH, max(body.width, indent + round(font.getlength(about)) + 2 * MARGIN))
    block = Image.new("RGB", (width, body.height + 2 * LETTERS), STRIP)
    pen = ImageDraw.Draw(block)
    pen.text((MARGIN, LETTERS // 2), name, font=font, fill=TEXT)
    pen.text((indent, LETTERS // 2), about, font=font, fill=SOFT)
    block.paste(body, (0, 2 * LETTERS))
    return block


def _about(one: Explanation) -> str:
    """E.g. "16 of 100 with the highest peaks, 0.02 to 0.98"."""
    shown = f"{len(one.rows)} of {one.of} with the highest peaks, " if len(one.rows) < one.of else ""
    return f"{shown}{_range(one.values)}{', brightened' if _is_dim(one) else ''}"


def _range(values: np.ndarray) -> str:
    """Lowest and highest, with as many digits as tell them apart."""
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    digits = next((n for n in range(2, 6) if f"{low:.{n}g}" != f"{high:.{n}g}"), 2)
    return f"{low:.{digits}g} to {high:.{digits}g}"


def _is_dim(one: Explanation) -> bool:
    return one.kind == "logits" and 0 < float(np.nan_to_num(one.values).max(initial=0)) < DIM


def _levels(one: Explanation) -> np.ndarray:
    """The values in [0, 1]: a map from its lowest to its highest; weights from 0; probabilities as they are, or, where
    all are dim, from 0 to the highest."""
    values = np.nan_to_num(one.values.astype(np.float32))
    if one.kind == "logits" and not _is_dim(one):
        return values.clip(0, 1)
    low = 0.0 if one.kind in ("words", "weights", "logits") else values.min(initial=np.inf)
    return (values - low) / max(float(values.max(initial=-np.inf) - low), 1e-12)


def _heat(levels: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] -> (..., 3) colours."""
    at = levels.clip(0, 1) * (len(HEAT) - 1)
    low = np.minimum(at.astype(int), len(HEAT) - 2)
    return HEAT[low] + (HEAT[low + 1] - HEAT[low]) * (at - low)[..., None]


def _tiles(image: np.ndarray, one: Explanation) -> Image.Image:
    """Each row over a grey picture, with its word or number. Cells that are in or out keep their edges."""
    width, height = _fit(image.shape[:2], TILE)
    grey = np.asarray(Image.fromarray(image).resize((width, height)).convert("L"), np.float32)[..., None]
    columns = max(1, (WIDTH - 2 * MARGIN + GAP) // (width + GAP))
    labels = one.words or [str(row + 1) if one.of > 1 else "" for row in one.rows]
    below = SMALL + 6 if any(labels) else GAP
    lines, across = -(-len(one.rows) // columns), min(columns, len(one.rows))
    canvas = Image.new("RGB", (min(WIDTH, MARGIN + across * (width + GAP)), max(lines, 1) * (height + below)), STRIP)
    resample = Image.Resampling.NEAREST if np.isin(one.values, (0, 1)).all() else Image.Resampling.BILINEAR
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(SMALL)
    for n, (label, levels) in enumerate(zip(labels, _levels(one), strict=True)):
        left, top = MARGIN + n % columns * (width + GAP), n // columns * (height + below)
        smooth = Image.fromarray(levels).resize((width, height), resample)
        blend = grey * (1 - HEAT_OPACITY) + _heat(np.asarray(smooth)) * HEAT_OPACITY
        canvas.paste(Image.fromarray(blend.round().astype(np.uint8)), (left, top))
        pen.text((left, top + height + 1), printable(label, font), font=font, fill=SOFT)
    return canvas


def _table(one: Explanation) -> Image.Image:
    """A cell for each weight: words across, queries down; or the queries across, where there are no words."""
    weights = np.atleast_2d(one.values)
    heads = list(one.words) if one.kind == "words" else [str(row + 1) for row in one.rows]
    sides = [str(row + 1) if one.of > 1 else "" for row in one.rows] if one.kind == "words" else [""]
    font = ImageFont.load_default(SMALL)
    heads = [printable(head, font) for head in heads]
    side, line = 28, SMALL + 8
    widths = [max(44, round(font.getlength(head)) + 10) for head in heads]
    fitting = int(np.searchsorted(np.cumsum(widths), WIDTH - 2 * MARGIN - side, side="right"))
    room = min(WIDTH, MARGIN + side + sum(widths[:fitting]) + MARGIN)
    canvas = Image.new("RGB", (room, line * (len(weights) + 1)), STRIP)
    pen = ImageDraw.Draw(canvas)
    levels = np.atleast_2d(_levels(one))
    colors = _heat(levels).round().astype(int)
    for r, label in enumerate(sides):
        pen.text((MARGIN, (r + 1) * line + 3), label, font=font, fill=SOFT)
    left = MARGIN + side
    for c, (head, width) in enumerate(zip(heads[:fitting], widths, strict=False)):
        pen.text((left + 4, 3), head, font=font, fill=SOFT)
        for r in range(len(weights)):
            top = (r + 1) * line
            pen.rectangle((left, top, left + width - 3, top + line - 3), fill=tuple(colors[r, c].tolist()))
            ink = STRIP if levels[r, c] > LIGHT else TEXT
            pen.text((left + 5, top + 2), f"{weights[r, c]:.2f}", font=font, fill=ink)
        left += width
    return canvas


def _fit(size: tuple[int, ...], room: int) -> tuple[int, int]:
    """(width, height) of a picture of `size` (height, width) whose longer side is `room`."""
    height, width = size
    scale = room / max(size)
    return max(1, round(width * scale)), max(1, round(height * scale))
