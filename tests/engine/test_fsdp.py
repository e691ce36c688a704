"""A model in pieces trains as a whole one does, is saved as one, and goes on from what a whole one saved."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_processes import log, train_by

from refseg_cli.config import Recipe
from refseg_cli.engine.run_state import STATE


@pytest.fixture(scope="module")
def whole(recipe: Recipe) -> Recipe:
    """Three steps of an epoch for two processes, with all that shards differently: clipping, norms, weight decay.

    Scenes are flat, so that norms of a few pictures divide by next to nothing, and AdamW by its usual eps moves weights
    by a gradient of nothing but rounding: with other seeds and steps, 1e-6 in the pictures is 1e-3 in the third loss.
    """
    model = {**recipe.model, "dropout": 0.0, "contrast": "none"}
    calm = replace(recipe.train, seed=3, lr=1e-4, eps=1e-4)
    train = replace(calm, batch_images=2, steps=3, ema=0.0, clip_norm=1.0, weight_decay=1.0)
    return replace(recipe, model=model, train=train)


@pytest.fixture(scope="module")
def pieces(whole: Recipe) -> Recipe:
    return replace(whole, train=replace(whole.train, shard_model=True))


@pytest.fixture(scope="module")
def trained_whole(python: Path, scenes: Path, whole: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    trained(python, scenes, out, whole)
    return out


def trained(
    python: Path, scenes: Path, out: Path, recipe: Recipe, *, stopped_at: int = 0, resume: bool = False
) -> None:
    how = {"where": 1, "at": stopped_at, "what": "SIGTERM"} if stopped_at else {}
    ends = train_by(python, 2, scenes, out, recipe, resume=resume, **how)
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]


def assert_trained_alike(out: Path, expected: Path) -> None:
    one, other = log(expected), log(out)
    assert [line["step"] for line in other] == [line["step"] for line in one] == [1, 2, 3, 3]
    for a, b in zip(one, other, strict=True):
        for name in a.keys() & {"loss", "mask", "exists"}:
            assert b[name] == pytest.approx(a[name], abs=1e-5), (a["step"], name)


def test_a_model_in_pieces_trains_as_a_whole_one_does(
    python: Path, scenes: Path, pieces: Recipe, trained_whole: Path, tmp_path: Path
) -> None:
    """Stopped after two steps, and resumed, in pieces again; the checkpoint is an ordinary one."""
    trained(python, scenes, tmp_path / "run", pieces, stopped_at=2)
    stopped = torch.load(tmp_path / "run/last" / STATE, weights_only=True)["optimizer"]["state"]
    trained(python, scenes, tmp_path / "run", pieces, resume=True)
    assert_trained_alike(tmp_path / "run", trained_whole)
    first, second = (load_file(out / "last/model.safetensors") for out in (trained_whole, tmp_path / "run"))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    moments = torch.load(trained_whole / "last" / STATE, weights_only=True)["optimizer"]["state"]
    assert {n: {k: v.shape for k, v in m.items()} for n, m in moments.items()} == {
        n: {k: v.shape for k, v in m.items()} for n, m in stopped.items()
    }


def test_a_run_goes_on_in_pieces_and_whole_again(
    python: Path, scenes: Path, whole: Recipe, pieces: Recipe, trained_whole: Path, tmp_path: Path
) -> None:
    """A step whole, one in pieces, and the last one whole: as if it had been whole throughout."""
    trained(python, scenes, tmp_path / "run", whole, stopped_at=1)
    trained(python, scenes, tmp_path / "run", pieces, stopped_at=1, resume=True)
    assert len(log(tmp_path / "run")) == 2
    trained(python, scenes, tmp_path / "run", whole, resume=True)
    assert_trained_alike(tmp_path / "run", trained_whole)


def test_what_does_not_go_with_pieces_is_refused(python: Path, scenes: Path, whole: Recipe, tmp_path: Path) -> None:
    alone = replace(whole, train=replace(whole.train, shard_model=True))
    [end] = train_by(python, 1, scenes, tmp_path / "run", alone)
    assert (end.returncode, "one process has nobody to share with" in end.stderr) == (2, True)


FULL_SIZE = """
import json, sys
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from refseg_cli.config import load_recipe
from refseg_cli.engine import fsdp
from refseg_cli.checkpoint import without_downloads
from refseg_cli.models import build_model

torch.distributed.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
mesh = init_device_mesh("cpu", (8,))
for name in sys.argv[1:]:
    with torch.device("meta"):
        model = build_model(without_downloads(load_recipe(name)), vocab_size=30522)
    fsdp.shard(model, mesh)
    found = list(model.parameters())
    assert all(isinstance(p, DTensor) == (p.ndim > 0) and p.is_meta for p in found), name
    units = sum(isinstance(m, torch.distributed.fsdp.FSDPModule) for m in model.modules())
    print(json.dumps([name, sum(p.numel() for p in found), sum(p.to_local().numel() for p in found if p.ndim), units]))
"""


def test_full_size_models_fall_into_pieces_on_the_meta_device(python: Path) -> None:
    """Eight processes, of which there is one: an eighth of the weights each, and layers gathered one by one."""
    names = ["vlt-swin-b-refcoco", "lavt-refcoco", "rela-swin-b-grefcoco", "cgformer-refcoco"]
    ran = subprocess.run([python, "-c", FULL_SIZE, *names], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    for line in ran.stdout.splitlines():
        name, weights, own, units = json.loads(line)
        assert weights > 50_000_000, name
        assert own < 1.05 * weights / 8, name
        assert units > 20, name
