"""The mean of two runs' weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pictures import RECIPE

from refseg_cli import checkpoint
from refseg_cli.bundled.average import average
from refseg_cli.data.text import build_tokenizer
from refseg_cli.errors import RefsegError
from refseg_cli.models import build_model

FACTS = {"step": 3, "epoch": 1, "data": "test", "scores": {"gIoU": 99.0}, checkpoint.BLIND: True}


def _run(folder: Path, seed: int, words: str = "a dog", **model: object) -> str:
    torch.manual_seed(seed)
    recipe, tokenizer = replace(RECIPE, model={**RECIPE.model, **model}), build_tokenizer(RECIPE.text, [words])
    checkpoint.save(
        folder / "best", build_model(recipe, vocab_size=tokenizer.vocab_size), recipe, tokenizer, info=FACTS
    )
    return str(folder)


def test_weights_are_the_mean_and_scores_are_neithers(tmp_path: Path) -> None:
    one, two = _run(tmp_path / "one", 1), _run(tmp_path / "two", 2)
    average(one, two, str(tmp_path / "out"))
    first, second, mean = (checkpoint.load(run) for run in (one, two, tmp_path / "out"))
    weights = [loaded.model.state_dict() for loaded in (first, second, mean)]
    for a, b, between in zip(*(w.values() for w in weights), strict=True):
        torch.testing.assert_close(between, (a + b) / 2 if a.is_floating_point() else b)
    assert any(not torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    assert (mean.recipe, mean.info["step"], mean.info["scores"]) == (second.recipe, 3, {})
    assert mean.info[checkpoint.BLIND] is True, "a mean with a control is none that sees"


def test_words_that_only_the_second_knows_are_its_own(tmp_path: Path) -> None:
    one, two = _run(tmp_path / "one", 1), _run(tmp_path / "two", 2, "a dog zebra")
    average(one, two, str(tmp_path / "out"))
    first, second, mean = (checkpoint.load(run).model.state_dict() for run in (one, two, tmp_path / "out"))
    (name,) = (name for name, value in first.items() if value.shape != second[name].shape)
    known = len(first[name])
    torch.testing.assert_close(mean[name][:known], (first[name] + second[name][:known]) / 2)
    assert torch.equal(mean[name][known:], second[name][known:])
    assert len(mean[name]) == known + 1


def test_what_has_no_mean_is_refused(tmp_path: Path) -> None:
    one = _run(tmp_path / "one", 1)
    for other in (_run(tmp_path / "cat", 1, "a cat"), _run(tmp_path / "larger", 1, query_count=3)):
        with pytest.raises(RefsegError, match="which have no mean"):
            average(one, other, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
