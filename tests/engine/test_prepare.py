"""From raw files to prepared data: complete, repeatable, and never half there; what was prepared can be checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import raw_layout
from pycocotools.coco import COCO

from refseg_cli.app import main
from refseg_cli.data import masks, shards, storage
from refseg_cli.data.check import Leak, check
from refseg_cli.data.sources import Reason
from refseg_cli.data.sources.catalogue import PUBLISHED, RELEASED
from refseg_cli.engine import sharding
from refseg_cli.engine.prepare import PrepareReport, PrepareRequest, prepare, prepare_scenes, share_scenes
from refseg_cli.errors import ERROR, FOUND, RefsegError

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """RefCOCO and gRefCOCO in their raw layout."""
    root = tmp_path / "raw"
    raw_layout.write_refcoco(root)
    raw_layout.write_grefcoco(root)
    return root


def run(raw: Path, out: str | Path, dataset: str = "refcoco", **options: Any) -> PrepareReport:
    return prepare(PrepareRequest(dataset, str(out), raw, **options))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as many processes as are asked for, however small the work."""
    monkeypatch.setattr(sharding, "IMAGES_FOR_A_PROCESS", 1)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def refseg(*words: object) -> int:
    """The exit status of a command line."""
    return main([str(word) for word in words])


# What comes out


def test_refcoco_is_prepared_as_counted_by_hand(raw: Path, tmp_path: Path) -> None:
    report = run(raw, tmp_path / "out")
    assert {name: (s.images, s.refs, s.expressions) for name, s in report.manifest.splits.items()} == {
        "train": (3, 4, 5),
        "val": (1, 1, 2),
    }
    train = shards.open_shards(str(tmp_path / "out"), "train")
    first = train[0]
    assert first.image == (raw / "images/COCO_train2014_000000000001.jpg").read_bytes()
    assert (first.height, first.width) == (raw_layout.HEIGHT, raw_layout.WIDTH)
    assert [(e.text, e.ref_id, e.sent_id, e.targets) for e in first.expressions] == [
        ("left cat", 0, 0, (0,)),
        ("the cat on the left", 0, 1, (0,)),
        ("crowd", 1, 10, (1,)),
    ]
    assert [(i.ann_id, i.category, i.iscrowd) for i in first.instances] == [(10, "cat", False), (11, "cat", True)]
    assert masks.area(first.instances[0].rle) == 12  # the rectangle of 4 x 3
    assert masks.decode(first.instances[1].rle).sum(0).tolist() == [24] * 16 + [0] * 16  # the left half


def test_grefcoco_is_prepared_as_counted_by_hand(raw: Path, tmp_path: Path) -> None:
    splits = run(raw, tmp_path / "out", "grefcoco").manifest.splits
    train = splits["train"]
    assert (train.images, train.expressions, train.single, train.multi, train.no_target) == (2, 4, 1, 2, 1)
    rows = shards.open_shards(str(tmp_path / "out"), "train")
    assert [e.targets for e in rows[0].expressions] == [(0,), (1, 0), (1, 0)]
    assert [e.targets for e in rows[1].expressions] == [()]


@pytest.mark.parametrize("dataset", ["refcoco", "refcoco+", "refcocog", "grefcoco"])
def test_real_data_is_pixel_and_byte_equal(shared: Path, tmp_path: Path, dataset: str) -> None:
    real = shared / "real"
    root = real if dataset == "grefcoco" else real / "refer"
    report = run(root, tmp_path / "out", dataset, images=real / "refer/images")
    with contextlib.redirect_stdout(None):
        coco = COCO(str(root / dataset / "instances.json"))
    seen = 0
    for split in report.manifest.splits:
        rows = shards.open_shards(str(tmp_path / "out"), split)
        for i in range(len(rows)):
            record = rows[i]
            assert record.image == (real / "refer/images/train2014" / record.file_name).read_bytes()
            assert {x.ann_id for x in record.instances} == set(coco.getAnnIds(imgIds=[record.image_id]))
            for instance in record.instances:
                np.testing.assert_array_equal(masks.decode(instance.rle), coco.annToMask(coco.anns[instance.ann_id]))
                assert list(instance.box) == coco.anns[instance.ann_id]["bbox"]
                seen += 1
    assert seen == len(coco.anns)
    assert not report.problems


def test_scenes_go_the_same_road(tmp_path: Path) -> None:
    images = {"train": 3, "val": 1, "testA": 1, "testB": 1}
    report = prepare_scenes(str(tmp_path / "a"), images=images, seed=3, raw=tmp_path / "raw")
    assert {name: split.images for name, split in report.manifest.splits.items()} == images
    assert (report.manifest.dataset, report.manifest.image_source) == ("scenes", "scenes/3")
    again = run(tmp_path / "raw", tmp_path / "b", "grefcoco")
    for split in images:
        a, b = (shards.open_shards(str(tmp_path / name), split) for name in "ab")
        assert [a[i] for i in range(len(a))] == [b[i] for i in range(len(b))]
    assert again.manifest.image_source == "coco"


@pytest.mark.parametrize("number", [4, 5, 100, 4900])
def test_one_number_of_scenes_is_shared_out(number: int) -> None:
    shares = share_scenes(number)
    assert sum(shares.values()) == number
    assert min(shares.values()) >= 1
    assert share_scenes(4900) == {"train": 4000, "val": 300, "testA": 300, "testB": 300}


def test_differences_from_the_published_counts_are_found(raw: Path, tmp_path: Path) -> None:
    found = {(d.split, d.what): (d.found, d.published) for d in run(raw, tmp_path / "out").differences}
    assert found[("train", "expressions")] == (5, 120_624)
    assert found[("testA", "expressions")] == (0, 5_657)
    assert found[("all", "images")] == (4, 19_994)
    some = {d.split for d in run(raw, tmp_path / "val", splits=("val",)).differences}
    assert some == {"val"}


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
    assert "grefcoco (unc): as released, which is less than the paper counts" in capfd.readouterr().err
    assert run(raw, tmp_path / "d", "grefcoco", splits=("val",)).is_release() is False


def test_published_splits_add_up() -> None:
    for splits in PUBLISHED.values():
        parts = [counts["expressions"] for name, counts in splits.items() if name != "all"]
        if "all" in splits and parts:
            assert sum(parts) == splits["all"]["expressions"]


# Reruns


@pytest.mark.usefixtures("processes")
def test_the_same_bytes_come_out_however_often_and_by_however_many(raw: Path, tmp_path: Path) -> None:
    small = {"shard_bytes": 1}
    first = run(raw, tmp_path / "a", **small)
    assert (first.written, first.kept) == (4, 0)
    assert "train-00002-of-00003.parquet" in hashes(tmp_path / "a")
    run(raw, tmp_path / "b", **small, workers=3)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    before = hashes(tmp_path / "a")
    assert (run(raw, tmp_path / "a", **small).kept, hashes(tmp_path / "a")) == (4, before)


def test_a_rerun_repairs_what_is_missing_or_damaged(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out, shard_bytes=1)
    before = hashes(out)
    (out / "val-00000-of-00001.parquet").unlink()
    damaged = bytearray((out / "train-00000-of-00003.parquet").read_bytes())
    damaged[60] ^= 1
    (out / "train-00000-of-00003.parquet").write_bytes(damaged)
    (out / "train-00001-of-00003.parquet").write_bytes(b"")
    (out / ".train-00001-of-00003.parquet.unfinished").write_bytes(b"half")
    report = run(raw, out, shard_bytes=1)
    assert (report.written, report.kept) == (3, 1)
    assert hashes(out) == before


def test_an_interrupted_run_goes_on(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    photo = raw / "images/COCO_train2014_000000000003.jpg"
    data = photo.read_bytes()
    run(raw, tmp_path / "whole", shard_bytes=1)
    photo.write_bytes(data[:-60] + bytes(60))  # of the same length, so that the plan is the same
    with pytest.raises(RefsegError, match="broken image"):
        run(raw, out, shard_bytes=1)
    assert sorted(hashes(out)) == ["train-00000-of-00003.parquet", "train-00001-of-00003.parquet"]
    photo.write_bytes(data)
    assert run(raw, out, shard_bytes=1).kept == 2
    assert hashes(out) == hashes(tmp_path / "whole")


def test_data_that_is_no_longer_complete_does_not_say_so(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    (out / "train-00000-of-00001.parquet").unlink()
    photo = raw / "images/COCO_train2014_000000000003.jpg"
    photo.write_bytes(photo.read_bytes()[:-60] + bytes(60))
    with pytest.raises(RefsegError, match="broken image"):
        run(raw, out)
    assert list(hashes(out)) == ["val-00000-of-00001.parquet"]


def test_data_of_other_inputs_is_not_touched_unless_asked(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out, shard_bytes=1)
    (out / "notes.txt").write_text("mine")
    before = hashes(out)
    for other in ({"dataset": "grefcoco"}, {"shard_bytes": 1 << 20}, {"splits": ("val",), "shard_bytes": 1}):
        with pytest.raises(RefsegError, match="holds data prepared from other inputs"):
            run(raw, out, **other)
        assert hashes(out) == before
    (out / shards.MANIFEST).unlink()
    with pytest.raises(RefsegError, match="holds data prepared from other inputs"):
        run(raw, out, "grefcoco")
    run(raw, out, "grefcoco", overwrite=True)
    run(raw, tmp_path / "new", "grefcoco")
    assert {name: h for name, h in hashes(out).items() if name != "notes.txt"} == hashes(tmp_path / "new")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_foreign_parquet_file_is_not_taken_for_a_shard(raw: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "out/train-00000-of-00001.parquet"
    foreign.parent.mkdir()
    foreign.write_bytes(b"PAR1 something else PAR1")
    with pytest.raises(RefsegError, match="holds data prepared from other inputs"):
        run(raw, foreign.parent)
    assert foreign.read_bytes() == b"PAR1 something else PAR1"


@pytest.mark.usefixtures("processes")
def test_any_uri_will_do(raw: Path, tmp_path: Path) -> None:
    uri = f"memory://{uuid.uuid4().hex}"
    assert run(raw, uri, workers=2).written == 2
    assert run(raw, uri, workers=2).kept == 2
    run(raw, tmp_path / "out")
    for name, digest in hashes(tmp_path / "out").items():
        assert (storage.locate(uri) / name).sha256() == digest


KILLED = """
import sys
from pathlib import Path
from refseg_cli.data.sources import photos
from refseg_cli.engine import prepare
from refseg_cli.engine.prepare import PrepareRequest
import time
finish = photos.finish
def slowly(draft, path, problems):
    if draft.image_id == 3:
        print("half", flush=True)
        time.sleep(60)
    return finish(draft, path, problems)
photos.finish = slowly
prepare.prepare(PrepareRequest("refcoco", sys.argv[2], Path(sys.argv[1])))
"""


def test_killed_in_the_middle_of_a_shard_leaves_nothing_that_looks_complete(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(raw), str(out)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert [name for name in hashes(out) if not name.startswith(".")] == []
    with pytest.raises(RefsegError, match="no complete prepared data"):
        shards.open_shards(str(out), "train")
    run(raw, out)
    run(raw, tmp_path / "whole")
    assert hashes(out) == hashes(tmp_path / "whole")


ORPHANED = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from refseg_cli.engine import sharding
pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=sharding._follow_parent)
print(pool.submit(os.getpid).result(), flush=True)
sys.stdin.read()
"""


def test_the_workers_of_a_killed_run_end_with_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHANED], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for stream in (parent.stdin, parent.stdout):
        if stream:
            stream.close()
    for _ in range(300):
        if not _is_running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker went on without its parent")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()  # a zombie waits for a parent only
    except OSError:
        return False


# Broken inputs


def broken_photo(raw: Path) -> Reason:
    path = raw / "images/COCO_train2014_000000000003.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return Reason.BROKEN_IMAGE


def missing_photo(raw: Path) -> Reason:
    (raw / "images/COCO_train2014_000000000003.jpg").unlink()
    return Reason.MISSING_IMAGE


def photo_of_another_size(raw: Path) -> Reason:
    (raw / "images/COCO_train2014_000000000003.jpg").write_bytes(raw_layout.jpeg(3, (10, 10)))
    return Reason.IMAGE_SIZE


def unknown_annotation(raw: Path) -> Reason:
    refs = [{**ref, "ann_id": 99} if ref["ref_id"] == 3 else ref for ref in raw_layout.refcoco_refs()]
    raw_layout.write_refcoco(raw, refs)
    return Reason.UNKNOWN_ANNOTATION


def large_mask(raw: Path) -> Reason:
    large = raw_layout.annotation(31, 3, segmentation={"size": [99, 99], "counts": [99 * 99]})
    raw_layout.write_refcoco(raw, rows=[large if row["id"] == 31 else row for row in raw_layout.annotations()])
    return Reason.LARGE_MASK


def empty_expression(raw: Path) -> Reason:
    refs = [raw_layout.ref(3, 3, 31, "train", [""]) if r["ref_id"] == 3 else r for r in raw_layout.refcoco_refs()]
    raw_layout.write_refcoco(raw, refs)
    return Reason.EMPTY_EXPRESSION


def nan_box(raw: Path) -> Reason:
    nan = raw_layout.annotation(31, 3, bbox=[float("nan"), 0, 1, 1])
    raw_layout.write_refcoco(raw, rows=[nan if row["id"] == 31 else row for row in raw_layout.annotations()])
    return Reason.BROKEN_BOX


def lone_surrogate(raw: Path) -> Reason:
    refs = [raw_layout.ref(3, 3, 31, "train", ["\ud83d"]) if r["ref_id"] == 3 else r for r in raw_layout.refcoco_refs()]
    raw_layout.write_refcoco(raw, refs)
    return Reason.BROKEN_TEXT


def lone_surrogate_in_a_category(raw: Path) -> Reason:
    path = raw / "refcoco/instances.json"
    path.write_text(path.read_text().replace('"dog"', r'"dog\ud83d"'))
    return Reason.BROKEN_TEXT


def lone_surrogate_in_a_file_name(raw: Path) -> Reason:
    path = raw / "refcoco/instances.json"
    path.write_text(path.read_text().replace("000000000003.jpg", r"\ud83d.jpg"))
    return Reason.BROKEN_ANNOTATION


def infinite_ref_id(raw: Path) -> Reason:
    rows = [r for r in raw_layout.refcoco_refs() if r["ref_id"] != 3]
    raw_layout.write_refcoco(raw, [*rows, raw_layout.ref(3, 3, 31, "train") | {"image_id": float("inf")}])
    return Reason.BROKEN_REF


def deep_polygons(raw: Path) -> Reason:
    deep = raw_layout.annotation(31, 3, segmentation="DEEP")
    raw_layout.write_refcoco(raw, rows=[deep if row["id"] == 31 else row for row in raw_layout.annotations()])
    path = raw / "refcoco/instances.json"
    path.write_text(path.read_text().replace('"DEEP"', "[" * 5000 + "]" * 5000))
    return Reason.BROKEN_MASK


BREAKAGES = [
    broken_photo,
    missing_photo,
    photo_of_another_size,
    unknown_annotation,
    large_mask,
    empty_expression,
    nan_box,
    lone_surrogate,
    lone_surrogate_in_a_category,
    lone_surrogate_in_a_file_name,
    infinite_ref_id,
    deep_polygons,
]


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_input_stops_the_run_with_one_line_and_nothing_half_written(
    raw: Path, tmp_path: Path, capfd: Capture, breakage: Any
) -> None:
    reason = breakage(raw)
    words = ["--progress", "never", "prepare", "refcoco", "--root", raw, "--out", tmp_path / "out", "--workers", 1]
    assert refseg(*words) == ERROR
    told = capfd.readouterr()
    assert told.out == ""
    [line] = told.err.splitlines()
    assert "ref 3" in line
    assert str(reason) in line
    assert not (tmp_path / "out").exists() or hashes(tmp_path / "out") == {}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_skipping_leaves_out_what_is_broken_and_nothing_else(raw: Path, tmp_path: Path, breakage: Any) -> None:
    reason = breakage(raw)
    out = tmp_path / "out"
    report = run(raw, out, on_error="skip")
    assert report.manifest.problems == {str(reason): 1}
    [problem] = report.problems
    assert (problem.reason, problem.ref_ids) == (reason, (3,))
    assert json.loads((out / "problems.jsonl").read_text())["ref_ids"] == [3]
    splits = report.manifest.splits
    assert (splits["train"].images, splits["train"].expressions, splits["val"].expressions) == (2, 4, 2)
    before = hashes(out)
    again = run(raw, out, on_error="skip")
    assert again.kept == len(splits)
    assert again.problems == report.problems
    assert hashes(out) == before


def with_rows(raw: Path, *rows: raw_layout.Json) -> None:
    """RefCOCO with some annotations changed and some added."""
    changed = {row["id"]: row for row in raw_layout.annotations()} | {row["id"]: row for row in rows}
    raw_layout.write_refcoco(raw, rows=list(changed.values()))


SQUARE = [2.0, 5.0, 6.0, 5.0, 6.0, 8.0, 2.0, 8.0]


def test_what_nobody_refers_to_stops_no_run(raw: Path, tmp_path: Path, capfd: Capture) -> None:
    run(raw, tmp_path / "sound")
    broken_mask = raw_layout.annotation(12, 1, segmentation=[[1.0, 2.0, 3.0]])
    with_rows(raw, broken_mask, raw_layout.annotation(13, 1, bbox=[0, 0, -1, 1]))
    assert refseg("prepare", "refcoco", "--root", raw, "--out", tmp_path / "out") == FOUND
    told = capfd.readouterr().err
    assert "2 cautions, no expression lost (1 NaN or broken box, 1 broken mask)" in told
    assert "left out" not in told
    rows = [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text().splitlines()]
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


def test_a_target_of_short_polygons_alone_is_broken(raw: Path, tmp_path: Path) -> None:
    with_rows(raw, raw_layout.annotation(31, 3, segmentation=[[1.0, 1.0, 9.0, 9.0], [2.0, 2.0]]))
    [problem] = run(raw, tmp_path / "out", on_error="skip").problems
    assert (problem.reason, problem.ref_ids, problem.caution) == (Reason.BROKEN_MASK, (3,), False)


def test_a_missing_box_is_made_from_the_mask(raw: Path, tmp_path: Path) -> None:
    with_rows(raw, raw_layout.annotation(10, 1, bbox=None))
    report = run(raw, tmp_path / "out")
    assert not report.problems
    assert shards.open_shards(str(tmp_path / "out"), "train")[0].instances[0].box == (2, 5, 4, 3)


def test_what_is_left_out_is_told(raw: Path, tmp_path: Path, capfd: Capture) -> None:
    missing_photo(raw)
    out = tmp_path / "out"
    assert refseg("prepare", "refcoco", "--root", raw, "--out", out, "--on-error", "skip") == FOUND
    told = capfd.readouterr()
    assert "1 broken inputs left out (1 missing image)" in told.err
    assert "COCO_train2014_000000000003.jpg: ref 3: missing image" in told.err
    assert "published are 120624" in told.err
    columns = "split  images  refs  expressions  single  multi  no target  published"
    assert told.out.splitlines()[1] == columns
    assert told.out.splitlines()[2].split() == ["train", "2", "3", "4", "4", "0", "0", "120624"]


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
    assert json.loads((tmp_path / "out/problems.jsonl").read_text())["detail"] == problem.detail


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


class Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_a_pickle_that_runs_a_command_is_refused_and_nothing_is_written(
    raw: Path, tmp_path: Path, capfd: Capture
) -> None:
    (raw / "refcoco/refs(unc).p").write_bytes(pickle.dumps([Attack(f"touch {tmp_path}/trace")]))
    assert refseg("--progress", "never", "prepare", "refcoco", "--root", raw, "--out", tmp_path / "out") == ERROR
    [line] = capfd.readouterr().err.splitlines()
    assert f"refused: the pickle asks for {os.system.__module__}.system" in line
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "refcocco"}, "did you mean 'refcoco'"),
        ({"split_by": "umd"}, r"there is refs\(unc\)\.p"),
        ({"dataset": "refcocog"}, "--root is the folder of refcocog/"),
        ({"splits": ("tset",)}, "unknown split"),
        ({"images": Path("nowhere")}, "--images is the folder of the photos"),
    ],
)
def test_wrong_requests_say_what_to_do(raw: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RefsegError, match=message):
        run(raw, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_nothing_half_written(
    raw: Path, small_disk: Path, capfd: Capture, workers: int
) -> None:
    for image in range(1, 5):
        photo = raw / f"images/COCO_train2014_{image:012d}.jpg"
        photo.write_bytes(photo.read_bytes()[:-2] + b"\xff\xfe\x60\x00" + bytes(0x5FFE) + b"\xff\xd9")
    words = ["--progress", "never", "prepare", "refcoco", "--root", raw, "--out", small_disk / "out"]
    assert refseg(*words, "--workers", workers) == ERROR
    [line] = capfd.readouterr().err.splitlines()
    assert "train-00000-of-00001.parquet: disk full" in line
    assert not any(name.startswith((".", "train", "manifest")) for name in hashes(small_disk / "out"))


# Check


def test_sound_data_without_leaks_is_clean(raw: Path, tmp_path: Path, capfd: Capture) -> None:
    run(raw, tmp_path / "a")
    run(raw, tmp_path / "b", "grefcoco")
    report = check([str(tmp_path / "a"), str(tmp_path / "b")])
    assert (report.damage, report.leaks) == ((), ())
    assert refseg("prepare", "check", tmp_path / "a", tmp_path / "b") == FOUND
    assert "4 splits as their manifests say" in capfd.readouterr().out


def test_a_picture_trained_on_and_tested_on_is_a_leak(raw: Path, tmp_path: Path, capfd: Capture) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    run(raw, a)  # trains on 1, 2, 3
    refs = [raw_layout.ref(0, 2, [20], "val"), raw_layout.ref(1, 3, [30], "val"), raw_layout.ref(2, 4, [40], "train")]
    raw_layout.write_grefcoco(raw, refs)
    run(raw, b, "grefcoco")
    assert check([a]).leaks == check([b]).leaks == ()
    assert check([a, b]).leaks == (
        Leak(f"{a}: train", f"{b}: val", 2, (2, 3)),
        Leak(f"{b}: train", f"{a}: val", 1, (4,)),
    )
    assert refseg("prepare", "check", a, b) == 1
    assert "2, 3" in capfd.readouterr().out


def test_a_leak_within_one_dataset_is_found(raw: Path, tmp_path: Path) -> None:
    """The google splits of RefCOCOg share photos."""
    raw_layout.write_refcoco(raw, [*raw_layout.refcoco_refs(), raw_layout.ref(9, 1, 11, "val")])
    run(raw, tmp_path / "out")
    [leak] = check([str(tmp_path / "out")]).leaks
    assert (leak.images, leak.examples) == (1, (1,))


def test_equal_ids_of_different_pictures_are_no_leak(raw: Path, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    run(raw, a)  # tests on 4
    prepare_scenes(b, images={"train": 4})
    assert 4 in shards.open_shards(b, "train").image_ids()
    assert check([a, b]).leaks == ()


@pytest.mark.parametrize("damage", ["byte", "missing", "count"])
def test_damage_is_named_and_is_an_error(raw: Path, tmp_path: Path, capfd: Capture, damage: str) -> None:
    out = tmp_path / "out"
    run(raw, out)
    shard = out / "val-00000-of-00001.parquet"
    if damage == "byte":
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data)
    elif damage == "missing":
        shard.unlink()
    else:
        table = json.loads((out / shards.MANIFEST).read_text())
        table["splits"]["val"]["expressions"] = 3
        (out / shards.MANIFEST).write_text(json.dumps(table))
    [found] = check([str(out)]).damage
    assert (
        found.reason
        == {
            "byte": "its SHA-256 is not that of the manifest",
            "missing": "missing",
            "count": "val: 2 expressions in the files, 3 in the manifest",
        }[damage]
    )
    assert refseg("--progress", "never", "prepare", "check", out) == ERROR
    [line] = capfd.readouterr().err.splitlines()
    assert found.reason in line
