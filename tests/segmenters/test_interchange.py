"""Answers as other tools read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from refseg_cli.data import masks
from refseg_cli.data.sources import labelme
from refseg_cli.records import Detection
from refseg_cli.segmenters.base import Found
from refseg_cli.segmenters.interchange import (
    boxes_line,
    coco_results,
    count_line,
    labelme_file,
    polygons_line,
    yolo_lines,
)

SIZE = (20, 30)
RING = np.zeros(SIZE, bool)
RING[2:9, 3:12] = True
RING[4:6, 5:8] = False
BLOCK = np.zeros(SIZE, bool)
BLOCK[12:18, 20:30] = True
BOTH = RING | BLOCK


def answer(phrase: str = "both", instances: tuple[Detection, ...] | None = None, mask: np.ndarray = BOTH) -> Found:
    return Found(phrase, mask, True, 0.9, int(mask.sum()), instances=instances)


NOTHING = Found("a ghost", np.zeros(SIZE, bool), False, 0.1, 0)
INSTANCES = (
    Detection((3, 2, 9, 7), 0.8, masks.encode(RING)),
    Detection((20, 12, 10, 6), 0.7, masks.encode(BLOCK)),
)


def filled(line: str) -> np.ndarray:
    """What a line of YOLO's covers, by its rules: a class, and three corners or more within the picture."""
    number, *values = line.split(" ")
    assert int(number) >= 0
    shares = np.array(values, float)
    assert len(shares) >= 6
    assert len(shares) % 2 == 0
    assert ((shares >= 0) & (shares <= 1)).all()
    corners = shares.reshape(-1, 2) * (SIZE[1], SIZE[0])
    return masks.decode(masks.from_segmentation([corners.ravel().tolist()], *SIZE)) != 0


def test_pycocotools_loads_and_scores_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Perfect answers get 1; the areas, by which COCO tells small from large, are those of masks and not of boxes."""
    truth = [
        {"id": i, "image_id": 7, "category_id": 3, "iscrowd": 0, "area": int(m.sum()), "bbox": list(masks.box(rle)),
         "segmentation": masks.coco_json(rle)}
        for i, m in enumerate((RING, BLOCK), start=1) for rle in [masks.encode(m)]
    ]  # fmt: skip
    data = COCO()
    data.dataset = {
        "info": {},
        "images": [{"id": 7, "height": SIZE[0], "width": SIZE[1], "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "both"}],
        "annotations": truth,
    }
    data.createIndex()
    results = [*coco_results("a.jpg", 7, 3, answer(instances=INSTANCES)), *coco_results("a.jpg", 7, 3, NOTHING)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    loaded = data.loadRes(str(tmp_path / "results.json"))
    assert [a["area"] for a in loaded.loadAnns(loaded.getAnnIds())] == [RING.sum(), BLOCK.sum()]
    np.testing.assert_array_equal(loaded.annToMask(loaded.loadAnns([1])[0]) != 0, RING)
    scoring = COCOeval(data, loaded, "segm")
    scoring.evaluate()
    scoring.accumulate()
    scoring.summarize()
    assert scoring.stats[0] == pytest.approx(1)


def test_an_object_is_an_instance_or_else_the_mask() -> None:
    [whole] = coco_results("a.jpg", 1, 1, answer())
    assert (whole["score"], whole["phrase"], whole["file_name"]) == (0.9, "both", "a.jpg")
    assert whole["segmentation"] == masks.coco_json(masks.encode(BOTH))
    boxes_alone = tuple(Detection(one.box, one.score) for one in INSTANCES)
    assert coco_results("a.jpg", 1, 1, answer(instances=boxes_alone)) == [whole]
    vanished = (*INSTANCES, Detection((0, 0, 1, 1), 0.6, masks.encode(np.zeros(SIZE, bool))))
    assert [one["score"] for one in coco_results("a.jpg", 1, 1, answer(instances=vanished))] == [0.8, 0.7]
    assert coco_results("a.jpg", 1, 1, NOTHING) == []
    assert yolo_lines(0, NOTHING) == []


def test_boxes() -> None:
    line = boxes_line("a.jpg", answer(instances=INSTANCES))
    assert line["boxes"] == [{"bbox": [3, 2, 9, 7], "score": 0.8}, {"bbox": [20, 12, 10, 6], "score": 0.7}]
    assert boxes_line("a.jpg", answer())["boxes"] == [{"bbox": [3, 2, 27, 16], "score": 0.9}]
    assert boxes_line("a.jpg", NOTHING) == {
        "schema": "refseg.boxes/1",
        "image": "a.jpg",
        "width": 30,
        "height": 20,
        "phrase": "a ghost",
        "no_target": True,
        "boxes": [],
    }


@pytest.mark.parametrize(
    ("found", "count", "of"),
    [
        (answer(), 2, "parts"),
        (answer(instances=INSTANCES[:1]), 1, "instances"),
        (NOTHING, 0, "parts"),
        (Found("a ghost", NOTHING.mask, False, 0.1, 0, instances=()), 0, "instances"),
    ],
)
def test_count(found: Found, count: int, of: str) -> None:
    line = count_line("a.jpg", found)
    assert (line["count"], line["of"]) == (count, of)


def test_polygons_are_coco_s() -> None:
    line = polygons_line("a.jpg", answer(instances=INSTANCES))
    found = [masks.decode(masks.from_segmentation(parts, *SIZE)) != 0 for parts in line["objects"]]
    np.testing.assert_array_equal(found, [RING, BLOCK])
    [parts] = polygons_line("a.jpg", answer())["objects"]
    assert len(parts) == 2
    assert polygons_line("a.jpg", NOTHING)["objects"] == []


def test_yolo_has_a_line_for_each_object() -> None:
    np.testing.assert_array_equal([filled(line) for line in yolo_lines(4, answer(instances=INSTANCES))], [RING, BLOCK])
    [line] = yolo_lines(4, answer())
    assert line.startswith("4 0.1 0.1 0.4 0.1 ")
    np.testing.assert_array_equal(filled(line), BOTH)


def test_labelme_reads_it() -> None:
    """By the keys and types that labelme 5 asserts (labelme/_label_file.py), and by our own reader."""
    found = labelme_file("../a.jpg", SIZE, [answer("two things"), NOTHING, answer("a ring", mask=RING)])
    assert set(found) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
    assert (found["imagePath"], found["imageHeight"], found["imageWidth"]) == ("../a.jpg", *SIZE)
    shapes: list[dict[str, Any]] = json.loads(json.dumps(found["shapes"]))
    for shape in shapes:
        assert set(shape) == {"label", "points", "group_id", "description", "shape_type", "flags", "mask"}
        assert shape["shape_type"] == "polygon"
        assert all(len(point) == 2 for point in shape["points"])
    assert [(labelme.phrase_of(shape), shape["group_id"]) for shape in shapes] == [
        ("two things", 1),
        ("two things", 1),
        ("a ring", None),
    ]
    read = [masks.decode(masks.from_segmentation(labelme.region(shape, SIZE), *SIZE)) != 0 for shape in shapes]
    np.testing.assert_array_equal(read, [RING, BLOCK, RING])


def test_a_tolerance_reaches_every_form_with_polygons() -> None:
    """A square hole in a disc and a block stay, with fewer corners."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = (np.hypot(y - 10, x - 10) < 9) & ~RING | BLOCK
    (found,) = (answer(mask=disc),)
    line = [polygons_line("a.jpg", found, tolerance=t)["objects"][0] for t in (0, 1)]
    yolo = [yolo_lines(0, found, tolerance=t)[0] for t in (0, 1)]
    shapes = [labelme_file("a.jpg", SIZE, [found], tolerance=t)["shapes"] for t in (0, 1)]
    for exact, fewer in (line, yolo, shapes):
        assert len(str(fewer)) < 0.8 * len(str(exact))
    assert len(line[1]) == len(line[0]) == len(shapes[1])
    again = filled(yolo[1])
    assert (again & disc).sum() / (again | disc).sum() > 0.85


def test_the_parts_of_each_object_have_a_group_of_their_own() -> None:
    twins = (Detection((0, 0, 1, 1), 0.8, masks.encode(BOTH)), Detection((0, 0, 1, 1), 0.7, masks.encode(BOTH)))
    groups = [shape["group_id"] for shape in labelme_file("a.jpg", SIZE, [answer(instances=twins)])["shapes"]]
    assert groups == [1, 1, 2, 2]
