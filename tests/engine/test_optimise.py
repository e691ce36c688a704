"""The learning rate and what it is for."""

from __future__ import annotations

from typing import Any

import pytest

from refseg_cli.config import Recipe, TrainConfig
from refseg_cli.engine.optimise import build_optimizer, schedule
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
