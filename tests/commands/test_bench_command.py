"""`refseg bench`: the request that reaches the engine, the table and the JSON."""

from __future__ import annotations

import json

import pytest

from refseg_cli.app import main
from refseg_cli.config import load_recipe, recipe_names
from refseg_cli.engine import bench as engine
from refseg_cli.engine.bench import BenchReport, BenchRequest, Row
from refseg_cli.errors import ERROR, FOUND
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
            threads=2,
            torch="2.9",
            size=(128, 96),
            max_tokens=15,
            parameters=2_345_000,
            gflops_per_image=1.5,
            gflops_per_phrase=0.25,
            memory="process",
            repeat=20,
            rows=(Row(4, 20, 12.5, 14.125, 320.0, 1600.0, 123.4, 11.0),),
        )

    monkeypatch.setattr(engine, "bench", bench)
    return seen


def test_every_option_reaches_the_engine(requests: list[BenchRequest]) -> None:
    name = recipe_names()[0]
    options = ["--phrases", "5", "--repeat", "7", "--warmup", "1", "--precision", "bf16", "--device", "cpu"]
    recipe = ["--recipe", name, "--set", "train.lr=0.5"]
    assert main(["bench", "--batch-sizes", "1,16", *recipe, *options]) == FOUND
    assert main(["bench", "--model", "run"]) == FOUND
    assert main(["bench"]) == FOUND
    assert requests == [
        BenchRequest(
            recipe=load_recipe(name, ["train.lr=0.5"]),
            batch_sizes=(1, 16),
            phrases=5,
            repeat=7,
            warmup=1,
            device="cpu",
            precision="bf16",
        ),
        BenchRequest(model="run"),
        BenchRequest(),
    ]


def test_table_and_json(requests: list[BenchRequest], capsys: Capture) -> None:
    main(["bench"])
    title, head, row = capsys.readouterr().out.splitlines()
    assert title == "vlt-tiny on cpu, fp32, 2 threads: 2.3 M parameters, 128 x 96 pixels"
    assert head.split("  ")[0] == "images"
    assert row.split() == ["4", "20", "12.50", "14.12", "320.00", "1600.00", "123", "11.00"]
    main(["bench", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "refseg.bench/1"
    assert (report["parameters"], report["rows"][0]["latency_p95_ms"]) == (2_345_000, 14.125)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch-sizes", "1,x"], "--batch-sizes 1,x: not numbers"),
        (["--set", "a=1"], "--set changes a recipe, and none was given"),
    ],
)
def test_errors(requests: list[BenchRequest], capsys: Capture, arguments: list[str], words: str) -> None:
    assert main(["bench", *arguments]) == ERROR
    assert words in capsys.readouterr().err
    assert requests == []
