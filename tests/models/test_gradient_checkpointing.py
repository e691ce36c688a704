"""Layers that compute again what they do not keep: the same losses, gradients and statistics, from less memory."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from test_contract import MAX_TOKENS, SIZE, SMALL, VOCABULARY, batch_of, recipe_of
from torch import Tensor, nn

from refseg_cli.config import ARCHITECTURES, Recipe, load_recipe
from refseg_cli.engine.recomputing import encoder_layers, recompute_layers
from refseg_cli.layers import norm
from refseg_cli.layers.norm import synchronised
from refseg_cli.models import build_model, config_class


def tiny(arch: str) -> Recipe:
    """The architecture's tiny recipe with dropout, for the batch of the contract."""
    recipe = load_recipe(f"{arch}-tiny")
    dropout = {"dropout": 0.2} if hasattr(config_class(arch), "dropout") else {}
    data = replace(recipe.data, size=SIZE, small=SMALL)
    return replace(
        recipe, model={**recipe.model, **dropout}, data=data, text=replace(recipe.text, max_tokens=MAX_TOKENS)
    )


def built(recipe: Recipe) -> nn.Module:
    torch.manual_seed(3)
    return build_model(recipe, vocab_size=VOCABULARY).train()


def trained(model: nn.Module, steps: int = 2) -> list[Tensor]:
    """Losses and gradients of each step, and what the model has in the end."""
    batch = replace(batch_of(), categories=torch.ones(2, *SIZE, dtype=torch.int64))  # which align learns, too
    found: list[Tensor] = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        torch.manual_seed(step)  # dropout and stochastic depth
        loss = torch.stack(list(model.losses(model(batch), batch).values())).sum()
        loss.backward()
        found += [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
        optimizer.zero_grad()
    return found + [tensor.clone() for tensor in model.state_dict().values()]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_tiny_recipe_trains_as_without(arch: str) -> None:
    model = built(tiny(arch))
    expected = trained(deepcopy(model))
    recompute_layers(model)
    assert_equal(trained(model), expected)


@pytest.mark.parametrize("variant", ["cgformer timm swin, bert", "deris", "rela R50", "asda CLIP"])
def test_stochastic_depth_and_encoders_of_others_as_without(variant: str) -> None:
    recipe = recipe_of(variant)
    model = built(replace(recipe, model={**recipe.model, "drop_path": 0.5}))
    expected = trained(deepcopy(model))
    recompute_layers(model)
    assert_equal(trained(model), expected)


def test_norms_of_several_processes_see_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a group of one."""
    monkeypatch.setattr(norm, "_of_all", lambda values: values[None])
    model = synchronised(built(tiny("vlt")))
    expected = trained(deepcopy(model))
    recompute_layers(model)
    assert_equal(trained(model), expected)


def test_layers_keep_what_they_were_given_alone() -> None:
    """Of the maps inside a layer nothing waits for the backward pass."""
    model = built(tiny("vlt"))
    kept = []
    for recomputed in (False, True):
        if recomputed:
            recompute_layers(model)
        seen: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, seen=seen: seen.append(x.nbytes) or x, lambda x: x):
            model.pretrained_modules()[0](batch_of().images)
        kept.append(sum(seen))
    assert kept[1] < kept[0] / 3


def test_a_copy_computes_with_its_own_weights() -> None:
    """The moving average of a model is one."""
    model = built(tiny("vlt"))
    recompute_layers(model)
    layer, other = encoder_layers(model)[0], encoder_layers(deepcopy(model))[0]
    x = torch.randn(2, 24, 8, 8)
    before = other(x)
    with torch.no_grad():
        layer.conv1[0].weight.zero_()
    torch.testing.assert_close(other(x), before, atol=0, rtol=0)
    assert not torch.equal(layer(x), before)
