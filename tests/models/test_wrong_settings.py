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

from refseg_cli import models
from refseg_cli.config import ARCHITECTURES, Recipe
from refseg_cli.engine.stages import Subject
from refseg_cli.errors import RefsegError
from refseg_cli.models import build_model, config_class

Size = tuple[int, int]
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
        is_list = isinstance(usual, list | tuple)
        for wrong in (0, -1, 1, HUGE, nan, "x", *([[]] if is_list else [])):
            value = [wrong] * len(usual) if is_list and wrong != [] else wrong
            if wrong == 1 and name in TOO_DEAR:
                continue
            try:
                works(replace(recipe, model={**recipe.model, name: value}))
            except RefsegError as error:
                if not re.search(rf"\b({name}|{PARTNERS.get(name, name)})\b", str(error)):
                    unnamed.append(f"{name} = {value}: {error}")
    assert unnamed == []


# Of each architecture sizes that it takes, the smallest among them, and such as fail where nobody refuses them.
TAKEN: dict[str, tuple[Size, ...]] = {
    "cgformer": ((32, 48), (48, 48)),
    "cris": ((32, 32), (32, 64)),
    "isfp": ((32, 32), (32, 64)),
    "lavt": ((32, 33), (40, 40)),
    "rela": ((32, 33), (40, 40)),
}
FAILING: dict[str, tuple[Size, ...]] = {
    "cgformer": ((32, 32), (40, 64)),
    "cris": ((48, 48), (64, 65)),
    "isfp": ((48, 48), (64, 65)),
    "lavt": ((32, 32),),
    "rela": ((32, 32),),
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_sizes_on_both_sides_of_what_an_architecture_takes(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(arch)

    def answered(size: Size) -> None:
        made = replace(recipe, data=replace(recipe.data, size=size))
        subject = Subject(build_model(made, vocab_size=VOCABULARY).train(), made, arch, VOCABULARY)
        batch = subject.annotated(2, 2)
        with torch.no_grad():
            terms = subject.model.losses(subject.model(batch), batch)  # type: ignore[operator]
        assert all(torch.isfinite(term) for term in terms.values())

    for size in TAKEN.get(arch, ((32, 32), (33, 47))):
        answered(size)
    wrong = rf"{arch} takes sides of at least 32"
    for size in ((1, 1), (3, 3), (7, 50), (64, 1), (31, 64), *FAILING.get(arch, ())):
        with pytest.raises(RefsegError, match=rf"data\.size: \[{size[0]}, {size[1]}\]: {wrong}"):
            answered(size)
    monkeypatch.setattr(models, "_check_size", lambda recipe: None)
    for size in FAILING.get(arch, ()):
        with pytest.raises((ValueError, RuntimeError, RefsegError)):
            answered(size)
