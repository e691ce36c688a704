"""The catalogue of recipes: what is found, in which order, and TOML that says the same as its source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from refseg_cli.app import main
from refseg_cli.config import load_recipe, recipe_names, recipe_text
from refseg_cli.engine import catalogue as module
from refseg_cli.engine.catalogue import Entry, catalogue, whole_text
from refseg_cli.errors import RefsegError


def entry(figures: dict[str, dict[str, float]]) -> Entry:
    return Entry("n", "vlt", "", "", "", "", figures, "")


def test_every_recipe_is_in_the_catalogue_once() -> None:
    assert sorted(e.name for e in catalogue()) == recipe_names()


def test_an_entry_says_what_the_recipe_reproduces() -> None:
    [found] = [e for e in catalogue(arch="vlt", paper="THESIS", table="4.7") if e.name == "vlt-swin-b-refcocog-umd"]
    assert (found.paper, found.table) == ("Liu 2024 (thesis); Ding et al., TPAMI 2022", "4.7")
    assert found.row == "VLT (ours), Swin-B"
    assert found.main_figures == "refcocog-umd IoU 63.49 val, 66.22 test"
    assert found.command.startswith("refseg train --recipe vlt-swin-b-refcocog-umd --data refcocog-umd --out ")


def test_what_acts_in_evaluation_alone_is_not_trained_for() -> None:
    [found] = [e for e in catalogue(arch="isfp") if e.name == "isfp-oracle-mask"]
    assert found.command == (
        "refseg eval --model runs/isfp-darknet53-refcoco --data refcoco --protocol vlt --split val,testA,testB "
        "--set model.oracle=mask"
    )


def test_the_command_is_the_one_of_the_recipes_header() -> None:
    """With the data and the first stage that it needs; weights whose training data nobody else has are imported."""
    found = {e.name: e.command for e in catalogue()}
    assert found["caris-photos"] == "refseg train --recipe caris-photos --data photos --out runs/caris-photos"
    assert "--init runs/vlt-2 --out runs/vlt-tiny" in found["vlt-tiny"]
    imported = {name for name, command in found.items() if command.split()[1] == "import"}
    assert imported == {"caris-combined", *(name for name in found if re.fullmatch("deris-[bl]-.*", name))}
    assert all(f"--recipe {name} " in command for name, command in found.items() if "oracle" not in name)


def test_commands_of_headers_have_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, set[str]] = {}
    for name in recipe_names():
        text = recipe_text(name).partition("\n\n")[0].replace("\\\n#", "")
        for command in re.findall(r"^#(?: Reproduce:)?  +refseg (.*)$", text, re.MULTILINE):
            words = command.split()
            verb = words[: 2 if words[0] == "prepare" else 1]
            if " ".join(verb) not in known:
                assert main([*verb, "--help"]) == 0
                known[" ".join(verb)] = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out))
            assert {word for word in words if word.startswith("-")} <= known[" ".join(verb)], f"{name}: {command}"


def test_a_cross_dataset_figure_is_trained_for_on_the_first_set() -> None:
    [found] = [e for e in catalogue(table="4.6") if e.name == "vlt-masking-random"]
    assert found.main_figures == "refcoco -> refcoco+ IoU 50.08 val"
    assert found.command == "refseg train --recipe vlt-masking-random --data refcoco --out runs/vlt-masking-random"


def test_main_figures_are_the_first_metric_of_each_data_set() -> None:
    figures = {
        "a/val": {"IoU": 1.5, "Pr@0.5": 2.0},
        "a/test": {"IoU": 3.25},
        "b": {"gIoU": 4.0},
        "c/val": {},
    }
    assert entry(figures).main_figures == "a IoU 1.50 val, 3.25 test; b gIoU 4.00"
    assert entry({}).main_figures == ""


def test_filters_cut_and_say_when_nothing_is_left() -> None:
    assert {e.arch for e in catalogue(arch="align")} == {"align"}
    assert all("4.7" in e.table.split(", ") for e in catalogue(table="4.7"))
    assert len(catalogue(table="4.7")) == 8
    assert not [e for e in catalogue(paper="thesis") if not e.paper]
    with pytest.raises(RefsegError, match="did you mean 'vlt'"):
        catalogue(arch="vlr")
    with pytest.raises(RefsegError, match=r"no recipe of table '9\.9' \(tables: .*4\.7"):
        catalogue(arch="vlt", table="9.9")
    with pytest.raises(RefsegError, match=r"cited with 'Dinge' \(did you mean 'Ding'\?\)"):
        catalogue(paper="Dinge")


def test_tables_stand_in_the_order_of_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"a": "4.10", "b": "4.9", "c": "", "d": "4.9a", "e": "II"}
    monkeypatch.setattr(module, "recipe_names", lambda: list(tables))
    monkeypatch.setattr(module, "_entry", lambda name: Entry(name, "vlt", "p", tables[name], "", "", {}, ""))
    assert [e.name for e in catalogue()] == ["c", "b", "d", "a", "e"]
    assert [e.name for e in catalogue(table="4.9")] == ["b"]


def test_rows_of_a_table_stand_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"a": "10: last", "b": "2: then", "c": "1: first"}
    monkeypatch.setattr(module, "recipe_names", lambda: list(rows))
    monkeypatch.setattr(module, "_entry", lambda name: Entry(name, "vlt", "p", "3", rows[name], "", {}, ""))
    assert [e.name for e in catalogue()] == ["c", "b", "a"]


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_shown_is_the_recipe(name: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(whole_text(name), encoding="utf-8")
    assert load_recipe(str(path)) == load_recipe(name)


def test_a_recipe_with_a_base_is_shown_whole_under_its_own_header(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '# Mine.\n# On "refcoco".\nbase = "vlt-darknet53-refcoco"\n[model]\nquery_count = 8 # fewer\n'
        '[train]\nlr = 1e-5\n[published]\nrow = "a \\"b\\" é"\n[published.figures]\n"a/val" = {IoU = 1.0}\n',
        encoding="utf-8",
    )
    text = whole_text(str(path))
    assert text.startswith('# Mine.\n# On "refcoco".\narch = "vlt"\n\n[model]\n')
    assert "base" not in text.replace("database", "")
    again = tmp_path / "again.toml"
    again.write_text(text, encoding="utf-8")
    assert load_recipe(str(again)) == load_recipe(str(path))
    assert load_recipe(str(again)).model["query_count"] == 8
