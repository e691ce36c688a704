"""The picture grid of `predict --explain`: its parts are there, and nothing breaks it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from refseg_cli.drawing import maps as draw_maps
from refseg_cli.drawing.maps import explanation_png
from refseg_cli.drawing.overlay import STRIP
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
    drawn = [picture(*MAPS[:n]) for n in range(len(MAPS) + 1)]
    letters = [int((one == np.array(draw_maps.TEXT)).all(2).sum()) for one in drawn]
    assert letters == sorted(set(letters))  # each with its name
    heights = [len(one) for one in drawn]
    assert heights == sorted(heights)
    assert heights[-1] > heights[0] + 2 * draw_maps.TILE
    assert all(one.shape[1] == draw_maps.WIDTH for one in drawn)


def test_blocks_stand_side_by_side_as_far_as_they_fit() -> None:
    half = draw_maps.WIDTH // 2
    sizes = [(draw_maps.WIDTH, 30), (half, 20), (half, 50), (1, 10), (draw_maps.WIDTH, 5)]
    places = [(0, 0), (0, 30), (half, 30), (0, 80), (0, 90)]
    assert draw_maps._laid_out(sizes) == (places, 95)


def test_cells_that_are_in_or_out_keep_their_edges() -> None:
    """As CGFormer's groups: between two cells no colour that is neither's."""
    hard = np.array([[[0, 1], [1, 0]]], np.float32)
    drawn = {}
    for name, values in (("hard", hard), ("soft", hard * 0.9)):
        tiles = draw_maps._tiles(np.full((64, 64, 3), 90, np.uint8), Explanation(name, "map", values, (0,), 1))
        drawn[name] = {color for _, color in tiles.getcolors(100_000)}
    assert len(drawn["hard"]) == 3  # low, high, and the strip around
    assert len(drawn["soft"]) > 20


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


def test_dim_probabilities_are_brightened_and_it_says_so() -> None:
    dim = Explanation("minimap", "logits", np.array([[[0.01, 0.02], [0.05, 0.1]]], np.float32), (0,), 1)
    np.testing.assert_allclose(draw_maps._levels(dim), [[[0.1, 0.2], [0.5, 1.0]]], rtol=1e-6)
    assert draw_maps._about(dim) == "0.01 to 0.1, brightened"
    none = Explanation("minimap", "logits", np.zeros((1, 2, 2), np.float32), (0,), 1)
    assert (draw_maps._levels(none) == 0).all()
    assert draw_maps._about(none) == "0 to 0"


def test_it_says_what_it_leaves_out() -> None:
    assert draw_maps._about(MAPS[1]) == "3 of 100 with the highest peaks, 0.5 to 0.5"
    assert draw_maps._about(MAPS[0]) == "-1 to 3"


def test_a_small_range_has_the_digits_that_show_it() -> None:
    even = Explanation("val_attention", "map", np.array([[[0.2496, 0.2504]]], np.float32), (0,), 1)
    assert draw_maps._about(even) == "0.2496 to 0.2504"


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
