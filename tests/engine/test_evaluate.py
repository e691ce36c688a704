"""Evaluation on a prepared set of three pictures whose masks can be counted by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from torch import nn

from refseg_cli import checkpoint
from refseg_cli.checkpoint import Thresholds
from refseg_cli.config import DataConfig, Recipe, TextConfig
from refseg_cli.data import masks, storage
from refseg_cli.data.shards import Manifest, Shards, open_shards, write_shard
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.engine import evaluate as module
from refseg_cli.engine.evaluate import EvalRequest, evaluate, evaluate_model, scores_from_records
from refseg_cli.errors import RefsegError
from refseg_cli.metrics import scores
from refseg_cli.models import build_model
from refseg_cli.records import Batch, Expression, Instance, Prediction, Record

INPUT = (32, 32)
SETTINGS = {"backbone": "convnet", "backbone_channels": [4, 4, 4, 4, 4], "pretrained": False, "text": "transformer"}
SIZES = {"embedding_dim": 8, "dim": 8, "heads": 2, "hidden": 8, "query_count": 2, "mask_dims": [4], "contrast": "none"}
RECIPE = Recipe(
    arch="vlt",
    model={**SETTINGS, **SIZES, "no_target_head": True},
    data=DataConfig(size=INPUT, resize="squash", workers=0),
    text=TextConfig(max_tokens=6),
)


def instance(number: int, size: tuple[int, int], top: int, left: int, height: int, width: int) -> Instance:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return Instance(number, 1, "thing", (left, top, width, height), masks.encode(mask))


def picture(number: int, split: str, size: tuple[int, int], instances: tuple, phrases: list) -> Record:
    """phrases: (text, targets) of each expression."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    expressions = tuple(
        Expression(text, 10 * number + i, 100 * number + i, targets) for i, (text, targets) in enumerate(phrases)
    )
    return Record(number, f"{number}.png", split, *size, file.getvalue(), instances, expressions)


def records(split: str) -> list[Record]:
    """32 x 32 (the network's own size), 20 x 40 and 10 x 10 pixels; four phrases with targets and two without.

    testA has the second and third picture only.
    """
    one, two, three = (32, 32), (20, 40), (10, 10)
    pictures = [
        picture(
            1,
            split,
            one,
            (instance(1, one, 0, 0, 8, 8), instance(2, one, 16, 16, 16, 16)),
            [("small", (0,)), ("large", (1,)), ("both", (0, 1)), ("neither", ())],
        ),
        picture(2, split, two, (instance(3, two, 5, 10, 10, 20),), [("middle", (0,))]),
        picture(3, split, three, (), [("nothing here", ())]),
    ]
    return pictures[1:] if split == "testA" else pictures


def write_split(folder: Path, split: str, content: list[Record]) -> None:
    """Add a split to the prepared data in `folder`."""
    place = storage.locate(folder)
    known = json.loads((folder / "manifest.json").read_text())["splits"] if (folder / "manifest.json").exists() else {}
    info = write_shard(place / f"{split}-00000-of-00001.parquet", content, plan="test", problems=[])
    manifest = Manifest("test", "", "test", {}, "test", {split: info})
    table = json.loads(manifest.to_json())
    table["splits"] = {**known, **table["splits"]}
    (folder / "manifest.json").write_text(json.dumps(table))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("val", "testA"):
        write_split(folder, split, records(split))
    return folder


@pytest.fixture
def val(data: Path) -> Shards:
    return open_shards(data, "val")


@pytest.fixture
def tokenizer() -> Tokenizer:
    return build_tokenizer(RECIPE.text, [e.text for r in records("val") for e in r.expressions])


class Fake(nn.Module):
    """Answers as `answer` says, after a look at each picture with `eye`, which counts what it has seen."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer
        self.eye = nn.Conv2d(3, 1, 1)
        self.seen = 0
        self.eye.register_forward_hook(self.count)

    def count(self, eye, inputs, output) -> None:
        self.seen += len(inputs[0])

    def forward(self, batch: Batch) -> Prediction:
        self.eye(batch.images)
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.answer(batch)


def truth(batch: Batch) -> Prediction:
    return Prediction(20 * batch.masks - 10, torch.where(batch.has_target, 5.0, -5.0))


def everything(batch: Batch) -> Prediction:
    return Prediction(torch.full((len(batch), 1, *INPUT), 9.0))


def left_half_but_says_none(batch: Batch) -> Prediction:
    return Prediction(left_half(batch).mask_logits, torch.full((len(batch),), -5.0))


def left_half(batch: Batch) -> Prediction:
    logits = torch.full((len(batch), 1, *INPUT), -9.0)
    logits[..., : INPUT[1] // 2] = 9.0
    return Prediction(logits)


def run(answer, split: Shards, tokenizer: Tokenizer, **options):
    return evaluate_model(Fake(answer), tokenizer, RECIPE, Thresholds(), split, device="cpu", **options)


def columns(counts) -> dict[str, list[int]]:
    return {name: getattr(counts, name).tolist() for name in ("intersection", "union", "predicted", "target")}


def test_everything_is_counted_at_original_size(val, tokenizer):
    evaluation = run(everything, val, tokenizer)
    target = [64, 256, 320, 0, 200, 0]
    whole = [32 * 32] * 4 + [20 * 40, 10 * 10]
    assert columns(evaluation.counts) == {
        "intersection": target,
        "union": whole,
        "predicted": whole,
        "target": target,
    }
    assert evaluation.counts.has_target.tolist() == [True, True, True, False, True, False]
    assert evaluation.counts.says_target.all()
    table = evaluation.scores.table()
    assert table["cIoU"] == pytest.approx(100 * 840 / 4996)
    assert table["gIoU"] == pytest.approx(100 * (64 / 1024 + 256 / 1024 + 320 / 1024 + 200 / 800) / 6)
    assert (table["N-acc"], table["T-acc"], table["Pr@0.5"]) == (0, 100, 0)


def test_half_of_the_input_is_half_of_each_picture(val, tokenizer):
    counts = run(left_half, val, tokenizer).counts
    assert counts.predicted.tolist() == [512, 512, 512, 512, 20 * 20, 10 * 5]
    assert counts.intersection.tolist() == [64, 0, 64, 0, 10 * 10, 0]


def test_what_the_head_denies_is_an_empty_mask(val, tokenizer):
    evaluation = run(left_half_but_says_none, val, tokenizer)
    assert evaluation.counts.predicted.tolist() == [0] * 6
    assert not evaluation.counts.says_target.any()
    table = evaluation.scores.table()
    assert (table["N-acc"], table["T-acc"], table["cIoU"]) == (100, 0, 0)
    assert table["gIoU"] == pytest.approx(100 * 2 / 6)


def test_the_truth_scores_one_hundred(val, tokenizer):
    table = run(truth, val, tokenizer, limit=1).scores.table()  # the picture that is not resized
    assert set(table.values()) == {100.0}


@pytest.mark.parametrize("batch_images", [1, 2, 8])
def test_each_image_is_encoded_once_whatever_the_batch(val, tokenizer, batch_images):
    model = Fake(everything)
    evaluation = evaluate_model(model, tokenizer, RECIPE, Thresholds(), val, device="cpu", batch_images=batch_images)
    assert (model.seen, evaluation.image_encodings, evaluation.images, len(evaluation.counts)) == (3, 3, 3, 6)
    assert evaluation.expressions_per_second == pytest.approx(2 * evaluation.images_per_second)


def test_an_image_of_too_many_phrases_is_encoded_again_and_says_so(tmp_path, tokenizer):
    one, *_ = records("val")
    crowded = picture(7, "val", (32, 32), one.instances, [("small", (0,))] * 65)
    write_split(tmp_path, "val", [crowded])
    model = Fake(everything)
    evaluation = evaluate_model(model, tokenizer, RECIPE, Thresholds(), open_shards(tmp_path, "val"), device="cpu")
    assert (model.seen, evaluation.image_encodings, evaluation.images) == (2, 2, 1)
    assert len(evaluation.counts) == 65


@pytest.mark.parametrize(("limit", "expressions"), [(0, 6), (1, 4), (2, 5), (99, 6)])
def test_limit_counts_images(val, tokenizer, limit, expressions):
    evaluation = run(everything, val, tokenizer, limit=limit)
    assert len(evaluation.counts) == expressions
    assert evaluation.images == min(limit or 3, 3)


def test_limit_passes_over_images_without_expressions(tmp_path, tokenizer):
    silent = picture(9, "val", (32, 32), (), [])
    write_split(tmp_path, "val", [silent, *records("val")])
    evaluation = run(everything, open_shards(tmp_path, "val"), tokenizer, limit=1)
    assert (evaluation.images, len(evaluation.counts)) == (1, 4)


def test_a_split_without_expressions_has_no_scores(tmp_path, tokenizer):
    write_split(tmp_path, "val", [picture(9, "val", (32, 32), (), [])])
    evaluation = run(everything, open_shards(tmp_path, "val"), tokenizer)
    assert (evaluation.images, evaluation.image_encodings) == (0, 0)
    assert set(evaluation.scores.table().values()) == {None}


def test_modules_come_back_in_their_own_mode_even_after_a_failure(val, tokenizer):
    def fail(batch: Batch) -> Prediction:
        raise RuntimeError("on purpose")

    for answer in (everything, fail):
        model = Fake(answer).train()
        model.eye.eval()
        if answer is fail:
            with pytest.raises(RuntimeError, match="on purpose"):
                evaluate_model(model, tokenizer, RECIPE, Thresholds(), val, device="cpu")
        else:
            evaluate_model(model, tokenizer, RECIPE, Thresholds(), val, device="cpu")
        assert (model.training, model.eye.training) == (True, False)


def test_progress_counts_expressions_and_gives_their_rate(val, tokenizer):
    calls = []
    run(
        everything,
        val,
        tokenizer,
        batch_images=1,
        stage="val",
        progress=lambda *a, **figures: calls.append((a, figures)),
    )
    assert [a for a, _ in calls] == [("val", 4, 6), ("val", 5, 6), ("val", 6, 6)]
    assert all(figures["expr/s"] > 0 for _, figures in calls)


# With a real model, through the engine's verb


@pytest.fixture
def vlt(val, tokenizer) -> nn.Module:
    """Untrained, but moved and stretched so that about half of all pixels are in its masks, at no narrow margin."""
    torch.manual_seed(3)
    model = build_model(RECIPE, vocab_size=tokenizer.vocab_size).eval()
    logits = []
    watch = model.register_forward_hook(lambda m, inputs, prediction: logits.append(prediction.mask_logits))
    evaluate_model(model, tokenizer, RECIPE, Thresholds(), val, device="cpu")
    watch.remove()
    with torch.no_grad():
        model.mask_decoder.out.bias -= logits[0].median()
        for parameter in model.mask_decoder.out.parameters():
            parameter *= 5 / logits[0].std()
    return model


@pytest.fixture
def saved(tmp_path: Path, vlt, tokenizer) -> Path:
    folder = tmp_path / "run"
    checkpoint.save(folder, vlt, RECIPE, tokenizer, thresholds=Thresholds(mask=0.4, exists=0.2))
    return folder


def request(data: Path, saved: Path, **options) -> EvalRequest:
    return EvalRequest(str(data), ("val", "testA"), str(saved), "cpu", **options)


def test_vlt_looks_once_at_each_image_and_answers_as_if_asked_one_by_one(tmp_path, val, vlt, tokenizer):
    apart = [replace(r, expressions=(e,)) for r in records("val") for e in r.expressions]
    write_split(tmp_path, "val", apart)
    seen: list[int] = []
    vlt.vision.backbone.register_forward_hook(lambda m, inputs, output: seen.append(len(inputs[0])))
    always = Thresholds(exists=0.0)
    together = evaluate_model(vlt, tokenizer, RECIPE, always, val, device="cpu")
    assert sum(seen) == together.image_encodings == 3
    single = evaluate_model(vlt, tokenizer, RECIPE, always, open_shards(tmp_path, "val"), device="cpu", batch_images=1)
    assert sum(seen) - 3 == single.image_encodings == 6
    assert len(set(together.counts.predicted[:4].tolist())) > 1, "the phrases must matter for this to say anything"
    # the same logits up to rounding, so at most a pixel on the very edge changes sides
    np.testing.assert_allclose(together.counts.predicted, single.counts.predicted, atol=2)
    np.testing.assert_allclose(together.counts.intersection, single.counts.intersection, atol=2)


def test_records_give_the_same_scores_without_a_model(data, saved, tmp_path):
    path = tmp_path / "answers" / "records.parquet"
    report = evaluate(request(data, saved, records=str(path)))
    assert list(report.scores) == ["val", "testA"]
    again = scores_from_records(str(path))
    assert {name: s.table() for name, s in again.items()} == {name: s.table() for name, s in report.scores.items()}
    assert report.records == str(path)
    assert report.thresholds == Thresholds(mask=0.4, exists=0.2)
    about = json.loads(pq.read_schema(path).metadata[b"about"])
    assert about == {
        "data": str(data),
        "model": report.model,
        "thresholds": {"mask": 0.4, "exists": 0.2, "min_pixels": 1},
    }


def test_others_can_count_the_recorded_masks(data, saved, tmp_path):
    """Read with pyarrow and pycocotools only: the masks and the shards give the recorded counts."""
    path = tmp_path / "records.parquet"
    evaluate(request(data, saved, records=str(path)))
    expected = {(split, e.sent_id): (r, e) for split in ("val", "testA") for r in records(split) for e in r.expressions}
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == len(expected) == 6 + 2
    for row in rows:
        record, expression = expected[row["split"], row["sent_id"]]
        predicted = coco.decode(row["mask"]).astype(bool)
        assert predicted.shape == (record.height, record.width)
        true = np.zeros_like(predicted)
        for target in expression.targets:
            true |= (
                coco.decode({"size": record.instances[target].rle.size, "counts": record.instances[target].rle.counts})
                > 0
            )
        assert (row["image_id"], row["ref_id"], row["text"]) == (record.image_id, expression.ref_id, expression.text)
        assert row["instance_count"] == len(expression.targets)
        assert row["has_target"] == bool(expression.targets)
        assert row["says_target"] == (row["predicted"] > 0)
        assert 0 <= row["p_target"] <= 1
        found = (row["intersection"], row["union"], row["predicted"], row["target"])
        assert found == ((predicted & true).sum(), (predicted | true).sum(), predicted.sum(), true.sum())


@pytest.mark.filterwarnings(
    "error::pytest.PytestUnraisableExceptionWarning"
)  # pyarrow's destructor would complain on stderr
def test_records_appear_whole_or_not_at_all(data, saved, tmp_path, monkeypatch):
    path = tmp_path / "answers" / "records.parquet"
    passes = []

    def fail_in_the_second_split(*arguments, **options):
        if passes:
            raise KeyboardInterrupt
        passes.append(evaluate_model(*arguments, **options))
        return passes[0]

    monkeypatch.setattr(module, "evaluate_model", fail_in_the_second_split)
    with pytest.raises(KeyboardInterrupt):
        evaluate(request(data, saved, records=str(path)))
    assert passes
    assert list(path.parent.iterdir()) == []


def test_records_that_cannot_be_written_stop_the_run_before_it_starts(data, saved, tmp_path):
    (tmp_path / "file").write_text("")
    calls = []
    with pytest.raises(RefsegError, match=r"file/records\.parquet"):
        evaluate(
            request(data, saved, records=str(tmp_path / "file" / "records.parquet")),
            progress=lambda *a, **figures: calls.append(a),
        )
    assert calls == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": ("val", "tset")}, "unknown split"),
        ({"splits": ()}, "no split"),
        ({"data": "nowhere"}, "nowhere"),
        ({"model": "nowhere"}, "nowhere"),
        ({"device": "abacus"}, "abacus"),
        ({"batch_images": 0}, "0 images"),
    ],
)
def test_wrong_requests_are_named_before_the_first_image(data, saved, change, message):
    options = {"data": str(data), "splits": ("val",), "model": str(saved), "device": "cpu", **change}
    calls = []
    with pytest.raises(RefsegError, match=message):
        evaluate(EvalRequest(**options), progress=lambda *a, **figures: calls.append(a))
    assert calls == []


def test_other_files_are_no_records(data, tmp_path):
    with pytest.raises(RefsegError, match="no such file"):
        scores_from_records(str(tmp_path / "missing.parquet"))
    with pytest.raises(RefsegError, match="Parquet"):
        scores_from_records(str(data / "manifest.json"))
    with pytest.raises(RefsegError, match="no column 'intersection'"):
        scores_from_records(str(data / "val-00000-of-00001.parquet"))


def test_damaged_records_are_no_scores(data, saved, tmp_path):
    path = tmp_path / "records.parquet"
    evaluate(request(data, saved, records=str(path)))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "plain.parquet")
    with pytest.raises(RefsegError, match="not a file of records"):
        scores_from_records(str(tmp_path / "plain.parquet"))
    position = table.schema.get_field_index("union")
    broken = table.set_column(position, "union", [[1] * len(table)])
    pq.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(RefsegError, match="damaged records: expression"):
        scores_from_records(str(tmp_path / "broken.parquet"))


def test_the_report_is_that_of_the_splits_at_the_checkpoints_thresholds(data, saved, vlt, tokenizer):
    stages = []
    report = evaluate(request(data, saved), progress=lambda stage, *a, **figures: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["eval val", "eval testA"]
    assert [(e.images, e.image_encodings, len(e.counts)) for e in report.evaluations.values()] == [(3, 3, 6), (2, 2, 2)]
    for name, evaluation in report.evaluations.items():
        split = open_shards(data, name)
        expected = evaluate_model(vlt, tokenizer, RECIPE, Thresholds(mask=0.4, exists=0.2), split, device="cpu")
        assert columns(evaluation.counts) == columns(expected.counts)
        assert report.scores[name].table() == scores(evaluation.counts).table()
    other = evaluate_model(vlt, tokenizer, RECIPE, Thresholds(), open_shards(data, "val"), device="cpu")
    assert columns(report.evaluations["val"].counts) != columns(other.counts)
