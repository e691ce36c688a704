"""Whatever answers phrases is evaluated by its finished masks: the same figures as its masks in a file give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import records, write_split
from torch import Tensor

from refseg_cli import checkpoint
from refseg_cli.data import masks
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.analysis import compare
from refseg_cli.evaluation.answers import Answer, read_answers
from refseg_cli.evaluation.asked import evaluate_segmenter
from refseg_cli.evaluation.calibrate import calibrate
from refseg_cli.evaluation.disturb import Disturbance
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.evaluation.outside import OutsideRequest, score_file
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import scores
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.base import Found, check_phrases
from refseg_cli.segmenters.zero_shot import open_zero_shot

SAID = {"small": 0.9, "large": 0.8, "both": 0.7, "neither": 0.1, "middle": 0.4, "nothing here": 0.6}


class LeftHalf:
    """Answers every phrase with the left half of the picture, or with nothing where its probability is below 0.5."""

    name = "left half"
    thresholds = Thresholds()

    def __init__(self) -> None:
        self.pictures: list[tuple[int, ...]] = []

    def predict(self, image: Path | bytes | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        check_phrases(phrases)
        assert isinstance(image, Tensor)
        assert image.dtype == torch.uint8
        self.pictures.append(tuple(image.shape))
        for phrase in phrases:
            exists = SAID[phrase] >= self.thresholds.exists
            mask = np.zeros(image.shape[1:], dtype=bool)
            mask[:, : mask.shape[1] // 2] = exists
            yield Found(phrase, mask, exists, SAID[phrase], int(mask.sum()))

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        return []


def request(data: Path, *protocols: str, **changed: object) -> EvalRequest:
    return EvalRequest(str(data), ("val",), protocols=protocols or ("refseg",), **changed)  # type: ignore[arg-type]


def written(file: Path) -> str:
    """The masks of `LeftHalf`, as a file of somebody's predictions."""
    lines = []
    for record in records("val"):
        for e in record.expressions:
            mask = np.zeros((record.height, record.width), dtype=bool)
            mask[:, : record.width // 2] = SAID[e.text] >= 0.5
            rle = masks.encode(mask)
            counted = {"size": list(rle.size), "counts": rle.counts.decode()}
            lines.append(json.dumps({"sent_id": e.sent_id, "mask": counted, "no_target": SAID[e.text] < 0.5}))
    file.write_text("\n".join(lines))
    return str(file)


def test_counts_by_hand(data: Path) -> None:
    segmenter = LeftHalf()
    found = evaluate_segmenter(request(data), segmenter).evaluations["val"]
    assert segmenter.pictures == [(3, 32, 32), (3, 20, 40), (3, 10, 10)]  # each once, with all its phrases
    assert (found.images, found.image_encodings) == (3, 3)
    answers = found.answers
    assert answers.text == ["small", "large", "both", "neither", "middle", "nothing here"]
    assert answers.intersection.tolist() == [64, 0, 64, 0, 0, 0]
    assert answers.predicted.tolist() == [512, 512, 512, 0, 0, 50]
    assert answers.target.tolist() == [64, 256, 320, 0, 200, 0]
    assert answers.says_target.tolist() == [True, True, True, False, False, True]


def test_every_protocol_counts_as_it_does_for_the_same_masks_in_a_file(data: Path, tmp_path: Path) -> None:
    names = tuple(PROTOCOLS)
    asked = evaluate_segmenter(request(data, *names), LeftHalf()).evaluations["val"].answers
    given = score_file(OutsideRequest(written(tmp_path / "a.jsonl"), str(data), ("val",), names)).answers["val"]
    counted = [name for name in names if asked.has_counts(PROTOCOLS[name])]
    assert {"refseg", "rela", "lavt", "cohd"} <= set(counted)  # those that need every instance are left out
    for name in counted:
        one, other = (scores(a.counts(PROTOCOLS[name]), PROTOCOLS[name]).values for a in (asked, given))
        assert one == pytest.approx(other, nan_ok=True)


def test_records_and_watch(data: Path, tmp_path: Path) -> None:
    seen: list[Answer] = []
    file = tmp_path / "records.parquet"
    evaluate_segmenter(
        request(data, records=str(file)), LeftHalf(), watch=lambda batch, prediction, answers: seen.extend(answers)
    )
    read = read_answers(str(file))
    assert read.text == [answer.text for answer in seen]
    assert read.about.model == "left half"
    assert masks.area(seen[0].mask) == 512
    assert score_file(OutsideRequest(str(file), str(data), ("val",))).answers["val"].counts().predicted.sum() == 1586


def test_a_limit_is_of_pictures(data: Path) -> None:
    segmenter = LeftHalf()
    found = evaluate_segmenter(request(data, limit=2), segmenter).evaluations["val"]
    assert (found.images, len(found.answers), len(segmenter.pictures)) == (2, 5, 2)


def test_a_phrase_of_spaces_is_answered_with_nothing(tmp_path: Path) -> None:
    (record, *_) = records("val")
    blank = replace(record.expressions[1], text=" ", raw=" ")
    write_split(tmp_path, "val", [replace(record, expressions=(record.expressions[0], blank, record.expressions[2]))])
    answers = evaluate_segmenter(request(tmp_path), LeftHalf()).evaluations["val"].answers
    assert answers.predicted.tolist() == [512, 0, 512]
    assert answers.says_target.tolist() == [True, False, True]


def test_what_takes_a_checkpoint_is_refused(data: Path) -> None:
    with pytest.raises(RefsegError, match="has no recipe to change"):
        evaluate_segmenter(request(data, overrides=("model.a=1",)), LeftHalf())
    with pytest.raises(RefsegError, match="cannot be asked disturbed questions"):
        evaluate_segmenter(request(data, disturb=Disturbance("wrong-image", 1)), LeftHalf())


def test_evaluate_opens_by_name_and_compares_with_a_checkpoint(
    data: Path, saved: Path, tiny: Callable[[str], str]
) -> None:
    ours = evaluate(request(data, model=str(saved), device="cpu")).evaluations["val"].answers
    theirs = evaluate(request(data, model=tiny("clipseg"), device="cpu"))
    assert theirs.model == "clipseg"
    differences = compare(ours, theirs.evaluations["val"].answers, swaps=20)
    assert differences["gIoU"].b == pytest.approx(theirs.scores["val"].values["gIoU"])


def test_calibrate_gives_what_evaluation_then_finds(data: Path, tmp_path: Path, tiny: Callable[[str], str]) -> None:
    folder = Path(shutil.copytree(tiny("sam3"), tmp_path / "sam3"))
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    asked = request(data, model=str(folder), device="cpu")
    before = evaluate(asked).scores["val"].values["gIoU"]  # no random object reaches SAM 3's 0.3
    found = calibrate(asked, "val")
    assert found.before == pytest.approx(before) == pytest.approx(2 / 6)
    assert found.after > before
    assert found.new.mask == found.old.mask == 0.5
    assert open_zero_shot(str(folder), device="cpu").thresholds == found.new
    assert evaluate(asked).scores["val"].values["gIoU"] == pytest.approx(found.after)
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "refseg.json"} == files
    assert open_zero_shot(str(folder), device="cpu", no_target_threshold=0.9).thresholds.exists == 0.9
    again = calibrate(asked, "val")
    assert again.new == again.old
    (folder / "refseg.json").write_text("{}")
    with pytest.raises(RefsegError, match=r"refseg\.json: cannot read"):
        open_zero_shot(str(folder), device="cpu")


def test_what_lies_in_the_hubs_cache_is_not_calibrated(data: Path) -> None:
    for name in ("hf:org/name", "hf:org/name+hf:org/masks"):
        with pytest.raises(RefsegError, match="hf download org/name --local-dir DIR"):
            calibrate(request(data, model=name), "val")


def test_our_models_on_the_hub_are_evaluated_with_their_logits(
    data: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refseg_cli.hub.config_file", lambda name: saved / checkpoint.CONFIG)
    monkeypatch.setattr("refseg_cli.hub.folder", lambda name: saved)
    report = evaluate(request(data, model="hf:org/name", device="cpu"))
    assert not report.about.finished
    assert report.about.arch == "vlt"
