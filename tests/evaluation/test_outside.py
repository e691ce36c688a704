"""Somebody's predictions: every form of file, every fault named and counted, and the same scores as with the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import records, write_split
from PIL import Image
from pycocotools import mask as coco
from scored import half, lines, rle, score

from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.analysis import unfit
from refseg_cli.evaluation.answers import read_answers
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.evaluation.predictions import Problems, read_predictions
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import scores

EXPRESSIONS = [(r, e) for r in records("val") for e in r.expressions]  # sent_ids 100..103, 200, 300


def entries(**changed) -> list[dict]:
    """The left half for every expression, by sent_id; `changed`: s100={...} replaces or None leaves one away."""
    found = []
    for record, expression in EXPRESSIONS:
        entry = changed.get(f"s{expression.sent_id}", {"sent_id": expression.sent_id, "mask": rle(half(record))})
        found += [] if entry is None else [entry]
    return found


def test_the_left_half_of_everything_by_hand(data, tmp_path):
    answers = score(data, lines(tmp_path / "p.jsonl", entries())).answers["val"]
    assert answers.predicted.tolist() == [512, 512, 512, 512, 400, 50]
    assert answers.intersection.tolist() == [64, 0, 64, 0, 100, 0]
    assert answers.target.tolist() == [64, 256, 320, 0, 200, 0]
    assert answers.categories[2] == ("thing",)
    assert (answers.about.finished, answers.about.dataset) == (True, "test")


def by_id(record, expression) -> dict:
    return {"sent_id": expression.sent_id, "mask": rle(half(record))}


def by_name(record, expression) -> dict:
    phrase = f" {expression.text.upper()}  "
    return {"image": f"some/where/{record.file_name}", "phrase": phrase, "mask": rle(half(record))}


def test_a_phrase_matches_as_typed_or_as_cleaned(tmp_path):
    one, *_ = records("val")
    small, large, *others = one.expressions
    said = (replace(small, raw="Small , the one ."), replace(large, raw="Large!"), *others)
    write_split(tmp_path, "val", [replace(one, expressions=said)])
    source = tmp_path / "p.jsonl"
    names = ["small , the  one .", "LARGE", "both", "neither"]
    found = [{"image": one.file_name, "phrase": name, "mask": rle(half(one))} for name in names]
    answers = score(tmp_path, lines(source, found)).answers["val"]
    assert answers.intersection.tolist() == [64, 0, 64, 0]
    with pytest.raises(RefsegError, match="1 duplicate"):
        score(tmp_path, lines(source, [*found, {**found[0], "phrase": "small"}]))


def as_polygon(record, expression) -> dict:
    h, w = record.height, record.width // 2
    return {"sent_id": expression.sent_id, "segmentation": [[0, 0, w, 0, w, h, 0, h]]}


def as_runs(record, expression) -> dict:
    inside = int(half(record).sum())
    runs = {"size": [record.height, record.width], "counts": [0, inside, record.height * record.width - inside]}
    return {"sent_id": expression.sent_id, "mask": runs}


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        ("jsonl", by_id),
        ("jsonl", lambda r, e: {"expression_id": e.sent_id, "segmentation": rle(half(r))}),
        ("jsonl", by_name),
        ("jsonl", lambda r, e: {"image_id": r.image_id, "text": e.text, "mask": rle(half(r))}),
        ("json", lambda r, e: {**by_id(r, e), "image_id": r.image_id, "score": 0.3}),
        ("annotations", by_id),
        ("jsonl", as_polygon),
        ("jsonl", as_runs),
    ],
    ids=["id", "expression_id", "image and phrase", "image_id", "coco", "coco annotations", "polygon", "runs"],
)
def test_every_form_of_file_says_the_same(data, tmp_path, suffix, form):
    found = [form(record, expression) for record, expression in EXPRESSIONS]
    if suffix == "jsonl":
        source = lines(tmp_path / "p.jsonl", found)
    else:
        source = str(tmp_path / "p.json")
        Path(source).write_text(json.dumps(found if suffix == "json" else {"annotations": found}, indent=1))
    answers = score(data, source).answers["val"]
    assert answers.intersection.tolist() == [64, 0, 64, 0, 100, 0]


def test_what_predict_prints_is_scored_as_it_decided(data, tmp_path):
    """`refseg predict --json`: an answer of "no target" is one, whatever its mask."""
    found = [
        {
            "schema": "refseg.predict/1",
            "image": record.file_name,
            "phrase": expression.text,
            "no_target": expression.sent_id in (103, 200),
            "p_target": 0.4,
            "mask": rle(half(record)),
            "error": None,
        }
        for record, expression in EXPRESSIONS
    ]
    answers = score(data, lines(tmp_path / "p.jsonl", found), "refseg", "rela", "thesis").answers["val"]
    assert answers.says_target.tolist() == [True, True, True, False, False, True]
    assert answers.predicted.tolist() == [512, 512, 512, 0, 0, 50]
    assert answers.raw_predicted.tolist() == [512, 512, 512, 512, 400, 50]
    for name in ("refseg", "rela", "thesis"):
        table = scores(answers.counts(PROTOCOLS[name]), PROTOCOLS[name]).values
        assert (table["N-acc"], table["T-acc"]) == (0.5, 0.75), name


def test_no_mask_is_an_empty_one(data, tmp_path):
    changed = {
        "s300": {"sent_id": 300, "no_target": True},
        "s103": {"sent_id": 103, "mask": None},
        "s200": {"sent_id": 200, "mask": []},
    }
    answers = score(data, lines(tmp_path / "p.jsonl", entries(**changed))).answers["val"]
    assert answers.predicted.tolist() == [512, 512, 512, 0, 0, 0]
    table = scores(answers.counts()).values
    assert (table["N-acc"], table["T-acc"]) == (1, 0.75)


FAULTS = {
    "missing": (entries(s101=None), "1 missing", "sent_id 101: missing: 1.png 'large'"),
    "duplicate": (
        [*entries(), {"sent_id": 200, "mask": None}],
        "1 duplicate",
        ":7: duplicate: sent_id 200 is answered by",
    ),
    "unknown": ([*entries(), {"sent_id": 999, "mask": None}], "1 unknown", ":7: unknown: sent_id 999"),
    "unknown phrase": (
        [*entries(), {"image": "1.png", "phrase": "huge", "mask": None}],
        "1 unknown",
        ":7: unknown: 1.png 'huge'",
    ),
    "wrong size": (
        entries(s200={"sent_id": 200, "mask": rle(np.ones((40, 20), dtype=bool))}),
        "1 wrong size",
        "mask of 20x40 pixels, the picture has 40x20",
    ),
    "damaged": (
        entries(s200={"sent_id": 200, "mask": {"size": [20, 40], "counts": "???"}}),
        "1 unreadable",
        "unreadable: ",
    ),
    "no mask": (entries(s200={"sent_id": 200}), "1 unreadable, 1 missing", ":5: unreadable: has no mask"),
    "no name": ([*entries(), {"mask": None}], "1 unreadable", ":7: unreadable: names no expression"),
    "an error": ([*entries(), {"sent_id": 1, "error": "no such file"}], "1 unreadable", "holds an error: no such file"),
    "no object": ([*entries(), [1]], "1 unreadable", ":7: unreadable: not an object"),
    "an id of words": ([*entries(), {"sent_id": "x", "mask": None}], "1 unreadable", "'x' is not a whole number"),
    "no boolean": (
        [*entries(), {"sent_id": 1, "mask": None, "no_target": "no"}],
        "1 unreadable",
        "'no' is neither true nor false",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_counted_and_refused(data, tmp_path, fault):
    found, counted, named = FAULTS[fault]
    source = lines(tmp_path / "p.jsonl", found)
    with pytest.raises(RefsegError) as error:
        score(data, source)
    assert counted in error.value.message
    assert named in error.value.message
    assert error.value.hint.startswith("--on-error skip scores the others only")
    assert ("--merge union" in error.value.hint) == (fault == "duplicate")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_rest_is_scored_where_that_was_asked_for(data, tmp_path, fault):
    found, counted, _ = FAULTS[fault]
    outside = score(data, lines(tmp_path / "p.jsonl", found), skip=True)
    assert str(outside.problems) == counted
    lost = fault in ("missing", "wrong size", "damaged", "no mask")
    assert len(outside.answers["val"]) == len(EXPRESSIONS) - lost


def test_many_faults_are_counted_and_some_of_them_spelt_out(data, tmp_path):
    found = [{"sent_id": n, "mask": None} for n in range(900, 920)]
    with pytest.raises(RefsegError, match=r"20 unknown, 6 missing \(.*; and 21 more\)"):
        score(
            data,
            lines(tmp_path / "p.jsonl", [*found, *entries(**dict.fromkeys([f"s{e.sent_id}" for _, e in EXPRESSIONS]))]),
        )
    with pytest.raises(RefsegError, match="nothing in it can be scored on val"):
        score(data, lines(tmp_path / "p.jsonl", found), skip=True)


def test_many_faults_of_one_kind_hide_no_other(data, tmp_path):
    found = [{"sent_id": n, "mask": None} for n in range(900, 920)]
    with pytest.raises(RefsegError) as error:
        score(data, lines(tmp_path / "p.jsonl", [*found, {"mask": None}, *entries(s101=None)]))
    for named in (":21: unreadable: ", ":1: unknown: ", "sent_id 101: missing: ", "; and 17 more"):
        assert named in error.value.message


def test_a_broken_line_is_one_fault_among_good_ones(data, tmp_path):
    path = tmp_path / "p.jsonl"
    lines(path, entries())
    path.write_text(path.read_text() + "\n{not json\n")
    with pytest.raises(RefsegError, match=r"p\.jsonl:8: unreadable: not JSON"):
        score(data, str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "empty"),
        (b"sent_id,mask\n1,2\n", "neither JSON nor Parquet"),
        (b"\xff\xfe\x00", "neither JSON nor Parquet"),
        (b"[{]", "not valid JSON"),
    ],
)
def test_other_files_are_refused(data, tmp_path, content, message):
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(RefsegError, match=message):
        score(data, str(path))
    with pytest.raises(RefsegError, match="no such file"):
        score(data, str(tmp_path / "nothing.jsonl"))


def test_anybodys_answers_become_records_with_the_same_scores(data, tmp_path):
    source = lines(tmp_path / "p.jsonl", entries(s100={"sent_id": "100", "mask": rle(half(records("val")[0]))}))
    saved = str(tmp_path / "r.parquet")
    found = score(data, source, "refseg", "lavt", records=saved)
    again = score(data, saved, "refseg", "lavt")
    for name in ("refseg", "lavt"):
        told, kept = (each.answers["val"].counts(PROTOCOLS[name]) for each in (found, again))
        assert scores(told, PROTOCOLS[name]) == scores(kept, PROTOCOLS[name])
    with pytest.raises(RefsegError, match="is the input"):
        score(data, source, "refseg", records=source)
    with pytest.raises(RefsegError, match="has these records already"):
        score(data, saved, records=str(tmp_path / "other.parquet"))


@pytest.mark.parametrize("page", [False, True])
def test_finished_predictions_are_scored_and_shown_without_torch(data, tmp_path, page):
    source = lines(tmp_path / "p.jsonl", entries())
    script = "import sys; from refseg_cli.app import main; sys.exit(main(sys.argv[1:]) or 9 * ('torch' in sys.modules))"
    asked = ["eval", "--data", str(data), "--split", "val", "--from", source, "--curves", "--resamples", "5"]
    asked += ["--report", str(tmp_path / "page.html")] if page else []
    ran = subprocess.run([sys.executable, "-c", script, *asked], capture_output=True, text=True)
    assert (ran.returncode, "gIoU" in ran.stdout) == (0, True), ran.stderr


def test_several_splits_come_from_one_file(data, tmp_path):
    both = entries()  # testA has the second and third picture once more, with the same sent_ids
    outside = score(data, lines(tmp_path / "p.jsonl", both), splits=("testA",), skip=True)
    assert outside.answers["testA"].sent_id.tolist() == [200, 300]
    assert outside.problems.counts() == {"unknown": 4}


# Against the model that made them


@pytest.fixture
def recorded(data, saved, tmp_path) -> str:
    path = str(tmp_path / "records.parquet")
    evaluate(EvalRequest(str(data), ("val", "testA"), str(saved), "cpu", records=path, protocols=("refseg", "rela")))
    return path


def test_records_are_scored_from_their_counts_to_the_last_bit(data, saved, recorded):
    report = evaluate(EvalRequest(str(data), ("val", "testA"), str(saved), "cpu", protocols=("refseg", "rela")))
    outside = score(data, recorded, "refseg", "rela", splits=("testA", "val"))
    assert list(outside.answers) == ["testA", "val"]
    for name, found in outside.answers.items():
        assert not found.about.finished
        for protocol in (PROTOCOLS["refseg"], PROTOCOLS["rela"]):
            expected = report.evaluations[name].answers.counts(protocol)
            assert scores(found.counts(protocol), protocol).table() == scores(expected, protocol).table()


def test_records_of_another_name_are_records(data, recorded, tmp_path):
    """They were written under any name, and read as JSON."""
    named = str(shutil.copy(recorded, tmp_path / "answers.jsonl"))
    one, other = (score(data, path).answers["val"] for path in (recorded, named))
    assert not other.about.finished
    assert (one.p_target == other.p_target).all()


def test_records_without_a_protocols_counts_are_scored_by_their_masks(data, recorded):
    found = score(data, recorded, "refseg", "lavt", "vlt").answers["val"]
    kept = read_answers(recorded).of_split("val")
    assert found.about.finished
    assert found.predicted.tolist() == kept.predicted.tolist()
    assert found.says_target.tolist() == kept.says_target.tolist()
    assert scores(found.counts()).table() == scores(kept.counts()).table()


def test_records_of_several_protocols_keep_their_figures_when_all_are_asked_for(data, recorded):
    """Records from before a protocol existed: what was counted stays to the last bit, the new one is left out."""
    known, found = read_answers(recorded).of_split("val"), score(data, recorded, *PROTOCOLS).answers["val"]
    assert not found.about.finished
    assert scores(found.counts(PROTOCOLS["rela"])).table() == scores(known.counts(PROTOCOLS["rela"])).table()
    assert unfit(found, PROTOCOLS["rela"]) is None
    assert "hold no counts" in unfit(found, PROTOCOLS["gsva"])


def test_records_lack_a_split(data, recorded, tmp_path):
    with pytest.raises(RefsegError, match="unknown split"):
        score(data, recorded, splits=("train",))
    only = evaluate(EvalRequest(str(data), ("val",), None, "cpu", limit=1, records=str(tmp_path / "one.parquet")))
    with pytest.raises(RefsegError, match="no answers of testA"):
        score(data, str(only.records), splits=("testA",))


def test_records_of_a_part_of_a_split_are_refused_and_scored_from_their_counts_where_that_was_asked_for(
    data, saved, tmp_path
):
    path = str(tmp_path / "part.parquet")
    part = evaluate(EvalRequest(str(data), ("val",), str(saved), "cpu", limit=2, records=path)).evaluations["val"]
    with pytest.raises(RefsegError, match=r"1 missing \(sent_id 300: missing: 3\.png"):
        score(data, path)
    outside = score(data, path, skip=True, masks=True)
    assert outside.problems.counts() == {"missing": 1}
    assert not outside.answers["val"].about.finished
    assert scores(outside.answers["val"].counts()).table() == part.scores.table()
    assert len(outside.masks) == 5


def test_doubled_and_unknown_rows_of_records_are_named(data, recorded, tmp_path):
    found = pq.read_table(recorded)
    again = found.slice(0, 1)
    ids = found.column("sent_id").to_numpy().copy()
    ids[1] = 999
    changed = found.set_column(found.schema.get_field_index("sent_id"), "sent_id", pa.array(ids))
    path = str(tmp_path / "changed.parquet")
    pq.write_table(pa.concat_tables([changed, again]).replace_schema_metadata(found.schema.metadata), path)
    with pytest.raises(RefsegError, match="1 unknown, 1 duplicate, 1 missing") as error:
        score(data, path)
    assert "row 1: unknown: sent_id 999, ref_id 11, image 1 'large'" in error.value.message
    assert "row 8: duplicate: sent_id 100, ref_id 10, image 1 'small' is answered by" in error.value.message
    assert "sent_id 101: missing: 1.png 'large'" in error.value.message


@pytest.mark.parametrize("name", ["lavt", "rela"])
def test_protocols_of_the_input_see_masks_at_their_official_size(data, tmp_path, name):
    answers = score(data, lines(tmp_path / "p.jsonl", entries()), name).answers["val"]
    counts, (height, width) = answers.counts(PROTOCOLS[name]), PROTOCOLS[name].size
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    for n, (record, expression) in enumerate(EXPRESSIONS):
        true = np.zeros((record.height, record.width), dtype=bool)
        for target in expression.targets:
            instance = record.instances[target].rle
            true |= coco.decode({"size": instance.size, "counts": instance.counts}) > 0
        if name == "lavt":
            p, g = (np.asarray(Image.fromarray(mask).resize((width, height), 0)) for mask in (half(record), true))
        else:  # the pixel below each new pixel's centre
            at = np.ix_((rows * record.height / height).astype(int), (columns * record.width / width).astype(int))
            p, g = half(record)[at], true[at]
        assert (counts.intersection[n], counts.predicted[n], counts.target[n]) == ((p & g).sum(), p.sum(), g.sum())


def test_r_refcoco_sees_false_alarms_at_the_official_size(data, tmp_path):
    asked = ("ref-zom", "rela", "lavt", "r-refcoco", "cohd")
    answers = score(data, lines(tmp_path / "p.jsonl", entries()), *asked).answers["val"]
    assert answers.about.views == {"ref-zom": 0, "rela": 1, "lavt": 0, "r-refcoco": 2, "cohd": 1}
    counts = answers.counts(PROTOCOLS["r-refcoco"])
    assert answers.predicted.tolist() == [512, 512, 512, 512, 400, 50]
    assert counts.predicted.tolist() == [512, 512, 512, 480 * 240, 400, 480 * 240]
    assert counts.target.tolist() == answers.target.tolist()
    assert not score(data, lines(tmp_path / "q.jsonl", entries())).answers["val"].has_counts(PROTOCOLS["r-refcoco"])


def test_crowds_are_no_truth_to_rela_at_either_door(tmp_path, saved):
    one, *_ = records("val")
    small, large = one.instances
    write_split(tmp_path, "val", [replace(one, instances=(replace(small, iscrowd=True), large))])
    source = tmp_path / "p.jsonl"
    whole = [{"sent_id": e.sent_id, "mask": rle(np.ones((32, 32), dtype=bool))} for e in one.expressions]
    theirs = score(tmp_path, lines(source, whole), "rela", "lavt", "refseg").answers["val"]
    asked = EvalRequest(str(tmp_path), ("val",), str(saved), "cpu", protocols=("rela", "lavt", "refseg"))
    ours = evaluate(asked).evaluations["val"].answers  # at 32 x 32, its input
    for answers, scale in ((theirs, 15 * 15), (ours, 1)):
        # small (a crowd, alone), large, both, neither
        assert answers.counts(PROTOCOLS["rela"]).target.tolist() == [64 * scale, 256 * scale, 256 * scale, 0]
        assert answers.counts(PROTOCOLS["lavt"]).target.tolist() == [64 * scale, 256 * scale, 320 * scale, 0]
        assert answers.counts(PROTOCOLS["refseg"]).target.tolist() == [64, 256, 320, 0]


def test_predictions_of_records_are_read_back(recorded):
    problems = Problems()
    found = read_predictions(recorded, problems, splits=("testA",))
    assert [entry.sent_id for entry in found] == [200, 300]
    assert all(entry.says_target is not None for entry in found)
    assert not problems.found
