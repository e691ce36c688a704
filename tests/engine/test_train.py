"""Training: it learns, it resumes to the very same losses, it stops with a reason, it loses nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import RECIPE, records, write_split
from safetensors.torch import load_file

from refseg_cli import checkpoint
from refseg_cli.config import Recipe, TrainConfig
from refseg_cli.data import shards
from refseg_cli.engine.processes import accelerator_of
from refseg_cli.engine.train import TrainRequest, train
from refseg_cli.errors import RefsegError, Unread
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate

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
    python: Path,
    scenes: Path,
    out: Path,
    recipe: Recipe,
    *,
    kill_at: int = 0,
    with_signal: int = 0,
    resume: bool = False,
):
    from refseg_cli.config import to_table

    words = [str(scenes), str(out), json.dumps(to_table(recipe)), str(kill_at), str(with_signal)]
    return subprocess.run(
        [python, "-c", PROGRAM, *words, *(["resume"] if resume else [])],
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
def uninterrupted(python: Path, scenes: Path, longer: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run_program(python, scenes, out, longer)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("kill_at", [3, 8])
def test_killed_and_resumed_gives_the_same_losses(
    python: Path, scenes: Path, longer: Recipe, uninterrupted: Path, tmp_path: Path, kill_at: int
) -> None:
    out = tmp_path / "run"
    killed = run_program(python, scenes, out, longer, kill_at=kill_at, with_signal=signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    resumed = run_program(python, scenes, out, longer, resume=True)
    assert resumed.returncode == 0, resumed.stderr
    assert losses(out) == losses(uninterrupted)
    assert [line["step"] for line in log(out)] == [line["step"] for line in log(uninterrupted)]
    ours, theirs = checkpoint.load(out / "last"), checkpoint.load(uninterrupted / "last")
    for name, tensor in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], tensor), name


def test_sigterm_saves_where_it_stands(
    python: Path, scenes: Path, longer: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stopped = run_program(python, scenes, out, longer, kill_at=3, with_signal=signal.SIGTERM)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.strip() == "SIGTERM"
    assert checkpoint.read_config(out / "last")[2]["step"] == 3
    assert run_program(python, scenes, out, longer, resume=True).returncode == 0
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
    learning = replace(recipe, train=settings, data=data, model=model)
    train(TrainRequest(learning, str(scenes), tmp_path / "run", device="cpu"))
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


def test_each_run_of_a_process_has_its_own_precision(tmp_path: Path) -> None:
    for precision, called in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        found = accelerator_of(TrainConfig(precision=precision), device="cpu", tracker=None, logs=tmp_path)
        assert found.mixed_precision == called


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


def test_a_picture_that_is_left_over_and_shrunk_to_a_value_is_one_line(data: Path) -> None:
    """Of three pictures, two at a time, and 32 pixels, which the backbone makes one."""
    write_split(data, "train", records("train"))
    request = TrainRequest(
        replace(RECIPE, train=TrainConfig(epochs=1, batch_images=2)), str(data), data / "run", device="cpu"
    )
    with pytest.raises(RefsegError, match="a batch of one picture is too small to train on"):
        train(request)


def test_nan_stops_with_a_reason_and_keeps_the_last_state(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    """The weights overflow in a step, the loss in the next one: what is saved between them must not be these."""
    settings = replace(recipe.train, lr=1e30, epochs=3, save_every_steps=1)
    with pytest.raises(RefsegError, match="not finite") as caught:
        train(TrainRequest(replace(recipe, train=settings), str(scenes), tmp_path / "run", device="cpu"))
    assert "lower train.lr" in str(caught.value)
    last = tmp_path / "run/last"
    assert (f"{last} holds step" in str(caught.value)) == last.exists()
    if last.exists():
        checkpoint.load(last)


def test_nan_at_the_first_step_names_no_state(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    settings = replace(recipe, model={**recipe.model, "dice_weight": 1e39})  # infinite in float32
    with pytest.raises(RefsegError, match="not finite at epoch 1, step 1") as caught:
        train(TrainRequest(settings, str(scenes), tmp_path / "run", device="cpu"))
    assert "last" not in str(caught.value).replace(str(tmp_path), "")
    assert "nothing was saved" in str(caught.value)


def test_a_failed_validation_loses_nothing(
    scenes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in it and resumed, a run validates the epoch, and is the run that was never broken off."""
    from refseg_cli.evaluation import scoring

    def broken(*args: Any, **options: Any) -> None:
        raise RefsegError("val-00000-of-00001.parquet: damaged shard", hint="prepare again")

    whole, out = tmp_path / "whole", tmp_path / "run"
    train(TrainRequest(recipe, str(scenes), whole, device="cpu"))
    for _ in range(recipe.train.epochs):
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "evaluate_model", broken)
            with pytest.raises(RefsegError, match=r"validation after epoch \d: val-.*damaged") as caught:
                train(TrainRequest(recipe, str(scenes), out, resume=out.exists(), device="cpu"))
        assert "prepare again" in str(caught.value)
        assert "--resume" in str(caught.value)
    result = train(TrainRequest(recipe, str(scenes), out, resume=True, device="cpu"))
    assert [plain(line) for line in log(out)] == [plain(line) for line in log(whole)]
    for name in ("best", "last"):
        ours, theirs = (checkpoint.read_config(folder / name)[2] for folder in (out, whole))
        assert ours == theirs
    assert result.best == max(line["val"]["gIoU"] for line in log(whole) if "val" in line)


def plain(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("seconds", "rate")}


def test_a_validation_cut_after_its_line_is_not_logged_twice(
    scenes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "run", checkpoint.save

    def save(folder: Path, *args: Any, **options: Any) -> None:
        if folder.name == "best":
            raise KeyboardInterrupt
        real(folder, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            train(TrainRequest(recipe, str(scenes), out, device="cpu"))
    train(TrainRequest(recipe, str(scenes), out, resume=True, device="cpu"))
    assert len([line for line in log(out) if "val" in line]) == recipe.train.epochs
    assert (out / "best").is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_disk_that_fills_up_is_called_that(
    scenes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refseg_cli.engine import run_log, run_state

    with monkeypatch.context() as patch:
        patch.setattr(run_state, "STATE", "/dev/full")
        with pytest.raises(RefsegError, match="last: cannot write the checkpoint: No space left on device"):
            train(TrainRequest(recipe, str(scenes), tmp_path / "run", device="cpu"))
    monkeypatch.setattr(run_log.RunLog, "write", full_log(run_log.RunLog.write))
    with pytest.raises(RefsegError, match="/dev/full: cannot write: No space left on device"):
        train(TrainRequest(recipe, str(scenes), tmp_path / "other", device="cpu"))


def full_log(write: Any) -> Any:
    def write_to_full(self: Any, *args: Any, **options: Any) -> None:
        self.path = Path("/dev/full")
        write(self, *args, **options)

    return write_to_full


LOCKED = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_runs_do_not_share_a_folder(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    from refseg_cli.engine.run_log import LOCK

    out = tmp_path / "run"
    out.mkdir()
    settings = replace(recipe, train=replace(recipe.train, epochs=1, eval_split=""))
    other = subprocess.Popen(
        [sys.executable, "-c", LOCKED, str(out / LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(RefsegError, match="run: another process trains here"):
            train(TrainRequest(settings, str(scenes), out, device="cpu"))
    finally:
        other.kill()
        other.communicate()
    assert train(TrainRequest(settings, str(scenes), out, device="cpu")).stopped == "finished"


def test_what_a_killed_run_left_is_removed(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / ".last-x0_9abcd").mkdir(parents=True)
    settings = replace(recipe, train=replace(recipe.train, epochs=1, eval_split=""))
    train(TrainRequest(settings, str(scenes), out, device="cpu"))
    assert sorted(p.name for p in out.iterdir()) == [".lock", "best", "last", "metrics.jsonl"]


def test_weights_of_another_shape_are_named_on_resuming(
    run: Path, scenes: Path, recipe: Recipe, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    out = Path(shutil.copytree(run, tmp_path / "run"))
    weights = load_file(out / "last/model.safetensors")
    weights["vision.backbone.stem.0.weight"] = torch.zeros(2, 3)
    save_file(weights, out / "last/model.safetensors")
    with pytest.raises(RefsegError, match=r"last/model\.safetensors: .*vision\.backbone\.stem\.0\.weight is \(2, 3\)"):
        train(TrainRequest(recipe, str(scenes), out, resume=True, device="cpu"))


@pytest.mark.parametrize("state", [b"", b"PK\3\4 of something", b"\x80\2c__builtin__\nexec\n."])
def test_a_damaged_state_is_named(run: Path, scenes: Path, recipe: Recipe, tmp_path: Path, state: bytes) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    (out / "last/training.pt").write_bytes(state)
    with pytest.raises(RefsegError, match=r"last/training\.pt: cannot read: damaged \(start another run"):
        train(TrainRequest(recipe, str(scenes), out, resume=True, device="cpu"))


@pytest.mark.parametrize("line", [b'{"not": "ours"}\n', b'\xff{"step": 1}\n'])
def test_a_damaged_log_is_named(run: Path, scenes: Path, recipe: Recipe, tmp_path: Path, line: bytes) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(RefsegError, match=r"metrics\.jsonl: line \d+ is not a line of a run's log"):
        train(TrainRequest(recipe, str(scenes), out, resume=True, device="cpu"))


@pytest.mark.parametrize(
    ("name", "says"), [("AP", "train.best_metric: unknown metric 'AP'"), ("gIou", "did you mean 'gIoU'")]
)
def test_an_unknown_metric_is_refused_before_the_run(
    scenes: Path, recipe: Recipe, tmp_path: Path, name: str, says: str
) -> None:
    settings = replace(recipe, train=replace(recipe.train, best_metric=name))
    with pytest.raises(RefsegError, match=says):
        train(TrainRequest(settings, str(scenes), tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()


def test_existing_run_is_not_overwritten(run: Path, scenes: Path, recipe: Recipe) -> None:
    with pytest.raises(RefsegError, match="holds a training run already"):
        train(TrainRequest(recipe, str(scenes), run, device="cpu"))


def test_resume_needs_the_same_recipe_and_data(run: Path, scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    other = replace(recipe, train=replace(recipe.train, lr=9.0))
    with pytest.raises(RefsegError, match=r"another recipe: train\.lr was 0\.001, is 9\.0 \(--resume without"):
        train(TrainRequest(other, str(scenes), run, resume=True, device="cpu"))
    with pytest.raises(RefsegError, match="no run to resume here"):
        train(TrainRequest(recipe, str(scenes), tmp_path / "nothing", resume=True, device="cpu"))
    assert not (tmp_path / "nothing").exists()


def test_metrics_and_scores_are_kept(run: Path) -> None:
    lines = log(run)
    assert any("loss" in line and "lr" in line and "rate" in line for line in lines)
    assert all(set(line["val"]) >= {"gIoU", "cIoU", "N-acc"} for line in lines if "val" in line)
    assert checkpoint.read_config(run / "best")[2]["scores"]["gIoU"] is not None
    assert (run / "last" / "training.pt").is_file()


def test_tensorboard_events_are_written(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    short = replace(recipe, train=replace(recipe.train, epochs=1))
    train(TrainRequest(short, str(scenes), tmp_path / "run", tracker="tensorboard", device="cpu"))
    assert list((tmp_path / "run" / "logs").rglob("events.*"))


def test_a_language_blind_control_stays_one_and_is_called_one(
    scenes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refseg_cli.engine import publish
    from refseg_cli.engine import train as engine
    from refseg_cli.evaluation.provenance import cautions

    seen: list[bool] = []
    real = engine.StepDataset

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(options.get("shuffle_phrases", False))
        return real(*args, **options)

    monkeypatch.setattr(engine, "StepDataset", spy)
    settings = replace(recipe, train=replace(recipe.train, epochs=1, eval_split=""))
    run = tmp_path / "run"
    train(TrainRequest(settings, str(scenes), run, shuffle_phrases=True, device="cpu"))
    again = TrainRequest(settings, str(scenes), run, resume=True, device="cpu")
    train(again)
    assert seen == [True, True]

    about = evaluate(EvalRequest(str(scenes), ("val",), str(run), "cpu", limit=1)).about
    assert any("blind to language" in said for said in cautions(about, ["val"]))
    publish.publish(str(run), str(tmp_path / "shared"))
    assert "blind to language" in (tmp_path / "shared" / "README.md").read_text()

    config = run / "last" / checkpoint.CONFIG
    told = json.loads(config.read_text())
    config.write_text(json.dumps({**told, "shuffle_phrases": False}))
    with pytest.raises(Unread, match="was started without --shuffle-phrases"):
        train(replace(again, shuffle_phrases=True))
    del told["shuffle_phrases"]  # as earlier versions wrote it: what is asked for counts
    config.write_text(json.dumps(told))
    train(replace(again, shuffle_phrases=True))
    assert seen[2:] == [True]


def test_a_recipe_of_typed_sentences_wants_data_that_has_them(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "old")
    manifest = tmp_path / "old" / shards.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1}))
    typed = replace(recipe, text=replace(recipe.text, field="raw"))
    with pytest.raises(RefsegError, match="holds no sentences as they were typed"):
        train(TrainRequest(typed, str(tmp_path / "old"), tmp_path / "run", device="cpu"))


def test_a_run_does_not_go_into_prepared_data(scenes: Path, recipe: Recipe) -> None:
    with pytest.raises(RefsegError, match="holds prepared data"):
        train(TrainRequest(recipe, str(scenes), scenes, device="cpu"))


@pytest.mark.parametrize("kill_at", [0, 6])
def test_a_run_of_some_steps_ends_where_it_is_told_to(
    python: Path, scenes: Path, longer: Recipe, tmp_path: Path, kill_at: int
) -> None:
    """Five steps an epoch, and the seventh is the last: it becomes `best`, and the schedule ends there."""
    short = replace(longer, train=replace(longer.train, epochs=1, steps=7, schedule="cosine"))
    out = tmp_path / "run"
    if kill_at:
        assert run_program(python, scenes, out, short, kill_at=kill_at, with_signal=signal.SIGKILL).returncode < 0
    done = run_program(python, scenes, out, short, resume=bool(kill_at))
    assert done.stdout.strip() == "finished", done.stderr
    assert sorted(losses(out)) == list(range(1, 8))
    assert min(line["lr"] for line in log(out) if "lr" in line) < 0.1 * short.train.lr
    assert json.loads((out / "best" / "config.json").read_text("utf-8"))["step"] == 7


def test_the_average_has_batch_statistics_of_its_own(scenes: Path, longer: Recipe, tmp_path: Path) -> None:
    """Those of the newest weights beside averaged weights: gIoU 40 where the newest weights alone had 61."""
    averaging = replace(longer, train=replace(longer.train, ema=0.9, steps=5))
    train(TrainRequest(averaging, str(scenes), tmp_path / "run", device="cpu"))
    last = tmp_path / "run" / "last"
    averaged = load_file(last / "model.safetensors")
    newest = torch.load(last / "training.pt", weights_only=True)["weights"]
    means = [name for name in averaged if name.endswith("running_mean")]
    assert means
    for name in means:
        assert averaged[name].abs().sum() > 0, name
        assert not torch.equal(averaged[name], newest[name]), name
