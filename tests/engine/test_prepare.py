"""From raw files to prepared data: complete, repeatable, and never half there; what was prepared can be checked."""

from __future__ import annotations

import contextlib
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
from preparing import cut, hashes, run
from pycocotools.coco import COCO

from refseg_cli.app import main
from refseg_cli.data import masks, shards
from refseg_cli.data.check import Leak, check
from refseg_cli.data.sources import Reason
from refseg_cli.data.sources.catalogue import PUBLISHED
from refseg_cli.engine.prepare import prepare_scenes, share_scenes
from refseg_cli.errors import ERROR, FOUND, RefsegError

Capture = pytest.CaptureFixture[str]


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
