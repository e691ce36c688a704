"""`refseg eval`: the request that reaches the engine, the table and the JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refseg_cli.app import main
from refseg_cli.checkpoint import Thresholds
from refseg_cli.engine import Progress
from refseg_cli.engine import evaluate as engine
from refseg_cli.engine.evaluate import EvalReport, EvalRequest, Evaluation
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.metrics import Counts

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[EvalRequest]:
    """What reaches the engine; its report has two expressions, IoU 3/4 and 0, none without a target."""
    seen: list[EvalRequest] = []
    counts = Counts(
        intersection=np.array([3, 0]),
        union=np.array([4, 4]),
        predicted=np.array([3, 2]),
        target=np.array([4, 2]),
        has_target=np.array([True, True]),
        says_target=np.array([True, True]),
    )

    def evaluate(request: EvalRequest, *, progress: Progress) -> EvalReport:
        seen.append(request)
        evaluation = Evaluation(counts=counts, images=1, image_encodings=1, seconds=0.5)
        return EvalReport(
            data=request.data,
            model="bundled",
            thresholds=Thresholds(),
            evaluations=dict.fromkeys(request.splits, evaluation),
            records=request.records,
        )

    monkeypatch.setattr(engine, "evaluate", evaluate)
    return seen


def test_every_option_reaches_the_engine(requests: list[EvalRequest]) -> None:
    options = ["--model", "run", "--device", "cpu", "--batch-images", "3", "--limit", "5", "--records", "r.parquet"]
    assert main(["eval", "--data", "shards", "--split", "val, testA,testB", *options]) == FOUND
    assert requests == [
        EvalRequest(
            data="shards",
            splits=("val", "testA", "testB"),
            model="run",
            device="cpu",
            batch_images=3,
            limit=5,
            records="r.parquet",
        )
    ]


def test_defaults(requests: list[EvalRequest]) -> None:
    assert main(["eval", "--data", "shards"]) == FOUND
    assert requests == [EvalRequest(data="shards", splits=("val",))]


def test_table_in_a_pipe(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--split", "val,testA"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bundled on shards"
    assert lines[1].split()[:4] + lines[1].split()[-2:] == ["split", "cIoU", "mIoU", "gIoU", "N-acc", "T-acc"]
    assert [line.split() for line in lines[2:]] == [
        ["val", "37.50", "37.50", "37.50", "50.00", "50.00", "50.00", "0.00", "0.00", "-", "100.00"],
        ["testA", "37.50", "37.50", "37.50", "50.00", "50.00", "50.00", "0.00", "0.00", "-", "100.00"],
    ]


def test_json_has_percentages_by_split(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--split", "val,testA", "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert list(scores) == ["val", "testA"]
    assert (scores["val"]["cIoU"], scores["val"]["Pr@0.7"], scores["val"]["N-acc"]) == (37.5, 50.0, None)


@pytest.mark.parametrize("arguments", [["--split", ","], ["--batch-images", "0"], ["--limit", "-1"]])
def test_errors(requests: list[EvalRequest], capsys: Capture, arguments: list[str]) -> None:
    assert main(["eval", "--data", "shards", *arguments]) == ERROR
    assert capsys.readouterr().err.startswith("refseg: ")
    assert requests == []


def test_thresholds_stand_beside_the_scores(requests: list[EvalRequest], capsys: Capture) -> None:
    assert main(["eval", "--data", "shards", "--split", "val"]) == FOUND
    err = capsys.readouterr().err
    assert "threshold 0.5, no-target threshold 0.5, at least 1 pixels" in err
    assert "val: 2 expressions, 1 images, 4 expr/s" in err
