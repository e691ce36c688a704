"""JSON of other projects: MDETR and mmdetection, SeqTR and SimVG, PhraseCut, CRIS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forms import FIRST, FIRST_BOX, SECOND, SECOND_BOX, meaning, meanings, pixels, records, run
from raw_layout import HEIGHT, WIDTH, jpeg

from refseg_cli.data import masks
from refseg_cli.errors import RefsegError

Json = dict[str, Any]


def coco_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos/train2014"
    folder.mkdir(parents=True)
    for i in range(1, 4):
        (folder / coco_name(i)).write_bytes(jpeg(i))
    return folder.parent


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def refuse(tmp_path: Path, path: Path, message: str, **options: Any) -> None:
    with pytest.raises(RefsegError) as error:
        run(tmp_path / "refused", path, **options)
    assert path.name in error.value.message or coco_name(1) in error.value.message
    assert message in error.value.message


# MDETR and mmdetection


def mdetr(masks_within: bool = True) -> Json:
    def image(number: int, original_id: int, caption: str) -> Json:
        return {
            "id": number,
            "original_id": original_id,
            "file_name": coco_name(original_id),
            "height": HEIGHT,
            "width": WIDTH,
            "caption": caption,
            "dataset_name": "refcoco",
            "tokens_negative": [[0, 3]],
        }

    def annotation(number: int, original_id: int, box: list[float], polygon: list[float], **changes: Any) -> Json:
        row = {
            "id": number,
            "image_id": number if "image_id" not in changes else changes["image_id"],
            "original_id": original_id,
            "bbox": box,
            "category_id": 17,
            "iscrowd": 0,
            "area": 12.0,
            "tokens_positive": [[4, 7]],
            **changes,
        }
        return {**row, "segmentation": [polygon]} if masks_within else row

    return {
        "info": {},
        "licenses": [],
        "images": [image(0, 1, "left cat"), image(1, 1, "the cat"), image(2, 1, "both"), image(3, 2, "a horse")],
        "annotations": [
            annotation(0, 70, FIRST_BOX, FIRST),
            annotation(1, 70, FIRST_BOX, FIRST),
            annotation(2, 70, FIRST_BOX, FIRST),
            annotation(9, 71, SECOND_BOX, SECOND, image_id=2),
            annotation(3, -1, [0, 0, 0, 0], [0, 0], empty=True),
        ],
        "categories": [{"id": 17, "name": "cat", "supercategory": "animal"}],
    }


MDETR_MEANS = [
    meaning("left cat", FIRST_BOX),
    meaning("the cat", FIRST_BOX),
    meaning("both", FIRST_BOX, SECOND_BOX),
    meaning("a horse"),
]


def test_mdetr(tmp_path, photos):
    """A caption is a phrase; photos and objects have COCO's ids, and those of the same targets are one reference."""
    path = write(tmp_path / "finetune_refcoco_train.json", mdetr())
    report = run(tmp_path / "out", path, images=photos)
    assert meanings(tmp_path / "out", "train") == MDETR_MEANS
    first, second = records(tmp_path / "out", "train")
    assert (first.image_id, first.image, second.image_id) == (1, jpeg(1), 2)
    assert [(i.ann_id, i.category) for i in first.instances] == [(70, "cat"), (71, "cat")]
    assert [e.ref_id for e in first.expressions] == [1, 1, first.expressions[2].ref_id]
    assert report.manifest.image_source == "coco"
    assert (report.manifest.splits["train"].refs, report.problems) == (3, ())


def test_mdetr_without_masks_takes_cocos(tmp_path, photos):
    path = write(tmp_path / "finetune_grefcoco_val.json", mdetr(masks_within=False))
    refuse(tmp_path, path, "boxes, and no masks", images=photos)
    objects = [(70, FIRST, FIRST_BOX), (71, SECOND, SECOND_BOX)]
    coco = {
        "images": [{"id": i, "file_name": coco_name(i), "height": HEIGHT, "width": WIDTH} for i in (1, 2, 3)],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 17, "segmentation": [polygon], "bbox": box, "iscrowd": 0}
            for n, polygon, box in objects
        ],
        "categories": [{"id": 17, "name": "cat"}],
    }
    instances = write(tmp_path / "instances_train2014.json", coco)
    run(tmp_path / "out", path, images=photos, instances=instances)
    assert meanings(tmp_path / "out", "val") == MDETR_MEANS


def test_broken_mdetr_is_named(tmp_path, photos):
    broken = mdetr()
    broken["annotations"][3]["tokens_positive"] = [[0, 2]]
    path = write(tmp_path / "final_refexp_val.json", broken)
    refuse(tmp_path, path, "row 2: a caption whose words have targets of their own", images=photos)
    broken = mdetr()
    broken["images"][0]["original_id"] = 3
    path = write(tmp_path / "final_refexp_val.json", broken)
    refuse(tmp_path, path, f"row 0: image_id 3, but the photo is {coco_name(1)}", images=photos)
    broken["annotations"] = [{"id": 1}]
    refuse(tmp_path, write(path, broken), "not as MDETR has it: KeyError: 'image_id'", images=photos)
    refuse(tmp_path, write(tmp_path / "final_val.json", mdetr()), "not in ", images=tmp_path)


# SeqTR and SimVG


def seqtr(image_id: int, expressions: list[str], mask: Any, box: list[float], **more: Any) -> Json:
    row = {"image_id": image_id, "height": HEIGHT, "width": WIDTH, "bbox": box, "mask": mask, "category_id": 17}
    return {**row, "expressions": expressions, **more}


def rle(box: list[float]) -> Json:
    return {"size": [HEIGHT, WIDTH], "counts": masks.encode(pixels(box)).counts.decode()}


def test_seqtr(tmp_path, photos):
    table = {
        "train": [seqtr(1, ["left cat", "a cat"], [FIRST], FIRST_BOX), seqtr(1, ["it"], rle(SECOND_BOX), SECOND_BOX)],
        "val": [seqtr(2, ["that"], [FIRST], FIRST_BOX)],
        "testA": [],
    }
    report = run(tmp_path / "out", write(tmp_path / "refcoco-unc/instances.json", table), images=photos)
    assert list(report.manifest.splits) == ["train", "val"]
    assert meanings(tmp_path / "out", "train") == [
        meaning("left cat", FIRST_BOX),
        meaning("a cat", FIRST_BOX),
        meaning("it", SECOND_BOX),
    ]
    (record,) = records(tmp_path / "out", "val")
    assert (record.image_id, record.image, report.manifest.image_source) == (2, jpeg(2), "coco")


def test_seqtr_of_other_photos(tmp_path):
    (tmp_path / "7.jpg").write_bytes(jpeg(7))
    path = write(tmp_path / "instances.json", {"train": [seqtr(7, ["a"], [FIRST], FIRST_BOX)]})
    assert run(tmp_path / "out", path, name="referit").manifest.image_source == "referit"
    assert records(tmp_path / "out", "train")[0].image_id == 7


def test_broken_seqtr_is_named(tmp_path, photos):
    path = tmp_path / "instances.json"
    rows = {
        "row 0: no mask: it is a file of boxes": seqtr(1, ["a"], None, FIRST_BOX),
        "row 0: 'a' in place of a list of phrases": seqtr(1, "a", [FIRST], FIRST_BOX),  # type: ignore[arg-type]
        "row 0: image_id 'x'": {**seqtr(1, ["a"], [FIRST], FIRST_BOX), "image_id": "x"},
        "polygon up to (99, 8)": seqtr(1, ["a"], [[*FIRST[:4], 99.0, 8.0]], FIRST_BOX),
        "empty expression": seqtr(1, [""], [FIRST], FIRST_BOX),
    }
    for message, row in rows.items():
        refuse(tmp_path, write(path, {"val": [row]}), message, images=photos)
