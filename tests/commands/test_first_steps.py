"""What people do first, and wrongly: a folder for a file, an option from another case, a reader that goes away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg_cli.app import main
from refseg_cli.commands import eval
from refseg_cli.errors import CLOSED_PIPE, ERROR, RefsegError
from refseg_cli.evaluation import report

Capture = pytest.CaptureFixture[str]
COCO = "prepare coco --images photos --out out --annotations"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "folder"):
        Path(folder).mkdir()
    empty = {"images": [], "annotations": [], "categories": []}
    files = {"list": [1, 2], "other": {"a": 1}, "rows": {**empty, "images": [7]}, "empty": empty}
    for name, content in files.items():
        Path(f"{name}.json").write_text(json.dumps(content))
    Path("table.csv").write_text("image,phrase\na.jpg,the cat\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (f"{COCO} list.json --phrases generate", "list.json: not a COCO file: holds a list in place of an object ("),
        (f"{COCO} other.json --phrases generate", "other.json: not a COCO file: without 'categories' (it needs "),
        (
            f"{COCO} rows.json --phrases generate",
            "rows.json: not a COCO file: images, row 0: 7 in place of an object (",
        ),
        (f"{COCO} empty.json --phrases generate", "out: nothing to prepare (the annotations give no reference)"),
        (f"{COCO} empty.json --phrases folder", "folder: is a folder, not a file"),
        (f"{COCO} empty.json --phrases table.csv --splits folder", "folder: is a folder, not a file"),
        (
            f"{COCO} empty.json --phrases table.csv --seed 3",
            "a table of phrases without shares in --splits has no use for --seed (omit one of them)",
        ),
        ("bench --compare folder", "folder: cannot read: Is a directory ("),
        ("import folder --arch lavt -o out", "folder: is a folder, not a file"),
        ("publish table.csv/below", "table.csv/below: cannot write: table.csv is a file, not a folder ("),
        ("publish out --private", "a folder has no use for --private (omit one of them)"),
        ("annotate serve --data d --out g --device cpu", "a game without --model has no use for --device ("),
        (
            "predict a.jpg dog --coco-ids other.json -f coco -o x.json",
            "other.json: cannot read a COCO data set: w",
        ),
    ],
)
def test_what_is_wrong_is_one_line_in_plain_words(words: str, line: str, capsys: Capture) -> None:
    assert main(words.split()) == ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"refseg: {line}")
    assert err.count("\n") == 1


def test_a_report_is_written_though_nobody_reads_the_table(
    data: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `refseg eval --report page.html | head -1`."""

    def gone(*_: object) -> None:
        raise SystemExit(CLOSED_PIPE)

    monkeypatch.setattr(eval, "show", gone)
    assert main(["eval", "--data", str(data), "--model", str(saved), "--device", "cpu", "--report", "page.html"]) == 141
    assert "<html" in Path("page.html").read_text()[:500]


def test_figures_are_told_though_their_report_cannot_be_written(
    data: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def full(*_: object) -> None:
        raise RefsegError("page.html: disk full")

    monkeypatch.setattr(report, "write_report", full)
    assert (
        main(["eval", "--data", str(data), "--model", str(saved), "--device", "cpu", "--report", "page.html"]) == ERROR
    )
    out, err = capsys.readouterr()
    assert "gIoU" in out
    assert err.endswith("refseg: page.html: disk full\n")


def test_what_was_measured_is_told_though_it_cannot_be_drawn(saved: Path, capsys: Capture) -> None:
    words = ["--repeat", "1", "--warmup", "0", "--batch-sizes", "1", "--device", "cpu", "--plot", "table.csv/below.svg"]
    assert main(["bench", "--model", str(saved), *words]) == ERROR
    out, err = capsys.readouterr()
    assert "forward" in out
    assert "table.csv/below.svg: cannot write" in err.splitlines()[-1]
