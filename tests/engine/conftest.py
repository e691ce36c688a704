"""An untrained model on disk: its answers mean nothing, but they are answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from refseg_cli import checkpoint
from refseg_cli.config import DataConfig, Recipe, TextConfig
from refseg_cli.data.text import build_tokenizer
from refseg_cli.models import build_model

MODEL = {
    "backbone": "convnet",
    "backbone_channels": (4, 6, 8, 8, 8),
    "pretrained": False,
    "text": "transformer",
    "dim": 16,
    "heads": 2,
    "hidden": 24,
    "query_count": 3,
    "mask_dims": (8, 6),
    "no_target_head": True,
}


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a VLT of a few thousand weights, 64 x 96 pixels and 6 tokens, that calls itself one of scenes."""
    folder = tmp_path_factory.mktemp("untrained") / "vlt"
    text = TextConfig(max_tokens=6)
    recipe = Recipe(arch="vlt", model=MODEL, data=DataConfig(size=(64, 96)), text=text)
    tokenizer = build_tokenizer(text, ["two people on left", "the red car", "a dog and a cat", "the big one"])
    torch.manual_seed(0)
    model = build_model(recipe, vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        model.mask_decoder.out.weight.mul_(20)  # so that masks have an inside and an outside
    thresholds = checkpoint.Thresholds(exists=0.4)
    checkpoint.save(folder, model, recipe, tokenizer, thresholds=thresholds, info={"data": "scenes", "name": "tiny"})
    return folder
