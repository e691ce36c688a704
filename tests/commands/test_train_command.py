"""`refseg train`: the recipe it chooses, the request that reaches the engine, the exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from refseg_cli import checkpoint
from refseg_cli.app import main
from refseg_cli.commands import _options
from refseg_cli.commands._options import DEFAULT_RECIPES, arch_choices, choose_recipe
from refseg_cli.config import load_recipe, recipe_names
from refseg_cli.engine import train as engine
from refseg_cli.engine.train import TrainRequest, TrainResult
from refseg_cli.errors import ERROR, FOUND, INTERRUPTED, RefsegError
from refseg_cli.progress import Progress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[TrainRequest]:
    """What reaches the engine."""
    seen: list[TrainRequest] = []

    def train(request: TrainRequest, *, progress: Progress) -> TrainResult:
        seen.append(request)
        progress("train", 7, 7, loss=0.5)
        return TrainResult(request.out, steps=7, epochs=2, best=61.234, stopped="finished", scores={"gIoU": 61.234})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "train", train)
    return seen


def test_every_option_reaches_the_engine(requests: list[TrainRequest]) -> None:
    name = DEFAULT_RECIPES["vlt"]
    options = [
        "--resume",
        "--device",
        "cpu",
        "--tracker",
        "tensorboard",
        "--shuffle-phrases",
        "--out",
        "run",
    ]
    changes = ["--set", "train.lr=0.5", "--set", "train.epochs=3"]
    assert main(["train", "--arch", "vlt", "--data", "shards", *options, *changes]) == FOUND
    assert requests == [
        TrainRequest(
            recipe=load_recipe(name, ["train.lr=0.5", "train.epochs=3"]),
            data=["shards"],
            out=Path("run"),
            resume=True,
            device="cpu",
            tracker="tensorboard",
            shuffle_phrases=True,
        )
    ]


def test_defaults(requests: list[TrainRequest]) -> None:
    name = recipe_names()[0]
    assert main(["train", "--recipe", name, "--data", "shards"]) == FOUND
    assert requests == [TrainRequest(recipe=load_recipe(name), data=["shards"], out=Path("runs") / name)]


def test_a_recipe_of_ones_own_gives_the_run_its_name(requests: list[TrainRequest]) -> None:
    Path("mine.toml").write_text('arch = "vlt"\n[train]\nepochs = 4\n')
    assert main(["train", "--recipe", "mine.toml", "--data", "shards"]) == FOUND
    assert (requests[0].out, requests[0].recipe.train.epochs) == (Path("runs/mine"), 4)


def test_resume_takes_the_recipe_of_the_run(requests: list[TrainRequest], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(recipe_names()[0], ["train.epochs=9"])
    monkeypatch.setattr(checkpoint, "resolve", lambda folder: folder)
    monkeypatch.setattr(checkpoint, "read_config", lambda folder: {Path("run/last"): (recipe, None, {})}[folder])
    assert main(["train", "--resume", "--data", "shards", "--out", "run"]) == FOUND
    assert requests[0].recipe == recipe


def test_a_new_run_may_start_from_another(requests: list[TrainRequest]) -> None:
    assert main(["train", "--arch", "vlt", "--data", "shards", "--init", "other"]) == FOUND
    assert requests[0].init == "other"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "vlt", "--out", "run", "--init", "other"], "--resume has no use for --init (omit one of them)"),
        ([], "--resume needs the folder of the run (add --out RUN)"),
    ],
)
def test_what_does_not_go_with_resume(
    requests: list[TrainRequest], capsys: Capture, options: list[str], message: str
) -> None:
    assert main(["train", "--resume", "--data", "shards", *options]) == ERROR
    assert capsys.readouterr().err == f"refseg: {message}\n"
    assert requests == []


def test_resume_without_a_run_says_so(requests: list[TrainRequest], tmp_path: Path, capsys: Capture) -> None:
    assert main(["train", "--resume", "--data", "shards", "--out", str(tmp_path / "none")]) == ERROR
    assert "none: no run to resume here (omit --resume to start one)" in capsys.readouterr().err


def test_default_recipes_are_of_their_architectures() -> None:
    assert {load_recipe(name).arch: name for name in DEFAULT_RECIPES.values()} == DEFAULT_RECIPES
    assert set(DEFAULT_RECIPES) <= set(arch_choices())


def test_an_architecture_without_a_default_takes_its_only_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    name = DEFAULT_RECIPES["vlt"]
    monkeypatch.setattr(_options, "DEFAULT_RECIPES", {})
    monkeypatch.setattr(_options, "recipe_names", lambda: [name])
    assert choose_recipe("vlt", None, None) == load_recipe(name)
    monkeypatch.setattr(_options, "recipe_names", lambda: [name, "vlt-other"])
    with pytest.raises(RefsegError, match=f"--arch vlt needs a --recipe .one of: {re.escape(name)}, vlt-other"):
        choose_recipe("vlt", None, None)


def test_summary_on_stdout_and_progress_on_stderr(requests: list[TrainRequest], capsys: Capture) -> None:
    main(["train", "--arch", "vlt", "--data", "shards", "--out", "run"])
    assert capsys.readouterr() == ("run: 7 steps, 2 epochs, best mIoU 61.23\n", "train step=7/7 loss=0.5\n")
    main(["train", "--arch", "vlt", "--data", "shards", "--out", "run", "--json", "-q"])
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        **{"out": "run", "steps": 7, "epochs": 2, "best": 61.234, "stopped": "finished"},
        "scores": {"gIoU": 61.234},
    }


def test_a_signal_is_not_success(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    result = TrainResult(Path("run"), steps=3, epochs=0, best=None, stopped="SIGINT")
    monkeypatch.setattr(engine, "train", lambda request, progress: result)
    assert main(["train", "--arch", "vlt", "--data", "shards", "--out", "run"]) == INTERRUPTED
    streams = capsys.readouterr()
    assert streams.out == "run: 3 steps, 0 epochs, not validated\n"
    assert streams.err == "SIGINT: state saved; continue with: refseg train --resume --data shards --out run\n"
    options = ["--tracker", "tensorboard", "--device", "cpu"]
    words = ["train", "--arch", "vlt", "--data", "shards", "--out", "run", "--shuffle-phrases", *options]
    assert main(words) == INTERRUPTED
    assert capsys.readouterr().err.endswith(f"--out run {' '.join(options)}\n"), "the run knows that it is a control"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no --arch and no --recipe (--arch is one of: "),
        (["--arch", "vtl"], "unknown architecture 'vtl' (did you mean 'vlt'?)"),
        (["--recipe", "vlt-darknet"], "unknown recipe 'vlt-darknet'"),
        (["--recipe", "other.toml"], "other.toml: no such recipe file"),
        (["--arch", "vlt", "--set", "train.lrr=1"], "unknown key 'lrr'"),
        (["--arch", "vlt", "--recipe", "lavt.toml"], "--recipe lavt.toml is of lavt, not of --arch vlt"),
    ],
)
def test_wrong_recipes(requests: list[TrainRequest], capsys: Capture, arguments: list[str], words: str) -> None:
    Path("lavt.toml").write_text('arch = "lavt"\n')
    assert main(["train", "--data", "shards", *arguments]) == ERROR
    assert words in capsys.readouterr().err
    assert requests == []
