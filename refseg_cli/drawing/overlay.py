"""Masks as pictures: plain black and white, or drawn over the image with the phrase beneath. No torch.

Axes: h w pixels of the image.
"""

from __future__ import annotations

import io
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FILL, RIM = (255, 46, 116), (255, 255, 255)  # a pink that foliage, sky, skin and asphalt lack, and its white rim
OPACITY = 0.45
STRIP, TEXT, GOOD, BAD = (24, 24, 28), (245, 245, 245), (120, 220, 130), (255, 170, 80)
NARROWEST = 240  # pixels; the strip of a smaller picture is this wide, so that its words fit
MOST_LINES = 4


def mask_png(mask: np.ndarray) -> bytes:
    """An 8-bit grey PNG of the image's size, 255 inside `mask` (h, w) bool and 0 outside."""
    return png(Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))))


def soft_png(probabilities: np.ndarray) -> bytes:
    """A 16-bit grey PNG of probabilities (h, w) in [0, 1], 65535 for 1."""
    return png(Image.fromarray(np.rint(probabilities.clip(0, 1) * 65535).astype(np.uint16)))


def cutout_png(image: np.ndarray, mask: np.ndarray) -> bytes:
    """What is inside `mask` (h, w) bool of the image (h, w, 3) uint8 RGB, the rest transparent: an RGBA PNG."""
    return png(
        Image.fromarray(np.dstack([np.where(mask[..., None], image, 0), np.where(mask, 255, 0)]).astype(np.uint8))
    )


def overlay_png(image: np.ndarray, mask: np.ndarray, phrase: str, *, exists: bool, p_target: float) -> bytes:
    """A PNG of `overlay`."""
    return png(overlay(image, mask, phrase, exists=exists, p_target=p_target))


def overlay(image: np.ndarray, mask: np.ndarray, phrase: str, *, exists: bool, p_target: float) -> Image.Image:
    """The image with the mask laid over it, and a strip beneath with the phrase and what was found.

    Its size depends on the image's and the phrase, not on what was found.

    Args:
        image: (h, w, 3) uint8 RGB.
        mask: (h, w) bool.
        p_target: probability that there is a target; shown where there is one.
    """
    height, width = mask.shape
    canvas_width = max(width, NARROWEST)
    text_size = _text_size(height, width)
    strip = caption(phrase, exists=exists, p_target=p_target, width=canvas_width, text_size=text_size)
    canvas = Image.new("RGB", (canvas_width, height + strip.height), STRIP)
    canvas.paste(Image.fromarray(lay_over(image, mask)), ((canvas_width - width) // 2, 0))
    canvas.paste(strip, (0, height))
    return canvas


def lay_over(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: translucent colour inside, and a rim of colour and white around it."""
    thickness = max(1, round(max(mask.shape) / 400))
    grown = _grow(mask, thickness)
    drawn = image.copy()
    blended = image[mask] * (1 - OPACITY) + np.array(FILL) * OPACITY
    drawn[mask] = blended.round().astype(np.uint8)
    drawn[grown & ~mask] = FILL
    drawn[_grow(grown, thickness) & ~grown] = RIM
    return drawn


def _grow(mask: np.ndarray, steps: int) -> np.ndarray:
    """`mask` with every pixel that is within `steps` pixels of it, along rows and columns."""
    for _ in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _text_size(height: int, width: int) -> int:
    """In pixels: legible when the whole picture is looked at."""
    return int(np.clip(round(max(height, width) / 28), 13, 64))


def caption(phrase: str, *, exists: bool, p_target: float, width: int, text_size: int) -> Image.Image:
    """A strip with the phrase in as many lines as it needs, and below it what was found.

    Args:
        width, text_size: pixels.
    """
    verdict, color = (f"found {100 * p_target:.0f} %", GOOD) if exists else ("no target", BAD)
    font = ImageFont.load_default(text_size)
    margin, line_height = text_size // 2, round(text_size * 1.35)
    lines = _wrap(printable(phrase, font), font, width - 2 * margin)
    strip = Image.new("RGB", (width, 2 * margin + line_height * (len(lines) + 1)), STRIP)
    pen = ImageDraw.Draw(strip)
    for row, (text, ink) in enumerate([*((line, TEXT) for line in lines), (verdict, color)]):
        pen.text((margin, margin + row * line_height), text, font=font, fill=ink)
    return strip


def printable(phrase: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """One line of characters that `font` can draw, or has a box for; it knows no accents, so letters lose theirs."""
    letters = (c for c in unicodedata.normalize("NFKD", phrase) if not unicodedata.combining(c))
    text = "".join(c if c.isprintable() else " " for c in letters)
    if isinstance(font, ImageFont.FreeTypeFont):
        return " ".join(text.split())
    return " ".join(text.encode("latin-1", "replace").decode("latin-1").split())  # Pillow without FreeType


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words where possible; the last one of too many ends in "..."."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if len(lines) > MOST_LINES:
            break
        joined = f"{line} {word}".strip()
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while len(word) > 1 and font.getlength(word) > width and len(lines) <= MOST_LINES:
            fitting = _fitting(word, font, width)
            lines.append(word[:fitting])
            word = word[fitting:]
        line = word
    lines.append(line)
    if len(lines) > MOST_LINES:
        last = lines[MOST_LINES - 1]
        lines = [*lines[: MOST_LINES - 1], last[: _fitting(last, font, width - int(font.getlength("...")))] + "..."]
    return lines


def _fitting(word: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> int:
    """How many of the word's first characters are at most `width` pixels wide; at least one."""
    low, high = 1, len(word)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(word[:middle]) <= width else (low, middle - 1)
    return low


def png(image: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
