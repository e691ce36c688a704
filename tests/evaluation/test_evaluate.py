"""Evaluation on a prepared set of three pictures whose masks can be counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import RECIPE, Fake, everything, left_half, left_half_but_says_none, picture, records, truth, write_split
from pycocotools import mask as coco

from refseg_cli.data import masks
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.data.text import Tokenizer
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation import evaluate as module
from refseg_cli.evaluation.analysis import unfit
from refseg_cli.evaluation.answers import About, read_answers
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.evaluation.scoring import evaluate_model
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import scores
from refseg_cli.records import Batch, Prediction, Thresholds


def run(answer, split: Shards, tokenizer: Tokenizer, **options):
    return evaluate_model(Fake(answer), tokenizer, RECIPE, Thresholds(), split, device="cpu", **options)


def columns(answers) -> dict[str, list[int]]:
    """As the model's own rule leaves them."""
    found = {name: getattr(answers, name).tolist() for name in ("intersection", "predicted", "target")}
    triples = zip(*found.values(), strict=True)
    return {**found, "union": [p + g - i for i, p, g in triples]}


def test_everything_is_counted_at_original_size(val, tokenizer):
    evaluation = run(everything, val, tokenizer)
    target = [64, 256, 320, 0, 200, 0]
    whole = [32 * 32] * 4 + [20 * 40, 10 * 10]
    assert columns(evaluation.answers) == {
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
    counts = run(left_half, val, tokenizer).answers
    assert counts.predicted.tolist() == [512, 512, 512, 512, 20 * 20, 10 * 5]
    assert counts.intersection.tolist() == [64, 0, 64, 0, 10 * 10, 0]


def test_what_the_head_denies_is_an_empty_mask(val, tokenizer):
    evaluation = run(left_half_but_says_none, val, tokenizer)
    assert evaluation.answers.predicted.tolist() == [0] * 6
    assert evaluation.answers.raw_predicted.tolist() == [512, 512, 512, 512, 20 * 20, 10 * 5]
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
    assert evaluation.expressions_per_second == pytest.approx(len(evaluation.answers) / evaluation.seconds)


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
    assert len(set(together.answers.predicted[:4].tolist())) > 1, "the phrases must matter for this to say anything"
    # the same logits up to rounding, so at most a pixel on the very edge changes sides
    np.testing.assert_allclose(together.answers.predicted, single.answers.predicted, atol=2)
    np.testing.assert_allclose(together.answers.intersection, single.answers.intersection, atol=2)


def test_records_give_the_same_scores_without_a_model(data, saved, tmp_path):
    path = tmp_path / "answers" / "records.parquet"
    report = evaluate(request(data, saved, records=str(path)))
    assert list(report.scores) == ["val", "testA"]
    again = read_answers(str(path))
    assert again.splits == ["val", "testA"]
    for name, expected in report.scores.items():
        assert scores(again.of_split(name).counts()).table() == expected.table()
    assert report.records == str(path)
    assert report.thresholds == Thresholds(mask=0.4, exists=0.2)
    assert again.about == report.about
    about = json.loads(pq.read_schema(path).metadata[b"about"])
    assert (about["data"], about["model"]) == (str(data), report.model)
    assert about["thresholds"] == {"mask": 0.4, "exists": 0.2, "min_pixels": 1}


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


def test_the_report_is_that_of_the_splits_at_the_checkpoints_thresholds(data, saved, vlt, tokenizer):
    stages = []
    report = evaluate(request(data, saved), progress=lambda stage, *a, **figures: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["eval val", "eval testA"]
    assert [(e.images, e.image_encodings, len(e.counts)) for e in report.evaluations.values()] == [(3, 3, 6), (2, 2, 2)]
    for name, evaluation in report.evaluations.items():
        split = open_shards(data, name)
        expected = evaluate_model(vlt, tokenizer, RECIPE, Thresholds(mask=0.4, exists=0.2), split, device="cpu")
        assert columns(evaluation.answers) == columns(expected.answers)
        assert report.scores[name].table() == scores(evaluation.counts).table()
    other = evaluate_model(vlt, tokenizer, RECIPE, Thresholds(), open_shards(data, "val"), device="cpu")
    assert columns(report.evaluations["val"].answers) != columns(other.answers)


# For several protocols in one pass


def test_one_pass_counts_for_every_protocol_what_a_pass_of_its_own_would(data, saved):
    together = evaluate(request(data, saved, protocols=tuple(PROTOCOLS), curve=True)).evaluations["val"]
    assert together.image_encodings == 3
    apart = {"grec", "grec-iou", "sa-co"}  # of instances, which our models do not tell apart
    assert set(together.answers.about.views) == set(PROTOCOLS) - {"refseg", *apart}
    for name, protocol in PROTOCOLS.items():
        if name in apart:
            assert "which these answers do not give" in unfit(together.answers, protocol)
            continue
        alone = evaluate(request(data, saved, protocols=(name,))).evaluations["val"].answers
        assert (
            scores(alone.counts(protocol), protocol).table()
            == scores(together.answers.counts(protocol), protocol).table()
        )


def test_protocols_that_look_alike_share_their_counts(data, saved):
    views = evaluate(request(data, saved, protocols=tuple(PROTOCOLS))).about.views
    assert views["vlt"] == views["asda"]
    assert views["thesis"] == views["thesis-50pix"]
    assert (views["lavt"], views["rela"], views["gsva"]) == (views["ref-zom"], views["cohd"], views["gsva-zom"])
    assert len(set(views.values())) == 10 + 3  # rec's three; the thesis' mask threshold is 0.5, here 0.4


def test_the_curve_is_what_other_thresholds_give(data, saved, vlt, tokenizer):
    found = evaluate(request(data, saved, curve=True)).evaluations["val"].answers
    for place, threshold in enumerate(found.about.mask_thresholds):
        if threshold in (0.25, 0.5, 0.7):
            own = Thresholds(mask=threshold, exists=0.2)
            expected = evaluate_model(vlt, tokenizer, RECIPE, own, open_shards(data, "val"), device="cpu")
            assert scores(found.counts_at(place)).table() == expected.scores.table()


def test_a_watcher_sees_every_batch_with_its_maps_and_masks(data, saved):
    seen = []

    def watch(batch: Batch, prediction: Prediction, answers) -> None:
        assert len(batch) == len(prediction.mask_logits) == len(answers)
        assert "query_attention" in prediction.aux
        seen.extend((sample.sent_id, answer.mask.size) for sample, answer in zip(batch.samples, answers, strict=True))

    evaluate(request(data, saved, batch_images=2), watch=watch)
    assert seen == [
        (r.expressions[i].sent_id, (r.height, r.width))
        for split in ("val", "testA")
        for r in records(split)
        for i in range(len(r.expressions))
    ]


def test_a_watcher_sees_what_is_made_for_showing_alone(val, tokenizer):
    class Explaining(Fake):
        def explained(self, batch: Batch) -> Prediction:
            return replace(self(batch), aux={"shown": batch.tokens})

    def watch(batch: Batch, prediction: Prediction, answers) -> None:
        seen.extend(prediction.aux)

    seen: list[str] = []
    evaluate_model(Explaining(everything), tokenizer, RECIPE, Thresholds(), val, device="cpu", watch=watch)
    assert set(seen) == {"shown"}


def test_training_pays_for_no_mask_and_no_further_view(val, tokenizer, monkeypatch):
    monkeypatch.setattr(masks, "encode", lambda mask: pytest.fail("nobody asked for masks"))
    evaluation = run(everything, val, tokenizer)
    assert evaluation.answers.views.shape == (6, 0, 3)
    assert evaluation.answers.curve.shape == (6, 0, 2)
    assert evaluation.answers.categories[2] == ("thing",)
    assert evaluation.answers.about == About(thresholds=Thresholds())


def test_the_form_that_the_recipe_names_is_asked_and_recorded(tmp_path, saved):
    one, *_ = records("val")
    said = tuple(replace(e, raw=f"{e.text.title()} !") for e in one.expressions)
    write_split(tmp_path, "val", [replace(one, expressions=said)])
    asked = {
        form: evaluate(
            EvalRequest(str(tmp_path), ("val",), str(saved), device="cpu", overrides=(f"text.field={form}",))
        )
        for form in ("sent", "raw")
    }
    assert asked["sent"].evaluations["val"].answers.text == ["small", "large", "both", "neither"]
    assert asked["raw"].evaluations["val"].answers.text == ["Small !", "Large !", "Both !", "Neither !"]
    assert (asked["sent"].changed, asked["raw"].changed) == ((), ("text.field=raw",))
