"""benchmarks/growth.py and phrases_per_image.py, dry: their commands exist, and their figures are what they say."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from refseg_cli.app import main
from refseg_cli.engine import train as engine

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def program(name: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> ModuleType:
    """A benchmark, to be run with these words."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
    return importlib.import_module(name)


def test_growth_takes_every_step_at_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run in this process at the least size. What they took is made up: a second a word, and the square of the size."""
    sizes, out = [7, 14, 28], tmp_path / "growth.json"
    asked = ["--steps", "prepare", "eval", "eval --from lines", "eval --from records", "report", "compare"]
    growth = program("growth", monkeypatch, *asked, "--expressions", *sizes, "--out", out)
    ran: list[list[str]] = []

    def measured(words: list[str]) -> tuple[float, float]:
        assert len(ran) >= len(asked) - 1 or main([*words, "-q"]) == 0
        ran.append(words)
        return float(len(words)), float(sizes[(len(ran) - 1) // 6] ** 2)

    monkeypatch.setattr(growth, "measured", measured)
    monkeypatch.setattr(growth, "in_a_process", lambda make, *given: make(*given))
    growth.main()
    found = json.loads(out.read_text())
    assert found["expressions"] == sizes
    assert list(found["steps"]) == asked[1:]
    assert found["steps"]["compare"] == {"seconds": [4.0] * 3, "mebibytes": [49.0, 196.0, 784.0]}
    assert found["exponents"]["compare"] == {"seconds": None, "mebibytes": pytest.approx(math.log(735 / 147, 3))}
    assert "eval" in capsys.readouterr().err


def test_growth_measures_a_process_and_names_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    growth = program("growth", monkeypatch)
    seconds, mebibytes = growth.measured(["recipes", "show", "vlt-tiny"])
    assert 0 < seconds < 60
    assert 10 < mebibytes < 4096
    with pytest.raises(SystemExit, match=r"refseg recipes show none: .*none"):
        growth.measured(["recipes", "show", "none"])


@pytest.mark.parametrize(("power", "fixed"), [(1.0, 5.0), (2.0, 0.0), (0.5, 1.0)])
def test_the_exponent_is_of_what_sizes_add(monkeypatch: pytest.MonkeyPatch, power: float, fixed: float) -> None:
    growth = program("growth", monkeypatch)
    sizes = [1, 101, 1001]
    values = [fixed + (size - 1) ** power for size in sizes]
    assert growth.exponent(sizes, values) == pytest.approx(power)
    assert growth.exponent(sizes, [3.0, 2.9, 9.0]) is None


def test_phrases_share_a_budget_of_time_and_rows_are_made_once(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten pictures, two epochs; a step with k phrases a picture takes (5 - k) seconds here."""
    out = tmp_path / "found.json"
    words = ["--scenes", scenes, "--init", "run", "--phrases", 1, 4, "--epochs", 10, "--out", out]
    benchmark = program("phrases_per_image", monkeypatch, *words)
    asked: list[list[str]] = []

    def told(words: list[str]) -> Any:
        asked.append(words)
        if "--measure" in words:
            [k] = [int(word.partition("=")[2]) for word in words if word.startswith("data.phrases_per_image=")]
            return {"step_seconds": 5.0 - k}
        return {"splits": {"testA": {"protocols": {"refseg": {"gIoU": 1.0, "cIoU": 2.0, "other": 3.0}}}}}

    monkeypatch.setattr(benchmark, "told", told)
    benchmark.main()
    rows = json.loads(out.read_text())["rows"]
    # Ten times the one step that ten pictures need, or with one phrase each the one that they do not fill.
    assert [(row["phrases_per_image"], row["steps"], row["seconds"]) for row in rows] == [
        (4, 10, 10.0),
        (1, 10, 40.0),
        (1, 2, 8.0),
    ]
    assert rows[0] == {"phrases_per_image": 4, "steps": 10, "phrases": 480, "seconds": 10.0, "gIoU": 1.0, "cIoU": 2.0}
    assert {"train.batch_images=12", "train.steps=10", "train.warmup_steps=1"} < set(asked[0])
    assert len(asked) == 2 * len(rows)
    benchmark.main()
    assert len(asked) == 2 * len(rows)


def test_a_step_is_timed_between_reports(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of a few steps, by the settings that it is given, in this process."""
    benchmark = program("phrases_per_image", monkeypatch)
    monkeypatch.setattr(engine, "LOG_EVERY", 1)
    settings = ["data.size=[32,32]", "data.phrases_per_image=2", "data.workers=0", "train.batch_images=2"]
    settings += ["train.steps=3", "train.epochs=1", "train.eval_split=", "model.detail=0"]
    found = benchmark.train(settings, "scenes", str(scenes), tmp_path / "run")
    assert 0 < found["step_seconds"] < 60
    assert json.loads((tmp_path / "run/last/config.json").read_text())["step"] == 3
