"""Phrases from annotated photos: what the file leaves open is not said, and the same seed says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import own_layout
import pytest
from PIL import Image

from refseg_cli.app import main
from refseg_cli.data import shards
from refseg_cli.engine import generated
from refseg_cli.engine.prepare import Output, PrepareReport
from refseg_cli.engine.prepare_own import CocoRequest, prepare_coco
from refseg_cli.errors import FOUND, RefsegError
from refseg_cli.records import Record

DOG, CAT, CAR = 1, 2, 3


def run(root: Path, out: str = "out", seed: int = 0, **options: Any) -> PrepareReport:
    output = Output(str(root / out), **options)
    return prepare_coco(CocoRequest(root / "instances.json", root / "photos", None, output, "made", seed=seed))


def records(root: Path, out: str = "out") -> list[Record]:
    rows = shards.open_shards(str(root / out), "train")
    return [rows[i] for i in range(len(rows))]


def phrases(root: Path, out: str = "out") -> dict[int, dict[str, tuple[int, ...]]]:
    """image id -> phrase -> ids of its targets"""
    return {
        record.image_id: {e.text: tuple(record.instances[t].ann_id for t in e.targets) for e in record.expressions}
        for record in records(root, out)
    }


def images(count: int, **more: Any) -> list[dict[str, Any]]:
    size = {"height": own_layout.HEIGHT, "width": own_layout.WIDTH}
    return [{"id": n, "file_name": f"photo_{n}.jpg", **size, **more} for n in range(1, count + 1)]


def many(root: Path, *rows: dict[str, Any], copies: int = 12, **more: Any) -> None:
    """The same picture some times, so that chance leaves nothing unsaid."""
    annotations = [{**row, "id": 100 * n + row["id"], "image_id": n} for n in range(1, copies + 1) for row in rows]
    own_layout.write_coco(root, annotations, images(copies, **more))


def all_phrases(root: Path) -> dict[str, set[tuple[int, ...]]]:
    """phrase -> the targets that it has, by their ids without the image's"""
    found: dict[str, set[tuple[int, ...]]] = {}
    for said in phrases(root).values():
        for text, targets in said.items():
            found.setdefault(text, set()).add(tuple(t % 100 for t in targets))
    return found


def test_annotated_objects_are_described(tmp_path: Path) -> None:
    two_dogs = own_layout.annotation(1, 1, 5), own_layout.annotation(2, 1, 45)
    many(tmp_path, *two_dogs, own_layout.annotation(3, 1, 25, CAT))
    report = run(tmp_path)
    said = all_phrases(tmp_path)
    expected = {"two dogs": (1, 2), "the leftmost dog": (1,), "the cat": (3,), "three dogs": ()}
    assert {text: said.get(text) for text in expected} == {text: {targets} for text, targets in expected.items()}
    counts = report.manifest.source["generator"]["phrases"]
    assert sum(counts.values()) == report.manifest.splits["train"].expressions
    assert {kind.partition(".")[0] for kind in counts} == {"single", "multi", "no_target"}
    ids = [(e.ref_id, e.sent_id) for record in records(tmp_path) for e in record.expressions]
    assert len({sent_id for _, sent_id in ids}) == len(ids)


def mentions(said: dict[str, Any], noun: str) -> bool:
    return any(noun in text for text in said)


def test_what_is_not_annotated_exhaustively_is_not_mentioned(tmp_path: Path) -> None:
    rows = [own_layout.annotation(1, 1, 5), own_layout.annotation(2, 1, 45, CAT)]
    many(tmp_path, *rows, complete=[DOG])
    run(tmp_path)
    said = all_phrases(tmp_path)
    assert mentions(said, "dog")
    assert not mentions(said, "cat")
    assert not mentions(said, "car")
    assert not mentions(said, "animal")


def test_a_crowd_is_of_unknown_number(tmp_path: Path) -> None:
    crowd = own_layout.annotation(2, 1, 45, CAT, iscrowd=1, segmentation=own_layout.rle(own_layout.block(40, 0, 20)))
    many(tmp_path, own_layout.annotation(1, 1, 5), crowd)
    run(tmp_path)
    said = all_phrases(tmp_path)
    assert mentions(said, "dog")
    assert mentions(said, "car")
    assert not mentions(said, "cat")


def test_an_unreliable_outline_counts_and_is_no_target(tmp_path: Path) -> None:
    rows = [own_layout.annotation(1, 1, 5), own_layout.annotation(2, 1, 45, reliable=0)]
    many(tmp_path, *rows)
    run(tmp_path)
    said = all_phrases(tmp_path)
    assert said["the leftmost dog"] == {(1,)}
    assert not any(2 in targets for found in said.values() for targets in found)
    assert not said.keys() & {"the dog", "two dogs", "both dogs", "all dogs"}


def test_a_class_mask_says_what_all_of_them_are(tmp_path: Path) -> None:
    rows = [own_layout.annotation(1, 1, 5, reliable=0), own_layout.annotation(2, 1, 45, reliable=0)]
    both = own_layout.block(5, 20) | own_layout.block(45, 20)
    many(tmp_path, *rows)
    table = json.loads((tmp_path / "instances.json").read_text())
    whole = {"category_id": DOG, "segmentation": own_layout.rle(both)}
    more = {"category_id": CAT, "segmentation": [[30, 0, 40, 0, 40, 10, 30, 10]]}  # a cat that nobody outlined
    table["class_masks"] = [{"image_id": n, **row} for n in range(1, 13) for row in (whole, more)]
    (tmp_path / "instances.json").write_text(json.dumps(table))
    run(tmp_path)
    said = all_phrases(tmp_path)
    assert said["two dogs"] == {(1, 2)}
    assert not any(targets in found for found in said.values() for targets in ((1,), (2,)))
    assert not mentions(said, "cat")


def test_broken_annotations_leave_open_what_they_are(tmp_path: Path) -> None:
    many(tmp_path, own_layout.annotation(1, 1, 5), own_layout.annotation(2, 1, 45, segmentation=[[1, 2, 3]]))
    run(tmp_path)
    said = all_phrases(tmp_path)
    assert mentions(said, "cat")
    assert not mentions(said, "dog")


def test_what_is_known_of_an_image_must_be_readable(tmp_path: Path) -> None:
    many(tmp_path, own_layout.annotation(1, 1, 5), copies=2)
    table = json.loads((tmp_path / "instances.json").read_text())
    table["images"][0]["complete"] = "dogs"
    (tmp_path / "instances.json").write_text(json.dumps(table))
    report = run(tmp_path)
    assert [(p.caution, p.detail) for p in report.problems] == [(True, "image 1: complete 'dogs'")]
    assert phrases(tmp_path).keys() == {2}


def test_lvis_names_what_was_looked_for(tmp_path: Path) -> None:
    rows = [own_layout.annotation(1, 1, 5), own_layout.annotation(2, 1, 45, CAT)]
    many(tmp_path, *rows, neg_category_ids=[], not_exhaustive_category_ids=[CAT])
    table = json.loads((tmp_path / "instances.json").read_text())
    for image in table["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    (tmp_path / "instances.json").write_text(json.dumps(table))
    run(tmp_path)
    said = all_phrases(tmp_path)
    assert mentions(said, "dog")
    assert not mentions(said, "cat")
    assert not mentions(said, "car")


def test_the_same_seed_says_the_same_whatever_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many(tmp_path, own_layout.annotation(1, 1, 5), own_layout.annotation(2, 1, 45), copies=6)
    run(tmp_path, "one")
    monkeypatch.setattr(generated, "IMAGES_FOR_A_PROCESS", 2)
    assert run(tmp_path, "two", workers=2).manifest.plan == shards.read_manifest(str(tmp_path / "one")).plan
    assert phrases(tmp_path, "one") == phrases(tmp_path, "two")
    run(tmp_path, "other", seed=1)
    assert phrases(tmp_path, "one") != phrases(tmp_path, "other")
    assert phrases(tmp_path, "one")[1] != phrases(tmp_path, "one")[2]


def test_colours_are_those_of_the_photo_as_it_is_shown(tmp_path: Path) -> None:
    """A photo that EXIF turns by half: what it stores top right is shown bottom left."""
    rows = [own_layout.annotation(1, 1, 5, CAR, segmentation=own_layout.rle(own_layout.block(0, 20, 20)))]
    many(tmp_path, *rows)
    stored = Image.new("RGB", (own_layout.WIDTH, own_layout.HEIGHT), (200, 200, 200))
    stored.paste((220, 20, 30), (40, 0, 60, 20))
    exif = Image.Exif()
    exif[0x0112] = 3
    for n in range(1, 13):
        stored.save(tmp_path / f"photos/photo_{n}.jpg", exif=exif, quality=95)
    run(tmp_path)
    assert mentions(all_phrases(tmp_path), "red car")


def test_a_missing_or_broken_photo_is_named(tmp_path: Path) -> None:
    many(tmp_path, own_layout.annotation(1, 1, 5), copies=3)
    (tmp_path / "photos/photo_1.jpg").unlink()
    (tmp_path / "photos/photo_2.jpg").write_bytes(b"nothing")
    with pytest.raises(RefsegError, match=r"photo_1\.jpg"):
        run(tmp_path)
    report = run(tmp_path, on_error="skip")
    assert [problem.file for problem in report.problems] == ["photo_1.jpg", "photo_2.jpg"]
    assert phrases(tmp_path).keys() == {3}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many(tmp_path, own_layout.annotation(1, 1, 5), copies=4)
    words = ["prepare", "coco", "--annotations", tmp_path / "instances.json", "--images", tmp_path / "photos"]
    words += ["--phrases", "generate", "--splits", "train=0.75,val=0.25", "--out", tmp_path / "out"]
    assert main([str(word) for word in words]) == FOUND
    assert {name: s.images for name, s in shards.read_manifest(str(tmp_path / "out")).splits.items()} == {
        "train": 3,
        "val": 1,
    }


def test_real_photographs_are_described(shared: Path, tmp_path: Path) -> None:
    """Some of each kind, and no object that the file calls unreliable as the only target."""
    table = json.loads((shared / "photos/instances.json").read_text("utf-8"))
    chosen = {row["id"] for row in table["images"][::150]}
    for name in ("annotations", "class_masks"):
        table[name] = [row for row in table[name] if row["image_id"] in chosen]
    (tmp_path / "instances.json").write_text(json.dumps(table))
    output = Output(str(tmp_path / "out"))
    report = prepare_coco(CocoRequest(tmp_path / "instances.json", shared / "photos/images", None, output))
    assert not report.problems
    kinds = report.manifest.source["generator"]["phrases"]
    assert kinds.keys() >= {"single.category", "single.position", "multi.group", "no_target.category"}
    unreliable = {row["id"] for row in table["annotations"] if not row["reliable"]}
    for record in records(tmp_path):
        for expression in record.expressions:
            alone = [record.instances[t].ann_id for t in expression.targets]
            assert len(alone) != 1 or alone[0] not in unreliable
