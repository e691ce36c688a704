"""Recipes: what is written is what is read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from refseg_cli.config import (
    ARCHITECTURES,
    Recipe,
    TrainConfig,
    build,
    load_recipe,
    recipe_names,
    recipe_text,
    to_table,
)
from refseg_cli.errors import RefsegError
from refseg_cli.metrics.protocols import BY_NAME

OURS = (
    "-tiny",
    "-photos",
    "-photos-320",
    "-photos-pasted",
    "-photos-parts",
)  # small models of our own, with no paper's settings


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_its_model_table_is_read(name: str) -> None:
    from refseg_cli.models import config_class

    recipe = load_recipe(name)
    build(config_class(recipe.arch), recipe.model, name)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_reproduces_and_how(name: str) -> None:
    header, recipe = recipe_text(name).partition("\n\n")[0], load_recipe(name)
    published = recipe.published
    assert header.startswith("# ")
    assert published.row
    if published.row.startswith("ours"):
        assert not published.figures
        return
    assert f"--recipe {name} " in header
    assert published.paper
    assert published.table
    assert published.metric
    assert all(figures for figures in published.figures.values())
    assert published.figures
    assert published.protocol in ("", *BY_NAME)
    known = {metric.name for metric in BY_NAME[published.protocol].metrics} if published.protocol else None
    for figures in published.figures.values():
        assert known is None or set(figures) <= known


def test_a_union_of_data_sets_is_none_of_those_tested_on() -> None:
    assert load_recipe("caris-combined").published.trained_on == "refcocom"
    assert load_recipe("caris-refcoco").published.trained_on == "refcoco"


@pytest.mark.parametrize("name", ["cgformer-refcoco", "deris-b-refcoco"])
def test_adam_goes_by_the_largest_moment_where_the_official_code_does(name: str) -> None:
    assert load_recipe(name).train.amsgrad


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
        ("data.resize=stretch", "one of: letterbox, squash, warp"),
        ("train.lr", "expected key=value"),
        ("arch.name=1", "is not a table"),
        ("data=3", "expected a table"),
        ("train.weight_decay=nan", "weight_decay: nan is not a number from 0"),
        ("train.backbone_lr=-1", "backbone_lr: -1.0 is not"),
        ("train.power=nan", "power: nan is not"),
        ("train.gamma=inf", "gamma: inf is not"),
        ("train.clip_norm=nan", "clip_norm: nan is not"),
        ("train.warmup_steps=-3", "warmup_steps: -3 is not"),
        ("train.eval_limit=-1", "eval_limit: -1 is not"),
        ("train.betas=[nan, 0.9]", "betas[0]: nan is not a number from 0 to below 1"),
        ("train.betas=[0.9, 1.0]", "betas[1]: 1.0 is not a number from 0 to below 1"),
        ("train.milestones=[3, -1]", "milestones[1]: -1 is not a number from 1"),
        ("train.seed=-1", "seed: -1 is not"),
        ("train.seed=99999999999999999999", "seed: 99999999999999999999 is not a number from 0 to below 2^63"),
        ("train.different_object=nan", "different_object: nan is not a number from 0 to 1"),
        ("text.max_tokens=0", "max_tokens: 0 is not a number from 1 to 65536"),
        ("text.min_count=-1", "min_count: -1 is not"),
        ("data.std=[0.2, 0, 0.2]", "data: std[1]: 0.0 is not a number above 0"),
        ("data.std=[0.2, nan, 0.2]", "data: std[1]: nan is not a number above 0"),
        ("data.mean=[inf, 0, 0]", "data: mean[0]: inf is not a number"),
        ("data.size=[-1, 416]", "data: size[0]: -1 is not a number from 1 to 65536"),
        ("data.flip=1.5", "data: flip: 1.5 is not a number from 0 to 1"),
        ("train.accumulate=0", "train: accumulate: 0 is not a number from 1"),
        ("train.save_every_steps=0", "train: save_every_steps: 0 is not a number from 1"),
        ("train.lr=nan", "train: lr: nan is not a number from 0"),
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


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.dim=-4", "vlt: [model]: dim: -4 is not a number from 1 to 65536"),
        ("model.heads=0", "vlt: [model]: heads: 0 is not a number from 1 to 65536"),
        ("model.mask_dims=[]", "vlt: [model]: mask_dims: () is not a list of one or more"),
        ("model.mask_dims=[0]", "vlt: [model]: mask_dims[0]: 0 is not a number from 1 to 65536"),
        ("model.heads=7", "vlt: cannot build the model: dim 64 is no multiple of heads 7"),
    ],
)
def test_sizes_that_make_no_model_are_named(override: str, says: str) -> None:
    from refseg_cli.models import build_model

    with pytest.raises(RefsegError) as caught:
        build_model(load_recipe("vlt-tiny", [override]), vocab_size=9)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ("asda", "low_layers"),
        ("asda", "mid_layers"),
        ("caris", "pools"),
        ("jmceln", "mask_dims"),
        ("m3att", "mask_dims"),
    ],
)
def test_lists_that_a_model_takes_something_from_are_not_empty(recipe: str, key: str) -> None:
    from refseg_cli.models import build_model

    with pytest.raises(RefsegError, match=rf"{key}: \(\) is not a list of one or more"):
        build_model(load_recipe(f"{recipe}-tiny", [f"model.{key}=[]"]), vocab_size=9)


def test_missing_recipe_names_the_nearest_or_says_where_all_are() -> None:
    with pytest.raises(RefsegError, match="did you mean 'vlt-tiny'"):
        load_recipe("vlt-tinny")
    with pytest.raises(RefsegError, match=r"unknown recipe 'zebra' \(`refseg recipes list`"):
        load_recipe("zebra")


def test_a_recipe_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfearch")
    with pytest.raises(RefsegError, match=r"mine\.toml: not valid TOML"):
        load_recipe(str(tmp_path / "mine.toml"))


def write(folder: Path, **recipes: str) -> None:
    for name, text in recipes.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def test_recipe_holds_its_base_where_it_says_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        far='arch = "vlt"\n[model]\ndim = 32\nheads = 2\nmask_dims = [8, 4]\n[train]\nlr = 1.0\n',
        near='base = "far.toml"\n[model]\ndim = 64\nmask_dims = [6]\n[data]\nsize = [64, 96]\n',
        mine='base = "near.toml"\n[model]\nheads = 4\n',
    )
    recipe = load_recipe(str(tmp_path / "mine.toml"), ["train.epochs=3"])
    assert recipe.arch == "vlt"
    assert recipe.model == {"dim": 64, "heads": 4, "mask_dims": [6]}
    assert recipe.data.size == (64, 96)
    assert (recipe.train.lr, recipe.train.epochs) == (1.0, 3)


def test_published_figures_are_not_inherited(tmp_path: Path) -> None:
    write(tmp_path, mine='base = "vlt-darknet53-refcoco"\n[published]\nrow = "mine"\n')
    recipe, base = load_recipe(str(tmp_path / "mine.toml")), load_recipe("vlt-darknet53-refcoco")
    assert (recipe.published.row, recipe.published.table, recipe.published.figures) == ("mine", "", {})
    assert base.published.figures
    assert (recipe.model, recipe.data, recipe.text, recipe.train) == (base.model, base.data, base.text, base.train)


@pytest.mark.parametrize(
    ("recipes", "says"),
    [
        ({"mine": 'base = "mine.toml"'}, "mine.toml: base: goes in a circle: mine.toml -> mine.toml"),
        (
            {"mine": 'base = "b.toml"', "b": 'base = "c.toml"', "c": 'base = "b.toml"'},
            "c.toml: base: goes in a circle: mine.toml -> b.toml -> c.toml -> b.toml",
        ),
        ({"mine": 'base = "vlt-tinny"'}, "mine.toml: base: unknown recipe 'vlt-tinny' (did you mean 'vlt-tiny'?)"),
        ({"mine": 'base = "b.toml"', "b": 'base = "vlt-tinny"'}, "b.toml: base: unknown recipe 'vlt-tinny'"),
        ({"mine": 'base = "b.toml"'}, "b.toml: no such recipe file"),
        ({"mine": "base = 3"}, "mine.toml: base: expected a value of type str, not 3"),
        ({"mine": 'base = "b.toml"', "b": "="}, "mine.toml: base: b.toml: not valid TOML"),
        ({"mine": 'base = "vlt-tiny"\n[model]\ndim = 1\n[train]\nlearning = 1'}, "mine.toml: train: unknown key"),
    ],
)
def test_base_that_cannot_be_followed_is_named(tmp_path: Path, recipes: dict[str, str], says: str) -> None:
    write(tmp_path, **recipes)
    with pytest.raises(RefsegError) as caught:
        load_recipe(str(tmp_path / "mine.toml"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("name", [name for name in recipe_names() if not name.endswith(OURS)])
def test_every_recipe_reads_the_form_of_a_sentence_that_its_papers_code_does(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.text.field == ("raw" if recipe.arch in ("lavt", "rela") else "sent")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_its_model_at_full_size(name: str) -> None:
    """On the meta device: shapes without weights."""
    import torch

    from refseg_cli.checkpoint import without_downloads
    from refseg_cli.engine.bench import VOCABULARY
    from refseg_cli.models import build_model

    recipe = without_downloads(load_recipe(name))
    with torch.device("meta"):
        model = build_model(recipe, vocab_size=VOCABULARY[recipe.text.tokenizer])
    assert sum(p.numel() for p in model.parameters()) > (1e6 if name.endswith(OURS) else 3e7)


def test_deep_nesting_is_no_internal_error(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('arch = "vlt"\n[model]\ndim = ' + "[" * 20_000)
    with pytest.raises(RefsegError, match=r"mine\.toml: not valid TOML"):
        load_recipe(str(tmp_path / "mine.toml"))
    with pytest.raises(RefsegError, match="expected a value of type int"):
        load_recipe("vlt-tiny", ["train.epochs=" + "[" * 20_000])


@pytest.mark.parametrize("table", ["data", "text", "train"])
@pytest.mark.parametrize("value", ["0", "-1", "1", "10000000000000000000000", "nan", "inf", "x", "true", "[]"])
def test_a_number_out_of_place_is_taken_or_its_key_is_named(table: str, value: str) -> None:
    usual, unnamed = to_table(load_recipe("vlt-tiny"))[table], []
    numbers = {name: one for name, one in usual.items() if isinstance(one, int | float | list | tuple)}
    for name, one in numbers.items():
        wrong = f"[{', '.join([value] * len(one))}]" if isinstance(one, list | tuple) else value
        try:
            load_recipe("vlt-tiny", [f"{table}.{name}={wrong}"])
        except RefsegError as error:
            if f"vlt-tiny.toml: {table}: {name}" not in str(error):
                unnamed.append(str(error))
    assert len(numbers) > 2
    assert unnamed == []
    with pytest.raises(RefsegError, match=f"{table}: {next(iter(numbers))}"):
        load_recipe("vlt-tiny", [f"{table}.{next(iter(numbers))}=-{10**30}"])
