"""Masks as pictures, looked at pixel by pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from refseg_cli.drawing import overlay as draw
from refseg_cli.drawing.overlay import FILL, RIM, STRIP, mask_png, overlay_png

GREY = 120


def opened(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.array(image)


def a_mask(height: int = 80, width: int = 300) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[20:50, 100:180] = True
    return mask


def overlay(phrase: str, *, mask: np.ndarray | None = None, exists: bool = True, p_target: float = 0.97) -> np.ndarray:
    mask = a_mask() if mask is None else mask
    image = np.full((*mask.shape, 3), GREY, np.uint8)
    picture = opened(overlay_png(image, mask, phrase, exists=exists, p_target=p_target))
    assert (image == GREY).all()  # the caller's picture is left alone
    return picture


@pytest.mark.parametrize("mask", [a_mask(), np.zeros((3, 5), bool), np.ones((1, 1), bool)])
def test_mask_png_is_black_and_white(mask: np.ndarray) -> None:
    picture = opened(mask_png(mask))
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, mask * 255)


def test_overlay_fills_the_mask_and_rims_it() -> None:
    picture = overlay("the grey thing")
    blend = np.round(GREY * (1 - draw.OPACITY) + np.array(FILL) * draw.OPACITY)
    assert (picture[20:50, 100:180] == blend).all()
    assert tuple(picture[19, 140]) == FILL
    assert tuple(picture[18, 140]) == RIM
    untouched = picture[:80].copy()
    untouched[17:53, 97:183] = GREY
    assert (untouched == GREY).all()


def test_a_picture_without_a_find_is_untouched() -> None:
    picture = overlay("a unicorn", mask=np.zeros((80, 300), bool), exists=False, p_target=0.1)
    assert (picture[:80] == GREY).all()
    assert (picture[80:] != np.array(STRIP)).any()


def test_the_strip_says_what_was_found() -> None:
    found, other_share, nothing = overlay("x"), overlay("x", p_target=0.5), overlay("x", exists=False)
    assert found.shape == nothing.shape
    assert not np.array_equal(found[80:], other_share[80:])
    assert not np.array_equal(found[80:], nothing[80:])


def test_the_strip_grows_with_the_phrase_up_to_a_limit() -> None:
    def height(phrase: str) -> int:
        return overlay(phrase).shape[0]

    assert height("short") < height("a phrase that is too long for a single line of so narrow a picture")
    assert height("long " * 100) == height("long " * 10_000)


def test_words_stay_inside_the_strip() -> None:
    font = ImageFont.load_default(13)
    for text in ("two people on left " * 5, "x" * 500, "a " + "y" * 100 + " b", "i"):
        lines = draw._wrap(text.strip(), font, 220)
        assert len(lines) <= draw.MOST_LINES
        assert all(font.getlength(line) <= 220 for line in lines)
    words = "the man in green on the left of the tall tree"
    assert " ".join(draw._wrap(words, font, 120)) == words
    assert "".join(draw._wrap("y" * 60, font, 220)) == "y" * 60
    assert draw._wrap("two people on left " * 50, font, 220)[-1].endswith("...")


@pytest.mark.parametrize("phrase", ["左边的人", "слева", "يسار", "tab\tline\nnull\x00", "👩‍🚀 on left", "", "ünï"])
@pytest.mark.parametrize("size", [(80, 300), (1, 1), (2, 500), (500, 2)])
def test_no_phrase_and_no_size_breaks_it(phrase: str, size: tuple[int, int]) -> None:
    picture = overlay(phrase, mask=np.ones(size, bool))
    assert picture.shape[1] == max(size[1], draw.NARROWEST)
    assert picture.shape[0] > size[0]


def test_accents_are_dropped_where_the_font_has_none() -> None:
    assert draw.printable("Mädchen über\u00a0dem\nFluß", ImageFont.load_default(13)).startswith("Madchen uber dem Flu")
