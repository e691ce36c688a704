"""The learning rate and what it is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from refseg_cli.config import Recipe, TrainConfig
from refseg_cli.engine.optimise import build_optimizer, schedule, take_moments
from refseg_cli.models import build_model


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({"schedule": "constant"}, 7, 1.0),
        ({"warmup_steps": 10}, 4, 0.5),
        ({"schedule": "poly", "power": 0.9}, 50, 0.5**0.9),
        ({"schedule": "cosine"}, 50, 0.5),
        ({"schedule": "step", "milestones": (2, 4)}, 19, 1.0),
        ({"schedule": "step", "milestones": (2, 4)}, 20, 0.1),
        ({"schedule": "step", "milestones": (2, 4)}, 40, 0.01),
    ],
)
def test_schedule(settings: dict[str, Any], step: int, expected: float) -> None:
    assert schedule(step, 100, 10, TrainConfig(**settings)) == pytest.approx(expected)


def test_optimizer_spares_norms_and_slows_encoders(recipe: Recipe) -> None:
    model = build_model(recipe, vocab_size=9)
    config = TrainConfig(lr=1.0, backbone_lr=0.1, weight_decay=0.5)
    groups = build_optimizer(model, config).param_groups
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert rates[id(model.vision.backbone.stem[0].weight)] == (0.1, 0.5)  # type: ignore[union-attr]
    assert rates[id(model.vision.backbone.stem[1].weight)] == (0.1, 0.0)  # type: ignore[union-attr]
    assert rates[id(model.mask_decoder.out.weight)] == (1.0, 0.5)  # type: ignore[union-attr]
    assert len(rates) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_optimizer_has_the_recipes_numbers(recipe: Recipe, optimizer: str) -> None:
    config = TrainConfig(optimizer=optimizer, betas=(0.8, 0.9), eps=1e-5, amsgrad=True)  # type: ignore[arg-type]
    groups = build_optimizer(build_model(recipe, vocab_size=9), config).param_groups
    assert {(g["betas"], g["eps"], g["amsgrad"]) for g in groups} == {((0.8, 0.9), 1e-5, True)}


class Convolution(nn.Conv2d):
    def pretrained_modules(self) -> list[nn.Module]:
        return []


@pytest.mark.parametrize(("saved", "taken"), [(False, True), (True, False)])
def test_moments_are_taken_over_by_another_kernel_and_another_layout_in_memory(saved: bool, taken: bool) -> None:
    """From weights moved one by one (in pieces) to a fused kernel and channels last, or the other way round: the second
    step is that of an optimiser that took both."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.linspace(-1, 1, 50).sin().view(1, 2, 5, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def built(fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = Convolution(2, 3, 3)
        model.to(memory_format=torch.channels_last if fused else torch.contiguous_format)
        return model, build_optimizer(model, TrainConfig(lr=0.1, shard_model=not fused))

    (first, moved), (second, other), (both, throughout) = built(saved), built(taken), built(taken)
    step(first, moved)
    second.load_state_dict(first.state_dict())
    take_moments(other, moved.state_dict(), lambda moment, weight: torch.empty_like(weight).copy_(moment))
    step(second, other)
    assert [group["fused"] for group in other.param_groups] == [taken, taken]
    for _ in range(2):
        step(both, throughout)
    torch.testing.assert_close(second.weight, both.weight)
