"""DeRIS' official files: names and shapes, on the meta device."""

from __future__ import annotations

import pytest
import torch
from deris_official import SMALL, B, L, Official, layout, numbers
from variants.deris import TINY

from refseg_cli.checkpoint import without_downloads
from refseg_cli.config import build, load_recipe
from refseg_cli.errors import RefsegError
from refseg_cli.layers.keymap import rename
from refseg_cli.models import build_model
from refseg_cli.models.deris import DeRIS, DeRISConfig
from refseg_cli.models.deris_official import OFFICIAL_KEYS, official_config

SIZE = (64, 96)


@pytest.mark.parametrize(
    ("of", "recipe", "tensors", "millions"),
    [(B, "deris-b-refcoco", 1249, 291.46), (L, "deris-l-refcoco", 1729, 781.54)],
)
def test_the_official_layout_imports_whole(of: Official, recipe: str, tensors: int, millions: float) -> None:
    """On the meta device: every tensor finds its place or has a reason, and the recipe has the file's sizes."""
    shapes = layout(of)
    assert len(shapes) == tensors
    assert round(numbers(of) / 1e6, 2) == millions
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    weights["head.criterion.empty_weight"] = torch.empty(2, device="meta")
    renamed, found, plain = rename(weights, OFFICIAL_KEYS), official_config(weights), load_recipe(recipe)
    assert renamed.unknown == []
    assert all(renamed.dropped.values())
    given = {**plain.model, "backbone": plain.model["backbone"].partition(".")[0]}
    assert {key: given.get(key, getattr(DeRISConfig(), key)) for key in found} == found
    with torch.device("meta"):
        model = build_model(without_downloads(plain), vocab_size=64_001)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in renamed.weights.items()} == expected


def test_more_queries_are_seen_in_the_file() -> None:
    shapes = layout(SMALL)
    found = official_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert (found["queries"], found["grid"], found["width"], found["width_heads"]) == (5, [4, 4], 128, 2)


def test_a_file_without_beit3_is_named() -> None:
    with pytest.raises(RefsegError, match="no BEiT-3 under `understanding_branch"):
        official_config({"backbone.weight": torch.zeros(1)})


def test_a_tokenizer_of_more_words_than_the_table_is_named() -> None:
    with pytest.raises(ValueError, match="a table of 20 words"):
        DeRIS(build(DeRISConfig, {**TINY, "vocabulary": 20}, "test"), vocab_size=21, max_tokens=6, size=SIZE)
    with pytest.raises(ValueError, match="phrases of 10 tokens"):
        DeRIS(build(DeRISConfig, TINY, "test"), vocab_size=21, max_tokens=10, size=SIZE)
