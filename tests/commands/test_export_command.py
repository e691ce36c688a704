"""`refseg export`: the request that reaches the engine and the figure that is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg_cli.app import main
from refseg_cli.engine import export as engine
from refseg_cli.engine.export import ExportReport, ExportRequest
from refseg_cli.engine.precision import Cost
from refseg_cli.engine.proof import Proof
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.progress import Progress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[ExportRequest]:
    """What reaches the engine."""
    seen: list[ExportRequest] = []

    def export(request: ExportRequest, *, progress: Progress) -> ExportReport:
        seen.append(request)
        proof = Proof(2.5e-7, 12.5, ((1, 1),), "demo", 3, 9, 0.99987, 4000, 30.0, 15.0)
        cost = None if request.precision == "fp32" else Cost("scenes", "val", 40, 200, 61.5, 60.75)
        precision = request.precision
        return ExportReport(request.out, request.format, "vlt", precision, proof, cost, 4_500_000, ("mask_logits",))

    monkeypatch.setattr(engine, "export", export)
    return seen


def test_what_reaches_the_engine_and_what_is_printed(requests: list[ExportRequest], capsys: Capture) -> None:
    assert main(["export", "--model", "run", "--format", "pt2", "-o", "m.pt2"]) == FOUND
    assert main(["export", "-o", "m.onnx"]) == FOUND
    assert requests == [ExportRequest("run", "pt2", Path("m.pt2")), ExportRequest(None, "onnx", Path("m.onnx"))]
    assert capsys.readouterr().out.splitlines()[:4] == [
        "m.pt2: 4.5 MB, fp32",
        "outputs: at most 2.5e-07 from the model's, which reach 12.5",
        "masks: IoU 0.9999 with the model's, 9 phrases on 3 pictures of demo",
        "speed: 2.00 times the model's (15.0 ms a picture, the model 30.0 ms)",
    ]


def test_data_reaches_the_engine(requests: list[ExportRequest]) -> None:
    assert main(["export", "-o", "m.onnx", "--data", "scenes", "--data-split", "testA"]) == FOUND
    assert requests == [ExportRequest(None, "onnx", Path("m.onnx"), data="scenes", data_split="testA")]


@pytest.mark.parametrize(
    ("words", "precision"),
    [(["--dtype", "fp16"], "fp16"), (["--int8", "dynamic"], "int8 dynamic"), (["--int8", "static"], "int8 static")],
)
def test_precision(requests: list[ExportRequest], capsys: Capture, words: list[str], precision: str) -> None:
    shell = ["export", "-o", "m.onnx", "--data", "scenes", *words, "--limit", "40", "--max-loss", "2.5"]
    assert main(shell) == FOUND
    (request,) = requests
    assert (request.precision, request.data, request.limit, request.max_loss) == (precision, "scenes", 40, 2.5)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"m.onnx: 4.5 MB, {precision}"
    assert out[-1] == "gIoU: 60.75, the model 61.50, on 200 phrases of val, scenes"


def test_one_precision_at_a_time(requests: list[ExportRequest], capsys: Capture) -> None:
    assert main(["export", "-o", "m.onnx", "--dtype", "fp16", "--int8", "static"]) == ERROR
    assert "--int8 and --dtype fp16 exclude each other" in capsys.readouterr().err
    assert requests == []


def test_a_folder_of_split_graphs(requests: list[ExportRequest], capsys: Capture) -> None:
    assert main(["export", "--split", "-o", "m/"]) == FOUND
    assert requests == [ExportRequest(None, "onnx", Path("m"), split=True)]


def test_json(requests: list[ExportRequest], capsys: Capture) -> None:
    main(["export", "-o", "m.onnx", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["path"], report["outputs"]) == ("m.onnx", ["mask_logits"])
    assert report["proof"]["difference"] == 2.5e-7


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data-split", "testA"], "an export without --data has no use for --data-split"),
        (["--data", "scenes", "--limit", "3"], "--dtype fp32 has no use for --limit"),
        (["--data", "scenes", "--max-loss", "3"], "--dtype fp32 has no use for --max-loss"),
    ],
)
def test_options_that_nothing_reads_are_refused(
    requests: list[ExportRequest], capsys: Capture, words: list[str], says: str
) -> None:
    assert main(["export", "-o", "m.onnx", *words]) == ERROR
    assert says in capsys.readouterr().err
    assert not requests


def test_no_file_no_export(requests: list[ExportRequest], capsys: Capture) -> None:
    assert main(["export"]) == ERROR
    assert "--output" in capsys.readouterr().err
