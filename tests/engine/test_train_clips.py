"""Models of clips train, are stopped and go on, are evaluated, and read what a model of pictures has learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refseg_cli import checkpoint
from refseg_cli.app import main
from refseg_cli.config import Recipe
from refseg_cli.data.shards import open_shards
from refseg_cli.engine.train import TrainRequest, train
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate


@pytest.fixture(scope="module")
def of_clips(recipe: Recipe) -> Recipe:
    data = replace(recipe.data, size=(32, 32), clip_frames=3, clip_window=4, phrases_per_image=2)
    settings = replace(recipe.train, batch_images=6, epochs=2, eval_limit=5, save_every_steps=1)
    return replace(recipe, arch="vlt-clips", data=data, train=settings)


@pytest.fixture(scope="module")
def run_of_clips(films: Path, of_clips: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "clips"
    done = train(TrainRequest(of_clips, str(films), out, device="cpu"))
    assert done.steps == 4  # two clips a step, of four; two epochs
    return out


def test_a_run_of_clips_goes_on_as_if_nothing_had_happened(
    films: Path, of_clips: Recipe, run_of_clips: Path, tmp_path: Path
) -> None:
    from refseg_cli.engine import train as engine

    calls = iter([None, "SIGTERM"])
    real = engine.stop_signals

    @contextmanager
    def stopping(patience: int) -> Iterator[Any]:
        with real(patience=patience):
            yield lambda: next(calls, "SIGTERM")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "stop_signals", stopping)
        stopped = train(TrainRequest(of_clips, str(films), tmp_path / "run", device="cpu"))
    assert stopped.steps < 4
    train(TrainRequest(of_clips, str(films), tmp_path / "run", resume=True, device="cpu"))
    one, other = (checkpoint.load(folder / "last").model.state_dict() for folder in (run_of_clips, tmp_path / "run"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=0, rtol=0)


def test_every_frame_is_answered_once(films: Path, run_of_clips: Path) -> None:
    found = evaluate(EvalRequest(str(films), ("val",), str(run_of_clips), device="cpu")).evaluations["val"]
    expected = [(r.image_id, e.sent_id) for r in open_shards(films, "val") for e in r.expressions]
    keys = list(zip(found.answers.image_id.tolist(), found.answers.sent_id.tolist(), strict=True))
    assert sorted(keys) == sorted(expected)
    assert found.images == len(open_shards(films, "val"))


def test_a_limit_ends_with_a_whole_clip(films: Path, run_of_clips: Path) -> None:
    found = evaluate(EvalRequest(str(films), ("val",), str(run_of_clips), device="cpu", limit=1))
    assert found.evaluations["val"].images == 5


def test_the_shell_scores_it_by_clip(films: Path, run_of_clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--data", str(films), "--model", str(run_of_clips), "--json", "--device", "cpu"]) == 0
    [scores] = json.loads(capsys.readouterr().out)["splits"]["val"]["protocols"].values()
    assert {"J&F", "J", "F"} <= set(scores)


def test_it_begins_with_a_model_of_pictures(films: Path, of_clips: Recipe, tmp_path: Path, run: Path) -> None:
    said: list[tuple[str, int, int]] = []
    short = replace(of_clips, train=replace(of_clips.train, steps=1, eval_split=""))
    request = TrainRequest(short, str(films), tmp_path / "run", init=str(run), device="cpu")
    train(request, progress=lambda stage, done, total, **figures: said.append((stage, done, total)))
    [(_, taken, total)] = [line for line in said if line[0].startswith("init")]
    assert taken > 0.5 * total


def test_pictures_are_no_clips(scenes: Path, of_clips: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match=r"train has pictures, not clips"):
        train(TrainRequest(of_clips, str(scenes), tmp_path / "run", device="cpu"))


def test_a_model_of_pictures_learns_from_frames(films: Path, recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, train=replace(recipe.train, steps=1, eval_split=""))
    assert train(TrainRequest(short, str(films), tmp_path / "run", device="cpu")).steps == 1
