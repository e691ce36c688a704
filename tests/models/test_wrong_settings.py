"""Numbers out of place in [model] and data.size: the model works with them, or a line names the setting."""

from __future__ import annotations

import re
import typing
from dataclasses import replace
from math import nan
from typing import Any

import pytest
import torch
from test_contract import VOCABULARY, batch_of, recipe_of

from refseg_cli.config import ARCHITECTURES, Recipe
from refseg_cli.errors import RefsegError
from refseg_cli.models import SIDES, build_model, config_class

HUGE = 10**12
# Settings that are told by their partner.
PARTNERS = {"grid": "small", "patch": "small", "backbone_channels": "pwam_heads"}
TOO_DEAR = {"stride"}  # with 1, attention over every pixel: it works, but for gigabytes


def numeric(arch: str) -> dict[str, Any]:
    """Fields of the architecture's Config that are numbers, and what they are in the recipe of the tests."""
    made, given = config_class(arch)(), recipe_of(arch).model
    hints = typing.get_type_hints(config_class(arch))
    fields = {name: given.get(name, getattr(made, name)) for name, kind in hints.items()}
    return {
        name: value
        for name, value in fields.items()
        if re.search("int|float", str(hints[name])) and not isinstance(value, str | bool)
    }


def works(recipe: Recipe) -> None:
    """Forward, losses, backward."""
    torch.manual_seed(0)
    model, batch = build_model(recipe, vocab_size=VOCABULARY).train(), batch_of()
    sum(model.losses(model(batch), batch).values()).backward()  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_number_of_the_model_ends_as_an_internal_error(arch: str) -> None:
    recipe, unnamed = recipe_of(arch), []
    for name, usual in numeric(arch).items():
        for wrong in (0, -1, 1, HUGE, nan, "x"):
            value = [wrong] * len(usual) if isinstance(usual, list | tuple) else wrong
            if wrong == 1 and name in TOO_DEAR:
                continue
            try:
                works(replace(recipe, model={**recipe.model, name: value}))
            except RefsegError as error:
                if not re.search(rf"\b({name}|{PARTNERS.get(name, name)})\b", str(error)):
                    unnamed.append(f"{name} = {value}: {error}")
    assert unnamed == []


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_inputs_that_are_too_small_are_refused(arch: str) -> None:
    recipe = recipe_of(arch)
    for size in ((1, 1), (3, 3), (7, 50), (64, 1), *([(64, 65)] if SIDES.get(arch, (0, 1))[1] > 1 else [])):
        with pytest.raises(RefsegError, match=rf"data\.size: \[{size[0]}, {size[1]}\]: {arch} takes sides of at least"):
            build_model(replace(recipe, data=replace(recipe.data, size=size)), vocab_size=VOCABULARY)
