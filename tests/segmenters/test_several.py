"""Several pictures in one pass: the answers of one by one, however the passes are cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from refseg_cli.errors import RefsegError
from refseg_cli.segmenters import trained
from refseg_cli.segmenters.base import Found
from refseg_cli.segmenters.several import several
from refseg_cli.segmenters.trained import Predictor

RANDOM = np.random.default_rng(0)
SIZES = ((50, 120), (64, 96), (90, 30), (40, 40))
PICTURES = [RANDOM.integers(0, 256, (3, *size), dtype=np.uint8) for size in SIZES]
PHRASES = [["two people on left", "the red car"], ["dog"], [], ["a cat", "the big one", "the red car"]]
QUESTIONS = list(zip(PICTURES, PHRASES, strict=True))


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> Predictor:
    return Predictor(untrained, device="cpu")


@pytest.fixture
def encoded(predictor: Predictor) -> Iterator[list[int]]:
    """The pictures of each pass."""
    counts: list[int] = []
    hook = predictor.model.vision.backbone.register_forward_hook(
        lambda module, inputs, output: counts.append(len(inputs[0]))
    )
    yield counts
    hook.remove()


def same(together: list[list[Found]], alone: list[list[Found]]) -> None:
    assert [[found.phrase for found in answers] for answers in together] == PHRASES
    assert len({found.p_target for answers in alone for found in answers}) > 1  # else all were equal anyway
    for picture, answers, others in zip(PICTURES, together, alone, strict=True):
        for one, other in zip(answers, others, strict=True):
            assert one.mask.shape == picture.shape[1:]
            assert one.p_target == pytest.approx(other.p_target, abs=1e-5)
            assert (one.exists, one.pixels) == (other.exists, int(one.mask.sum()))
            assert (one.mask != other.mask).mean() < 1e-3  # a logit at the threshold may fall to either side


def test_together_equals_one_by_one(predictor: Predictor, encoded: list[int]) -> None:
    together = [list(answers) for answers in several(predictor, 4)(QUESTIONS)]
    assert encoded == [3]  # nothing is asked of the third
    encoded.clear()
    same(together, [list(answers) for answers in several(predictor, 1)(QUESTIONS)])
    assert encoded == [1, 1, 1]


def test_a_pass_that_does_not_fit_is_cut(
    predictor: Predictor, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [list(predictor.predict(picture, phrases)) for picture, phrases in QUESTIONS]
    encoded.clear()
    monkeypatch.setattr(predictor.passes, "limit", 3)
    monkeypatch.setattr(trained, "PIXELS_AT_A_TIME", 1)  # masks brought to size one after the other
    same([list(answers) for answers in predictor.predict_many(QUESTIONS)], alone)
    assert encoded == [2, 1]


def test_probabilities_of_pixels(predictor: Predictor) -> None:
    for (picture, phrases), answers in zip(QUESTIONS, predictor.predict_many(QUESTIONS, soft=True), strict=True):
        for one, other in zip(answers, predictor.soften(picture, phrases), strict=True):
            assert one.soft is not None
            assert other.soft is not None
            np.testing.assert_allclose(one.soft, other.soft, atol=1e-5)


def test_answers_that_nobody_takes_are_passed_over(predictor: Predictor) -> None:
    firsts = [next(answers, None) for answers in predictor.predict_many(QUESTIONS)]
    assert [first and first.phrase for first in firsts] == ["two people on left", "dog", None, "a cat"]


def test_nothing_asked_is_nothing_answered(predictor: Predictor) -> None:
    assert list(predictor.predict_many([])) == []


def test_what_is_wrong_is_said_at_once(predictor: Predictor) -> None:
    with pytest.raises(RefsegError, match="a phrase is empty"):
        predictor.predict_many([(PICTURES[0], ["dog"]), (PICTURES[1], [""])])
    with pytest.raises(RefsegError, match="nowhere"):
        predictor.predict_many([(PICTURES[0], ["dog"]), (Path("nowhere.png"), ["dog"])])


def test_a_model_that_takes_one_picture_says_so(untrained: Path) -> None:
    class Alone:
        name = "alone"
        predict = None

    assert several(Alone(), 1)  # type: ignore[arg-type]
    with pytest.raises(RefsegError, match="alone: this model takes one picture at a time"):
        several(Alone(), 2)  # type: ignore[arg-type]
    with pytest.raises(RefsegError, match="batches of 0 pictures"):
        several(Alone(), 0)  # type: ignore[arg-type]
