"""From raw files to prepared data: complete, repeatable, and never half there; what was prepared can be checked."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import raw_layout
from preparing import photo_of_three, refseg, run
from pycocotools.coco import COCO

from refseg_cli.data import masks, shards
from refseg_cli.data.scenes import DEFAULT_IMAGES
from refseg_cli.data.sources.catalogue import PUBLISHED
from refseg_cli.engine import sharding
from refseg_cli.engine.prepare import prepare_scenes, share_scenes
from refseg_cli.errors import FOUND

Capture = pytest.CaptureFixture[str]


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
    shares = share_scenes(number, DEFAULT_IMAGES)
    assert sum(shares.values()) == number
    assert min(shares.values()) >= 1
    assert share_scenes(4900, DEFAULT_IMAGES) == {"train": 4000, "val": 300, "testA": 300, "testB": 300}


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
    photo_of_three(raw).unlink()
    report = run(raw, tmp_path / "out", on_error="skip", shard_bytes=1)
    assert report.problems
    assert read(str(tmp_path / "out")) == 3


def test_nothing_imports_pandas(raw: Path, tmp_path: Path) -> None:
    """Wherever it is installed, that would take 50 MB and a quarter of a second."""
    program = (
        "import sys; from pathlib import Path; from refseg_cli.engine.prepare import Output, PrepareRequest, prepare\n"
        "prepare(PrepareRequest('refcoco', Path(sys.argv[1]), Output(sys.argv[2])))\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(raw), str(tmp_path / "out")], check=True)


def test_what_makes_shards_keeps_freed_memory(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What that does: tests/segmenters/test_memory.py."""
    called: list[bool] = []
    monkeypatch.setattr(sharding, "keep_freed_memory", lambda: called.append(True))
    files = [file for split in run(raw, tmp_path / "out").manifest.splits.values() for file in split.files]
    assert len(called) == len(files) > 0


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
