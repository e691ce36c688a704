"""Zero-shot models by their names at the shell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg_cli.app import main
from refseg_cli.errors import ERROR, FOUND, NO_TARGET

Tiny = Callable[[str], str]
Capture = pytest.CaptureFixture[str]
FAMILIES = ("clipseg", "sam3", "sam3_lite_text", "grounding-dino", "mm-grounding-dino", "owlv2")
SHORT = ["--device", "cpu", "--resamples", "0"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (46, 70, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("family", [*FAMILIES, pytest.param("florence2", marks=pytest.mark.slow)])
def test_eval_gives_a_table(tiny: Tiny, data: Path, capsys: Capture, family: str) -> None:
    assert main(["eval", "--model", tiny(family), "--data", str(data), *SHORT]) == FOUND
    out = capsys.readouterr().out
    assert "masks as given" in out
    assert "N-acc" in out


def test_predict(tiny: Tiny, photo: Path, capsys: Capture) -> None:
    shell = ["predict", "--json", "--device", "cpu", "--model", tiny("owlv2"), str(photo)]
    assert main([*shell, "two people on left", "a dog"]) == FOUND
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["phrase"], one["model"], one["no_target"]) == ("two people on left", "owlv2+sam2", False)
    assert (two["threshold"], two["no_target_threshold"]) == (0.5, 0.1)
    assert main([*shell, "--no-target-threshold", "1", "a dog"]) == NO_TARGET
    assert json.loads(capsys.readouterr().out)["pixels"] == 0


def test_explain_shows_the_answer_alone(tiny: Tiny, photo: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "why.png"
    shell = ["predict", "--explain", "--device", "cpu", "--model", tiny("clipseg"), str(photo), "a dog", "-o", str(out)]
    assert main(shell) == FOUND
    assert "clipseg has no maps to show" in capsys.readouterr().err
    assert out.is_file()


def test_long_phrases_are_warned_of(tiny: Tiny, photo: Path, capsys: Capture) -> None:
    shell = ["predict", "--json", "--device", "cpu", "--model", tiny("clipseg"), str(photo), "the very " * 150]
    assert main(shell) == FOUND
    assert "the model reads its first 77 tokens" in capsys.readouterr().err.replace("\n", " ")


def test_a_page(tiny: Tiny, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert main(["eval", "--model", tiny("clipseg"), "--data", str(data), "--report", str(page), *SHORT]) == FOUND
    assert "clipseg on test" in page.read_text()


def test_compare_with_one_of_ours(tiny: Tiny, data: Path, saved: Path, tmp_path: Path, capsys: Capture) -> None:
    files = [str(tmp_path / name) for name in ("ours.parquet", "theirs.parquet")]
    for model, file in zip((str(saved), tiny("clipseg")), files, strict=True):
        assert main(["eval", "--model", model, "--data", str(data), "--records", file, *SHORT]) == FOUND
    capsys.readouterr()
    assert main(["compare", *files, "--resamples", "20"]) == FOUND
    assert "B clipseg" in capsys.readouterr().out


def test_calibrate_first(tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = shutil.copytree(tiny("sam3"), tmp_path / "sam3")
    shell = ["eval", "--model", str(folder), "--data", str(data), "--split", "testA", "--calibrate", "val", "--json"]
    assert main([*shell, *SHORT]) == FOUND
    assert (folder / "refseg.json").is_file()
    stored = json.loads((folder / "refseg.json").read_text())["thresholds"]["exists"]
    assert f"no-target threshold {stored!r}" in capsys.readouterr().err.replace("\n", " ")


def test_the_demo(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    assert main(["predict", "--demo", "--device", "cpu", "--model", tiny("clipseg"), "-o", str(out)]) == FOUND
    assert len(list(out.iterdir())) == 9


def test_bench(tiny: Tiny, capsys: Capture) -> None:
    shell = ["bench", "--device", "cpu", "--model", tiny("clipseg"), "--repeat", "1", "--warmup", "0"]
    assert main([*shell, "--batch-sizes", "1", "--phrases", "1,2"]) == FOUND
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["end-to-end", "1", "1"], ["end-to-end", "1", "2"]]
    assert main([*shell, "--stage", "forward"]) == ERROR
    said = capsys.readouterr().err
    assert "--stage forward: a model of transformers is asked end to end" in said
    assert said.count("\n") == 1


def test_out_of_reach(photo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["predict", "--model", "hf:facebook/sam3", str(photo), "a dog"]) == ERROR
    said = capsys.readouterr().err
    assert said.startswith("refseg: hf:facebook/sam3: not in the hub's cache")
    assert said.count("\n") == 1
