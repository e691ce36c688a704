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
from refseg_cli.data.sources.catalogue import PUBLISHED
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


def test_objects_in_pieces_of_runs_are_as_large_as_they_are(tmp_path: Path) -> None:
    """A writer that caps its runs, at 65,535 say, goes on after an empty one; here at 100."""
    height, width = raw_layout.HEIGHT, raw_layout.WIDTH
    pieces = [0, *[100, 0] * 3, 84, *[100, 0] * 3, 84]  # the left half
    whole = [0, *[100, 0] * 7, 68]
    rows = [
        raw_layout.annotation(ann_id, 1, segmentation={"size": [height, width], "counts": counts})
        for ann_id, counts in ((10, pieces), (11, whole))
    ]
    raw_layout.write_grefcoco(tmp_path / "raw", [raw_layout.ref(0, 1, [10, 11], "val", ["both"])], rows)
    run(tmp_path / "raw", tmp_path / "out", "grefcoco")
    record = shards.open_shards(str(tmp_path / "out"), "val")[0]
    objects = [instance.rle for instance in record.instances]
    assert [masks.area(rle) for rle in objects] == [384, 768]
    assert masks.area(masks.union(objects, (height, width))) == 768
    assert masks.shared_pixels(objects, objects).tolist() == [[384, 384], [384, 768]]


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


def test_published_splits_add_up() -> None:
    for splits in PUBLISHED.values():
        parts = [counts["expressions"] for name, counts in splits.items() if name != "all"]
        if "all" in splits and parts:
            assert sum(parts) == splits["all"]["expressions"]


# Other readers


def read_by_dataset(folder: str) -> int:
    import pyarrow.dataset

    return int(pyarrow.dataset.dataset(folder).count_rows())


def read_by_table(folder: str) -> int:
    import pyarrow.parquet

    return len(pyarrow.parquet.read_table(folder))


def read_by_pandas(folder: str) -> int:
    return len(pytest.importorskip("pandas").read_parquet(folder))


def read_by_datasets(folder: str) -> int:
    found = pytest.importorskip("datasets").load_dataset("parquet", data_dir=folder, cache_dir=f"{folder}/../cache")
    return sum(len(rows) for rows in found.values())


@pytest.mark.parametrize("read", [read_by_dataset, read_by_table, read_by_pandas, read_by_datasets])
def test_other_readers_take_the_whole_folder(raw: Path, tmp_path: Path, read: Any) -> None:
    missing_photo(raw)
    report = run(raw, tmp_path / "out", on_error="skip", shard_bytes=1)
    assert report.problems
    assert read(str(tmp_path / "out")) == 3


def test_ids_that_stand_for_several_things_are_named(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(raw, tmp_path / "sound").repeated == ()
    refs = raw_layout.refcoco_refs()
    for row in refs:
        for number, sentence in enumerate(row["sentences"]):
            sentence["sent_id"] = number  # as own data may have it: anew in every reference
    refs.append(refs[1])
    refs.append(raw_layout.ref(3, 2, 21, "train", ["two"]))
    raw_layout.write_refcoco(raw, refs)
    # sent_id 0: of refs 0 to 4; 1: of refs 0 and 2; 30: of the second ref 3 alone.
    told = [
        "sent_id 0, 1: of several expressions; `eval --from` then needs ref_id, or image and phrase, beside it",
        "ref_id 3: of several references; `eval --from` then needs sent_id, or image and phrase, beside it",
        "ref_id 1: with the same sentences more than once, which count as often",
    ]
    assert refseg("prepare", "refcoco", "--root", raw, "--out", tmp_path / "out", "--json") == FOUND
    streams = capsys.readouterr()
    assert json.loads(streams.out)["repeated"] == told
    for sentence in told:
        assert sentence in " ".join(streams.err.split())


# Reruns


def photo_of_three(raw: Path) -> Path:
    return raw / "images/COCO_train2014_000000000003.jpg"


def cut(data: bytes) -> bytes:
    return data[:-200]


def zeroed(data: bytes) -> bytes:
    """Damaged at the same length."""
    return data[:-60] + bytes(60)


def another_density(data: bytes) -> bytes:
    """As sound as before: one byte of the JFIF header, dots per inch in place of none."""
    return data[:13] + bytes([data[13] ^ 1]) + data[14:]


def longer(data: bytes) -> bytes:
    """As sound as before: with a comment of 3 kB."""
    return data[:-2] + b"\xff\xfe\x0c\x00" + bytes(0xBFE) + b"\xff\xd9"


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


@pytest.mark.parametrize("damage", [cut, zeroed])
def test_an_interrupted_run_goes_on(raw: Path, tmp_path: Path, damage: Any) -> None:
    out = tmp_path / "out"
    photo = raw / "images/COCO_train2014_000000000003.jpg"
    data = photo.read_bytes()
    run(raw, tmp_path / "whole", shard_bytes=1)
    photo.write_bytes(damage(data))
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


@pytest.mark.parametrize("damage", [cut, zeroed])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_photo_that_is_repaired_is_picked_up(raw: Path, tmp_path: Path, damage: Any, overwrite: bool) -> None:
    out, photo = tmp_path / "out", photo_of_three(raw)
    data = photo.read_bytes()
    photo.write_bytes(damage(data))
    assert run(raw, out, on_error="skip", shard_bytes=1).problems
    photo.write_bytes(data)
    report = run(raw, out, on_error="skip", shard_bytes=1, overwrite=overwrite)
    assert (report.problems, report.written, report.kept) == ((), 1, 3)
    run(raw, tmp_path / "fresh", on_error="skip", shard_bytes=1)
    assert hashes(out) == hashes(tmp_path / "fresh")


@pytest.mark.parametrize("change", [another_density, longer])
@pytest.mark.parametrize("shard_bytes", [1, 4500, 1 << 20])
def test_a_photo_that_has_changed_is_picked_up(raw: Path, tmp_path: Path, change: Any, shard_bytes: int) -> None:
    out, photo = tmp_path / "out", photo_of_three(raw)
    run(raw, out, shard_bytes=shard_bytes)
    status = photo.stat()
    photo.write_bytes(change(photo.read_bytes()))
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy that keeps times
    assert run(raw, out, shard_bytes=shard_bytes).kept >= 1
    run(raw, tmp_path / "fresh", shard_bytes=shard_bytes)
    assert hashes(out) == hashes(tmp_path / "fresh")
    assert check([str(out)]).damage == ()


def test_what_was_left_out_is_looked_at_again(raw: Path, tmp_path: Path) -> None:
    large_mask(raw)
    first = run(raw, tmp_path / "out", on_error="skip", shard_bytes=1)
    before = hashes(tmp_path / "out")
    again = run(raw, tmp_path / "out", on_error="skip", shard_bytes=1)
    assert (again.kept, again.written, again.problems) == (3, 1, first.problems)
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("order", [("skip", "fail"), ("fail", "skip")])
def test_what_one_policy_made_is_not_taken_for_the_others(raw: Path, tmp_path: Path, order: Any) -> None:
    out = tmp_path / "out"
    if order[0] == "skip":
        broken_photo(raw)
    run(raw, out, on_error=order[0])
    before = hashes(out)
    with pytest.raises(RefsegError, match="with other options"):
        run(raw, out, on_error=order[1])
    assert hashes(out) == before


@pytest.mark.parametrize("column", ["image.bytes", "instances.list.element.rle.counts"])
def test_damage_to_an_unfinished_run_is_repaired(raw: Path, tmp_path: Path, column: str) -> None:
    """Without a manifest there is no hash to compare a shard with."""
    out = tmp_path / "out"
    run(raw, out)
    whole = hashes(out)
    raw_layout.flip(out / "train-00000-of-00001.parquet", column)
    (out / shards.MANIFEST).unlink()
    assert run(raw, out).written == 1
    assert hashes(out) == whole


def as_written_before(out: Path) -> None:
    """Give the manifest and the list of problems the names that earlier versions wrote."""
    for name in ("manifest.json", "problems.jsonl"):
        if (out / f"_{name}").exists():
            (out / f"_{name}").rename(out / name)


def test_a_manifest_under_its_earlier_name_is_known(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    missing_photo(raw)
    run(raw, out, on_error="skip")
    whole = hashes(out)
    as_written_before(out)
    assert len(shards.open_shards(str(out), "train")) == 2
    assert check([str(out)]).damage == ()
    with pytest.raises(RefsegError, match=r"holds data prepared from other inputs.*\(manifest\.json\)"):
        run(raw, out, "grefcoco", on_error="skip")
    assert run(raw, out, on_error="skip").kept == 2
    assert hashes(out) == whole
    as_written_before(out)
    (out / "val-00000-of-00001.parquet").unlink()
    assert run(raw, out, on_error="skip").written == 1
    assert hashes(out) == whole
    as_written_before(out)
    run(raw, out, "grefcoco", on_error="skip", overwrite=True)
    run(raw, tmp_path / "new", "grefcoco", on_error="skip")
    assert hashes(out) == hashes(tmp_path / "new")


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
def slowly(draft, path, problems, rules):
    if draft.image_id == 3:
        print("half", flush=True)
        time.sleep(60)
    return finish(draft, path, problems, rules)
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


LOCKING = """
import sys
from refseg_cli.data import storage
with storage.locked(storage.locate(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_runs_do_not_write_into_one_folder(raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", LOCKING, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"
    (out / ".val-00000-of-00001.parquet.unfinished").write_bytes(b"of the other run")
    with pytest.raises(RefsegError, match="out: another `refseg prepare` is writing here"):
        run(raw, out)
    assert list(hashes(out)) == [".val-00000-of-00001.parquet.unfinished"]
    other.kill()  # as hard as can be: the lock ends with its process
    other.wait()
    other.stdin.close()
    other.stdout.close()
    assert run(raw, out).written == 2
    assert run(raw, out).kept == 2


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


def infinite_image_id(raw: Path) -> Reason:
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
    infinite_image_id,
    deep_polygons,
]
FOUND_LATE = [broken_photo, photo_of_another_size, large_mask, deep_polygons]  # when a shard is made, each time


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
    assert json.loads((out / "_problems.jsonl").read_text())["ref_ids"] == [3]
    splits = report.manifest.splits
    assert (splits["train"].images, splits["train"].expressions, splits["val"].expressions) == (2, 4, 2)
    before = hashes(out)
    again = run(raw, out, on_error="skip")
    assert again.kept == len(splits) - (breakage in FOUND_LATE)
    assert again.problems == report.problems
    assert hashes(out) == before


def val_photo(raw: Path) -> Path:
    return raw / "images/COCO_train2014_000000000004.jpg"


def no_val_photo(raw: Path) -> Reason:
    val_photo(raw).unlink()
    return Reason.MISSING_IMAGE


def broken_val_photo(raw: Path) -> Reason:
    val_photo(raw).write_bytes(cut(val_photo(raw).read_bytes()))
    return Reason.BROKEN_IMAGE


def unknown_val_image(raw: Path) -> Reason:
    refs = [{**ref, "image_id": 99} if ref["split"] == "val" else ref for ref in raw_layout.refcoco_refs()]
    raw_layout.write_refcoco(raw, refs)
    return Reason.UNKNOWN_IMAGE


def empty_val_expressions(raw: Path) -> Reason:
    refs = [raw_layout.ref(2, 4, 40, "val", ["", " "]) if r["ref_id"] == 2 else r for r in raw_layout.refcoco_refs()]
    raw_layout.write_refcoco(raw, refs)
    return Reason.EMPTY_EXPRESSION


@pytest.mark.parametrize("breakage", [no_val_photo, broken_val_photo, unknown_val_image, empty_val_expressions])
@pytest.mark.parametrize("complete_before", [False, True])
def test_a_split_of_which_nothing_is_left_is_an_error(
    raw: Path, tmp_path: Path, capfd: Capture, breakage: Any, complete_before: bool
) -> None:
    out = tmp_path / "out"
    if complete_before:
        run(raw, out, on_error="skip")
    missing_photo(raw)  # of the train split, which is no reason for val
    reason = breakage(raw)
    words = ["--progress", "never", "prepare", "refcoco", "--root", raw, "--out", out, "--on-error", "skip"]
    assert refseg(*words, "--overwrite") == ERROR
    told = capfd.readouterr()
    assert told.out == ""
    [line] = told.err.splitlines()
    assert "split val: nothing of it is left: " in line
    assert "ref 2: " in line
    assert str(reason) in line
    assert "ref 3" not in line
    if breakage is broken_val_photo:  # which shows only when its shard is made
        assert [name[:6] for name in hashes(out)] == ["train-"]
    else:
        assert bool(out.exists() and hashes(out)) == complete_before
    raw_layout.write_refcoco(raw)
    run(raw, out, on_error="skip", overwrite=True)
    run(raw, tmp_path / "fresh", on_error="skip")
    assert hashes(out) == hashes(tmp_path / "fresh")


def test_a_split_without_an_expression_is_an_error(raw: Path, tmp_path: Path) -> None:
    refs = [raw_layout.ref(2, 4, 40, "val", []) if r["ref_id"] == 2 else r for r in raw_layout.refcoco_refs()]
    raw_layout.write_refcoco(raw, refs)
    with pytest.raises(RefsegError, match="split val: nothing of it is left: no expression"):
        run(raw, tmp_path / "out")
    assert run(raw, tmp_path / "out", splits=("train",)).manifest.splits.keys() == {"train"}


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
    assert not any(name.startswith((".", "train", "_manifest")) for name in hashes(small_disk / "out"))


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
