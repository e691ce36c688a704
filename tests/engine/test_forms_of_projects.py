"""JSON of other projects: MDETR and mmdetection, SeqTR and SimVG, PhraseCut, CRIS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forms import FIRST, FIRST_BOX, SECOND, SECOND_BOX, meaning, meanings, pixels, points, records, run, write_json
from PIL import Image
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
            "image_id": changes.get("image_id", number),
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
    path = write_json(tmp_path / "finetune_refcoco_train.json", mdetr())
    report = run(tmp_path / "out", path, images=photos)
    assert meanings(tmp_path / "out", "train") == MDETR_MEANS
    first, second = records(tmp_path / "out", "train")
    assert (first.image_id, first.image, second.image_id) == (1, jpeg(1), 2)
    assert [(i.ann_id, i.category) for i in first.instances] == [(70, "cat"), (71, "cat")]
    assert [e.ref_id for e in first.expressions] == [1, 1, first.expressions[2].ref_id]
    assert report.manifest.image_source == "coco"
    assert (report.manifest.splits["train"].refs, report.problems) == (3, ())


def test_mdetr_without_masks_takes_cocos(tmp_path, photos):
    path = write_json(tmp_path / "finetune_grefcoco_val.json", mdetr(masks_within=False))
    refuse(tmp_path, path, "boxes, and no masks", images=photos)
    with pytest.raises(RefsegError, match=r"gone\.json: no such file") as error:
        run(tmp_path / "out", path, images=photos, instances=tmp_path / "gone.json")
    assert "--instances" in (error.value.hint or "")
    objects = [(70, FIRST, FIRST_BOX), (71, SECOND, SECOND_BOX)]
    coco = {
        "images": [{"id": i, "file_name": coco_name(i), "height": HEIGHT, "width": WIDTH} for i in (1, 2, 3)],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 17, "segmentation": [polygon], "bbox": box, "iscrowd": 0}
            for n, polygon, box in objects
        ],
        "categories": [{"id": 17, "name": "cat"}],
    }
    instances = write_json(tmp_path / "instances_train2014.json", coco)
    run(tmp_path / "out", path, images=photos, instances=instances)
    assert meanings(tmp_path / "out", "val") == MDETR_MEANS


def test_broken_mdetr_is_named(tmp_path, photos):
    broken = mdetr()
    broken["annotations"][3]["tokens_positive"] = [[0, 2]]
    path = write_json(tmp_path / "final_refexp_val.json", broken)
    refuse(tmp_path, path, "row 2: a caption whose words have targets of their own", images=photos)
    broken = mdetr()
    broken["images"][0]["original_id"] = 3
    path = write_json(tmp_path / "final_refexp_val.json", broken)
    refuse(tmp_path, path, f"row 0: image_id 3, but the photo is {coco_name(1)}", images=photos)
    broken = mdetr()
    broken["annotations"][3]["original_id"] = 70
    refuse(tmp_path, write_json(path, broken), "row 2: ann_id 70 of two masks", images=photos)
    broken["annotations"] = [{"id": 1}]
    refuse(tmp_path, write_json(path, broken), "not in MDETR's form: without 'image_id'", images=photos)
    refuse(tmp_path, write_json(tmp_path / "final_val.json", mdetr()), "not in ", images=tmp_path)


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
    report = run(tmp_path / "out", write_json(tmp_path / "refcoco-unc/instances.json", table), images=photos)
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
    path = write_json(tmp_path / "instances.json", {"train": [seqtr(7, ["a"], [FIRST], FIRST_BOX)]})
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
        refuse(tmp_path, write_json(path, {"val": [row]}), message, images=photos)


# PhraseCut


def phrasecut(number: int, image_id: int, phrase: str, *objects: tuple[list[float], list[float]]) -> Json:
    return {
        "task_id": f"{image_id}__{number}",
        "image_id": image_id,
        "ann_ids": [number],
        "instance_boxes": [box for _, box in objects],
        "Polygons": [[points(polygon)] for polygon, _ in objects],
        "phrase": phrase,
        "phrase_structure": {"name": "cat", "attributes": ["left"], "relation_ids": [], "type": "attribute"},
    }


def test_phrasecut(tmp_path):
    for number, folder in ((107899, "VG_100K"), (2, "VG_100K_2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{number}.jpg").write_bytes(jpeg(number))
    rows = [
        phrasecut(1, 107899, "left cat", (FIRST, FIRST_BOX)),
        phrasecut(2, 107899, "two cats", (FIRST, FIRST_BOX), (SECOND, SECOND_BOX)),
        phrasecut(3, 2, "cat", (FIRST, FIRST_BOX)),
    ]
    rows[2]["Polygons"][0].append(points(SECOND))  # an object in two parts
    report = run(tmp_path / "out", write_json(tmp_path / "refer_miniv.json", rows), images=tmp_path)
    assert meanings(tmp_path / "out", "miniv") == [
        ("cat", 1, pixels(FIRST_BOX, SECOND_BOX).tolist()),
        meaning("left cat", FIRST_BOX),
        meaning("two cats", FIRST_BOX, SECOND_BOX),
    ]
    second, first = records(tmp_path / "out", "miniv")
    assert (first.image_id, first.image, second.image) == (107899, jpeg(107899), jpeg(2))
    assert {i.category for i in first.instances} == {"cat"}
    assert (report.manifest.image_source, report.problems) == ("visual-genome", ())


def test_broken_phrasecut_is_named(tmp_path):
    (tmp_path / "2.jpg").write_bytes(jpeg(2))
    sound = phrasecut(1, 2, "cat", (FIRST, FIRST_BOX))
    rows = {
        "row 1: 1 objects in Polygons, 0 in instance_boxes": {**sound, "instance_boxes": []},
        "row 1: no phrase": {name: value for name, value in sound.items() if name != "phrase"},
        "row 1: not enough values": {**sound, "Polygons": [[[[1]]]]},
        "no polygon of three points": {**sound, "Polygons": [[[[1, 2]]]]},
        "ref 90001: missing image": {**sound, "image_id": 9, "task_id": "9__1"},
    }
    for message, row in rows.items():
        path = write_json(tmp_path / "refer_val.json", [sound, row])
        with pytest.raises(RefsegError) as error:
            run(tmp_path / "refused", path)
        assert message in error.value.message


# CRIS


def cris(ref_id: int, name: str, *sentences: str) -> Json:
    said = [{"idx": i, "sent_id": ref_id * 10 + i, "sent": sentence} for i, sentence in enumerate(sentences)]
    row = {"bbox": [2, 5, 6, 8], "cat": 15, "segment_id": ref_id, "img_name": name}
    return {**row, "sentences": said, "sentences_num": len(said)}


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask * 255).save(path)


def test_cris(tmp_path, photos):
    rows = [cris(3, coco_name(1), "left cat", "a cat"), cris(4, coco_name(2), "it")]
    path = write_json(tmp_path / "anns/refcoco/testA.json", rows)
    write_mask(tmp_path / "masks/refcoco/3.png", pixels(FIRST_BOX))
    write_mask(tmp_path / "masks/refcoco/4.png", pixels(SECOND_BOX))
    report = run(tmp_path / "out", path, images=photos)
    assert meanings(tmp_path / "out", "testA") == [
        meaning("left cat", FIRST_BOX),
        meaning("a cat", FIRST_BOX),
        meaning("it", SECOND_BOX),
    ]
    first, _ = records(tmp_path / "out", "testA")
    assert [(e.ref_id, e.sent_id) for e in first.expressions] == [(3, 30), (3, 31)]
    assert (first.image_id, report.manifest.image_source) == (1, "coco")
    write_mask(tmp_path / "masks/refcoco/4.png", pixels(FIRST_BOX))
    with pytest.raises(RefsegError, match="data prepared from other inputs"):
        run(tmp_path / "out", path, images=photos)
    (tmp_path / "masks/refcoco").rename(tmp_path / "elsewhere")
    run(tmp_path / "out", path, images=photos, masks=tmp_path / "elsewhere", overwrite=True)
    assert meanings(tmp_path / "out", "testA")[2] == meaning("it", FIRST_BOX)


def test_broken_cris_is_named(tmp_path, photos):
    path = write_json(tmp_path / "anns/val.json", [cris(3, coco_name(1), "left cat")])
    refuse(tmp_path, path, "3.png: No such file or directory; --masks is the folder", images=photos)
    write_mask(tmp_path / "masks/3.png", np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH))
    refuse(tmp_path, path, "3.png: no mask of two values", images=photos)
    write_mask(tmp_path / "masks/3.png", np.ones((4, 5), np.uint8))
    refuse(tmp_path, path, "32x24 in place of 5x4", images=photos)


# What is no form


def test_other_json_is_named(tmp_path):
    refs = write_json(tmp_path / "refs(unc).json", [{"ref_id": 1, "ann_id": 2, "sentences": []}])
    refuse(tmp_path, refs, "a list of rows with the keys ref_id, ann_id, sentences")
    coco = write_json(tmp_path / "instances.json", {"images": [{"id": 1}], "annotations": [], "categories": []})
    refuse(tmp_path, coco, "JSON with the keys images, annotations, categories")
    (tmp_path / "page.json").write_text("<html>")
    refuse(tmp_path, tmp_path / "page.json", "a web page in place of JSON")
    refuse(tmp_path, write_json(tmp_path / "x.txt", []), r"neither .parquet nor .json")
    refuse(tmp_path, write_json(tmp_path / "number.json", 3), "unknown form: JSON, a int")


@pytest.mark.parametrize("form", ["mdetr", "seqtr", "phrasecut", "cris", "labelme", "reasonseg"])
def test_a_form_that_files_do_not_have_is_refused(tmp_path, form):
    path = write_json(tmp_path / "val.json", {"a": 1})
    with pytest.raises(RefsegError, match=r"val\.json: (not of the form|broken ref: row 0: no shapes)"):
        run(tmp_path / "out", path, form=form)
