"""Boxes, scores and instances in files of predictions: every form says the same, and records keep it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import records, write_split
from scored import lines, rle, score

from refseg_cli.app import main
from refseg_cli.data import masks
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.analysis import analyse, table_of, unfit
from refseg_cli.evaluation.answers import read_answers, read_instances
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.evaluation.outlines import Outline, outlines
from refseg_cli.evaluation.outside import Outside
from refseg_cli.evaluation.predictions import Problems, read_predictions
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import scores
from refseg_cli.records import Detection
from refseg_cli.segmenters import base

RECORDS = records("val")
PAIRS = [(record, expression) for record in RECORDS for expression in record.expressions]


def kept(outside: Outside, path: Path) -> list:
    """The instances that records hold, boxes and scores alone."""
    told = read_instances(str(path))
    assert len(told) == len(outside.answers["val"])
    return [None if row is None else [(*one["box"], one["score"]) for one in row] for row in told]


X, Y, W, H = 0, 1, 2, 3


def as_instances(record, boxes) -> dict:
    return {"instances": [{"bbox": list(box), "score": 0.75, "mask": drawn(record, box)} for box in boxes]}


def as_columns(record, boxes) -> dict:
    return {"boxes": [list(box) for box in boxes], "scores": [0.75] * len(boxes)}


def as_columns_with_masks(record, boxes) -> dict:
    return {**as_columns(record, boxes), "masks": [drawn(record, box) for box in boxes]}


def as_corners(record, boxes) -> dict:
    corners = [[b[X], b[Y], b[X] + b[W], b[Y] + b[H]] for b in boxes]
    return {"boxes": corners, "box_format": "xyxy", "scores": [0.75] * len(boxes)}


def as_thousandths(record, boxes) -> dict:
    sides = [1000 / record.width, 1000 / record.height] * 2
    scaled = [[value * side for value, side in zip(box, sides, strict=True)] for box in boxes]
    return {"boxes": scaled, "box_scale": 1000, "scores": [0.75] * len(boxes)}


def drawn(record, box) -> dict:
    left, top, width, height = map(int, box)
    mask = np.zeros((record.height, record.width), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return rle(mask)


FORMS = [as_instances, as_columns, as_columns_with_masks, as_corners, as_thousandths]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same_and_records_keep_it(data, tmp_path, form):
    truth = [[record.instances[t].box for t in expression.targets] for record, expression in PAIRS]
    entries = [
        {"sent_id": expression.sent_id, **form(record, boxes)}
        for (record, expression), boxes in zip(PAIRS, truth, strict=True)
    ]
    path = tmp_path / "r.parquet"
    found = score(data, lines(tmp_path / "p.jsonl", entries), "rec", records=str(path))
    expected = [[pytest.approx((*box, 0.75)) for box in boxes] for boxes in truth]
    assert kept(found, path) == expected
    assert found.answers["val"].about.masks == (form in (as_instances, as_columns_with_masks))
    again = score(data, path, "rec", "rec-inclusive", records=str(tmp_path / "again.parquet"), merge="union")
    assert kept(again, tmp_path / "again.parquet") == expected
    assert again.answers["val"].about.masks == found.answers["val"].about.masks


def test_rows_for_each_instance_are_joined(data, tmp_path):
    """COCO results: box, score and mask of one object a row."""
    entries = [
        {"sent_id": expression.sent_id, "segmentation": drawn(record, box), "bbox": list(box), "score": 0.5 + n / 10}
        for record, expression in PAIRS
        for n, box in enumerate(record.instances[t].box for t in expression.targets)
    ]
    entries += [{"sent_id": expression.sent_id, "mask": None} for _, expression in PAIRS if not expression.targets]
    path = tmp_path / "r.parquet"
    found = score(data, lines(tmp_path / "p.jsonl", entries), merge="union", records=str(path))
    assert [None if row is None else [one[-1] for one in row] for row in kept(found, path)] == [
        [0.5], [0.5], [0.5, 0.6], None, [0.5], None
    ]  # fmt: skip
    assert found.answers["val"].intersection.tolist() == found.answers["val"].target.tolist()


def test_the_answer_is_what_is_given_for_it_or_the_surer_instances():
    one, two = {"size": [2, 2], "counts": [0, 1, 3]}, {"size": [2, 2], "counts": [1, 1, 2]}
    apart = {"sent_id": 1, "instances": [{"mask": one, "score": 0.5}, {"mask": two, "score": 0.49}]}
    for entry, expected in ((apart, (one,)), ({**apart, "mask": two}, (two,))):
        (given,) = read(entry)
        assert given.masks == expected
        assert given.has_mask


def read(*entries: dict) -> list:
    path = Path("p.jsonl")
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    problems = Problems()
    found = read_predictions(str(path), problems, splits=("val",))
    assert not problems.found
    return found


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_mask_alone_tells_no_instances_apart_and_a_score_of_it_does():
    mask = {"size": [2, 2], "counts": [0, 1, 3]}
    assert outlines({"mask": mask}) is None
    assert outlines({"score": 0.5}) is None
    assert outlines({"masks": [mask, mask]}) is None
    assert outlines({"boxes": []}) == ()
    assert outlines({"mask": mask, "score": 0.5}) == (Outline(None, 0.5, mask),)
    assert outlines({"masks": [mask], "scores": [0.5]}) == (Outline(None, 0.5, mask),)
    assert outlines({"bbox": [1, 2, 3, 4], "mask": mask}) == (Outline((1, 2, 3, 4), 1, mask),)
    # Two parts of one answer, and three boxes: not a mask for each
    assert [one.mask for one in outlines({"boxes": [[0, 0, 1, 1]] * 3, "masks": [mask, mask]})] == [None] * 3


BROKEN = {
    "instances is not a list": {"instances": {}},
    "instances are not objects": {"instances": [3]},
    "an instance without box and mask": {"instances": [{"score": 1}]},
    "a score that is not a number": {"boxes": [[0, 0, 1, 1]], "scores": [True]},
    "1 boxes and 2 scores": {"boxes": [[0, 0, 1, 1]], "scores": [0.5, 0.5]},
    "scores without boxes or masks": {"scores": [0.5]},
    "a box that is not a list of four numbers": {"boxes": [[0, 0, 1]]},
    "a box of negative width or height": {"bbox": [5, 5, 4, 6], "box_format": "xyxy"},
    "box_format is neither": {"bbox": [0, 0, 1, 1], "box_format": "cxcywh"},
    "box_scale is no positive number": {"bbox": [0, 0, 1, 1], "box_scale": 0},
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_box_is_named_by_its_line(data, tmp_path, what):
    entries = [{"sent_id": e.sent_id, "boxes": []} for _, e in PAIRS]
    entries[1] = {"sent_id": 101, **BROKEN[what]}
    with pytest.raises(RefsegError, match=f"p.jsonl:2: unreadable: {what}"):
        score(data, lines(tmp_path / "p.jsonl", entries), "rec")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + "0" * 400, '"5"', "[1]"])
def test_numbers_of_no_size_are_no_boxes(value):
    with pytest.raises(ValueError, match="four numbers"):
        outlines(json.loads(f'{{"bbox": [0, 0, 1, {value}]}}'))


def test_boxes_are_nothing_to_protocols_of_pixels(data, tmp_path):
    source = lines(tmp_path / "p.jsonl", [{"sent_id": e.sent_id, "boxes": [[0, 0, 8, 8]]} for _, e in PAIRS])
    answers = score(data, source).answers["val"]
    assert unfit(answers, PROTOCOLS["refseg"]) == "these predictions are boxes, without masks"
    with pytest.raises(RefsegError, match="without masks"):
        analyse(answers)
    with pytest.raises(RefsegError, match="boxes without masks"):
        score(data, source, masks=True)


def test_records_from_before_instances_have_none(data, saved, tmp_path):
    path = tmp_path / "r.parquet"
    evaluate(EvalRequest(str(data), ("val",), str(saved), "cpu", records=str(path)))
    assert read_instances(str(path)) == [None] * len(PAIRS)
    pq.write_table(pq.read_table(path).drop_columns(["instances"]), tmp_path / "old.parquet")
    assert read_instances(str(tmp_path / "old.parquet")) == [None] * len(PAIRS)
    assert len(read_answers(str(tmp_path / "old.parquet"))) == len(PAIRS)


def test_predict_writes_the_instances_that_a_segmenter_tells_apart():
    mask = np.ones((2, 2), dtype=bool)

    class Named:
        name = "x"
        thresholds = base.Thresholds()

    alone = base.Found("dog", mask, True, 0.9, 4)
    assert "instances" not in base.record(Named(), "a.jpg", alone)
    found = (Detection((0, 0, 2, 2), 0.75, masks.encode(mask)), Detection((0, 0, 1, 1), 0.5))
    line = base.record(Named(), "a.jpg", base.Found("dog", mask, True, 0.9, 4, instances=found))
    assert outlines(line) == (
        Outline((0, 0, 2, 2), 0.75, rle(mask)),
        Outline((0, 0, 1, 1), 0.5),
    )


# Through protocols


def entry_of(expression, **said) -> dict:
    return {"sent_id": expression.sent_id, **said}


def perfect_boxes(record, expression) -> list:
    return [list(record.instances[t].box) for t in expression.targets]


def table(outside: Outside, name: str) -> dict:
    return scores(outside.answers["val"].counts(PROTOCOLS[name]), PROTOCOLS[name]).table()


def test_perfect_boxes_are_right_and_one_too_many_is_not(data, tmp_path):
    entries = [entry_of(e, boxes=perfect_boxes(r, e)) for r, e in PAIRS]
    found = score(data, lines(tmp_path / "p.jsonl", entries), "grec", "rec")
    assert table(found, "grec") == {"F1": 100, "N-acc": 100, "T-acc": 100}
    entries[2]["boxes"].append([0, 0, 1, 1])  # of "both"
    entries[3] = entry_of(PAIRS[3][1], boxes=[[0, 0, 1, 1]], scores=[0.7])  # of "neither"
    entries[5] = entry_of(PAIRS[5][1], boxes=[[0, 0, 1, 1]], scores=[0.69])  # of "nothing here"
    found = score(data, lines(tmp_path / "p.jsonl", entries), "grec", "rec")
    assert table(found, "grec") == {"F1": pytest.approx(100 * 4 / 6), "N-acc": 50, "T-acc": 100}
    assert table(found, "rec") == {"Acc@0.5": 100}  # of the three phrases with one target


def test_the_box_of_a_mask_is_read_where_none_is_given_and_a_denied_one_not(data, tmp_path):
    entries = [entry_of(e, mask=drawn(r, r.instances[e.targets[0]].box) if e.targets else None) for r, e in PAIRS]
    source = lines(tmp_path / "p.jsonl", entries)
    assert table(score(data, source, "rec"), "rec") == {"Acc@0.5": 100}
    entries[0]["no_target"] = True
    found = score(data, lines(tmp_path / "p.jsonl", entries), "rec", "grec", "sa-co")
    assert table(found, "rec") == {"Acc@0.5": pytest.approx(200 / 3)}
    said = "it needs a {} and a score of each instance, which these answers do not give"
    for name, what in (("grec", "box"), ("sa-co", "mask")):
        assert unfit(found.answers["val"], PROTOCOLS[name]) == said.format(what)
        with pytest.raises(RefsegError, match="do not give"):
            table_of(found.answers["val"], PROTOCOLS[name])


def test_boxes_that_are_given_go_before_the_masks(data, tmp_path):
    """A mask of the whole picture beside the right box."""
    entries = [
        entry_of(e, mask=drawn(r, (0, 0, r.width, r.height)), bbox=(perfect_boxes(r, e) or [[0, 0, 1, 1]])[0])
        for r, e in PAIRS
    ]
    assert table(score(data, lines(tmp_path / "p.jsonl", entries), "rec"), "rec") == {"Acc@0.5": 100}


def test_an_own_model_is_scored_by_the_boxes_of_its_masks(data, saved, tmp_path):
    """And so are its records, to the last count."""
    path = tmp_path / "r.parquet"
    names = ("rec", "rec-inclusive", "rec-giou")
    asked = EvalRequest(str(data), ("val",), str(saved), "cpu", records=str(path), protocols=names)
    ours = evaluate(asked).evaluations["val"].answers
    found = score(data, path, *names, "lavt").answers["val"]
    assert found.about.finished
    for name in names:
        counts, other = ours.counts(PROTOCOLS[name]), found.counts(PROTOCOLS[name])
        assert counts.target.tolist() == [1, 1, 2, 0, 1, 0]
        assert counts.predicted.tolist() == other.predicted.tolist()
        assert counts.intersection.tolist() == other.intersection.tolist()


def test_concepts_take_masks_of_half_the_score_and_leave_crowds_out(tmp_path):
    one, *others = records("val")
    small, large = one.instances
    write_split(tmp_path, "val", [replace(one, instances=(replace(small, iscrowd=True), large)), *others])
    entries = []
    for record, expression in PAIRS:
        boxes = perfect_boxes(record, expression)
        told = [{"mask": drawn(record, box), "score": 0.5} for box in boxes]
        entries.append(entry_of(expression, instances=[*told, {"mask": drawn(record, (0, 0, 2, 2)), "score": 0.49}]))
    counts = score(tmp_path, lines(tmp_path / "p.jsonl", entries), "sa-co").answers["val"].counts(PROTOCOLS["sa-co"])
    assert counts.target.tolist() == [0, 1, 1, 0, 1, 0]
    assert counts.predicted.tolist() == [1, 1, 2, 0, 1, 0]
    assert counts.further.tolist() == [[0] * 9, [1] * 9, [1] * 9, [0] * 9, [1] * 9, [0] * 9]


def test_records_keep_the_counts_of_instances(data, tmp_path):
    entries = [entry_of(e, **as_instances(r, perfect_boxes(r, e))) for r, e in PAIRS]
    source, path = lines(tmp_path / "p.jsonl", entries), tmp_path / "r.parquet"
    first = score(data, source, "rela", "sa-co", "grec", "lavt", records=str(path))
    again = score(data, path, "sa-co", "grec", "rela")
    known = read_answers(str(path))
    for name in ("sa-co", "grec", "rela"):
        assert table(first, name) == table(again, name)
        expected = scores(known.counts(PROTOCOLS[name]), PROTOCOLS[name]).table()
        assert table(again, name) == expected


def test_all_protocols_say_why_they_have_no_figure(data, tmp_path, capsys):
    source = lines(tmp_path / "p.jsonl", [entry_of(e, boxes=perfect_boxes(r, e)) for r, e in PAIRS])
    assert main(["eval", "--data", str(data), "--from", str(source), "--protocol", "all", "--resamples", "0"]) == 0
    streams = capsys.readouterr()
    rows = {line.split()[0]: line for line in streams.out.splitlines()[2:]}
    assert list(rows) == ["rec", "rec-inclusive", "rec-giou", "grec", "grec-iou"]
    assert "100.00 F1" in rows["grec"]
    assert rows["grec"].endswith("boxes of score ≥ 0.7, generalised IoU ≥ 0.5")
    assert "lisa: these predictions are boxes, without masks" in streams.err
    assert "sa-co: it needs a mask" in streams.err
    assert "have no target, scored as any other" not in streams.err
    assert main(["eval", "--data", str(data), "--from", str(source)]) == 2
    assert "boxes, without masks" in capsys.readouterr().err
