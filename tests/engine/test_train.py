"""Training: it learns, it resumes to the very same losses, it stops with a reason, it loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from pictures import RECIPE, records, write_split

from refseg_cli import checkpoint
from refseg_cli.config import Recipe, TrainConfig
from refseg_cli.engine.optimise import build_optimizer, schedule, take_weights
from refseg_cli.engine.train import TrainRequest, train
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.models import build_model

PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import refseg_cli.engine.train as engine
engine.LOG_EVERY = 1
from refseg_cli.config import Recipe, build
from refseg_cli import checkpoint
import json
recipe = build(Recipe, json.loads(sys.argv[3]), "test")
kill_at = int(sys.argv[4])

def progress(stage, done, total, **figures):
    if stage == "train" and kill_at and done == kill_at:
        import os, signal
        os.kill(os.getpid(), int(sys.argv[5]))

result = engine.train(
    engine.TrainRequest(recipe, sys.argv[1], Path(sys.argv[2]), resume="resume" in sys.argv, device="cpu"),
    progress=progress,
)
print(result.stopped)
"""


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in log(out) if "loss" in line}


def run_program(
    scenes: Path, out: Path, recipe: Recipe, *, kill_at: int = 0, with_signal: int = 0, resume: bool = False
):
    from refseg_cli.config import to_table

    words = [str(scenes), str(out), json.dumps(to_table(recipe)), str(kill_at), str(with_signal)]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, *(["resume"] if resume else [])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def longer(recipe: Recipe) -> Recipe:
    """Five steps an epoch, saved after every second: a kill falls between a save and the end of an epoch."""
    train_config = replace(recipe.train, epochs=2, save_every_steps=2, eval_split="", ema=0.9, accumulate=1)
    return replace(recipe, train=train_config)


@pytest.fixture(scope="module")
def uninterrupted(scenes: Path, longer: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run_program(scenes, out, longer)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("kill_at", [3, 8])
def test_killed_and_resumed_gives_the_same_losses(
    scenes: Path, longer: Recipe, uninterrupted: Path, tmp_path: Path, kill_at: int
) -> None:
    out = tmp_path / "run"
    killed = run_program(scenes, out, longer, kill_at=kill_at, with_signal=signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    resumed = run_program(scenes, out, longer, resume=True)
    assert resumed.returncode == 0, resumed.stderr
    assert losses(out) == losses(uninterrupted)
    assert [line["step"] for line in log(out)] == [line["step"] for line in log(uninterrupted)]
    ours, theirs = checkpoint.load(out / "last"), checkpoint.load(uninterrupted / "last")
    for name, tensor in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], tensor), name


def test_sigterm_saves_where_it_stands(scenes: Path, longer: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stopped = run_program(scenes, out, longer, kill_at=3, with_signal=signal.SIGTERM)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.strip() == "SIGTERM"
    assert checkpoint.read_config(out / "last")[2]["step"] == 3
    assert run_program(scenes, out, longer, resume=True).returncode == 0
    assert losses(out) == losses(uninterrupted)


def test_accumulated_micro_batches_count_as_one_step(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Ten images one by one, four micro-batches a step: three steps, the last one of two."""
    settings = replace(recipe.train, batch_images=1, accumulate=4, epochs=1, eval_split="")
    result = train(TrainRequest(replace(recipe, train=settings), str(scenes), tmp_path / "run", device="cpu"))
    assert result.steps == 3


def test_run_learns_a_handful_of_samples(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    settings = replace(recipe.train, epochs=80, batch_images=10, lr=1e-2, eval_split="", save_every_steps=1000)
    data = replace(recipe.data, flip=0.0, jitter=0.0, phrases_per_image=0)
    model = {**recipe.model, "dropout": 0.0, "contrast": "none", "dice_weight": 1.0}
    train(
        TrainRequest(
            replace(recipe, train=settings, data=data, model=model), str(scenes), tmp_path / "run", device="cpu"
        )
    )
    values = list(losses(tmp_path / "run").values())
    assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize(("form", "word"), [("sent", "mans"), ("raw", "'")])
def test_words_are_those_of_the_form_that_is_read(tmp_path: Path, recipe: Recipe, form: Any, word: str) -> None:
    one, *_ = records("train")
    said = tuple(replace(e, text="mans hat", raw="Man's hat") for e in one.expressions)
    write_split(tmp_path, "train", [replace(one, expressions=said)])
    settings = replace(recipe.train, epochs=1, eval_split="")
    asked = replace(recipe, text=replace(recipe.text, field=form), train=settings)
    train(TrainRequest(asked, str(tmp_path), tmp_path / "run", device="cpu"))
    vocabulary = checkpoint.load(tmp_path / "run").tokenizer.pipeline.get_vocab()
    assert ({"mans", "'"} & set(vocabulary), "hat" in vocabulary) == ({word}, True)


@pytest.fixture
def _other_precision() -> Iterator[None]:
    """accelerate settles the precision once in a process; here other tests train in fp32 before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_other_precision")
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_validation_in_mixed_precision_gives_the_figures_of_eval(data: Path, saved: Path, ema: float) -> None:
    """From a model with half of all pixels in its masks; bf16 would turn some of them over."""
    write_split(data, "train", records("train"))
    settings = TrainConfig(precision="bf16", epochs=2, batch_images=3, lr=1e-3, ema=ema, best_metric="cIoU")
    out = data / "run"
    recipe = replace(RECIPE, model={**RECIPE.model, "no_target_head": False}, train=settings)
    train(TrainRequest(recipe, str(data), out, init=str(saved), device="cpu"))
    logged = [line["val"] for line in log(out) if "val" in line]
    asked = {name: EvalRequest(str(data), ("val",), str(out / name), device="cpu") for name in ("best", "last")}
    found = {name: evaluate(request).scores["val"].table() for name, request in asked.items()}
    assert found["last"] == logged[-1]
    assert found["best"]["cIoU"] == max(line["cIoU"] for line in logged) > 0


def test_nan_stops_with_a_reason_and_keeps_the_last_state(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    settings = replace(recipe.train, lr=1e30, epochs=3, save_every_steps=1)
    with pytest.raises(RefsegError, match="the loss is not finite at epoch") as caught:
        train(TrainRequest(replace(recipe, train=settings), str(scenes), tmp_path / "run", device="cpu"))
    assert "lower train.lr" in str(caught.value)


def test_existing_run_is_not_overwritten(run: Path, scenes: Path, recipe: Recipe) -> None:
    with pytest.raises(RefsegError, match="holds a training run already"):
        train(TrainRequest(recipe, str(scenes), run, device="cpu"))


def test_resume_needs_the_same_recipe_and_data(run: Path, scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    other = replace(recipe, train=replace(recipe.train, lr=9.0))
    with pytest.raises(RefsegError, match="began with another recipe"):
        train(TrainRequest(other, str(scenes), run, resume=True, device="cpu"))
    with pytest.raises(RefsegError, match="no run to resume here"):
        train(TrainRequest(recipe, str(scenes), tmp_path / "nothing", resume=True, device="cpu"))


def test_metrics_and_scores_are_kept(run: Path) -> None:
    lines = log(run)
    assert any("loss" in line and "lr" in line and "rate" in line for line in lines)
    assert all(set(line["val"]) >= {"gIoU", "cIoU", "N-acc"} for line in lines if "val" in line)
    assert checkpoint.read_config(run / "best")[2]["scores"]["gIoU"] is not None
    assert (run / "last" / "training.pt").is_file()


def test_init_takes_what_fits(run: Path, recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    source = checkpoint.load(run).model
    wider = replace(recipe, model={**recipe.model, "mask_dims": (8, 4)})
    vocab = checkpoint.load(run).tokenizer.vocab_size
    model = build_model(wider, vocab_size=vocab)
    taken = take_weights(model, source)
    assert 0 < taken < len(source.state_dict())
    assert torch.equal(
        model.state_dict()["vision.backbone.stem.0.weight"], source.state_dict()["vision.backbone.stem.0.weight"]
    )
    result = train(TrainRequest(wider, str(scenes), tmp_path / "run", init=str(run), device="cpu"))
    assert result.stopped == "finished"


def test_init_across_architectures_takes_the_encoders(run: Path, recipe: Recipe) -> None:
    found = checkpoint.load(run)
    vocab = found.tokenizer.vocab_size
    sizes = {k: v for k, v in recipe.model.items() if k.startswith(("backbone", "text", "dim", "heads", "pre"))}
    moved = Elsewhere(build_model(replace(recipe, arch="align", model=sizes), vocab_size=vocab))
    taken = take_weights(moved, found.model)
    encoders = found.model.pretrained_modules()
    assert taken == sum(tensor.ndim > 0 for encoder in encoders for tensor in encoder.state_dict().values())
    for ours, theirs in zip(moved.pretrained_modules(), encoders, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    small = {**sizes, "dim": 6, "backbone_channels": (3, 3, 3, 3, 3), "text": "gru", "embedding_dim": 5}
    stranger = build_model(replace(recipe, arch="align", model=small), vocab_size=vocab)
    with pytest.raises(RefsegError, match="no weight has the name and shape"):
        take_weights(Elsewhere(stranger), found.model)


class Elsewhere(torch.nn.Module):
    """A model whose encoders have other names than the source's."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner = model

    def pretrained_modules(self) -> list[torch.nn.Module]:
        return self.inner.pretrained_modules()  # type: ignore[operator,no-any-return]


def test_tensorboard_events_are_written(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    settings = replace(recipe.train, epochs=1)
    train(
        TrainRequest(
            replace(recipe, train=settings), str(scenes), tmp_path / "run", tracker="tensorboard", device="cpu"
        )
    )
    assert list((tmp_path / "run" / "logs").rglob("events.*"))


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({"schedule": "constant"}, 7, 1.0),
        ({"warmup_steps": 10}, 4, 0.5),
        ({"schedule": "poly", "power": 0.9}, 50, 0.5**0.9),
        ({"schedule": "cosine"}, 50, 0.5),
        ({"schedule": "step", "milestones": (2, 4)}, 19, 1.0),
        ({"schedule": "step", "milestones": (2, 4)}, 20, 0.1),
        ({"schedule": "step", "milestones": (2, 4)}, 40, 0.01),
    ],
)
def test_schedule(settings: dict[str, Any], step: int, expected: float) -> None:
    assert schedule(step, 100, 10, TrainConfig(**settings)) == pytest.approx(expected)


def test_optimizer_spares_norms_and_slows_encoders(recipe: Recipe) -> None:
    model = build_model(recipe, vocab_size=9)
    config = TrainConfig(lr=1.0, backbone_lr=0.1, weight_decay=0.5)
    groups = build_optimizer(model, config).param_groups
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert rates[id(model.vision.backbone.stem[0].weight)] == (0.1, 0.5)  # type: ignore[union-attr]
    assert rates[id(model.vision.backbone.stem[1].weight)] == (0.1, 0.0)  # type: ignore[union-attr]
    assert rates[id(model.mask_decoder.out.weight)] == (1.0, 0.5)  # type: ignore[union-attr]
    assert len(rates) == sum(p.requires_grad for p in model.parameters())


def test_language_blind_control_reaches_the_loader(
    scenes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refseg_cli.engine import train as engine

    seen: list[bool] = []
    real = engine.StepDataset

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(options.get("shuffle_phrases", False))
        return real(*args, **options)

    monkeypatch.setattr(engine, "StepDataset", spy)
    settings = replace(recipe, train=replace(recipe.train, epochs=1, eval_split=""))
    train(TrainRequest(settings, str(scenes), tmp_path / "run", shuffle_phrases=True, device="cpu"))
    assert seen == [True]
