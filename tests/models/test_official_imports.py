"""Every architecture with official weights: a file as its authors' trainer writes it, imported and loaded again."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deris_official import SMALL, layout
from goldens import filled, official_fill
from sentencepieces import PIECES, written
from torch import Tensor

from refseg_cli import checkpoint
from refseg_cli.config import DataConfig, Recipe, TextConfig
from refseg_cli.engine.importing import OFFICIAL, ImportRequest, import_checkpoint
from refseg_cli.layers.keymap import rename

Weights = dict[str, Tensor]


def lavt_file(weights: Weights) -> dict[str, Any]:
    bert = {key: tensor for key, tensor in weights.items() if key.startswith(("embeddings.", "encoder."))}
    model = {key: tensor for key, tensor in weights.items() if key not in bert}
    return {"model": model, "bert_model": bert, "epoch": 39, "args": argparse.Namespace(swin_type="base", lr=5e-5)}


def rela_file(weights: Weights) -> dict[str, Any]:
    return {"model": weights, "iteration": 149_999, "scheduler": {"last_epoch": 150_000}}


def cris_file(weights: Weights) -> dict[str, Any]:
    return {"epoch": 50, "best_iou": 0.7, "state_dict": {f"module.{key}": t for key, t in weights.items()}}


def cgformer_file(weights: Weights) -> dict[str, Any]:
    return {"epoch": 50, "cur_iou": torch.tensor(0.7), "prec": {"Pr@50": 0.8}, "model_state_dict": weights}


def asda_file(weights: Weights) -> dict[str, Any]:
    return {"epoch": 32, "state_dict": weights, "best_iou": np.float64(0.7), "optimizer": {"param_groups": []}}


def deris_file(weights: Weights) -> dict[str, Any]:
    head = {"head.criterion.empty_weight": torch.tensor([1.0, 0.1])}
    scores = {"mask_acc": 0.8}
    return {"state_dict": {f"module.{key}": t for key, t in (weights | head).items()}, "epoch": 20, "scores": scores}


def caris_file(weights: Weights) -> dict[str, Any]:
    return {"model": weights, "epoch": 49, "args": argparse.Namespace(swin_type="base"), "scaler": {"scale": 65536.0}}


BERT = TextConfig(tokenizer="bert", vocab="bert-base-uncased", max_tokens=20)
CLIP = TextConfig(tokenizer="clip", vocab="bpe_simple_vocab_16e6.txt.gz", max_tokens=17)
FILES: dict[str, tuple[Callable[[Weights], dict[str, Any]], TextConfig, int, float]] = {
    "lavt_swin-t": (lavt_file, BERT, 480, 0.5),
    "lavt_swin-b": (lavt_file, BERT, 480, 0.5),
    "rela_swin-b": (rela_file, BERT, 480, 0.5),
    "cris_r50": (cris_file, CLIP, 416, 0.35),
    "cris_r101": (cris_file, CLIP, 416, 0.35),
    "caris": (caris_file, BERT, 448, 0.5),
    "cgformer": (cgformer_file, BERT, 480, 0.5),
    "asda": (asda_file, CLIP, 416, 0.35),
}


@pytest.mark.parametrize("nested", [True, False])
def test_deris_file_is_imported_whole(nested: bool, tmp_path: Path) -> None:
    """At a smaller size, as no rule of the goldens fills its full one; as a trainer writes it, and bare."""
    (tmp_path / "beit3.spm").write_bytes(written(PIECES))
    weights = {key: t.float() if t.is_floating_point() else t for key, t in filled("deris", layout(SMALL)).items()}
    torch.save(deris_file(weights) if nested else weights, tmp_path / "official.pth")
    text = TextConfig("beit3", 8, str(tmp_path / "beit3.spm"))
    data = DataConfig(size=(96, 128), small=(64, 64), resize="squash", smooth=False)
    recipe = Recipe(arch="deris", data=data, text=text, model={"score_threshold": 0.7})
    report = import_checkpoint(ImportRequest(tmp_path / "official.pth", recipe, tmp_path / "out"))
    (tmp_path / "official.pth").unlink()
    renamed = rename(weights, OFFICIAL["deris"].rules)
    assert set(report.dropped) - set(renamed.dropped) == ({"head.criterion.empty_weight"} if nested else set())
    loaded = checkpoint.load(tmp_path / "out")
    found = loaded.model.state_dict()
    assert set(found) == set(renamed.weights)
    assert all(torch.equal(found[key], tensor) for key, tensor in renamed.weights.items())
    assert loaded.recipe.model["score_threshold"] == 0.7
    assert loaded.recipe.model["queries"] == SMALL.queries
    assert (loaded.tokenizer.vocab_size, loaded.tokenizer.pad_id) == (len(PIECES) + 1, 1)


@pytest.mark.parametrize("name", [n if n == "cris_r50" else pytest.param(n, marks=pytest.mark.slow) for n in FILES])
def test_official_file_is_imported_whole(name: str, shared: Path, tmp_path: Path) -> None:
    layout, text, side, threshold = FILES[name]
    arch = name.partition("_")[0]
    weights = {key: t.float() if t.is_floating_point() else t for key, t in official_fill(name).items()}
    torch.save(layout(weights), tmp_path / "official.pth")
    text = TextConfig(text.tokenizer, text.max_tokens, str(shared / "vocab" / text.vocab))
    recipe = Recipe(arch=arch, data=DataConfig(size=(side, side)), text=text)
    report = import_checkpoint(ImportRequest(tmp_path / "official.pth", recipe, tmp_path / "out"))
    (tmp_path / "official.pth").unlink()
    renamed = rename(weights, OFFICIAL[arch].rules)
    assert report.dropped == renamed.dropped
    assert all(report.dropped.values())
    loaded = checkpoint.load(tmp_path / "out")
    found = loaded.model.state_dict()
    assert set(found) == set(renamed.weights)
    for key, tensor in renamed.weights.items():
        expected = torch.zeros_like(tensor) if renamed.sources[key].endswith(".lang_weight") else tensor
        assert torch.equal(found[key], expected), key
    assert report.weights == sum(tensor.numel() for tensor in found.values())
    assert loaded.thresholds.mask == threshold
    assert [note[:16] for note in report.notes] == (["lang_weight is 0"] if arch == "rela" else [])


def test_every_official_architecture_is_tried() -> None:
    assert {name.partition("_")[0] for name in FILES} | {"deris"} == set(OFFICIAL)
