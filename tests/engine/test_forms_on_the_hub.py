"""Parquet as it lies on the Hugging Face hub: jxu124, lmms-lab, moondream."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from forms import FIRST, FIRST_BOX, SECOND, SECOND_BOX, meaning, meanings, pixels, records, run, write_parquet
from raw_layout import HEIGHT, WIDTH, jpeg

from refseg_cli.app import main
from refseg_cli.data import masks
from refseg_cli.data.check import check
from refseg_cli.errors import RefsegError

Row = dict[str, Any]
NAMES = [f"COCO_train2014_{i:012d}.jpg" for i in range(5)]


def jxu124(ref_id: int, image_id: int, split: str, texts: list[str], **changes: Any) -> Row:
    ann = {
        "id": ref_id + 100,
        "image_id": image_id,
        "category_id": 17,
        "bbox": FIRST_BOX,
        "iscrowd": 0,
        "segmentation": [FIRST],
        "area": 12.0,
    }
    photo = {"id": image_id, "file_name": NAMES[image_id], "height": HEIGHT, "width": WIDTH, "license": 1}
    return {
        "sent_ids": [ref_id * 10 + i for i in range(len(texts))],
        "file_name": NAMES[image_id].replace(".jpg", f"_{ref_id}.jpg"),
        "ann_id": ref_id + 100,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "sentences": [
            {"raw": t.title(), "sent": t, "sent_id": ref_id * 10 + i, "tokens": t.split()} for i, t in enumerate(texts)
        ],
        "category_id": 17,
        "raw_anns": json.dumps(ann),
        "raw_image_info": json.dumps(photo),
        "raw_sentences": "[]",
        "image_path": f"coco/train2014/{NAMES[image_id]}",
        "bbox": [2.0, 5.0, 6.0, 8.0],  # with the other corner
        "captions": ["no phrase of the reference"],
        **changes,
    }


def write_photos(folder: Path) -> Path:
    folder.mkdir()
    for i, name in enumerate(NAMES):
        (folder / name).write_bytes(jpeg(i))
    return folder


def test_jxu124(tmp_path):
    """REFER's rows with their ids and both forms of a sentence; photos are COCO's, and lie elsewhere."""
    photos = write_photos(tmp_path / "photos")
    rows = {
        "train-00000-of-00001": [jxu124(1, 1, "train", ["left cat", "the cat"])],
        "validation-00000-of-00001": [jxu124(2, 2, "validation", ["a cat"])],
        "test-00000-of-00001": [jxu124(3, 3, "test", ["that one"])],
        "testB-00000-of-00001": [jxu124(4, 4, "testB", ["this one"])],
    }
    for name, table in rows.items():
        write_parquet(tmp_path / f"refcoco/data/{name}.parquet", table)
    report = run(tmp_path / "out", tmp_path / "refcoco", images=photos)
    assert list(report.manifest.splits) == ["testA", "testB", "train", "val"]
    assert meanings(tmp_path / "out", "train") == [meaning("left cat", FIRST_BOX), meaning("the cat", FIRST_BOX)]
    assert meanings(tmp_path / "out", "testA") == [meaning("that one", FIRST_BOX)]
    (record,) = records(tmp_path / "out", "train")
    assert (record.image_id, record.file_name, record.image) == (1, NAMES[1], jpeg(1))
    assert [(i.ann_id, i.category_id, i.box) for i in record.instances] == [(101, 17, tuple(FIRST_BOX))]
    assert [(e.ref_id, e.sent_id, e.raw) for e in record.expressions] == [(1, 10, "Left Cat"), (1, 11, "The Cat")]
    assert (report.manifest.image_source, report.manifest.split_by, report.problems) == ("coco", "jxu124", ())


def test_test_of_jxu124s_refcocog_stays_test(tmp_path):
    photos = write_photos(tmp_path / "photos")
    write_parquet(tmp_path / "data/test.parquet", [jxu124(3, 3, "test", ["that one"])])
    assert list(run(tmp_path / "out", tmp_path / "data", images=photos).manifest.splits) == ["test"]
    report = run(tmp_path / "named", tmp_path / "data", images=photos, split="testA")
    assert list(report.manifest.splits) == ["testA"]


def lmms_lab(name: str, photo: bytes, answer: list[str], segmentation: list[float], box: list[float]) -> Row:
    return {
        "question_id": name,
        "image": {"bytes": photo, "path": None},
        "question": "Please carefully observe the area circled in the image",
        "answer": answer,
        "segmentation": segmentation,
        "bbox": box,
        "iscrowd": 0,
        "file_name": name,
    }


def test_lmms_lab(tmp_path):
    """A photo is stored once for all its references, as its bytes are; its id is COCO's by its name."""
    rows = [
        lmms_lab("COCO_train2014_000000000007_3.jpg", jpeg(7), ["left cat", "a cat"], FIRST, FIRST_BOX),
        lmms_lab("COCO_train2014_000000000009_0.jpg", jpeg(9), ["it"], FIRST, FIRST_BOX),
        lmms_lab("COCO_train2014_000000000007_5.jpg", jpeg(7), ["right cat"], SECOND, SECOND_BOX),
    ]
    write_parquet(tmp_path / "data/val-00000-of-00001.parquet", rows)
    report = run(tmp_path / "out", tmp_path / "data")
    first, second = records(tmp_path / "out", "val")
    assert (first.image_id, first.file_name, first.image) == (7, "COCO_train2014_000000000007.jpg", jpeg(7))
    assert (second.image_id, second.image) == (9, jpeg(9))
    assert meanings(tmp_path / "out", "val") == [
        meaning("left cat", FIRST_BOX),
        meaning("a cat", FIRST_BOX),
        meaning("right cat", SECOND_BOX),
        meaning("it", FIRST_BOX),
    ]
    assert (report.manifest.image_source, report.problems) == ("coco", ())
    assert run(tmp_path / "out", tmp_path / "data").kept == 1  # wherever its photos were unpacked


def test_a_flat_polygon_that_is_less_than_the_object_is_told(tmp_path):
    row = lmms_lab("COCO_train2014_000000000007_3.jpg", jpeg(7), ["left cat"], FIRST, [2.0, 5.0, 20.0, 3.0])
    write_parquet(tmp_path / "val.parquet", [row])
    (problem,) = run(tmp_path / "out", tmp_path / "val.parquet").problems
    assert problem.caution
    assert "ends before its box does" in str(problem)


def moondream(photo: bytes, *samples: Row) -> Row:
    return {"image": {"bytes": photo, "path": "image.jpg"}, "samples": list(samples)}


def sample(sentences: list[str], box: list[float], **changes: Any) -> Row:
    rle = masks.encode(pixels(box))
    mask = {"counts": rle.counts.decode(), "size": [HEIGHT, WIDTH]}
    return {"sentences": sentences, "bbox": box, "mask": mask, **changes}


def test_moondream(tmp_path):
    """A photo without a name has an id by its content: the same one wherever it comes again."""
    rows = [
        moondream(jpeg(1), sample(["left cat", "a cat"], FIRST_BOX), sample(["right cat"], SECOND_BOX)),
        moondream(jpeg(2), sample(["it"], FIRST_BOX)),
    ]
    write_parquet(tmp_path / "a/validation-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "b/train.parquet", rows[1:])
    report = run(tmp_path / "out", tmp_path / "a", tmp_path / "b", name="m")
    val, train = records(tmp_path / "out", "val"), records(tmp_path / "out", "train")
    assert {record.image for record in val} == {jpeg(1), jpeg(2)}
    assert [r.image_id for r in val if r.image == jpeg(2)] == [train[0].image_id]
    assert all(0 <= record.image_id < 1 << 52 for record in val)
    assert sorted(meanings(tmp_path / "out", "val")) == sorted(
        [
            meaning("left cat", FIRST_BOX),
            meaning("a cat", FIRST_BOX),
            meaning("right cat", SECOND_BOX),
            meaning("it", FIRST_BOX),
        ]
    )
    assert (report.manifest.image_source, report.problems) == ("m", ())
    (leak,) = check([str(tmp_path / "out")]).leaks
    assert leak.images == 1


def test_photos_of_coco_are_known_again(tmp_path):
    """The leakage check sees a photo of a training split in a test split of another form."""
    photos = write_photos(tmp_path / "photos")
    write_parquet(tmp_path / "train.parquet", [jxu124(1, 1, "train", ["left cat"])])
    write_parquet(tmp_path / "test.parquet", [lmms_lab(NAMES[1], jpeg(1), ["left cat"], FIRST, FIRST_BOX)])
    run(tmp_path / "a", tmp_path / "train.parquet", images=photos, name="a")
    run(tmp_path / "b", tmp_path / "test.parquet", name="b")
    (leak,) = check([str(tmp_path / "a"), str(tmp_path / "b")]).leaks
    assert leak.examples == (1,)


def broken(row: Row, **changes: Any) -> Row:
    return {**row, **changes}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (jxu124(1, 1, "train", ["a"], raw_anns="{"), "row 0: Expecting property name"),
        (jxu124(1, 1, "train", ["a"], raw_image_info="{}"), "row 0: no height"),
        (
            broken(jxu124(1, 2, "train", ["a"]), image_id=1),
            "row 0: image_id 1, but the photo is COCO_train2014_000000000002",
        ),
        (
            jxu124(1, 1, "train", ["a"], raw_anns=json.dumps({"segmentation": [[0, 0]], "category_id": 1})),
            "broken mask",
        ),
        (jxu124(1, 1, "a split", ["a"]), "split 'a split'"),
        (lmms_lab(NAMES[1], b"GIF", ["a"], FIRST, FIRST_BOX), "broken image"),
        (lmms_lab(NAMES[1], jpeg(1), ["a"], [1.0, 2.0, 3.0], FIRST_BOX), "not a list of x, y pairs"),
        (lmms_lab(NAMES[1], jpeg(1), [" "], FIRST, FIRST_BOX), "empty expression"),
        (
            moondream(jpeg(1), sample(["a"], FIRST_BOX, mask={"counts": "x", "size": [1]})),
            "row 0: mask of the size [1]",
        ),
        (moondream(jpeg(1), sample(["a"], FIRST_BOX, mask={"counts": "x", "size": [24, 32]})), "damaged RLE"),
        (moondream(jpeg(1), sample(["a"], FIRST_BOX, mask={"counts": "x", "size": [4, 3]})), "in place of 3x4"),
        (broken(moondream(jpeg(1)), samples=3), "row 0: 3 in place of a sample"),
        (
            broken(
                lmms_lab(NAMES[1], jpeg(1), ["a"], FIRST, FIRST_BOX),
                image=None,
                file_name="COCO_train2014_000000000099.jpg",
            ),
            "missing image",
        ),
    ],
)
def test_broken_rows_are_named(tmp_path, row, message):
    photos = write_photos(tmp_path / "photos")
    write_parquet(tmp_path / "train.parquet", [row])
    with pytest.raises(RefsegError, match=r"train\.parquet|COCO_train2014|image\.jpg|no\.jpg") as error:
        run(tmp_path / "out", tmp_path / "train.parquet", images=photos)
    assert message in error.value.message


def test_rows_of_no_split_are_refused(tmp_path):
    write_parquet(tmp_path / "data.parquet", [lmms_lab(NAMES[1], jpeg(1), ["a"], FIRST, FIRST_BOX)])
    with pytest.raises(RefsegError, match="of no known split: see --split"):
        run(tmp_path / "out", tmp_path / "data.parquet")
    assert list(run(tmp_path / "out", tmp_path / "data.parquet", split="val").manifest.splits) == ["val"]


def test_other_files_are_named(tmp_path):
    write_parquet(tmp_path / "train.parquet", [{"text": "a", "label": 3}])
    with pytest.raises(RefsegError, match="unknown form: Parquet with the columns text, label"):
        run(tmp_path / "out", tmp_path / "train.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(RefsegError, match="cannot read this as Parquet"):
        run(tmp_path / "out", tmp_path / "cut.parquet")
    with pytest.raises(RefsegError, match=r"nothing: no such file or folder"):
        run(tmp_path / "out", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefsegError, match=r"no \.parquet and no \.json file"):
        run(tmp_path / "out", tmp_path / "empty")
    with pytest.raises(RefsegError, match="unknown form 'jxu'"):
        run(tmp_path / "out", tmp_path / "train.parquet", form="jxu")


def test_photos_that_parquet_only_names_are_looked_for(tmp_path):
    photos = write_photos(tmp_path / "photos")
    row = lmms_lab(NAMES[1], b"", ["a"], FIRST, FIRST_BOX)
    write_parquet(tmp_path / "val.parquet", [{**row, "image": {"bytes": None, "path": NAMES[1]}}])
    run(tmp_path / "out", tmp_path / "val.parquet", images=photos)
    assert records(tmp_path / "out", "val")[0].image == jpeg(1)


def test_files_of_one_name_are_all_in_the_fingerprint(tmp_path):
    for folder in "ab":
        row = lmms_lab(NAMES[1], jpeg(1), [folder], FIRST, FIRST_BOX)
        write_parquet(tmp_path / folder / "data/val.parquet", [row])
    run(tmp_path / "out", tmp_path / "a", tmp_path / "b")
    write_parquet(tmp_path / "a/data/val.parquet", [lmms_lab(NAMES[1], jpeg(1), ["c"], FIRST, FIRST_BOX)])
    with pytest.raises(RefsegError, match="data prepared from other inputs"):
        run(tmp_path / "out", tmp_path / "a", tmp_path / "b")


def test_a_temporary_folder_that_is_full_is_named(tmp_path, monkeypatch):
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_parquet(tmp_path / "val.parquet", [lmms_lab(NAMES[1], jpeg(1), ["a"], FIRST, FIRST_BOX)])
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RefsegError, match="No space left on device") as error:
        run(tmp_path / "out", tmp_path / "val.parquet")
    assert "TMPDIR" in (error.value.hint or "")


def test_files_without_a_sound_row_are_refused(tmp_path):
    write_parquet(tmp_path / "data.parquet", [lmms_lab(NAMES[1], jpeg(1), ["a"], FIRST, FIRST_BOX)])
    with pytest.raises(RefsegError, match=r"data\.parquet: no reference: .* of no known split"):
        run(tmp_path / "out", tmp_path / "data.parquet", on_error="skip")
    with pytest.raises(RefsegError, match="--masks is not for lmms-lab files"):
        run(tmp_path / "out", tmp_path / "data.parquet", masks=tmp_path)


def test_command(tmp_path, capsys):
    write_parquet(tmp_path / "val.parquet", [lmms_lab(NAMES[1], jpeg(1), ["a"], FIRST, FIRST_BOX)])
    arguments = ["prepare", "from", str(tmp_path / "val.parquet"), "--name", "mine", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "val" in capsys.readouterr().out
    assert records(tmp_path / "out", "val")[0].image_id == 1
    assert main([*arguments[:3], "--form", "coco", *arguments[3:]]) == 2
    assert "unknown form 'coco'" in capsys.readouterr().err
