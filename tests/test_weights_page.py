"""docs/weights.md: its recipes exist, its figures are theirs, and every architecture that can be imported is on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from refseg_cli.config import load_recipe

PAGE = (Path(__file__).resolve().parents[1] / "docs/weights.md").read_text("utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\|.*\| `[\w+-]+` \|.*\d\d\.\d\d", line)]
SETS = {"RefCOCO": "refcoco", "RefCOCO+": "refcoco+", "gRefCOCO": "grefcoco"}


def cells(row: str) -> tuple[str, str, str]:
    """The recipe, the published figures and the protocol."""
    *_, recipe, published, protocol = (cell.strip() for cell in row.strip("|").split("|"))
    return recipe.strip("`"), published, protocol.strip("`")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: cells(row)[0])
def test_figures_are_the_recipes(row: str) -> None:
    name, published, protocol = cells(row)
    paper = load_recipe(name).published
    assert paper.protocol == protocol
    first, *rest = published.split(", ")
    *data, split, value, metric = first.split()
    dataset = SETS[data[0]] if data else paper.trained_on
    for split_, value_ in [(split, value), *(part.split() for part in rest)]:
        assert f"{paper.figures[f'{dataset}/{split_}'][metric]:.2f}" == value_, split_


def test_every_architecture_that_can_be_imported_is_there() -> None:
    from refseg_cli.engine.importing import OFFICIAL

    assert len(ROWS) > 15
    assert {load_recipe(cells(row)[0]).arch for row in ROWS} == set(OFFICIAL)


def test_the_releases_that_can_be_expected_are_the_tables() -> None:
    from refseg_cli.engine.releases import RELEASES

    published = PAGE.partition("## No public weights")[0]
    assert [cells(row)[0] for row in ROWS if row in published] == list(RELEASES)
    assert all(release.sha256 == "" for release in RELEASES.values())  # or the page says so no more


def test_every_zero_shot_family_is_there() -> None:
    from refseg_cli.segmenters.zero_shot import DETECTORS, WHOLE

    part = PAGE.partition("## Zero-shot families")[2].partition("## What cannot be imported")[0]
    names = re.findall(r"^refseg eval --model hf:(\S+)", part, re.MULTILINE)
    known = "".join(names).lower().replace("-", "")
    families = {name.partition("_")[0].removeprefix("mm-").replace("-", "") for name in (*WHOLE, *DETECTORS)}
    assert len(names) == len(families) == 5
    assert all(family in known for family in families)


def test_every_command_names_recipes_of_its_architecture() -> None:
    commands = re.findall(r"refseg import \S+ --arch (\w+) --recipe (\S+)", PAGE)
    assert len(commands) == 4
    assert all(load_recipe(recipe).arch == arch for arch, recipe in commands)
