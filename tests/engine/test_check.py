"""Whether prepared data is as its manifest says, and whether training sees pictures of a test: `prepare check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import raw_layout
from preparing import refseg, run

from refseg_cli.data import shards
from refseg_cli.data.check import Leak, check
from refseg_cli.engine.prepare import prepare_scenes
from refseg_cli.errors import ERROR, FOUND

Capture = pytest.CaptureFixture[str]


def test_sound_data_without_leaks_is_clean(raw: Path, tmp_path: Path, capfd: Capture) -> None:
    run(raw, tmp_path / "a")
    run(raw, tmp_path / "b", "grefcoco")
    report = check([str(tmp_path / "a"), str(tmp_path / "b")])
    assert (report.damage, report.leaks) == ((), ())
    assert refseg("prepare", "check", tmp_path / "a", tmp_path / "b") == FOUND
    assert "4 splits intact" in capfd.readouterr().out


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
