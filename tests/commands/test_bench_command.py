"""`refseg bench`: the request that reaches the engine, the table and the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from refseg_cli.app import main
from refseg_cli.commands.bench import Stage
from refseg_cli.config import load_recipe, recipe_names
from refseg_cli.engine import bench as engine
from refseg_cli.engine.bench import BenchReport, BenchRequest, Row
from refseg_cli.engine.stages import STAGES
from refseg_cli.errors import ERROR, FOUND, TOO_SLOW
from refseg_cli.progress import Progress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[BenchRequest]:
    """What reaches the engine."""
    seen: list[BenchRequest] = []

    def bench(request: BenchRequest, *, progress: Progress) -> BenchReport:
        seen.append(request)
        return BenchReport(
            model="vlt-tiny",
            device="cpu",
            precision="fp32",
            compile=False,
            threads=2,
            torch="2.9",
            size=(128, 96),
            max_tokens=15,
            parameters=2_345_000,
            gflops_per_image=1.5,
            gflops_per_phrase=0.25,
            memory="process",
            repeat=20,
            rows=(
                Row("forward", 4, 20, 12.5, 14.125, 320.0, 1600.0, 123.4, 11.0),
                Row("decode", 4, 20, 0.0, 1.0, None, None, 123.4, None),
            ),
            left_out={"loader": "needs prepared data"},
        )

    monkeypatch.setattr(engine, "bench", bench)
    return seen


def test_every_option_reaches_the_engine(requests: list[BenchRequest]) -> None:
    name = recipe_names()[0]
    options = ["--stage", "all", "--phrases", "5,6", "--repeat", "7", "--warmup", "1"]
    options += ["--precision", "bf16", "--compile", "--data", "d", "--data-split", "testA", "--device", "cpu"]
    recipe = ["--recipe", name, "--set", "train.lr=0.5"]
    assert main(["bench", "--batch-sizes", "1,16", *recipe, *options]) == FOUND
    assert main(["bench", "--model", "run"]) == FOUND
    assert main(["bench"]) == FOUND
    assert requests == [
        BenchRequest(
            recipe=load_recipe(name, ["train.lr=0.5"]),
            batch_sizes=(1, 16),
            stage="all",
            data="d",
            data_split="testA",
            compile=True,
            phrases=(5, 6),
            repeat=7,
            warmup=1,
            device="cpu",
            precision="bf16",
        ),
        BenchRequest(model="run"),
        BenchRequest(),
    ]


def test_every_stage_can_be_asked_for() -> None:
    choices, _ = get_args(get_args(Stage)[0])
    assert set(get_args(choices)) == {*STAGES, "all"}


def test_table_and_json(requests: list[BenchRequest], capsys: Capture) -> None:
    main(["bench"])
    captured = capsys.readouterr()
    title, head, row, noise = captured.out.splitlines()
    assert title == "vlt-tiny on cpu, fp32, 2 threads, 2.3 M parameters, 128 x 96 pixels"
    assert head.split()[:2] == ["stage", "images"]
    assert row.split() == ["forward", "4", "20", "12.50", "14.12", "320.00", "1600.00", "123", "11.00"]
    assert noise.split() == ["decode", "4", "20", "0.00", "1.00", "-", "-", "123", "-"]
    assert "left out: loader: needs prepared data" in captured.err
    main(["bench", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "refseg.bench/1"
    assert (report["parameters"], report["rows"][0]["latency_p95_ms"]) == (2_345_000, 14.125)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch-sizes", "1,x"], "--batch-sizes 1,x: not numbers"),
        (["--phrases", "x"], "--phrases x: not numbers"),
        (["--fail-below", "0.9"], "--fail-below needs something to compare with"),
        (["--set", "a=1"], "--set changes a recipe, and none was given"),
    ],
)
def test_errors(requests: list[BenchRequest], capsys: Capture, arguments: list[str], words: str) -> None:
    assert main(["bench", *arguments]) == ERROR
    assert words in capsys.readouterr().err
    assert requests == []


def test_a_row_slower_than_the_baseline_allows_is_status_1(
    requests: list[BenchRequest], capsys: Capture, tmp_path: Path
) -> None:
    main(["bench", "--json"])
    before = json.loads(capsys.readouterr().out)
    before["rows"][0]["latency_p50_ms"] = 11.25
    before["threads"] = 1
    file = tmp_path / "before.json"
    file.write_text(json.dumps(before))
    assert main(["bench", "--compare", str(file), "--fail-below", "0.95"]) == TOO_SLOW == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].endswith("of baseline")
    assert captured.out.splitlines()[2].split()[-1] == "0.90"
    assert "forward, 4 images, 20 phrases: 0.900 of the baseline's speed, less than 0.95" in captured.err
    assert "another threads: 1, now 2" in captured.err
    assert main(["bench", "--compare", str(file), "--fail-below", "0.85"]) == FOUND
    assert main(["bench", "--compare", str(file)]) == FOUND
    capsys.readouterr()
    assert main(["bench", "--compare", str(file), "--json", "-q"]) == FOUND
    assert json.loads(capsys.readouterr().out)["comparison"]["ratios"][0]["ratio"] == 0.9


def test_a_plot(requests: list[BenchRequest], tmp_path: Path) -> None:
    assert main(["bench", "--plot", str(tmp_path / "speed.svg")]) == FOUND
    svg = (tmp_path / "speed.svg").read_text()
    assert "vlt-tiny, fp32, cpu" in svg
    assert "5 phrases" in svg
    assert ">decode<" not in svg  # of which nothing is known
