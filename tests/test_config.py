"""Recipes: what is written is what is read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from refseg_cli.config import ARCHITECTURES, Recipe, TrainConfig, build, load_recipe, recipe_names, to_table
from refseg_cli.errors import RefsegError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_its_model_table_is_read(name: str) -> None:
    from refseg_cli.models import config_class

    recipe = load_recipe(name)
    build(config_class(recipe.arch), recipe.model, name)
    assert recipe.published.row


def test_architectures_are_those_with_a_model() -> None:
    from refseg_cli.models import MODELS

    assert tuple(sorted(MODELS)) == ARCHITECTURES


def test_table_is_the_inverse_of_build() -> None:
    recipe = load_recipe("vlt-tiny")
    assert build(Recipe, to_table(recipe), "again") == recipe


def test_override_reaches_the_field_with_its_type() -> None:
    recipe = load_recipe("vlt-tiny", ["train.lr=2", "data.size=[64, 96]", "text.vocab=a/b", "model.dim=32"])
    assert recipe.train.lr == 2.0
    assert isinstance(recipe.train.lr, float)
    assert recipe.data.size == (64, 96)
    assert recipe.text.vocab == "a/b"
    assert recipe.model["dim"] == 32


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.learning=1", "unknown key 'learning'"),
        ("train.epoch=1", "did you mean 'epochs'?"),
        ("train.epochs=1.5", "expected a value of type int, not 1.5"),
        ("train.epochs=true", "expected a value of type int, not True"),
        ("data.size=[64]", "expected a list of 2"),
        ("data.resize=stretch", "one of: letterbox, squash"),
        ("train.lr", "expected key=value"),
        ("arch.name=1", "is not a table"),
        ("data=3", "expected a table"),
    ],
)
def test_wrong_setting_is_named(override: str, says: str) -> None:
    with pytest.raises(RefsegError) as caught:
        load_recipe("vlt-tiny", [override])
    assert says in str(caught.value)


def test_unknown_model_key_is_refused_where_it_is_read() -> None:
    from refseg_cli.models import build_model

    with pytest.raises(RefsegError, match="did you mean 'dice_weight'"):
        build_model(load_recipe("vlt-tiny", ["model.dice_weigth=1.0"]), vocab_size=9)


def test_missing_recipe_lists_the_choices() -> None:
    with pytest.raises(RefsegError, match="did you mean 'vlt-tiny'"):
        load_recipe("vlt-tinny")


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("arch = ", encoding="utf-8")
    with pytest.raises(RefsegError, match=r"mine\.toml: not valid TOML"):
        load_recipe(str(path))


def test_every_training_setting_has_a_reader() -> None:
    root = Path(__file__).resolve().parents[1] / "refseg_cli"
    source = "".join(p.read_text("utf-8") for p in root.rglob("*.py") if p.name != "config.py")
    unread = [name for name in TrainConfig.__dataclass_fields__ if f".{name}" not in source]
    assert unread == []


@pytest.mark.parametrize("name", [n for n in recipe_names() if n != "vlt-tiny"])
def test_every_recipe_builds_its_model_at_full_size(name: str) -> None:
    """On the meta device: shapes without weights."""
    import torch

    from refseg_cli.models import build_model, config_class

    off = [
        f"model.{key}=false"
        for key in ("pretrained", "text_pretrained")
        if key in config_class(load_recipe(name).arch).__dataclass_fields__
    ]
    recipe = load_recipe(name, off)
    with torch.device("meta"):
        model = build_model(recipe, vocab_size=30_522)
    assert sum(p.numel() for p in model.parameters()) > 1e6
