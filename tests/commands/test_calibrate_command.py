"""`refseg calibrate`, and `refseg eval --calibrate`, which does the same first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import own_layout
import pytest

from refseg_cli import checkpoint
from refseg_cli.app import main
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.records import Thresholds

OWN = (("annotations", "instances.json"), ("images", "photos"), ("phrases", "phrases.csv"), ("out", "out"))

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    """A copy whose thresholds may change."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def common(model: Path, scenes: Path) -> list[str]:
    return ["--data", str(scenes), "--model", str(model), "--device", "cpu"]


def test_thresholds_are_stored_and_told(model: Path, scenes: Path, capsys: Capture) -> None:
    old = checkpoint.read_config(model / "best")[1]
    assert main(["calibrate", *common(model, scenes), "--split", "val"]) == FOUND
    new = checkpoint.read_config(model / "best")[1]
    out = capsys.readouterr().out
    assert new != old
    assert f"now threshold {new.mask!r}, no-target threshold {new.exists!r}" in out
    assert "gIoU on val" in out
    assert main(["calibrate", *common(model, scenes)]) == FOUND
    assert "kept; no others give a higher gIoU on val" in capsys.readouterr().out
    assert checkpoint.read_config(model / "best")[1] == new


def test_json(model: Path, scenes: Path, capsys: Capture) -> None:
    assert main(["calibrate", *common(model, scenes), "--json"]) == FOUND
    found = json.loads(capsys.readouterr().out)
    new = checkpoint.read_config(model / "best")[1]
    assert (found["schema"], found["split"], found["data"]) == ("refseg.calibrate/1", "val", str(scenes))
    assert {k: found["after"][k] for k in ("mask", "exists", "min_pixels")} == {
        "mask": new.mask,
        "exists": new.exists,
        "min_pixels": new.min_pixels,
    }
    assert found["after"]["gIoU"] > found["before"]["gIoU"]
    # what it promises is what an evaluation then finds
    assert main(["eval", *common(model, scenes), "--json"]) == FOUND
    scores = json.loads(capsys.readouterr().out)["splits"]["val"]["protocols"]["refseg"]
    assert scores["gIoU"]["value"] == pytest.approx(found["after"]["gIoU"])


def test_eval_calibrates_first(model: Path, scenes: Path, capsys: Capture) -> None:
    asked = ["eval", *common(model, scenes), "--calibrate", "val"]
    assert main([*asked, "--split", "testA"]) == FOUND
    new = checkpoint.read_config(model / "best")[1]
    err = capsys.readouterr().err
    assert f"now threshold {new.mask!r}, no-target threshold {new.exists!r}" in err
    assert "calibrated on this split" not in err
    assert main(asked) == FOUND
    err = capsys.readouterr().err
    assert "kept; no others give a higher gIoU on val" in err
    assert "val: the thresholds were calibrated on this split" in err


@pytest.mark.parametrize(
    ("rows", "status", "told"),
    [
        ("photo_1.jpg,dog,11,\nphoto_2.jpg,cat,22,\n", FOUND, "refseg: warning: train: every phrase has a target"),
        ("photo_1.jpg,cat,,1\nphoto_2.jpg,car,,1\n", ERROR, "no expression in train has a target to calibrate on"),
        ("photo_1.jpg,dog,11,\nphoto_2.jpg,car,,1\n", FOUND, ""),
    ],
)
def test_a_split_of_one_kind_of_phrases_is_told(
    model: Path, tmp_path: Path, capsys: Capture, rows: str, status: int, told: str
) -> None:
    checkpoint.store_thresholds(model / "best", Thresholds(mask=0.999, exists=0.999), info={})
    own_layout.write_coco(tmp_path)
    (tmp_path / "phrases.csv").write_text(f"image,phrase,ann_id,no_target\n{rows}")
    given = [f"--{name}={tmp_path / file}" for name, file in OWN]
    assert main(["prepare", "coco", *given, "--name=mine", "-q"]) == FOUND
    config = (model / "best/config.json").read_bytes()
    capsys.readouterr()
    assert main(["calibrate", *common(model, tmp_path / "out"), "--split", "train"]) == status
    err = capsys.readouterr().err
    assert told in err
    assert ("warning" in err) == told.startswith("refseg: warning")
    assert (config == (model / "best/config.json").read_bytes()) == (status == ERROR)


def test_errors(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["calibrate", "--data", str(scenes)]) == ERROR
    assert "--model" in capsys.readouterr().err
    assert main(["calibrate", *common(tmp_path, scenes)]) == ERROR
    assert "refseg: " in capsys.readouterr().err


def test_a_lower_precision_is_compared_with_the_new_thresholds(model: Path, scenes: Path, capsys: Capture) -> None:
    assert main(["calibrate", *common(model, scenes), "--check-precision", "bf16", "--json"]) == FOUND
    found = json.loads(capsys.readouterr().out)["precision"]
    record = checkpoint.read_config(model / "best")[2]["precisions"]["bf16"]
    assert (found["precision"], found["passed"], found["worst"]) == ("bf16", record["passed"], record["worst"])
    assert found["gIoU"] == [100 * value for value in record["gIoU"]]
    assert record["thresholds"] == checkpoint.read_config(model / "best")[2]["thresholds"]
    assert main(["calibrate", *common(model, scenes), "--check-precision", "bf16"]) == FOUND
    assert "bf16 passed" in (out := capsys.readouterr().out) or "bf16 not passed" in out
