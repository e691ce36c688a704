"""One's own photos and phrases to prepared data, from tables as people write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import own_layout
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from refseg_cli.app import main
from refseg_cli.data import masks, shards
from refseg_cli.data.check import check
from refseg_cli.data.sources.values import identifier
from refseg_cli.engine.prepare import Output, PrepareReport
from refseg_cli.engine.prepare_own import CocoRequest, prepare_coco
from refseg_cli.errors import ERROR, FOUND, RefsegError
from refseg_cli.records import Record

BLOCKS = {11: (5, 20), 12: (45, 20), 21: (5, 20), 22: (45, 20)}  # annotation -> left, top


@pytest.fixture
def own(tmp_path: Path) -> Path:
    own_layout.write_coco(tmp_path)
    return tmp_path


def run(root: Path, phrases: str = "phrases.csv", out: str = "out", **options: Any) -> PrepareReport:
    on_error = options.pop("on_error", "fail")
    output = Output(str(root / out), on_error=on_error, overwrite=options.pop("overwrite", False))
    return prepare_coco(CocoRequest(root / "instances.json", root / "photos", root / phrases, output, **options))


def records(root: Path, split: str = "train", out: str = "out") -> list[Record]:
    rows = shards.open_shards(str(root / out), split)
    return [rows[i] for i in range(len(rows))]


def said(root: Path, split: str = "train") -> dict[str, tuple[int, ...]]:
    """phrase -> ids of its targets"""
    return {
        e.text: tuple(record.instances[t].ann_id for t in e.targets)
        for record in records(root, split)
        for e in record.expressions
    }


def test_a_csv_of_phrases(own: Path) -> None:
    (own / "phrases.csv").write_text(
        "image,phrase,ann_id,no_target\n"
        "photo_1.jpg,the dog on the left,11,\n"
        'photos/photo_1.jpg,"both dogs, left and right",11 12,\n'
        "photo_1,The Right Dog,12,\n"
        "2,the cat,22,false\n"
        "photo_3.jpg,a horse,,true\n"
    )
    report = run(own)
    assert said(own) == {
        "the dog on the left": (11,),
        "both dogs, left and right": (11, 12),
        "The Right Dog": (12,),
        "the cat": (22,),
        "a horse": (),
    }
    train = report.manifest.splits["train"]
    assert (train.images, train.refs, train.single, train.multi, train.no_target) == (3, 5, 3, 1, 1)
    assert (report.manifest.dataset, report.manifest.image_source) == ("out", "out")
    assert not report.problems
    assert not report.differences
    first = records(own)[0]
    assert [i.category for i in first.instances] == ["dog", "dog"]
    for instance in first.instances:
        left, top = BLOCKS[instance.ann_id]
        assert (masks.decode(instance.rle) == own_layout.block(left, top)).all()


def parquet(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist([dict.fromkeys(name for other in rows for name in other) | row for row in rows])


@pytest.mark.parametrize(
    "write",
    [
        lambda path, rows: path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows))),
        lambda path, rows: path.with_suffix(".json").write_text(json.dumps(rows, indent=1)),
        lambda path, rows: pq.write_table(parquet(rows), path.with_suffix(".parquet")),
    ],
    ids=["jsonl", "json", "parquet"],
)
def test_each_form_of_target_in_each_form_of_table(own: Path, write: Callable[[Path, list[dict]], object]) -> None:
    polygon = [20.0, 5.0, 30.0, 5.0, 30.0, 15.0, 20.0, 15.0]
    Image.fromarray(own_layout.block(30, 0)).save(own / "mask.png")
    rows = [
        {"image": "photo_1.jpg", "phrase": "ids", "ann_ids": [12, 11]},
        {"image": "photo_1.jpg", "phrase": "box", "bbox": [44.6, 20.0, 10.0, 10.4]},
        {"image": "photo_1.jpg", "phrase": "rle", "rle": own_layout.rle(own_layout.block(0, 0))},
        {"image": "photo_1.jpg", "phrase": "annotated", "rle": own_layout.rle(own_layout.block(5, 20))},
        {"image": "photo_2.jpg", "phrase": "polygons", "segmentation": [polygon]},
        {"image": "photo_2.jpg", "phrase": "again", "segmentation": [polygon]},
        {"image": "photo_3.jpg", "phrase": "png", "mask_path": "mask.png", "category": "dog"},
        {"image": "photo_3.jpg", "phrase": "nothing", "no_target": True},
    ]
    write(own / "phrases", rows)
    name = next(path.name for path in own.iterdir() if path.name.startswith("phrases."))
    assert not run(own, name).problems
    new = {"rle": 23, "polygons": 24, "again": 24, "png": 25}
    expected = {"ids": (11, 12), "box": (12,), "annotated": (11,), "nothing": ()}
    assert said(own) == expected | {phrase: (ann_id,) for phrase, ann_id in new.items()}
    objects = {i.ann_id: i for record in records(own) for i in record.instances}
    for ann_id, left, top in ((23, 0, 0), (24, 20, 5), (25, 30, 0)):
        assert (masks.decode(objects[ann_id].rle) == own_layout.block(left, top)).all()
        assert objects[ann_id].box == (left, top, 10.0, 10.0)
    assert [(objects[n].category_id, objects[n].category) for n in (23, 25)] == [(0, "object"), (1, "dog")]


def test_a_table_of_text_holds_the_same_forms(own: Path) -> None:
    """CSV of a spreadsheet in a country of decimal commas, with masks as JSON in a cell."""
    mask = json.dumps(own_layout.rle(own_layout.block(0, 0))).replace('"', '""')
    (own / "phrases.csv").write_text(
        "\ufeffImage;Phrase;Ann ID;Box;Mask;No target\r\n"
        "photo_1.jpg;list;[11, 12];;;\r\n"
        "photo_1.jpg;float;11.0;;;\r\n"
        'photo_1.jpg;box;;"[45, 20, 10, 10]";;\r\n'
        "photo_1.jpg;two boxes;;[[5, 20, 10, 10], [45, 20, 10, 10]];;\r\n"
        f'photo_1.jpg;mask;;;"{mask}";\r\n'
        "photo_1.jpg;none;;;;1.0\r\n",
        newline="",
    )
    run(own)
    assert said(own) == {
        "list": (11, 12),
        "float": (11,),
        "box": (12,),
        "two boxes": (11, 12),
        "mask": (23,),
        "none": (),
    }


BROKEN = [
    ("photo_1.jpg,the dog,,,", "row 3: names no target"),
    ("photo_9.jpg,the dog,11,,", "unknown image_id: row 3: 'photo_9.jpg'"),
    (",the dog,11,,", "unknown image_id: row 3: no image"),
    ("photo_1.jpg, ,11,,", "empty expression: row 3"),
    ("photo_1.jpg,a\0b,11,,", "row 3: phrase with a NUL"),
    ("photo_1.jpg,the dog,99,,", "unknown ann_id: row 3: 99"),
    ("photo_1.jpg,the cat,22,,", "unknown ann_id: row 3: 22, which belongs to image 2"),
    ("photo_1.jpg,the dog,eleven,,", "unknown ann_id: row 3: eleven"),
    ("photo_1.jpg,the dog,11,,yes", "row 3: says no_target, and names one"),
    ("photo_1.jpg,the dog,,,maybe", "row 3: no_target 'maybe' is neither true nor false"),
    ('photo_1.jpg,the dog,,"[5, 20, 30, 10]",', "unknown ann_id: row 3: box"),
    ('photo_1.jpg,the dog,,"[5, 20, 10]",', "NaN or broken box: row 3"),
    ('photo_1.jpg,the dog,,"[5, 20, NaN, 10]",', "NaN or broken box: row 3"),
    ("photo_1.jpg,the dog, on the left,11,,", "row 3: 6 cells under 5 columns: put text with commas in quotes"),
]


@pytest.mark.parametrize(("row", "told"), BROKEN)
def test_a_broken_row_is_named_by_its_number(own: Path, row: str, told: str) -> None:
    header = "image,phrase,ann_id,box,no_target"
    (own / "phrases.csv").write_text(f"{header}\nphoto_2.jpg,the cat,22,,\n{row}\n")
    with pytest.raises(RefsegError, match=r"phrases\.csv: ") as caught:
        run(own)
    assert told in caught.value.message
    report = run(own, on_error="skip")
    assert [told in str(problem) for problem in report.problems] == [True]
    assert said(own) == {"the cat": (22,)}


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        ("nowhere.png", "broken mask: row 1"),
        ("http://localhost/mask.png", "broken mask: row 1"),
        ("small.png", "mask larger than image: row 1"),
        ("empty.png", "broken mask: row 1: nothing is inside"),
        ("inverted.png", "inverted.png: its palette shows what is inside in black"),
        ({"size": [4, 4], "counts": [16]}, "mask larger than image: row 1"),
        ({"size": [40, 60], "counts": "~"}, "broken mask: row 1"),
        ([[1, 2, 3]], "broken mask: row 1"),
        ([[5.0, 5.0, 500.0, 5.0, 5.0, 500.0]], "mask larger than image: row 1"),
        ("[", "broken mask: row 1"),
        (7, "broken mask: row 1"),
    ],
)
def test_a_broken_mask_is_named_by_its_row(own: Path, mask: Any, told: str) -> None:
    Image.fromarray(own_layout.block(0, 0, size=(20, 20))).save(own / "small.png")
    Image.fromarray(own_layout.block(0, 0, side=0)).save(own / "empty.png")
    inverted = Image.fromarray(own_layout.block(0, 0).astype(np.uint8) * 99, "P")
    inverted.putpalette([255, 255, 255] + [0, 0, 0] * 99)
    inverted.save(own / "inverted.png")
    (own / "phrases.jsonl").write_text(json.dumps({"image": 1, "phrase": "it", "mask": mask}) + "\n")
    with pytest.raises(RefsegError) as caught:
        run(own, "phrases.jsonl")
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "an empty file in place of CSV or JSON"),
        ("picture,phrase\na,b\n", "no row has a column 'image'"),
        ("image\nphoto_1.jpg\n", "no row has a column 'phrase'"),
        ("image,phrase,phrase\na,b,c\n", "two columns 'phrase'"),
        ("image,phrase\\n", "no row has a column 'image' (0 rows"),
        ("[1, 2", "not valid JSON"),
        ("{1\\n{2\\n", "row 1: not JSON"),
        ("<html>", "a web page in place of CSV or JSON"),
        ('image,phrase\na,"b\nc,d\n', "row 2: not CSV"),
        ('image,phrase\n\na,b\nc,"d" e\n', "row 4: not CSV"),
    ],
)
def test_a_table_that_is_none_is_named(own: Path, text: str, told: str) -> None:
    (own / "phrases.csv").write_text(text)
    with pytest.raises(RefsegError) as caught:
        run(own)
    assert told in str(caught.value)


def test_a_table_in_another_encoding_is_named(own: Path) -> None:
    (own / "phrases.csv").write_bytes("image,phrase,ann_id\nphoto_1.jpg,l\u00f6we,11\n".encode("latin-1"))
    with pytest.raises(RefsegError, match="not UTF-8 at byte 33"):
        run(own)


def test_rows_of_one_ref_id_are_one_reference(own: Path) -> None:
    (own / "phrases.csv").write_text(
        "image,phrase,ann_id,ref_id\nphoto_1.jpg,left dog,11,a\nphoto_1.jpg,dog at left,11,a\nphoto_2.jpg,cat,22,b\n"
    )
    report = run(own)
    assert (report.manifest.splits["train"].refs, report.manifest.splits["train"].expressions) == (2, 3)
    assert len({e.sent_id for record in records(own) for e in record.expressions}) == 3
    with (own / "phrases.csv").open("a") as file:
        file.write("photo_2.jpg,dog,21,b\n")
    with pytest.raises(RefsegError, match="row 5: its ref_id is that of row 4, with other targets"):
        run(own, overwrite=True)


def table(root: Path, images: int, column: str = "") -> None:
    """Ten photos and more, with a phrase each."""
    listed = [
        {"id": n, "file_name": f"{n}.jpg", "height": own_layout.HEIGHT, "width": own_layout.WIDTH}
        for n in range(1, images + 1)
    ]
    own_layout.write_coco(root, [own_layout.annotation(n, n, 5) for n in range(1, images + 1)], listed)
    header = "image,phrase,ann_id" + (",split" if column else "")
    rows = [f"{n}.jpg,dog,{n}" + (f",{column[n % len(column)]}" if column else "") for n in range(1, images + 1)]
    (root / "phrases.csv").write_text("\n".join([header, *rows]) + "\n")


def splits(report: PrepareReport) -> dict[str, int]:
    return {name: split.images for name, split in report.manifest.splits.items()}


def test_splits_come_from_a_column_or_a_table(own: Path) -> None:
    table(own, 4, column="ab")
    assert splits(run(own)) == {"a": 2, "b": 2}
    (own / "splits.csv").write_text("image,split\n1.jpg,train\n2.jpg,val\n3.jpg,val\n4,test\n")
    assert splits(run(own, out="more", splits=str(own / "splits.csv"))) == {"train": 1, "val": 2, "test": 1}
    (own / "splits.csv").write_text("image,split\n1.jpg,train\n2.jpg,val\n")
    with pytest.raises(RefsegError, match=r"3\.jpg is in no split"):
        run(own, out="more", splits=str(own / "splits.csv"))


def test_shares_are_dealt_out_by_photo_and_seed(own: Path) -> None:
    table(own, 20)
    first = run(own, splits="train=0.8,val=0.1,test=0.1")
    assert splits(first) == {"train": 16, "val": 2, "test": 2}
    dealt = {split: {r.image_id for r in records(own, split)} for split in ("train", "val", "test")}
    assert set.union(*dealt.values()) == set(range(1, 21))
    run(own, out="again", splits="train=80,val=10,test=10")
    assert {r.image_id for r in records(own, "test", "again")} == dealt["test"]
    run(own, out="other", splits="train=80,val=10,test=10", seed=1)
    assert {r.image_id for r in records(own, "test", "other")} != dealt["test"]


@pytest.mark.parametrize(
    ("images", "shares", "expected"),
    [
        (6, "a=25,b=25,c=25,d=25", [1, 1, 2, 2]),
        (10, "a=0.98,b=0.01,c=0.01", [1, 1, 8]),
        (7, "a=0.5,b=0.5", [3, 4]),
    ],
)
def test_every_split_gets_its_share(own: Path, images: int, shares: str, expected: list[int]) -> None:
    table(own, images)
    assert sorted(splits(run(own, splits=shares)).values()) == expected


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ("train=0.8,val=0.1", "the shares add up to 0.9"),
        ("train=1.2,val=-0.2", "one share above 0"),
        ("train=0.5,train=0.5", "one share above 0"),
        ("train=all", "not SPLIT=SHARE"),
        ("a b=1", "'a b' is not a valid split name"),
        ("a=0.2,b=0.2,c=0.2,d=0.4", "3 images for 4 splits"),
        ("nowhere.csv", "nowhere.csv"),
    ],
)
def test_shares_that_are_none_are_named(own: Path, shares: str, told: str) -> None:
    table(own, 3)
    with pytest.raises(RefsegError) as caught:
        run(own, splits=shares)
    assert told in str(caught.value)


def test_photos_of_coco_are_known_by_their_ids_there(own: Path) -> None:
    images = [
        {"id": n, "file_name": f"photo_{n}.jpg", "height": 40, "width": 60, "coco_id": coco_id}
        for n, coco_id in ((1, 391895), (2, None))
    ]
    own_layout.write_coco(own, images=images)
    (own / "phrases.csv").write_text("image,phrase,ann_id\n1,dog,11\n2,cat,22\n")
    assert run(own).manifest.image_source == "out"
    assert [record.image_id for record in records(own)] == [1, 2]
    assert run(own, out="known", image_source="coco").manifest.image_source == "coco"
    other, known = sorted(record.image_id for record in records(own, out="known"))
    assert known == 391895
    assert other < 0


def test_own_data_shares_no_pictures_with_coco(own: Path) -> None:
    table(own, 4, column="ab")
    run(own, "phrases.csv", "first", splits="train=0.5,val=0.5")
    run(own, "phrases.csv", "second", splits="train=0.5,val=0.5", seed=3)
    run(own, "phrases.csv", "third", splits="train=0.5,val=0.5", seed=3, name="first")
    outs = [str(own / name) for name in ("first", "second")]
    assert not check(outs).leaks
    assert check([outs[0], str(own / "third")]).leaks


def test_a_folder_that_names_no_dataset_is_told_by_its_option(own: Path) -> None:
    table(own, 1)
    with pytest.raises(RefsegError, match=r"--out .*/mine \(2\): 'mine \(2\)' is not a valid dataset name .*--name"):
        run(own, out="mine (2)")


@pytest.mark.parametrize("name", ["coco", "refcoco", "scenes", "a/b", ""])
def test_a_name_is_ones_own(own: Path, name: str) -> None:
    table(own, 1)
    with pytest.raises(RefsegError, match="--name"):
        run(own, name=name)


@pytest.mark.parametrize(("value", "number"), [("12", 12), (" 012", 12), ("12.0", 12), (12.0, 12), ("-3", -3)])
def test_whole_numbers_are_their_own_ids(value: object, number: int) -> None:
    assert identifier(value, "id") == number


def test_ids_of_text_are_numbers_that_every_reader_holds() -> None:
    numbers = [identifier(text, "id") for text in ("a", "b", "2007_000063", "1" * 30)]
    assert len(set(numbers)) == 4
    assert all(0 <= number < 1 << 52 for number in numbers)
    assert identifier("a ", "id") == numbers[0]
    for value in (None, True, "", " ", [], 1.5, "\ud800"):
        with pytest.raises(ValueError, match="id"):
            identifier(value, "id")


def test_text_as_ids(own: Path) -> None:
    images = [{"id": "a-1", "file_name": "photo_1.jpg", "height": 40, "width": 60}]
    own_layout.write_coco(own, [own_layout.annotation("left", "a-1", 5)], images)
    (own / "phrases.csv").write_text("image_id,phrase,ann_id\na-1,the dog,left\n")
    run(own)
    assert [len(e.targets) for record in records(own) for e in record.expressions] == [1]


def test_a_mask_file_that_changes_is_other_data(own: Path) -> None:
    Image.fromarray(own_layout.block(0, 0)).save(own / "mask.png")
    (own / "phrases.csv").write_text("image,phrase,mask\n1,it,mask.png\n")
    assert run(own).written == 1
    assert run(own).kept == 1
    Image.fromarray(own_layout.block(10, 0)).save(own / "mask.png")
    with pytest.raises(RefsegError, match="prepared from other inputs"):
        run(own)


def test_the_command(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "phrases.csv").write_text("image,phrase,ann_id\n1,left dog,11\n1,the dogs,11 12\n")
    words = ["prepare", "coco", "--annotations", own / "instances.json", "--images", own / "photos"]
    words += ["--phrases", own / "phrases.csv", "--out", own / "out", "--name", "mine", "--json"]
    assert main([str(word) for word in words]) == FOUND
    assert json.loads(capsys.readouterr().out)["manifest"]["dataset"] == "mine"
    (own / "instances.json").unlink()
    assert main([str(word) for word in words]) == ERROR
    assert "--annotations is a COCO file" in capsys.readouterr().err
