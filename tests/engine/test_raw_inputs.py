"""What people's raw files look like: forms of the references, cautions, missing boxes, and where their photos lie."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import raw_layout
from preparing import refseg, run

from refseg_cli.data import masks, shards
from refseg_cli.data.sources import Reason
from refseg_cli.data.sources.catalogue import PUBLISHED, RELEASED
from refseg_cli.errors import ERROR, FOUND

Capture = pytest.CaptureFixture[str]


SQUARE = [2.0, 5.0, 6.0, 5.0, 6.0, 8.0, 2.0, 8.0]


def test_either_form_of_the_references_is_read(raw: Path, tmp_path: Path) -> None:
    for dataset, name, ending in (("refcoco", "refs(unc)", ".p"), ("grefcoco", "grefs(unc)", ".json")):
        run(raw, tmp_path / dataset, dataset)
        path = raw / dataset / f"{name}{ending}"
        rows = pickle.loads(path.read_bytes()) if ending == ".p" else json.loads(path.read_text())
        path.unlink()
        if ending == ".p":
            path.with_suffix(".json").write_text(json.dumps(rows))
        else:
            saved = [{key.encode(): tuple(v) if isinstance(v, list) else v for key, v in row.items()} for row in rows]
            path.with_suffix(".p").write_bytes(pickle.dumps(tuple(saved), protocol=2))
        run(raw, tmp_path / f"{dataset} again", dataset)
        for split in ("train", "val"):
            a, b = (shards.open_shards(str(tmp_path / out), split) for out in (dataset, f"{dataset} again"))
            assert [a[i] for i in range(len(a))] == [b[i] for i in range(len(b))]


def test_a_pickle_is_read_before_json_as_rela_does(raw: Path, tmp_path: Path) -> None:
    (raw / "grefcoco/grefs(unc).p").write_bytes(pickle.dumps(raw_layout.grefcoco_refs()[:1]))
    report = run(raw, tmp_path / "out", "grefcoco")
    assert report.manifest.splits["train"].expressions == 1
    assert "grefcoco/grefs(unc).p" in report.manifest.source["sha256"]


def test_text_of_json_is_taken_as_it_is(raw: Path, tmp_path: Path) -> None:
    raw_layout.write_grefcoco(raw, [raw_layout.ref(0, 1, [10], "train", ["caf\u00c3\u00a9"])])
    run(raw, tmp_path / "out", "grefcoco")  # in a pickle that would be Python 2's UTF-8
    assert shards.open_shards(str(tmp_path / "out"), "train")[0].expressions[0].text == "caf\u00c3\u00a9"


def test_counts_of_the_paper_and_of_the_released_file_are_known(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    assert PUBLISHED[("grefcoco", "unc")]["all"]["expressions"] == 278_232
    assert RELEASED[("grefcoco", "unc")]["all"]["expressions"] == 259_859
    report = run(raw, tmp_path / "a", "grefcoco")
    assert not report.is_release()
    told = [str(difference) for difference in report.differences]
    assert "all: 5 expressions, published are 278232 and released are 259859" in told
    assert "all: 2 multi, published are 80022" in told
    monkeypatch.setitem(RELEASED, ("grefcoco", "unc"), {"all": {"expressions": 5}})
    report = run(raw, tmp_path / "b", "grefcoco")
    assert (report.is_release(), report.differences) == (True, ())
    assert refseg("prepare", "grefcoco", "--root", raw, "--out", tmp_path / "c") == FOUND
    assert "grefcoco (unc): the released set, which is smaller than the paper's" in capfd.readouterr().err
    assert run(raw, tmp_path / "d", "grefcoco", splits=("val",)).is_release() is False


def with_rows(raw: Path, *rows: raw_layout.Json) -> None:
    """RefCOCO with some annotations changed and some added."""
    changed = {row["id"]: row for row in raw_layout.annotations()} | {row["id"]: row for row in rows}
    raw_layout.write_refcoco(raw, rows=list(changed.values()))


def test_what_nobody_refers_to_stops_no_run(raw: Path, tmp_path: Path, capfd: Capture) -> None:
    run(raw, tmp_path / "sound")
    broken_mask = raw_layout.annotation(12, 1, segmentation=[[1.0, 2.0, 3.0]])
    with_rows(raw, broken_mask, raw_layout.annotation(13, 1, bbox=[0, 0, -1, 1]))
    assert refseg("prepare", "refcoco", "--root", raw, "--out", tmp_path / "out") == FOUND
    told = capfd.readouterr().err
    assert "2 cautions; no expression is lost (1 NaN or broken box, 1 broken mask)" in told
    assert "left out" not in told
    rows = [json.loads(line) for line in (tmp_path / "out/_problems.jsonl").read_text().splitlines()]
    assert [(row["caution"], row["ref_ids"]) for row in rows] == [(True, []), (True, [])]
    sound, found = (shards.open_shards(str(tmp_path / name), "train")[0] for name in ("sound", "out"))
    assert found == sound
    assert run(raw, tmp_path / "out").kept == 2


def test_a_polygon_of_two_points_is_left_out_of_its_target(raw: Path, tmp_path: Path) -> None:
    with_rows(raw, raw_layout.annotation(10, 1, segmentation=[SQUARE, [1.0, 1.0, 9.0, 9.0], []]))
    report = run(raw, tmp_path / "out")
    [problem] = report.problems
    assert (problem.reason, problem.ref_ids, problem.caution) == (Reason.SHORT_POLYGON, (0,), True)
    assert problem.detail == "annotation 10: 2 of 3 polygons left out"
    assert report.manifest.problems == {"polygon of fewer than three points": 1}
    first = shards.open_shards(str(tmp_path / "out"), "train")[0]
    assert masks.area(first.instances[0].rle) == 12
    assert [e.targets for e in first.expressions] == [(0,), (0,), (1,)]
    assert run(raw, tmp_path / "out").problems == report.problems  # as kept in the shard


@pytest.mark.parametrize(
    "nothing",
    [[[33.0, 1.0, 38.0, 1.0, 38.0, 9.0]], [[1.0, 1.0, 5.0, 1.0, 9.0, 1.0]], {"size": [24, 32], "counts": [768]}],
)
def test_a_target_without_a_pixel_is_told(raw: Path, tmp_path: Path, nothing: Any) -> None:
    rows = [
        raw_layout.annotation(r["id"], r["image_id"], segmentation=nothing) if r["id"] in (30, 31) else r
        for r in raw_layout.annotations()
    ]
    raw_layout.write_refcoco(raw, rows=rows)
    [problem] = run(raw, tmp_path / "out").problems  # of 31; nobody refers to 30
    assert (problem.ref_ids, problem.detail, problem.caution) == (
        (3,),
        "annotation 31: no pixel of the picture is inside",
        True,
    )


def test_a_target_of_short_polygons_alone_is_broken(raw: Path, tmp_path: Path) -> None:
    with_rows(raw, raw_layout.annotation(31, 3, segmentation=[[1.0, 1.0, 9.0, 9.0], [2.0, 2.0]]))
    [problem] = run(raw, tmp_path / "out", on_error="skip").problems
    assert (problem.reason, problem.ref_ids, problem.caution) == (Reason.BROKEN_MASK, (3,), False)


def test_a_missing_box_is_made_from_the_mask(raw: Path, tmp_path: Path) -> None:
    with_rows(raw, raw_layout.annotation(10, 1, bbox=None))
    report = run(raw, tmp_path / "out")
    assert not report.problems
    assert shards.open_shards(str(tmp_path / "out"), "train")[0].instances[0].box == (2, 5, 4, 3)


def test_photos_are_found_below_the_root_and_the_folders_tried_are_named(
    raw: Path, tmp_path: Path, capfd: Capture
) -> None:
    run(raw, tmp_path / "a")
    (raw / "coco").mkdir()
    (raw / "images").rename(raw / "coco/train2017")
    for path in (raw / "coco/train2017").iterdir():
        path.rename(path.with_name(path.name.removeprefix("COCO_train2014_")))
    run(raw, tmp_path / "b")
    a, b = (shards.open_shards(str(tmp_path / out), "train") for out in "ab")
    assert [a[i] for i in range(len(a))] == [b[i] for i in range(len(b))]
    (raw / "coco").rename(raw / "elsewhere")
    for how in ("fail", "skip"):
        assert refseg("prepare", "refcoco", "--root", raw, "--out", tmp_path / "c", "--on-error", how) == ERROR
        told = capfd.readouterr().err
        assert f"missing image: not in {raw}, or below in train2014, " in told
        assert "coco/train2014, COCO/train2014" in told


def test_folders_may_have_names_that_are_no_unicode(raw: Path, tmp_path: Path) -> None:
    folder = raw / os.fsdecode(b"photos\xff")
    (raw / "images").rename(folder)
    (folder / "COCO_train2014_000000000003.jpg").unlink()
    [problem] = run(raw, tmp_path / "out", images=folder, on_error="skip").problems
    assert problem.reason == Reason.MISSING_IMAGE
    assert json.loads((tmp_path / "out/_problems.jsonl").read_text())["detail"] == problem.detail


def test_two_names_that_lead_to_one_photo_are_no_guess(raw: Path, tmp_path: Path) -> None:
    path = raw / "refcoco/instances.json"
    table = json.loads(path.read_text())
    table["images"][0]["file_name"], table["images"][1]["file_name"] = "a/x.jpg", "b/x.jpg"
    path.write_text(json.dumps(table))
    (raw / "images/COCO_train2014_000000000001.jpg").rename(raw / "images/x.jpg")
    problems = run(raw, tmp_path / "out", on_error="skip").problems
    assert [(p.reason, p.file) for p in problems] == [
        (Reason.MISSING_IMAGE, "a/x.jpg"),
        (Reason.MISSING_IMAGE, "b/x.jpg"),
    ]
    assert "x.jpg may be another photo, for 2 names lead there" in problems[0].detail
