"""Every architecture's table `EXPLAIN`: its names exist, and its tensors have the shapes that their kinds promise."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from test_contract import MAX_TOKENS, SIZE, batch_of, model_of
from tokenizers import Tokenizer as Pipeline
from tokenizers.models import WordLevel
from variants import MODULES, VARIANTS

from refseg_cli.data.text import Tokenizer
from refseg_cli.models import MODELS
from refseg_cli.records import Batch, MapKind
from refseg_cli.segmenters.explain import explain, explained, kinds_of

NOTHING_TO_SHOW = {"align"}  # a dot product: its mask is all there is


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    words = {"[PAD]": 0, "[UNK]": 1, **{f"word{n}": n for n in range(2, 20)}}
    return Tokenizer(Pipeline(WordLevel(words, unk_token="[UNK]")), max_tokens=MAX_TOKENS, pad_id=0)


def asked() -> Batch:
    """Of a picture of 32 x 60 pixels in the middle of the input, and one that fills it."""
    sizes, content = torch.tensor([[32, 60], SIZE]), torch.tensor([[8, 0, 48, SIZE[1]], [0, 0, *SIZE]])
    return replace(batch_of(), sizes=sizes, content=content)


@pytest.mark.parametrize("arch", MODELS)
def test_each_has_something_to_show(arch: str) -> None:
    kinds = kinds_of(MODELS[arch][1])
    assert bool(kinds) == (arch not in NOTHING_TO_SHOW)
    assert set(kinds.values()) <= set(get_args(MapKind))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name in MODULES])
def test_everything_it_names_can_be_drawn(variant: str, tokenizer: Tokenizer) -> None:
    model, batch = model_of(variant), asked()
    kinds = kinds_of(model)
    with torch.inference_mode():
        prediction = explained(model, batch)
    assert set(kinds) <= set(prediction.aux)
    shown = list(explain(prediction, batch, kinds, tokenizer, longest=48))
    assert len(shown) == len(batch)
    for maps, size in zip(shown, [(26, 48)] * 3 + [(32, 48)] * 2, strict=True):
        for one in maps:
            assert len(one.values) == len(one.rows) <= one.of
            if one.kind in ("map", "logits", "word_map"):
                height, width = one.values.shape[1:]
                assert height / width == pytest.approx(size[0] / size[1], abs=0.15)
                assert width <= 48


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_are_those_of_the_kinds(variant: str) -> None:
    model, batch = model_of(variant), batch_of()
    with torch.inference_mode():
        prediction = explained(model, batch)
    grids = {"map", "logits", "word_map"}
    for name, kind in kinds_of(model).items():
        if name not in prediction.aux:  # a part that this variant lacks
            continue
        tensor = prediction.aux[name]
        assert len(tensor) in (len(batch), len(batch.images)), name
        assert tensor.dtype.is_floating_point, name
        if kind in grids:
            assert tensor.dim() in (3, 4), name
            assert min(tensor.shape[-2:]) > 1, name
        if kind == "word_map":
            assert tensor.dim() == 4, name
            assert tensor.shape[1] in (MAX_TOKENS, MAX_TOKENS + 1), name
        if kind == "words":
            assert tensor.dim() in (2, 3), name
            assert tensor.shape[-1] in (MAX_TOKENS, MAX_TOKENS + 1), name
        if kind == "weights":
            assert tensor.dim() == 2 or (tensor.dim() == 3 and tensor.shape[2] == 1), name
