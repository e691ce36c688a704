"""`refseg compare`: two files of records in, differences out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg_cli.app import main
from refseg_cli.commands._scores import difference_table
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.evaluation.answers import About, Answer, writing_records
from refseg_cli.metrics.intervals import Difference
from refseg_cli.records import Rle

Capture = pytest.CaptureFixture[str]


def records(path: Path, model: str, ious: list[int], *, split: str = "val", blind: bool = False) -> str:
    """Masks of ten pixels of which `ious` are right, a picture each."""
    rows = [
        Answer(i, i, i, split, "x", 1, True, True, 1.0, n, 20 - n, 10, 10, Rle((1, 1), b"01"), False, (), n, 10)
        for i, n in enumerate(ious)
    ]
    with writing_records(str(path), About(dataset="set", model=model, blind=blind)) as append:
        append(rows)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    a = records(tmp_path / "a.parquet", "first", [5] * 10)
    return [a, records(tmp_path / "b.parquet", "second", [5] * 5 + [10] * 5)]


def test_the_table(files: list[str], capsys: Capture) -> None:
    assert main(["compare", *files, "--resamples", "400"]) == FOUND
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "B against A on set, val: refseg"
    assert lines[1].split() == ["metric", "A", "first", "B", "second", "difference", "95", "%", "p"]
    found = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert found["gIoU"][:3] == ["33.33", "66.67", "+33.33"]
    assert found["gIoU"][-1] == "0.0625"  # five images that gain: 2 of 32 swaps are as far
    assert found["N-acc"] == ["-"] * 5
    # ten answers without a difference, as if one of twelve were another: +- 1.960 / 12
    assert found["T-acc"] == ["100.00", "100.00", "+0.00", "-16.33", "to", "+16.33", "1.0000"]


def test_a_control_is_said_to_be_one(files: list[str], tmp_path: Path, capsys: Capture) -> None:
    control = records(tmp_path / "blind.parquet", "first", [4] * 10, blind=True)
    main(["compare", files[0], control, "--resamples", "50", "--json"])
    printed = capsys.readouterr()
    (said,) = json.loads(printed.out)["cautions"]
    assert said == "B first: a control, blind to language: it was trained with shuffled phrases (--shuffle-phrases)"
    assert "B first: a control" in printed.err


def test_json(files: list[str], capsys: Capture) -> None:
    main(["compare", *files, "--resamples", "50", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["a"], found["b"]) == ("refseg.compare/1", *files)
    table = found["differences"]["val/refseg"]
    assert table["gIoU"]["difference"] == pytest.approx(100 / 3)
    nothing = {"a": None, "b": None, "difference": None, "low": None, "high": None, "p": None, "images": 0}
    assert table["N-acc"] == nothing
    assert table["gIoU"]["images"] == 10
    assert found["cautions"] == []


def test_all_protocols_are_those_that_both_files_were_counted_by(files: list[str], capsys: Capture) -> None:
    assert main(["compare", *files, "--resamples", "10", "--json", "--protocol", "all"]) == FOUND
    streams = capsys.readouterr()
    found = {key.removeprefix("val/") for key in json.loads(streams.out)["differences"]}
    assert found == {"refseg", "thesis", "thesis-50pix", "mmdet", "phrasecut"}
    assert "gsva: these records hold no counts of it" in streams.err


def test_few_images_have_no_interval_and_are_told(tmp_path: Path, capsys: Capture) -> None:
    few = [records(tmp_path / f"{n}.parquet", "m", [n] * 3) for n in (5, 8)]
    assert main(["compare", *few, "--json"]) == FOUND
    streams = capsys.readouterr()
    found = json.loads(streams.out)
    difference = found["differences"]["val/refseg"]["gIoU"]
    assert (difference["low"], difference["high"], difference["p"], difference["images"]) == (None, None, 0.25, 3)
    [said] = found["cautions"]
    assert said.startswith("val, refseg: no interval for cIoU, mIoU, gIoU")
    assert said.endswith("it takes 10 images, or clips, and is formed over 3")
    assert said in streams.err
    assert main(["compare", *few, "--resamples", "0", "--json"]) == FOUND
    assert json.loads(capsys.readouterr().out)["cautions"] == []


def test_nothing_has_no_minus() -> None:
    nearly = Difference(a=0.5, b=0.5, value=-1e-17, low=-1e-9, high=-0.0, p=1.0, images=20)
    assert difference_table("t", ("A", "B"), {"gIoU": nearly}).rows[0][3:5] == ("+0.00", "+0.00 to +0.00")


def test_errors(files: list[str], tmp_path: Path, capsys: Capture) -> None:
    shorter = records(tmp_path / "c.parquet", "third", [5] * 9)
    elsewhere = records(tmp_path / "d.parquet", "fourth", [5] * 10, split="testA")
    for other, message in ((shorter, "1 only in the first"), (elsewhere, "different splits")):
        assert main(["compare", files[0], other]) == ERROR
        assert message in capsys.readouterr().err
    assert main(["compare", *files, "--protocol", "lavt"]) == ERROR
    assert "`refseg eval --protocol lavt --records FILE`" in capsys.readouterr().err
    (tmp_path / "empty").touch()
    for name in ("empty", "nowhere"):
        assert main(["compare", files[0], str(tmp_path / name)]) == ERROR
        assert capsys.readouterr().err.endswith("(`refseg eval --records FILE` writes one)\n")
    assert main(["compare", files[0]]) == ERROR
