"""Answers about clips: a model of pictures looks at each frame, one of clips at a window of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import clips
import numpy as np
import pytest
import torch

import refseg_cli
from refseg_cli import checkpoint
from refseg_cli.data.loader import batch_of_frames
from refseg_cli.data.videos import Frame
from refseg_cli.models import build_model
from refseg_cli.segmenters.follow import follow
from refseg_cli.segmenters.inference import postprocess
from refseg_cli.segmenters.trained import Predictor

PHRASES = ["the red car", "a dog", "two people"]
PIXELS = [np.random.default_rng(n).integers(0, 55 + 50 * n, (3, 36, 48), dtype=np.uint8) for n in range(5)]


def frames(taken: list[int] | None = None) -> Iterator[Frame]:
    for number, pixels in enumerate(PIXELS):
        if taken is not None:
            taken.append(number)
        yield Frame(number, None, "clip", pixels)


@pytest.fixture(scope="module")
def of_clips(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained model, looking at two frames together."""
    folder = tmp_path_factory.mktemp("untrained") / "clips"
    found = checkpoint.load(untrained)
    recipe = replace(found.recipe, arch="vlt-clips", data=replace(found.recipe.data, clip_frames=4, clip_window=2))
    model = build_model(recipe, vocab_size=found.tokenizer.vocab_size)
    model.load_state_dict(found.model.state_dict())
    checkpoint.save(folder, model, recipe, found.tokenizer, thresholds=found.thresholds)
    return folder


def test_a_model_of_pictures_sees_frame_by_frame(untrained: Path) -> None:
    predictor, taken = Predictor(untrained, device="cpu"), []
    answers = follow(predictor, frames(taken), PHRASES)
    for number, (frame, found) in enumerate(answers):
        assert frame.number == number
        assert len(taken) == number + 1
        for one, other in zip(found, predictor.predict(PIXELS[number], PHRASES), strict=True):
            np.testing.assert_array_equal(one.mask, other.mask)
            assert (one.phrase, one.exists, one.pixels) == (other.phrase, other.exists, other.pixels)
            assert one.p_target == pytest.approx(other.p_target)
    assert number == len(PIXELS) - 1


def test_a_model_of_clips_sees_windows(of_clips: Path) -> None:
    predictor, taken = Predictor(of_clips, device="cpu"), []
    found = predictor.checkpoint
    expected = []
    for window in (PIXELS[:2], PIXELS[2:4], PIXELS[3:]):  # the last one looks back
        images = [torch.from_numpy(pixels) for pixels in window]
        batch = batch_of_frames(images, PHRASES, found.tokenizer, found.recipe.data).to("cpu")
        with torch.inference_mode():
            expected += postprocess(found.model(batch), batch, predictor.thresholds)
    del expected[-2 * len(PHRASES) : -len(PHRASES)]  # what its first frame is answered there
    answers = []
    for frame, several in follow(predictor, frames(taken), PHRASES):
        assert len(taken) <= min(2 * (frame.number // 2 + 1), len(PIXELS))  # no further than its window
        answers += several
    assert [one.phrase for one in answers] == PHRASES * len(PIXELS)
    for one, decision in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(one.mask, decision.mask)
    alone = [one for pixels in PIXELS for one in predictor.predict(pixels, PHRASES)]
    assert max(abs(one.p_target - other.p_target) for one, other in zip(answers, alone, strict=True)) > 1e-5


def test_python_asks_a_model_of_clips(of_clips: Path) -> None:
    expected = [several for _, several in follow(Predictor(of_clips, device="cpu"), frames(), PHRASES)]
    pictures = (pixels.transpose(1, 2, 0) for pixels in PIXELS)
    found = [several for _, several in refseg_cli.load(of_clips, device="cpu").follow(pictures, PHRASES)]
    assert [[one.p_target for one in several] for several in found] == [[o.p_target for o in s] for s in expected]


def test_many_phrases_take_several_passes(of_clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refseg_cli.segmenters import trained

    predictor = Predictor(of_clips, device="cpu")
    whole = [found.mask for _, several in follow(predictor, frames(), PHRASES) for found in several]
    monkeypatch.setattr(trained, "ROWS", 4)
    parts = [found.mask for _, several in follow(predictor, frames(), PHRASES) for found in several]
    np.testing.assert_array_equal(whole, parts)


def test_predict_asks_a_model_of_clips(of_clips: Path, tmp_path: Path) -> None:
    from refseg_cli.app import main

    file = clips.write_video(tmp_path / "clip.mkv", [p.transpose(1, 2, 0) for p in PIXELS], codec="ffv1")
    out = tmp_path / "out.mkv"
    command = ["-q", "predict", str(file), PHRASES[0], "--model", str(of_clips), "-o", str(out), "--device", "cpu"]
    assert main([*command, "--no-target-ok"]) == 0
    expected = [several[0].mask for _, several in follow(Predictor(of_clips, device="cpu"), frames(), PHRASES[:1])]
    np.testing.assert_array_equal([frame[..., 0] > 127 for frame in clips.read_video(out)], expected)


def test_a_window_may_be_longer_than_the_clip(of_clips: Path) -> None:
    predictor = Predictor(of_clips, device="cpu")
    data = replace(predictor.checkpoint.recipe.data, clip_window=99)
    object.__setattr__(predictor.checkpoint.recipe, "data", data)
    assert len(list(follow(predictor, frames(), PHRASES))) == len(PIXELS)
