"""`train.gradient_checkpointing`: in runs, of one process and of two, whole and in pieces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_processes import log, train_by

from refseg_cli.config import Recipe
from refseg_cli.engine import bench
from refseg_cli.engine.recomputing import recompute_layers
from refseg_cli.engine.run_state import _trained
from refseg_cli.engine.train import TrainRequest, train
from refseg_cli.errors import RefsegError
from refseg_cli.models import build_model


@pytest.fixture(scope="module")
def plain(recipe: Recipe) -> Recipe:
    """Three steps of an epoch for two processes, with dropout, and batch norms of both processes' images. By such steps
    rounding grows little, see test_fsdp.
    """
    model = {**recipe.model, "contrast": "none"}
    calm = replace(recipe.train, seed=3, lr=1e-4, eps=1e-4)
    return replace(recipe, model=model, train=replace(calm, batch_images=2, steps=3, clip_norm=1.0))


@pytest.fixture(scope="module")
def expected(
    python: Path, scenes: Path, plain: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    return trained(python, scenes, tmp_path_factory.mktemp("plain") / "run", plain)


def trained(python: Path, scenes: Path, out: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """What two processes log."""
    ends = train_by(python, 2, scenes, out, recipe)
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    return [{k: v for k, v in line.items() if k not in ("rate", "seconds")} for line in log(out)]


def recomputing(recipe: Recipe, **settings: Any) -> Recipe:
    return replace(recipe, train=replace(recipe.train, gradient_checkpointing=True, **settings))


def test_two_processes_train_as_without_it(
    python: Path, scenes: Path, plain: Recipe, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Bit for bit."""
    assert trained(python, scenes, tmp_path / "run", recomputing(plain)) == expected


def test_it_goes_with_a_model_in_pieces(
    python: Path, scenes: Path, plain: Recipe, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Up to rounding, as a model in pieces is."""
    found = trained(python, scenes, tmp_path / "run", recomputing(plain, shard_model=True))
    for a, b in zip(found, expected, strict=True):
        for name in a.keys() & {"loss", "mask", "exists"}:
            assert a[name] == pytest.approx(b[name], abs=1e-5), (b["step"], name)


def test_a_run_may_be_resumed_with_it_or_without(recipe: Recipe) -> None:
    """As far as recipes go: what else decides is the same."""
    assert _trained(recomputing(recipe)) == _trained(recipe)


def test_a_run_computes_its_layers_twice(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Counted at a layer of the text encoder: validation, which has no backward pass, once."""
    from refseg_cli.layers.attention import EncoderLayer

    seen: list[bool] = []
    inner = EncoderLayer.forward

    def forward(self: EncoderLayer, *given: Any, **named: Any) -> Any:
        seen.append(torch.is_grad_enabled())
        return inner(self, *given, **named)

    counts = []
    for name, one in {"plain": recipe, "twice": recomputing(recipe)}.items():
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EncoderLayer, "forward", forward)
            train(
                TrainRequest(
                    replace(one, train=replace(one.train, steps=2)), str(scenes), tmp_path / name, device="cpu"
                )
            )
        counts.append((sum(seen), len(seen) - sum(seen)))
    # One layer of the text encoder; the others, in the model's own encoder, are not computed again.
    assert counts[1][0] == counts[0][0] + 2
    assert counts[1][1] == counts[0][1]


def test_encoders_without_layers_that_learn_are_refused(recipe: Recipe) -> None:
    frozen = replace(recipe, model={**recipe.model, "frozen": True, "text": "gru"})
    model = build_model(frozen, vocab_size=20)
    with pytest.raises(RefsegError, match="encoders have no layers that learn"):
        recompute_layers(model)


def test_the_bench_measures_it(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps of training are those of the recipe."""
    known: list[torch.nn.Module] = []
    monkeypatch.setattr(bench, "recompute_layers", known.append)
    for one, count in ((recipe, 0), (recomputing(recipe), 1)):
        subject = bench._subject(bench.BenchRequest(recipe=one))
        assert known == [subject.model] * count
