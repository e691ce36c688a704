"""`refseg export`: the request that reaches the engine and the figure that is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg_cli.app import main
from refseg_cli.engine import export as engine
from refseg_cli.engine.export import ExportReport, ExportRequest
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.progress import Progress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[ExportRequest]:
    """What reaches the engine."""
    seen: list[ExportRequest] = []

    def export(request: ExportRequest, *, progress: Progress) -> ExportReport:
        seen.append(request)
        return ExportReport(request.out, request.format, "vlt", 2.5e-7, 12.5, 4_500_000, ("mask_logits",))

    monkeypatch.setattr(engine, "export", export)
    return seen


def test_what_reaches_the_engine_and_what_is_printed(requests: list[ExportRequest], capsys: Capture) -> None:
    assert main(["export", "--model", "run", "--format", "pt2", "-o", "m.pt2"]) == FOUND
    assert main(["export", "-o", "m.onnx"]) == FOUND
    assert requests == [ExportRequest("run", "pt2", Path("m.pt2")), ExportRequest(None, "onnx", Path("m.onnx"))]
    assert capsys.readouterr().out.splitlines() == [
        "m.pt2: 4.5 MB, parity 2.5e-07 (largest difference from the model, whose outputs reach 12.5)",
        "m.onnx: 4.5 MB, parity 2.5e-07 (largest difference from the model, whose outputs reach 12.5)",
    ]


def test_a_folder_of_split_graphs(requests: list[ExportRequest], capsys: Capture) -> None:
    assert main(["export", "--split", "-o", "m/"]) == FOUND
    assert requests == [ExportRequest(None, "onnx", Path("m"), split=True)]


def test_json(requests: list[ExportRequest], capsys: Capture) -> None:
    main(["export", "-o", "m.onnx", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["path"], report["parity"], report["outputs"]) == ("m.onnx", 2.5e-7, ["mask_logits"])


def test_no_file_no_export(requests: list[ExportRequest], capsys: Capture) -> None:
    assert main(["export"]) == ERROR
    assert "--output" in capsys.readouterr().err
