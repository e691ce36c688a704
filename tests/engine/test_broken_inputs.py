"""Broken inputs of `refseg prepare`: named in one line, or left out and told; never half of anything."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import raw_layout
from hostile import Attack
from PIL import Image
from preparing import cut, hashes, refseg, run

from refseg_cli.data.sources import Reason
from refseg_cli.errors import ERROR, FOUND, RefsegError

Capture = pytest.CaptureFixture[str]


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


def photo_without_a_range(raw: Path) -> Reason:
    path = raw / "images/COCO_train2014_000000000003.jpg"
    Image.fromarray(np.zeros((raw_layout.HEIGHT, raw_layout.WIDTH), np.float32)).save(path, "TIFF")
    return Reason.BROKEN_IMAGE


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


def mask_of_no_size(raw: Path) -> Reason:
    sizeless = raw_layout.annotation(31, 3, segmentation={"size": ["\ud83d", 9], "counts": [9]})
    raw_layout.write_refcoco(raw, rows=[sizeless if row["id"] == 31 else row for row in raw_layout.annotations()])
    return Reason.BROKEN_MASK


BREAKAGES = [
    broken_photo,
    missing_photo,
    photo_of_another_size,
    photo_without_a_range,
    unknown_annotation,
    large_mask,
    empty_expression,
    nan_box,
    lone_surrogate,
    lone_surrogate_in_a_category,
    lone_surrogate_in_a_file_name,
    infinite_image_id,
    deep_polygons,
    mask_of_no_size,
]
# When a shard is made, each time.
FOUND_LATE = [broken_photo, photo_of_another_size, photo_without_a_range, large_mask, deep_polygons, mask_of_no_size]


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
    assert "1 broken inputs skipped (1 missing image)" in told.err
    assert "COCO_train2014_000000000003.jpg: ref 3: missing image" in told.err
    assert "published are 120624" in told.err
    columns = "split  images  refs  expressions  single  multi  no target  published"
    assert told.out.splitlines()[1] == columns
    assert told.out.splitlines()[2].split() == ["train", "2", "3", "4", "4", "0", "0", "120624"]


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


def test_a_file_in_place_of_the_output_folder_is_named(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RefsegError, match=r"out: is a file, not a folder .choose another --out"):
        run(raw, tmp_path / "out")
    with pytest.raises(RefsegError, match=r"deeper/in: .*out is a file, not a folder .choose another --out"):
        run(raw, tmp_path / "out/deeper/in")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_split_named_twice_is_refused(tmp_path: Path, capfd: Capture) -> None:
    words = ["prepare", "scenes", "--images", "train=2,train=3", "--out", tmp_path / "out"]
    assert refseg(*words) == ERROR
    [line] = capfd.readouterr().err.splitlines()
    assert line == "refseg: --images train=2,train=3: names a split twice (give one number for each split)"
