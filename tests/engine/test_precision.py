"""Exports in half precision and with 8-bit integers, and what they cost."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from refseg_cli import checkpoint
from refseg_cli.data.shards import open_shards
from refseg_cli.engine import export as module
from refseg_cli.engine import precision
from refseg_cli.engine.export import ExportRequest, export
from refseg_cli.engine.precision import Cost
from refseg_cli.errors import RefsegError
from refseg_cli.segmenters.onnx import OnnxSegmenter
from refseg_cli.segmenters.trained import Predictor

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def plain(run: Path, traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "vlt.onnx"
    export(ExportRequest(run, "onnx", out))
    return out


def kinds(path: Path) -> set[str]:
    """Of the operators in a graph."""
    return {node.op_type for node in onnx.load(path).graph.node}


def weights(path: Path) -> dict[int, int]:
    """Values of each type among the initialisers."""
    found: dict[int, int] = {}
    for one in onnx.load(path).graph.initializer:
        found[one.data_type] = found.get(one.data_type, 0) + int(np.prod(one.dims))
    return found


def request_of(run: Path, scenes: Path, out: Path, **settings: object) -> ExportRequest:
    return ExportRequest(run, "onnx", out, data=str(scenes), max_loss=100, **settings)  # type: ignore[arg-type]


def test_half_precision_halves_the_file(run: Path, scenes: Path, plain: Path, tmp_path: Path) -> None:
    report = export(request_of(run, scenes, tmp_path / "half.onnx", precision="fp16"))
    stored = weights(report.path)
    assert stored[onnx.TensorProto.FLOAT16] > 10 * stored.get(onnx.TensorProto.FLOAT, 0)
    assert report.bytes < 0.8 * plain.stat().st_size
    assert 1e-6 < report.proof.difference < 0.05 * report.proof.scale
    assert report.cost is not None
    assert abs(report.cost.loss) < 2
    value = onnx.load(report.path).graph.output[0].type.tensor_type
    assert value.elem_type == onnx.TensorProto.FLOAT  # whoever reads it sees what he always saw


def test_what_it_costs_is_measured_and_stored(run: Path, scenes: Path, tmp_path: Path) -> None:
    from refseg_cli.evaluation.evaluate import EvalRequest, evaluate

    report = export(request_of(run, scenes, tmp_path / "int8.onnx", precision="int8 dynamic"))
    scores = [
        100 * evaluate(EvalRequest(str(scenes), ("val",), str(m), device="cpu", workers=0)).scores["val"].values["gIoU"]
        for m in (run, report.path)
    ]
    cost = report.cost
    assert cost is not None
    assert (cost.model, cost.exported) == pytest.approx(scores)
    assert (cost.split, cost.pictures) == ("val", 4)
    facts = json.loads({p.key: p.value for p in onnx.load(report.path).metadata_props}["refseg.json"])
    assert facts["cost"] == json.loads(json.dumps(asdict(cost)))
    assert facts["precision"] == "int8 dynamic"
    assert "MatMulInteger" in kinds(report.path)
    assert "ConvInteger" not in kinds(report.path)  # slower than what it replaces


@pytest.mark.parametrize("split", [False, True])
def test_static_integers_are_calibrated_on_the_training_split(
    run: Path, scenes: Path, tmp_path: Path, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    feeds = precision._feeds

    def watched(loaded: object, of: object, wanted: object) -> object:
        seen.append(of.split)  # type: ignore[attr-defined]
        return feeds(loaded, of, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(precision, "_feeds", watched)
    out = tmp_path / ("int8" if split else "int8.onnx")
    report = export(request_of(run, scenes, out, precision="int8 static", split=split))
    assert seen == ["train"]
    image = out / "image.onnx" if split else out
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds(image)
    assert weights(image)[onnx.TensorProto.INT8] > 100
    answers = [
        next(s.predict(open_shards(scenes, "val")[0].image, ["two people on left"]))
        for s in (OnnxSegmenter(out), Predictor(run, device="cpu"))
    ]
    assert answers[0].mask.shape == answers[1].mask.shape
    assert report.proof.finite


def test_without_a_training_split_ranges_are_of_the_measured_one(data: Path) -> None:
    assert precision.calibration_split(str(data), "val") == "val"


def test_feeds_are_pictures_with_their_phrases(run: Path, scenes: Path) -> None:
    loaded, split = checkpoint.load(run), open_shards(scenes, "train")
    found = list(precision._feeds(loaded, split, ["images", "tokens", "image_index"]))
    assert len(found) >= len(split)
    assert set(found[0]) == {"images", "tokens", "image_index"}
    assert found[0]["images"].shape == (1, 3, 64, 64)
    assert 1 <= len(found[0]["tokens"]) <= precision.PHRASES


def test_what_costs_too_much_is_not_written(
    run: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure", lambda *given, **settings: Cost("d", "val", 4, 20, 40.0, 38.5))
    monkeypatch.setattr(module, "reduced", lambda model, *rest: model)
    request = request_of(run, scenes, tmp_path / "int8.onnx", precision="int8 dynamic")
    with pytest.raises(RefsegError, match=r"costs 1\.50 points of gIoU on val of d \(40\.00 to 38\.50\)"):
        export(replace(request, max_loss=1.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "onnx", "out": "a.onnx"}, "int8 dynamic is measured on data, and none was given"),
        ({"format": "pt2", "out": "a.pt2", "data": "x"}, "--dtype and --int8 change ONNX graphs, not pt2"),
    ],
)
def test_what_cannot_be_is_said_at_once(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    out = tmp_path / settings.pop("out")
    with pytest.raises(RefsegError, match=words):
        export(ExportRequest("nowhere", out=out, precision="int8 dynamic", **settings))  # type: ignore[arg-type]
