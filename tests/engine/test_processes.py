"""Several processes train one model: as one would, and they end together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from refseg_cli import checkpoint
from refseg_cli.config import Recipe, to_table
from refseg_cli.data import loader
from refseg_cli.data.loader import Pick
from refseg_cli.engine.processes import together
from refseg_cli.engine.train import TrainRequest, train
from refseg_cli.errors import RefsegError
from refseg_cli.layers.norm import SyncedBatchNorm, synchronised

# A process of several: they find each other by a file, since a free port may be taken in the meantime. At step `at` of
# the process `where` something happens.
PROGRAM = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
import refseg_cli.engine.train as engine
from refseg_cli.engine import fsdp
from refseg_cli.config import Recipe, build
from refseg_cli.errors import RefsegError

job = json.loads(sys.argv[1])
rank, world = job["rank"], job["world"]
engine.LOG_EVERY, fsdp.UNIT = 1, 1
if world > 1:
    torch.distributed.init_process_group("gloo", init_method="file://" + job["meet"], rank=rank, world_size=world)
inner, steps = engine._Run._step, []

def step(self, batch, weight, **how):
    steps.append(len(batch))
    if rank == job["where"] and len(steps) == job["at"]:
        if job["what"] == "nan":
            batch = replace(batch, images=batch.images * float("nan"))
        else:
            os.kill(os.getpid(), getattr(signal, job["what"]))
    terms = inner(self, batch, weight, **how)
    if rank == 0 and len(steps) == 1 and self.position.step == 0 and not self.config.shard_model:
        moments = [self.optimizer.state[p]["exp_avg"] for group in self.optimizer.param_groups for p in group["params"]]
        torch.save(moments, job["moments"])
    return terms

engine._Run._step = step
try:
    recipe = build(Recipe, job["recipe"], "test")
    request = engine.TrainRequest(recipe, job["data"], Path(job["out"]), resume=job["resume"], device="cpu")
    print(json.dumps([engine.train(request).stopped, sum(steps)]))
except RefsegError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def train_by(
    python: Path,
    world: int,
    data: Path,
    out: Path,
    recipe: Recipe,
    *,
    where: int = -1,
    at: int = 0,
    what: str = "",
    resume: bool = False,
) -> list[subprocess.CompletedProcess[str]]:
    """Each process's end."""
    job = {"world": world, "data": str(data), "out": str(out), "recipe": to_table(recipe), "resume": resume}
    job |= {"where": where, "at": at, "what": what, "meet": f"{out}.meet", "moments": f"{out}.moments"}
    Path(str(job["meet"])).unlink(missing_ok=True)
    started = [
        subprocess.Popen(
            [python, "-c", PROGRAM, json.dumps({**job, "rank": rank})],
            env={
                **os.environ,
                "RANK": f"{rank}",
                "LOCAL_RANK": f"{rank}",
                "WORLD_SIZE": f"{world}",
                "OMP_NUM_THREADS": "1",
            }
            | {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "TORCH_CPP_LOG_LEVEL": "ERROR"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    told = [process.communicate(timeout=240) for process in started]
    return [subprocess.CompletedProcess("", p.returncode, *t) for p, t in zip(started, told, strict=True)]


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def alone(recipe: Recipe) -> Recipe:
    """Ten images in batches of four, the last one of two: three steps an epoch. Without what depends on the process."""
    model = {**recipe.model, "dropout": 0.0, "contrast": "none"}
    return replace(recipe, model=model, train=replace(recipe.train, batch_images=4, save_every_steps=2, ema=0.9))


@pytest.fixture(scope="module")
def shared_by_two(alone: Recipe) -> Recipe:
    """The same batches, taken by two processes."""
    return replace(alone, train=replace(alone.train, batch_images=2))


@pytest.fixture(scope="module")
def two(
    python: Path, scenes: Path, shared_by_two: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Any]]:
    out = tmp_path_factory.mktemp("two") / "run"
    ends = train_by(python, 2, scenes, out, shared_by_two)
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    return out, [json.loads(end.stdout) for end in ends]


def test_two_processes_train_as_one_does(
    python: Path, scenes: Path, alone: Recipe, two: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    """Loss, gradients and scores; the optimiser's own step makes much of rounding, so weights are not compared."""
    [end] = train_by(python, 1, scenes, tmp_path / "run", alone)
    assert end.returncode == 0, end.stderr
    out, [(stopped, first), (_, second)] = two
    one, other = log(tmp_path / "run"), log(out)
    assert [line["step"] for line in other] == [line["step"] for line in one] == [1, 2, 3, 3, 4, 5, 6, 6]
    for a, b in zip(one, other, strict=True):
        for name in a.keys() & {"loss", "mask", "exists"}:
            assert b[name] == pytest.approx(a[name], rel=1e-3), name
    assert other[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-6)
    moments = [torch.load(f"{folder}.moments") for folder in (tmp_path / "run", out)]
    for a, b in zip(*moments, strict=True):
        if a.norm() > 1e-8:  # what has no gradient but rounding has no equal one
            assert (a - b).norm() < 1e-3 * a.norm()
    assert stopped == "finished"
    assert first + second == json.loads(end.stdout)[1]  # every phrase of every epoch once
    assert min(first, second) > 0


def test_validation_is_shared_and_counts_every_sample_once(scenes: Path, two: tuple[Path, list[Any]]) -> None:
    from refseg_cli.evaluation.evaluate import EvalRequest, evaluate

    out, _ = two
    known = [line["val"] for line in log(out) if "val" in line][-1]
    report = evaluate(EvalRequest(str(scenes), ("val",), str(out / "last"), device="cpu", limit=2))
    assert report.scores["val"].table() == known


def test_another_number_of_processes_does_not_go_on_with_a_run(
    scenes: Path, alone: Recipe, shared_by_two: Recipe, two: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    """Neither with as many images for each process nor, as the recipe would be another, with as many in all."""
    shutil.copytree(two[0], tmp_path / "run")
    request = TrainRequest(shared_by_two, str(scenes), tmp_path / "run", resume=True, device="cpu")
    with pytest.raises(RefsegError, match="started with 2 processes, not 1") as error:
        train(request)
    assert "dropout" in error.value.hint
    with pytest.raises(RefsegError, match=r"train\.batch_images was 2, is 4"):
        train(replace(request, recipe=alone))


def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on_as_if_it_had_not_been(
    python: Path, scenes: Path, shared_by_two: Recipe, two: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first, second = train_by(python, 2, scenes, out, shared_by_two, where=1, at=6, what="SIGKILL")
    assert second.returncode == -9
    assert first.returncode == 2
    assert "another of the 2 processes of this run ended" in first.stderr
    assert "Traceback" not in first.stderr
    ends = train_by(python, 2, scenes, out, shared_by_two, resume=True)
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    kept = [{k: v for k, v in line.items() if k not in ("rate", "seconds")} for line in log(out)]
    assert kept == [{k: v for k, v in line.items() if k not in ("rate", "seconds")} for line in log(two[0])]


def test_a_signal_to_one_process_stops_all_at_the_same_step(
    python: Path, scenes: Path, shared_by_two: Recipe, tmp_path: Path
) -> None:
    ends = train_by(python, 2, scenes, tmp_path / "run", shared_by_two, where=1, at=2, what="SIGTERM")
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    assert [json.loads(end.stdout)[0] for end in ends] == ["a signal to another process", "SIGTERM"]
    assert checkpoint.read_config(tmp_path / "run" / "last")[2]["step"] == 2


def test_a_loss_that_is_not_finite_in_one_process_ends_all_with_one_message(
    python: Path, scenes: Path, shared_by_two: Recipe, tmp_path: Path
) -> None:
    ends = train_by(python, 2, scenes, tmp_path / "run", shared_by_two, where=1, at=3, what="nan")
    assert [end.returncode for end in ends] == [2, 2]
    assert "the loss is not finite at epoch 1, step 3" in ends[0].stderr
    assert ends[1].stderr == ""


@pytest.mark.parametrize(("images", "sizes"), [(4, [2, 2]), (3, [2, 1]), (2, [1, 1]), (1, [1])])
def test_a_step_is_dealt_out_evenly(images: int, sizes: list[int]) -> None:
    step = tuple(Pick(i, tuple(range(i + 1))) for i in range(images))
    parts = loader.dealt(step, 2)
    assert [len(part) for part in parts] == sizes
    assert tuple(pick for part in parts for pick in part) == step


def test_the_mean_over_processes_is_the_mean_over_the_expressions() -> None:
    step = (Pick(0, (0, 1, 2)), Pick(1, (0,)), Pick(2, (4, 5)))
    losses = {0: [3.0, 1.0, 2.0], 1: [7.0], 2: [0.5, 0.25]}
    for processes in (1, 2, 3, 5):
        parts = loader.dealt(step, processes)
        shares = [loader.share_of(parts, process, processes) for process in range(processes)]
        means = [share.weight * np.mean([x for pick in share.step for x in losses[pick.image]]) for share in shares]
        assert np.mean(means) == pytest.approx(np.mean([x for some in losses.values() for x in some]))
        assert {share.expressions for share in shares} == {6}
        assert all(share.step for share in shares)


def test_other_errors_of_torch_are_not_taken_for_a_lost_process() -> None:
    class Two:
        num_processes = 2

    with pytest.raises(RuntimeError, match="shapes"), together(Two()):  # type: ignore[arg-type]
        raise RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RefsegError, match="another of the 2"), together(Two()):  # type: ignore[arg-type]
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_synced_norm_of_one_process_is_the_norm(wrapped: bool, one_process: None) -> None:
    """In value, gradient and running statistics; with timm's activation where there is one."""
    from timm.layers import BatchNormAct2d

    def built() -> nn.Sequential:
        torch.manual_seed(0)
        norm = BatchNormAct2d(5, act_layer=nn.ReLU6) if wrapped else nn.BatchNorm2d(5)
        return nn.Sequential(nn.Conv2d(3, 5, 1), norm)

    plain, synced = built(), synchronised(built())
    assert isinstance(synced[1], SyncedBatchNorm)
    assert list(synced.state_dict()) == list(plain.state_dict())
    results: Sequence[Any] = []
    for model in (plain, synced):
        x = torch.linspace(-3, 5, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4).requires_grad_()
        y = model(x)
        (y.square() * torch.linspace(0, 1, y.numel()).view_as(y)).sum().backward()
        after = model.eval()(x.detach())
        results = [*results, (y, x.grad, model[0].weight.grad, after, *model.state_dict().values())]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.fixture
def one_process(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
