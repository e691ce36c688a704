"""Thresholds chosen on a split, kept in the checkpoint, and used from then on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg_cli import checkpoint
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation import calibrate as module
from refseg_cli.evaluation.calibrate import calibrate
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.metrics.tuning import Tuned
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.trained import Predictor


def request(data: Path, saved: Path | None) -> EvalRequest:
    return EvalRequest(str(data), ("testA",), None if saved is None else str(saved), "cpu")


def g_iou(data: Path, saved: Path, split: str = "val") -> float:
    return evaluate(EvalRequest(str(data), (split,), str(saved), "cpu")).scores[split].values["gIoU"]


def test_the_gain_is_what_evaluation_then_finds_and_predict_uses_the_thresholds(data, saved):
    before = g_iou(data, saved)
    weights = (saved / checkpoint.WEIGHTS).read_bytes()
    found = calibrate(request(data, saved), "val")
    assert found.before == pytest.approx(before)
    assert found.after > found.before
    assert g_iou(data, saved) == pytest.approx(found.after)
    assert found.old == Thresholds(mask=0.4, exists=0.2)
    assert checkpoint.read_config(saved)[1] == found.new != found.old
    assert Predictor(saved, device="cpu").thresholds == found.new
    assert (saved / checkpoint.WEIGHTS).read_bytes() == weights
    about = json.loads((saved / checkpoint.CONFIG).read_text())["calibrated"]
    assert about == {
        "data": "test",
        "split": "val",
        "expressions": 6,
        "gIoU": [pytest.approx(found.before), pytest.approx(found.after)],
    }
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_thresholds_that_are_as_good_stay(data, saved):
    calibrate(request(data, saved), "val")
    config = (saved / checkpoint.CONFIG).read_bytes()
    again = calibrate(request(data, saved), "val")
    assert again.new == again.old
    assert again.after == again.before
    assert (saved / checkpoint.CONFIG).read_bytes() == config


def test_without_a_head_the_pixels_are_kept_and_its_threshold_stays(data, saved, monkeypatch):
    monkeypatch.setattr(module, "tune", lambda *a, **k: Tuned(mask=0.7, exists=None, min_pixels=33, g_iou=1.0))
    found = calibrate(request(data, saved), "val")
    assert found.new == Thresholds(mask=0.7, exists=0.2, min_pixels=33)
    assert checkpoint.read_config(saved)[1] == found.new


@pytest.mark.parametrize("name", [None, "scenes"])
def test_the_bundled_models_are_not_ours_to_change(data, name):
    with pytest.raises(RefsegError, match="bundled model keeps its thresholds"):
        calibrate(request(data, name), "val")


def test_unknown_splits_and_models_are_named(data, saved):
    with pytest.raises(RefsegError, match="unknown split"):
        calibrate(request(data, saved), "tset")
    with pytest.raises(RefsegError, match="no such checkpoint"):
        calibrate(request(data, saved / "nowhere"), "val")
