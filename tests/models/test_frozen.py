"""A frozen backbone records nothing for gradients, whichever model it is in, and the rest learns as if it did."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from test_contract import awake, batch_of, double, recipe_of
from torch import Tensor, nn
from variants import MODULES

FUSED = {"lavt", "rela", "cgformer"}  # gradients go back to language through the later stages


def frozen_model(variant: str) -> nn.Module:
    recipe = recipe_of(variant)
    return awake(replace(recipe, model={**recipe.model, "frozen": True})).train()


def learns(model: nn.Module) -> dict[str, Tensor]:
    """One step's gradients, in float64."""
    torch.manual_seed(5)
    batch = double(batch_of())
    model.double().zero_grad()
    sum(model.losses(model(batch), batch).values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("arch", MODULES)
def test_a_frozen_backbone_records_nothing(arch: str) -> None:
    model = frozen_model(arch)
    backbone, found = model.pretrained_modules()[0], []
    for module in backbone.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, given, out: found.append((torch.is_grad_enabled(), out.grad_fn)))
    gradients = learns(model)
    assert found
    recorded = [graph is not None for _, graph in found]
    assert recorded == [learning for learning, _ in found]
    if arch in FUSED:
        first = recorded.index(True)
        assert first > 0
        assert all(recorded[first:])
    else:
        assert not any(recorded)
    assert gradients
    assert not any(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("variant", ["deris timm swin", "lavt timm swin"])
def test_the_rest_learns_the_same(variant: str) -> None:
    """As with a backbone that records what nobody asks for."""
    model = frozen_model(variant)
    found, recording = learns(model), deepcopy(model)
    for module in recording.modules():
        for name in ("forward", "stage", "of_clips"):
            module.__dict__.pop(name, None)
    expected = learns(recording)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=1e-8, msg=name)


def test_a_copy_of_a_frozen_backbone_is_one_of_its_own() -> None:
    """The moving average of a model is a copy, and is not to answer with the weights of the moment."""
    backbone = frozen_model("vlt").pretrained_modules()[0]
    other, images = deepcopy(backbone), torch.randn(1, 3, 64, 96)
    before = other(images)[0]
    with torch.no_grad():
        backbone.stem[0].weight.zero_()
    torch.testing.assert_close(other(images)[0], before, atol=0, rtol=0)
    assert not torch.equal(backbone(images)[0], before)
