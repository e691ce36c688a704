"""`refseg eval --report`: a page from a model, the same page from its records, and what is refused beforehand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from refseg_cli.app import main
from refseg_cli.errors import ERROR, FOUND

Capture = pytest.CaptureFixture[str]


def index_of(file: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_a_page_from_a_model_and_again_from_its_records(
    run: Path, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    records, page, again = (str(tmp_path / name) for name in ("a.parquet", "report.html", "again.html"))
    common = ["eval", "--data", str(scenes), "--split", "val,testA", "--resamples", "50"]
    live = [*common, "--model", str(run), "--device", "cpu", "--records", records, "--report", page]
    assert main(live) == FOUND
    out, err = capsys.readouterr()
    assert "cIoU" in out
    index, later = index_of(Path(page)), None
    assert f"{len(index['samples'])} samples -> {page}" in err
    assert len(index["parts"]["val"]["charts"]) == 4
    assert main([*common, "--from", records, "--report", again]) == FOUND
    later = index_of(Path(again))
    assert later["tables"] == index["tables"]
    assert [sample[:-1] for sample in later["samples"]] == [sample[:-1] for sample in index["samples"]]
    assert {sample[-1] for sample in index["samples"]} == {3}  # maps of each
    assert {sample[-1] for sample in later["samples"]} == {0}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_slices_and_curves_of_the_page_are_not_printed(
    run: Path, scenes: Path, tmp_path: Path, capsys: Capture, form: list[str]
) -> None:
    common = ["eval", "--data", str(scenes), "--model", str(run), "--device", "cpu", "--limit", "2", *form]
    main(common)
    plain = capsys.readouterr().out
    main([*common, "--report", str(tmp_path / "r.html")])
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--report", "{folder}"], "is a folder, and the report is a single file"),
        (["--report", "."], "is a folder, and the report is a single file"),
        (["--report", "{folder}/r.html", "--sanity", "wrong-image"], "--sanity and --report exclude each other"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_image(
    scenes: Path, tmp_path: Path, capsys: Capture, arguments: list[str], words: str
) -> None:
    options = [argument.format(folder=tmp_path) for argument in arguments]
    assert main(["eval", "--data", str(scenes), "--model", "gone", *options]) == ERROR
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_predictions_are_not_replaced_by_their_report(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.jsonl").write_text("{}")
    arguments = ["--from", str(tmp_path / "p.jsonl"), "--report", str(tmp_path / "p.jsonl")]
    assert main(["eval", "--data", str(scenes), *arguments]) == ERROR
    assert "is the input, and would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "p.jsonl").read_text() == "{}"


@pytest.mark.parametrize("option", ["--records", "--report"])
@pytest.mark.parametrize("name", ["_manifest.json", "val-00000-of-00001.parquet"])
def test_the_data_are_not_replaced_by_what_is_made_of_them(
    scenes: Path, tmp_path: Path, capsys: Capture, option: str, name: str
) -> None:
    copied = shutil.copytree(scenes, tmp_path / "data")
    before = (copied / name).read_bytes()
    assert main(["eval", "--data", str(copied), "--limit", "1", "--device", "cpu", option, str(copied / name)]) == ERROR
    assert "is the input, and would be overwritten" in capsys.readouterr().err
    assert (copied / name).read_bytes() == before
