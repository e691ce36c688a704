"""The picture grid of `predict --explain`: its parts are there, and nothing breaks it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from refseg_cli.engine import draw_maps
from refseg_cli.engine.draw import STRIP
from refseg_cli.engine.draw_maps import explanation_png
from refseg_cli.records import Explanation

ALL = (0, 1, 2)
GRID = np.linspace(-1, 3, 60, dtype=np.float32).reshape(3, 4, 5)
MAPS = (
    Explanation("mask_feature", "map", GRID, ALL, 3),
    Explanation("region_masks", "logits", np.full((3, 4, 5), 0.5, np.float32), (0, 4, 8), 100),
    Explanation("word_maps", "word_map", GRID[:2], (0, 1), 2, ("red", "左边")),
    Explanation("query_attention", "words", np.eye(3, dtype=np.float32), ALL, 3, ("the", "red", "car")),
    Explanation("query_confidence", "weights", np.array([0.1, 0.5, 0.9], np.float32), ALL, 3),
)


def picture(*maps: Explanation, size: tuple[int, int] = (60, 80), phrase: str = "the red car") -> np.ndarray:
    image = np.full((*size, 3), 120, np.uint8)
    mask = np.zeros(size, bool)
    mask[: size[0] // 2] = True
    with Image.open(io.BytesIO(explanation_png(image, mask, phrase, maps, exists=True, p_target=0.9))) as opened:
        return np.array(opened)


def test_every_map_adds_a_block() -> None:
    heights = [picture(*MAPS[:n]).shape[0] for n in range(len(MAPS) + 1)]
    assert heights == sorted(set(heights))
    assert picture(*MAPS).shape[1] == draw_maps.WIDTH


def test_the_answer_stands_beside_the_picture() -> None:
    top = picture()
    width = (draw_maps.WIDTH - 3 * draw_maps.MARGIN) // 2
    row = top.shape[0] - draw_maps.MARGIN - 20  # in the lower half, outside the mask
    assert tuple(top[row, draw_maps.MARGIN + 5]) == (120, 120, 120)
    assert tuple(top[row, 2 * draw_maps.MARGIN + width + 5]) == (120, 120, 120)
    masked = top[:, 2 * draw_maps.MARGIN + width + 5]
    assert (masked[:, 0] > masked[:, 1] + 40).any()


def test_low_is_dark_and_high_is_light() -> None:
    levels = draw_maps._heat(np.linspace(0, 1, 50)).sum(1)
    assert (np.diff(levels) > 0).all()
    assert draw_maps._heat(np.array([0.0, 1.0])).tolist() == [list(map(float, draw_maps.HEAT[i])) for i in (0, -1)]


def test_levels_by_kind() -> None:
    assert draw_maps._levels(MAPS[0]).min() == 0
    assert draw_maps._levels(MAPS[0]).max() == 1
    assert (draw_maps._levels(MAPS[1]) == 0.5).all()  # probabilities are not stretched
    np.testing.assert_allclose(draw_maps._levels(MAPS[4]), [0.1 / 0.9, 0.5 / 0.9, 1.0], rtol=1e-6)
    flat = Explanation("m", "map", np.zeros((1, 2, 2), np.float32), (0,), 1)
    assert (draw_maps._levels(flat) == 0).all()


def test_it_says_what_it_leaves_out() -> None:
    assert draw_maps._about(MAPS[1]) == "3 of 100 with the highest peaks, 0.5 to 0.5"
    assert draw_maps._about(MAPS[0]) == "-1 to 3"


@pytest.mark.parametrize("size", [(1, 1), (500, 3), (3, 500)])
def test_no_size_breaks_it(size: tuple[int, int]) -> None:
    assert picture(*MAPS, size=size).shape[1] == draw_maps.WIDTH


def test_more_words_than_fit_are_cut_off() -> None:
    many = 60
    wide = Explanation("a", "words", np.zeros((1, many), np.float32), (0,), 1, tuple(f"word{n}" for n in range(many)))
    drawn = picture(wide)
    assert (drawn[-15:, -8:] == np.array(STRIP)).all()


def test_a_long_phrase_and_odd_words() -> None:
    odd = Explanation("a\nb", "words", np.full((1, 2), np.nan, np.float32), (0,), 1, ("\x00", "👩‍🚀"))
    assert picture(odd, phrase="left " * 300).shape[1] == draw_maps.WIDTH
