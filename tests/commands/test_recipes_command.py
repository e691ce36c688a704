"""`refseg recipes`: the table, the JSON, and a recipe that can be kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg_cli.app import main
from refseg_cli.config import load_recipe, recipe_names, recipe_table
from refseg_cli.console import console
from refseg_cli.errors import ERROR, FOUND

Capture = pytest.CaptureFixture[str]


def test_list_is_a_table_of_what_each_reproduces(capsys: Capture) -> None:
    assert main(["recipes", "list", "--arch", "vlt", "--table", "4.7"]) == FOUND
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["recipe", "arch", "paper", "table", "row", "published"]
    [row] = [row for row in rows if row.startswith("vlt-darknet53-refcocog-umd ")]
    assert " ".join(row.split()).endswith("VLT (ours), Darknet-53 refcocog-umd IoU 54.96 val, 57.73 test")
    assert all(" 4.7 " in row for row in rows)


def test_list_on_a_terminal_of_80_columns_has_whole_names(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes", "list"]) == FOUND
    text = capsys.readouterr().out
    assert set(recipe_names()) <= set(text.split())
    framed = [line for line in text.splitlines() if line.startswith(("┏", "┃", "┡", "│", "└"))]
    assert max(map(len, framed)) <= 80
    assert "…" not in text
    assert "vlt: Liu 2024 (thesis); Ding et al., TPAMI 2022" in text.splitlines()


def test_list_in_json_has_every_figure(capsys: Capture) -> None:
    assert main(["recipes", "list", "--json"]) == FOUND
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert sorted(entries) == recipe_names()
    assert entries["vlt-darknet53-refcoco"]["figures"]["refcoco/val"] == {"IoU": 67.52, "Pr@0.5": 77.03}


def test_nothing_found_is_an_error(capsys: Capture) -> None:
    assert main(["recipes", "list", "--paper", "nobody"]) == ERROR
    assert capsys.readouterr().err.startswith("refseg: no recipe whose paper is cited with 'nobody' (papers: ")


def test_show_prints_a_recipe_that_can_be_kept(capsys: Capture, tmp_path: Path) -> None:
    assert main(["recipes", "show", "vlt-tiny"]) == FOUND
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.toml")) == load_recipe("vlt-tiny")
    assert main(["recipes", "show", "vlt-tiny", "--json"]) == FOUND
    assert json.loads(capsys.readouterr().out) == recipe_table("vlt-tiny")


def test_show_of_nothing_names_the_nearest(capsys: Capture) -> None:
    assert main(["recipes", "show", "vlt-tinny"]) == ERROR
    assert capsys.readouterr().err == "refseg: unknown recipe 'vlt-tinny' (did you mean 'vlt-tiny'?)\n"
