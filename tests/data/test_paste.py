"""Pictures with objects pasted into them: what is annotated is what is to be seen."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refseg_cli.app import main as refseg
from refseg_cli.bundled import paste
from refseg_cli.data import masks

DOG, CAT = 18, 17
SIZE = (160, 200)
COLOURS = {DOG: (250, 10, 10), CAT: (10, 250, 10)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six grey photos with a red dog or a green cat; all cats of the last are not known."""
    images, annotations, class_masks = [], [], []
    (tmp_path / "images").mkdir()
    for i in range(6):
        category = (DOG, CAT)[i % 2]
        pixels, mask = np.full((*SIZE, 3), 128, np.uint8), np.zeros(SIZE, bool)
        mask[40:110, 60 : 120 + i] = True
        pixels[mask] = COLOURS[category]
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        rle = masks.encode(mask)
        about = {"image_id": 10 * i, "category_id": category}
        about["segmentation"] = {"size": list(rle.size), "counts": rle.counts.decode()}
        box = [60, 40, 60 + i, 70]
        annotations.append({"id": i + 1, "area": int(mask.sum()), "bbox": box, "iscrowd": 0, **about})
        class_masks.append(about)
        complete = [DOG] if i == 5 else [DOG, CAT]
        images.append(
            {"id": 10 * i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1], "complete": complete}
        )
    names = [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}]
    table = {"images": images, "annotations": annotations, "class_masks": class_masks, "categories": names}
    (tmp_path / "instances.json").write_text(json.dumps(table))
    rows = [("image", "split"), *((f"{i}.png", "test" if i == 0 else "train") for i in range(6))]
    with (tmp_path / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert _prepared(tmp_path, tmp_path / "prepared") == 0
    return tmp_path


def _prepared(folder: Path, out: Path) -> int:
    where = ["--annotations", str(folder / "instances.json"), "--images", str(folder / "images")]
    how = ["--phrases", "generate", "--splits", str(folder / "splits.csv"), "--out", str(out)]
    return refseg(["prepare", "coco", *where, *how, "-q"])


def _run(photos: Path, name: str, **how: Any) -> tuple[Path, dict[str, Any]]:
    out = photos / name
    paste.main(str(photos / "instances.json"), str(photos / "images"), str(photos / "prepared"), str(out), **how)
    return out, json.loads((out / "instances.json").read_text())


def _decoded(row: dict[str, Any]) -> np.ndarray:
    return masks.decode(masks.from_segmentation(row["segmentation"], *SIZE)).astype(bool)


def test_masks_are_what_is_to_be_seen(photos: Path) -> None:
    out, table = _run(photos, "out")
    new = [image for image in table["images"] if image["file_name"].startswith("pasted_")]
    assert {image["file_name"] for image in new} == {f"pasted_{i}.png" for i in range(1, 6)}, (
        "the test photo is kept out"
    )
    assert len({image["id"] for image in table["images"]}) == 11
    assert len({row["id"] for row in table["annotations"]}) == len(table["annotations"])
    assert len(table["annotations"]) > 6 + 5, "something was pasted"
    for image in new:
        pixels = np.array(Image.open(out / "images" / image["file_name"]))
        rows = [row for row in table["annotations"] if row["image_id"] == image["id"]]
        found = [_decoded(row) for row in rows]
        assert np.sum(found, axis=0).max() == 1, "no pixel belongs to two objects"
        for row, mask in zip(rows, found, strict=True):
            assert row["area"] == mask.sum()
            seen = np.median(pixels[mask], axis=0)  # borders are blended, light differs
            assert np.argmax(seen) == np.argmax(COLOURS[row["category_id"]])
        for row in (row for row in table["class_masks"] if row["image_id"] == image["id"]):
            together = [m for r, m in zip(rows, found, strict=True) if r["category_id"] == row["category_id"]]
            assert np.array_equal(_decoded(row), np.any(together, axis=0))


def test_each_round_pastes_into_another_part_of_a_photo(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paste, "CUT_OFF", 0.9)
    out, table = _run(photos, "out", seed=3, rounds=3, crop=True)
    new = [image for image in table["images"] if image["file_name"].startswith("pasted")]
    assert len(new) == len({image["id"] for image in table["images"]}) - 6 == 3 * 5
    sizes = {image["id"]: (image["height"], image["width"]) for image in new}
    assert len(set(sizes.values())) > 10, "parts differ"
    largest = max(row["area"] for row in table["annotations"] if row["id"] <= 6)
    hardly = 0
    for image in new:
        pixels = np.array(Image.open(out / "images" / image["file_name"]))
        assert pixels.shape[:2] == sizes[image["id"]]
        for row in (row for row in table["annotations"] if row["image_id"] == image["id"]):
            mask = masks.decode(masks.from_segmentation(row["segmentation"], *sizes[image["id"]])).astype(bool)
            assert np.argmax(np.median(pixels[mask], axis=0)) == np.argmax(COLOURS[row["category_id"]])
            assert row["reliable"] or row["area"] < 0.9 * largest
            hardly += not row["reliable"]
    assert hardly, "the case has to occur"
    assert _prepared(out, photos / "more") == 0


def test_what_is_not_known_of_the_source_is_not_known_here(photos: Path) -> None:
    """A photo whose cats are not all annotated has its own made of it, and may bring a cat with its objects."""
    _, table = _run(photos, "out")
    complete = {image["file_name"]: image["complete"] for image in table["images"]}
    assert complete["pasted_5.png"] == [DOG]
    assert all(DOG in known for known in complete.values())


def test_is_prepared_and_made_alike(photos: Path) -> None:
    out, table = _run(photos, "out")
    again, same = _run(photos, "again")
    assert table == same
    for image in table["images"]:
        name = image["file_name"]
        assert (out / "images" / name).read_bytes() == (again / "images" / name).read_bytes()
    assert _prepared(out, photos / "more") == 0


def test_all_kinds_are_pasted_equally_often_where_phrases_name_them(photos: Path) -> None:
    table = json.loads((photos / "instances.json").read_text())
    table["annotations"][2]["reliable"] = 0  # one dog to cut out, and two cats
    (photos / "instances.json").write_text(json.dumps(table))
    _, table = _run(photos, "out", even=True, rounds=2)
    new = [image for image in table["images"] if image["file_name"].startswith("pasted")]
    complete = {image["id"]: image["complete"] for image in new}
    assert sorted(map(len, complete.values())) == 2 * [1] + 4 * 2 * paste.FULL * [2], "as their photos are"
    pasted = {DOG: 0, CAT: 0}
    for image in new:
        _, *others = [row["category_id"] for row in table["annotations"] if row["image_id"] == image["id"]]
        assert set(others) <= set(complete[image["id"]])
        for category in others if len(complete[image["id"]]) == 2 else ():
            pasted[category] += 1
    assert 0.8 < pasted[DOG] / pasted[CAT] < 1.25
    assert pasted[CAT] > 40
