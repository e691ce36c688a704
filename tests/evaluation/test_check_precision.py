"""The check of a lower precision, what it writes down, and when `auto` goes by it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from refseg_cli import checkpoint
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.check_precision import check_precision
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.records import Batch, Prediction, Thresholds
from refseg_cli.segmenters import precision as module
from refseg_cli.segmenters.choice import open_segmenter
from refseg_cli.segmenters.precision import asked_at, choose
from refseg_cli.segmenters.trained import Predictor

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bf16", lambda device: True)


def test_a_model_that_answers_alike_passes_and_auto_takes_it(data: Path, saved: Path) -> None:
    found = check_precision(EvalRequest(str(data), (), str(saved), "cpu"), "val", "bf16")
    record = checkpoint.read_config(saved)[2]["precisions"]["bf16"]
    assert record["passed"] is found.passed
    assert record["gIoU"] == [found.fp32, found.lower]
    assert record["apart"] == found.apart
    assert record["thresholds"] == {"mask": 0.4, "exists": 0.2, "min_pixels": 1}
    assert found.expressions == record["expressions"] > 0
    assert found.worst < 1  # 16 bits are not the same as 32
    assert Predictor(saved, device="cpu", precision="auto").precision == ("bf16" if found.passed else "fp32")


def test_what_comes_out_of_place_does_not_pass(data: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(model, device, precision):
        return model if precision == "fp32" else lambda batch: Prediction(-model(batch).mask_logits)

    monkeypatch.setattr(module, "asked_at", turned)
    found = check_precision(EvalRequest(str(data), (), str(saved), "cpu"), "val", "bf16")
    assert not found.passed
    assert found.apart == 1
    assert found.worst < 0.1
    assert Predictor(saved, device="cpu", precision="auto").precision == "fp32"


@pytest.mark.parametrize(
    ("info", "has", "expected"),
    [
        ({"passed": True, "thresholds": asdict(Thresholds())}, True, "bf16"),
        ({"passed": True, "thresholds": asdict(Thresholds())}, False, "fp32"),
        ({"passed": False, "thresholds": asdict(Thresholds())}, True, "fp32"),
        ({"passed": True, "thresholds": asdict(Thresholds(mask=0.3))}, True, "fp32"),
        ({}, True, "fp32"),
    ],
)
def test_auto(info: dict[str, object], has: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bf16", lambda device: has)
    assert choose("auto", CPU, {"precisions": {"bf16": info}}, Thresholds()) == expected
    assert choose("fp16", CPU, {"precisions": {"bf16": info}}, Thresholds()) == "fp16"


def test_sixteen_bits_decide_in_thirty_two() -> None:
    layer = torch.nn.Linear(8, 8)

    def model(batch: Batch) -> Prediction:
        found = layer(batch.images)
        assert found.dtype == torch.bfloat16
        return Prediction(found, found[:, 0, 0, 0])

    batch = Batch(torch.randn(2, 3, 8, 8), *(torch.zeros(2, 1).long(),) * 2, torch.arange(2))
    found = asked_at(model, CPU, "bf16")(batch)
    assert found.exists_logit is not None
    assert (found.mask_logits.dtype, found.exists_logit.dtype) == (torch.float32, torch.float32)


def test_an_evaluation_in_another_precision_says_so(data: Path, saved: Path) -> None:
    plain = evaluate(EvalRequest(str(data), ("val",), str(saved), "cpu"))
    lowered = evaluate(EvalRequest(str(data), ("val",), str(saved), "cpu", precision="bf16"))
    assert (plain.about.changed, lowered.about.changed) == ("", "precision=bf16")


def test_an_exported_model_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "phrase.onnx").touch()
    with pytest.raises(RefsegError, match="has its own precision"):
        open_segmenter(tmp_path, precision="bf16")
    with pytest.raises(RefsegError, match="has its own precision"):
        evaluate(EvalRequest("nowhere", ("val",), str(tmp_path), precision="bf16"))


def test_a_bundled_model_in_sixteen_bits_is_on_torch() -> None:
    assert isinstance(open_segmenter("photos", device="cpu", precision="bf16"), Predictor)
