"""Running `refseg prepare` again: what a fresh run gives, whatever was there; and never half of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import raw_layout
from preparing import another_density, cut, hashes, longer, photo_of_three, run, zeroed

from refseg_cli.data import shards, storage
from refseg_cli.data.check import check
from refseg_cli.errors import RefsegError


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
        with pytest.raises(RefsegError, match="contains data prepared from other inputs"):
            run(raw, out, **other)
        assert hashes(out) == before
    (out / shards.MANIFEST).unlink()
    with pytest.raises(RefsegError, match="contains data prepared from other inputs"):
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
    large = raw_layout.annotation(31, 3, segmentation={"size": [99, 99], "counts": [99 * 99]})
    raw_layout.write_refcoco(raw, rows=[large if row["id"] == 31 else row for row in raw_layout.annotations()])
    first = run(raw, tmp_path / "out", on_error="skip", shard_bytes=1)
    before = hashes(tmp_path / "out")
    again = run(raw, tmp_path / "out", on_error="skip", shard_bytes=1)
    assert (again.kept, again.written, again.problems) == (3, 1, first.problems)
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("order", [("skip", "fail"), ("fail", "skip")])
def test_what_one_policy_made_is_not_taken_for_the_others(raw: Path, tmp_path: Path, order: Any) -> None:
    out = tmp_path / "out"
    if order[0] == "skip":
        photo_of_three(raw).write_bytes(cut(photo_of_three(raw).read_bytes()))
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
    photo_of_three(raw).unlink()
    run(raw, out, on_error="skip")
    whole = hashes(out)
    as_written_before(out)
    assert len(shards.open_shards(str(out), "train")) == 2
    assert check([str(out)]).damage == ()
    with pytest.raises(RefsegError, match=r"contains data prepared from other inputs.*\(manifest\.json\)"):
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
    with pytest.raises(RefsegError, match="contains data prepared from other inputs"):
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
from refseg_cli.engine.prepare import Output, PrepareRequest
import time
finish = photos.finish
def slowly(draft, *others):
    if draft.image_id == 3:
        print("half", flush=True)
        time.sleep(60)
    return finish(draft, *others)
photos.finish = slowly
prepare.prepare(PrepareRequest("refcoco", Path(sys.argv[1]), prepare.Output(sys.argv[2])))
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
pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=sharding.follow_parent)
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
