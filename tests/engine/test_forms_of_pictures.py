"""JSON with a file for each picture: labelme, and LISA's ReasonSeg, which is like it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forms import FIRST, FIRST_BOX, SECOND, SECOND_BOX, meaning, meanings, pixels, points, records, run, write_json
from PIL import Image
from raw_layout import HEIGHT, WIDTH, jpeg

from refseg_cli.data import masks
from refseg_cli.data.check import check
from refseg_cli.data.sources.photos import Rules
from refseg_cli.errors import RefsegError
from refseg_cli.records import Expression

Json = dict[str, Any]


def png(mask: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def shape(label: str, where: list[list[float]], kind: str = "polygon", **more: Any) -> Json:
    return {"label": label, "points": where, "shape_type": kind, "group_id": None, "flags": {}, **more}


def labelme(name: str | None, *shapes: Json, **more: Any) -> Json:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": name,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(seed))


RECTANGLE = [[6.0, 8.0], [2.0, 5.0]]  # corners in any order
PATCH = np.array([[1, 1, 0], [0, 1, 1]], bool)


def test_labelme(tmp_path):
    """Shapes of one phrase are its targets; a description is a better phrase than a label."""
    photo(tmp_path / "photos/a.jpg", 1)
    shapes = [
        shape("cat", points(FIRST), description="left cat"),
        shape("cat", RECTANGLE, "rectangle", description=""),
        shape("cat", points(SECOND)),
        shape("dog", [[16.0, 12.0], [18.0, 12.0]], "circle"),
        shape("bird", [[20.0, 4.0], [22.0, 5.0]], "mask", mask=png(PATCH)),
    ]
    write_json(tmp_path / "labels/train/a.json", labelme("..\\photos\\a.jpg", *shapes))
    report = run(tmp_path / "out", tmp_path / "labels", images=tmp_path / "photos")
    disc, patch = np.zeros((HEIGHT, WIDTH), int), np.zeros((HEIGHT, WIDTH), int)
    disc[10:14, 14:18] = 1
    disc[[10, 10, 13, 13], [14, 17, 14, 17]] = 0  # corners of the square around it
    patch[4:6, 20:23] = PATCH
    assert meanings(tmp_path / "out", "train") == [
        meaning("left cat", FIRST_BOX),
        meaning("cat", FIRST_BOX, SECOND_BOX),
        ("dog", 1, disc.tolist()),
        ("bird", 1, patch.tolist()),
    ]
    (record,) = records(tmp_path / "out", "train")
    assert (record.file_name, record.image) == ("a.jpg", jpeg(1))
    assert [i.category for i in record.instances] == ["cat", "cat", "cat", "dog", "bird"]
    assert (report.manifest.image_source, report.manifest.split_by, report.problems) == ("mine", "labelme", ())


def test_parts_of_a_group_are_one_object(tmp_path):
    photo(tmp_path / "a.jpg", 1)
    parts = [shape("cat", points(FIRST), group_id=4), shape("cat", points(SECOND), group_id=4)]
    write_json(tmp_path / "a.json", labelme("a.jpg", *parts))
    patch = shape("dog", [[10.0, 10.0], [16.0, 12.0]], "mask", mask=png(np.ones((2, 6), bool)), group_id=4)
    write_json(tmp_path / "b.json", labelme("a.jpg", shape("dog", points(FIRST), group_id=4), patch))
    run(tmp_path / "out", tmp_path, split="val")
    both = pixels(FIRST_BOX, SECOND_BOX).tolist()
    assert meanings(tmp_path / "out", "val") == [("cat", 1, both), ("dog", 1, both)]  # one photo, two files


def test_a_mask_at_the_border_is_cut(tmp_path):
    photo(tmp_path / "a.jpg", 1)
    ones = png(np.ones((4, 4), bool))
    shapes = [shape("a", [[-2, -1]], "mask", mask=ones), shape("b", [[30, 22]], "mask", mask=ones)]
    write_json(tmp_path / "a.json", labelme("a.jpg", *shapes))
    run(tmp_path / "out", tmp_path, split="val")
    assert meanings(tmp_path / "out", "val") == [meaning("a", [0, 0, 2, 3]), meaning("b", [30, 22, 2, 2])]


def test_photos_of_one_name_are_told_apart(tmp_path):
    """train/a.json and val/a.json mean the photos beside them, or in folders of the same names."""
    for number, split in enumerate(("train", "val")):
        photo(tmp_path / f"labels/{split}/a.jpg", number)
        photo(tmp_path / f"photos/{split}/a.jpg", number + 5)
        write_json(tmp_path / f"labels/{split}/a.json", labelme("a.jpg", shape("cat", points(FIRST))))
    labels = [tmp_path / "labels/train", tmp_path / "labels/val"]
    run(tmp_path / "beside", *labels)
    assert [records(tmp_path / "beside", s)[0].image for s in ("train", "val")] == [jpeg(0), jpeg(1)]
    run(tmp_path / "apart", tmp_path / "labels", images=tmp_path / "photos")
    assert [records(tmp_path / "apart", s)[0].image for s in ("train", "val")] == [jpeg(5), jpeg(6)]
    assert not check([str(tmp_path / "beside"), str(tmp_path / "apart")]).leaks
    for split in ("train", "val"):
        (tmp_path / f"photos/{split}/a.jpg").unlink()
        (tmp_path / f"labels/{split}/a.jpg").unlink()
    photo(tmp_path / "photos/a.jpg", 9)
    with pytest.raises(RefsegError, match=r"a\.jpg may be another photo"):
        run(tmp_path / "guess", tmp_path / "labels", images=tmp_path / "photos")


def test_a_photo_within_the_file(tmp_path):
    data = base64.b64encode(jpeg(3)).decode()
    row = labelme("gone.jpg", shape("cat", points(FIRST)), imageData=data, imageHeight=None, imageWidth=None)
    write_json(tmp_path / "a.json", row)
    run(tmp_path / "out", tmp_path / "a.json", split="val")
    assert records(tmp_path / "out", "val")[0].image == jpeg(3)


@pytest.mark.parametrize(("masks_on", "upright"), [("upright", FIRST_BOX), ("stored", [16.0, 2.0, 3.0, 4.0])])
def test_shapes_on_a_photo_that_is_turned(tmp_path, masks_on, upright):
    """Where a file says no size, shapes are on what a viewer shows, unless they are said to be on the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter clockwise
    Image.open(io.BytesIO(jpeg(1))).save(tmp_path / "a.jpg", exif=exif)
    write_json(tmp_path / "a.json", labelme("a.jpg", shape("cat", points(FIRST)), imageHeight=None))
    run(tmp_path / "out", tmp_path, split="val", rules=Rules(masks_on=masks_on))
    (record,) = records(tmp_path / "out", "val")
    assert (record.height, record.width) == (WIDTH, HEIGHT)
    assert record.instances[0].box == tuple(upright)


BROKEN = {
    "row 0: its photo a.png is not in": labelme("a.png", shape("cat", points(FIRST))),
    "row 0: its photo": labelme("none.jpg", shape("cat", points(FIRST)), imageHeight=None),
    "cannot be read": labelme("text.jpg", shape("cat", points(FIRST)), imageHeight=None),
    "row 0: label 3": labelme("a.jpg", shape(3, points(FIRST))),  # type: ignore[arg-type]
    "row 0: shape_type 'line' with 2 points is no region": labelme("a.jpg", shape("cat", RECTANGLE, "line")),
    "row 0: points [1, 2]": labelme("a.jpg", shape("cat", [1, 2])),  # type: ignore[list-item]
    "row 0: points [[1, 1000": labelme("a.jpg", shape("cat", [[1, 10**400]])),
    "pixels take": labelme("c.jpg", shape("cat", RECTANGLE, "circle"), imageHeight=10**6, imageWidth=10**6),
    "NaN or infinite": labelme("a.jpg", shape("cat", [[1, float("nan")]])),
    "no polygon of three points": labelme("a.jpg", shape("cat", RECTANGLE)),
    "empty expression": labelme("a.jpg", shape(" ", points(FIRST))),
    "mask None": labelme("a.jpg", shape("cat", RECTANGLE, "mask")),
    "cannot identify image file": labelme("a.jpg", shape("cat", RECTANGLE, "mask", mask="AAAA")),
    "of two sizes": labelme("a.jpg", shape("cat", points(FIRST)), imageHeight=HEIGHT + 1),
    "row 0: no shapes": {"shapes": 3},
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_labelme_is_named(tmp_path, message):
    photo(tmp_path / "train/a.jpg", 1)
    photo(tmp_path / "train/c.jpg", 2)
    (tmp_path / "train/text.jpg").write_text("no photo")
    write_json(tmp_path / "train/a.json", labelme("a.jpg", shape("cat", points(FIRST))))
    write_json(tmp_path / "train/b.json", BROKEN[message])
    with pytest.raises(RefsegError) as error:
        run(tmp_path / "out", tmp_path)
    assert message in error.value.message
    assert error.value.message.startswith(("b.json: ", "a.jpg: "))


def test_a_file_that_is_no_json_is_left_out_like_other_broken_inputs(tmp_path):
    photo(tmp_path / "train/b.jpg", 1)
    (tmp_path / "train/a.json").write_text("{")
    write_json(tmp_path / "train/b.json", labelme("b.jpg", shape("cat", points(FIRST))))
    with pytest.raises(RefsegError, match=r"a\.json: broken annotation: not JSON"):
        run(tmp_path / "out", tmp_path)
    (problem,) = run(tmp_path / "out", tmp_path, on_error="skip").problems
    assert problem.file == "a.json"
    assert meanings(tmp_path / "out", "train") == [meaning("cat", FIRST_BOX)]


# ReasonSeg

LARGE = [[1.0, 1.0], [21.0, 1.0], [21.0, 21.0], [1.0, 21.0]]


def reasonseg(text: list[str], *shapes: Json) -> Json:
    return {"shapes": list(shapes), "text": text, "is_sentence": True}


def test_reasonseg(tmp_path):
    """All phrases mean all targets; what a smaller ignore region covers is none, and a larger one takes nothing."""
    photo(tmp_path / "ReasonSeg/train/1.jpg", 1)
    photo(tmp_path / "ReasonSeg/val/2.jpg", 2)
    said = reasonseg(["what it sits on", "the seat"], shape("target", points(FIRST)), shape("flag", LARGE))
    write_json(tmp_path / "ReasonSeg/train/1.json", said)
    shapes = [shape("Ignore", points(FIRST)), shape("target", LARGE), shape("target", [[22, 2], [25, 2], [25, 6]])]
    text = json.dumps(reasonseg(["the one\u2019s seat"], *shapes), ensure_ascii=False)
    (tmp_path / "ReasonSeg/val/2.json").write_bytes(text.encode("cp1252"))  # as some of them are
    report = run(tmp_path / "out", tmp_path / "ReasonSeg")
    assert meanings(tmp_path / "out", "train") == [
        meaning("what it sits on", FIRST_BOX),
        meaning("the seat", FIRST_BOX),
    ]
    ((phrase, targets, mask),) = meanings(tmp_path / "out", "val")
    expected = pixels([1, 1, 20, 20]) - pixels(FIRST_BOX)
    assert (phrase, targets) == ("the one\u2019s seat", 2)
    assert (np.array(mask)[:, :22] == expected[:, :22]).all()
    assert not report.problems
    assert [ignored(e) for e in records(tmp_path / "out", "train")[0].expressions] == [None, None]
    (only,) = records(tmp_path / "out", "val")[0].expressions
    assert ignored(only) == pixels(FIRST_BOX).tolist()


def ignored(expression: Expression) -> list[list[int]] | None:
    return None if expression.ignored is None else masks.decode(expression.ignored).tolist()


def test_a_larger_ignore_region_lies_below(tmp_path):
    photo(tmp_path / "val/1.jpg", 1)
    write_json(tmp_path / "val/1.json", reasonseg(["it"], shape("ignore", LARGE), shape("target", points(FIRST))))
    run(tmp_path / "out", tmp_path)
    assert meanings(tmp_path / "out", "val") == [meaning("it", FIRST_BOX)]
    (only,) = records(tmp_path / "out", "val")[0].expressions
    assert ignored(only) == (pixels([1, 1, 20, 20]) - pixels(FIRST_BOX)).tolist()


def test_reasonseg_is_drawn_as_lisa_draws_it(tmp_path):
    """Its painter: larger shapes first, 255 for ignore regions and 1 for targets."""
    for number in range(1, 13):
        rng = np.random.default_rng(number)
        boxes = [[*rng.integers(0, 8, 2).tolist(), *rng.integers(2, 12, 2).tolist()] for _ in range(5)]
        boxes = list({w * h: [x, y, w, h] for x, y, w, h in boxes}.values())  # of one size, either may lie on top
        kinds = ["target", *rng.choice(["target", "ignore"], len(boxes) - 1)]
        photo(tmp_path / f"val/{number}.jpg", number)
        shapes = [
            shape(kind, [[x, y], [x + w, y + h]], "rectangle") for kind, (x, y, w, h) in zip(kinds, boxes, strict=True)
        ]
        write_json(tmp_path / f"val/{number}.json", reasonseg(["it"], *shapes))
        painted = np.zeros((HEIGHT, WIDTH), np.uint8)
        for kind, box in sorted(zip(kinds, boxes, strict=True), key=lambda pair: -pair[1][2] * pair[1][3]):
            painted[pixels(box) == 1] = 255 if kind == "ignore" else 1
        if not (painted == 1).any():
            continue
        run(tmp_path / f"out{number}", tmp_path / f"val/{number}.json", split="val")
        ((_, _, mask),) = meanings(tmp_path / f"out{number}", "val")
        assert mask == (painted == 1).astype(int).tolist()
        (only,) = records(tmp_path / f"out{number}", "val")[0].expressions
        region = (painted == 255).astype(int)
        assert ignored(only) == (region.tolist() if region.any() else None)


def test_what_is_ignored_is_turned_with_the_photo(tmp_path):
    """Drawn on the pixels as stored, of a photo that was held on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "val").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "val/1.jpg", exif=exif)
    shapes = [shape("target", points(SECOND)), shape("ignore", points(FIRST))]
    write_json(tmp_path / "val/1.json", reasonseg(["it"], *shapes))
    run(tmp_path / "out", tmp_path, rules=Rules(masks_on="stored"))
    (record,) = records(tmp_path / "out", "val")
    assert (record.height, record.width) == (WIDTH, HEIGHT)
    assert ignored(record.expressions[0]) == np.rot90(pixels(FIRST_BOX), -1).tolist()


def test_broken_reasonseg_is_named(tmp_path):
    photo(tmp_path / "val/1.jpg", 1)
    rows = {
        "no target, or none that": reasonseg(["it"], shape("ignore", LARGE)),
        "3 in place of a list of phrases": {**reasonseg([], shape("target", LARGE)), "text": 3},
        "label None": reasonseg(["it"], {"points": LARGE}),
    }
    for message, row in rows.items():
        write_json(tmp_path / "val/1.json", row)
        with pytest.raises(RefsegError, match=r"1\.json") as error:
            run(tmp_path / "out", tmp_path)
        assert message in error.value.message
