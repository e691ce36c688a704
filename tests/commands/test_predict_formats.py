"""`refseg predict --format`: which files are written, and that they are what they are called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering import Answering
from PIL import Image
from pycocotools.coco import COCO

from refseg_cli.app import main
from refseg_cli.errors import ERROR, FOUND, NO_TARGET
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

Capture = pytest.CaptureFixture[bytes]
HEIGHT, WIDTH = 6, 9
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[1:3, 2:7] = True


class FakeSegmenter(Answering):
    """Finds `MASK` for every phrase that does not say "no"."""

    def predict(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        for phrase in phrases:
            exists = "no" not in phrase
            yield Found(phrase, MASK & exists, exists, 0.9 if exists else 0.1, int(MASK.sum()) * exists)


class Soft(FakeSegmenter):
    def soften(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        soft = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
        return (replace(found, soft=soft) for found in self.predict(image, phrases))


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "open_segmenter", FakeSegmenter)
    Path("photos").mkdir()
    for name in ("photos/a.jpg", "photos/b.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT), "grey").save(name)


def printed(capfdbinary: Capture) -> list[Any]:
    return [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("format", "value"),
    [
        ("count", {"count": 1, "of": "parts"}),
        ("boxes", {"boxes": [{"bbox": [2, 1, 5, 2], "score": 0.9}]}),
        ("polygons", {"objects": [[[2, 1, 7, 1, 7, 3, 2, 3]]]}),
    ],
)
def test_lines_name_their_picture(capfdbinary: Capture, format: str, value: dict[str, Any]) -> None:
    assert main(["predict", "photos", "-p", "dog", "-p", "no dog", "-f", format]) == FOUND
    lines = printed(capfdbinary)
    assert [(line["image"], line["phrase"], line["no_target"]) for line in lines] == [
        (f"photos/{name}.jpg", *rest) for name in "ab" for rest in (("dog", False), ("no dog", True))
    ]
    assert value.items() <= lines[0].items()
    assert lines[0]["schema"] == f"refseg.{format}/1"
    assert main(["predict", "photos/a.jpg", "no dog", "-f", format]) == NO_TARGET


def test_coco_results_are_loaded_by_pycocotools(capfdbinary: Capture) -> None:
    Path("photos/a.jpg").rename("photos/000000000009.jpg")
    Path("photos/b.jpg").rename("photos/COCO_val2014_000000000025.jpg")
    assert main(["predict", "photos", "-p", "no dog", "-p", "dog", "-f", "coco", "-o", "found.json"]) == FOUND
    data = COCO()
    data.dataset = {
        "images": [{"id": id, "height": HEIGHT, "width": WIDTH} for id in (9, 25)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [],
    }
    data.createIndex()
    loaded = data.loadRes("found.json")
    found = loaded.loadAnns(loaded.getAnnIds())
    assert [(a["image_id"], a["category_id"], a["phrase"]) for a in found] == [(9, 2, "dog"), (25, 2, "dog")]
    np.testing.assert_array_equal(loaded.annToMask(found[0]) != 0, MASK)


def test_coco_results_of_other_pictures_are_numbered(capfdbinary: Capture) -> None:
    assert main(["predict", "photos", "-p", "dog", "-f", "coco"]) == FOUND
    out = capfdbinary.readouterr().out
    assert [result["image_id"] for result in json.loads(out)] == [1, 2]
    assert main(["predict", "photos", "-p", "no dog", "-f", "coco"]) == NO_TARGET
    assert json.loads(capfdbinary.readouterr().out) == []


def write_data(**changed: Any) -> None:
    images = [{"id": 31, "file_name": "b.jpg"}, {"id": 40, "file_name": "a.jpg"}]
    table = {"images": images, "categories": [{"id": 5, "name": "cat"}, {"id": 8, "name": "Dog"}], **changed}
    Path("instances.json").write_text(json.dumps(table))


def test_ids_come_from_a_data_set(capfdbinary: Capture) -> None:
    write_data()
    options = ["-f", "coco", "--coco-ids", "instances.json"]
    assert main(["predict", "photos", "-p", "dog", "-p", "cat", *options]) == FOUND
    found = json.loads(capfdbinary.readouterr().out)
    assert [(r["image_id"], r["category_id"]) for r in found] == [(40, 8), (40, 5), (31, 8), (31, 5)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"categories": [{"id": 1, "name": "cat"}]}, "no category is called 'dog' (one of: cat)"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}]}, "photos/b.jpg: no image of that name in instances.json"),
        ({"images": [{"id": 1, "file_name": f"{x}/{y}.jpg"} for x in "12" for y in "ab"]}, "2 images of that name"),
        ({"images": [{"id": 1, "file_name": f"{x}.jpg"} for x in "ab"]}, "image 1 is both 'photos/a.jpg' and"),
        ({"categories": [{"id": n, "name": "dog"} for n in (8, 9, 8)]}, "category 'dog' is both 8 and 9"),
        ({"categories": [{"id": 1.5, "name": "dog"}]}, "cannot read a COCO data set: id 1.5"),
        ({"categories": [{"id": 1, "name": None}]}, "cannot read a COCO data set: name None"),
        ({"images": [{"id": "one"}]}, "cannot read a COCO data set"),
        ({"images": 7}, "cannot read a COCO data set"),
        (None, "instances.json: cannot read a COCO data set: No such file"),
    ],
)
def test_a_data_set_without_them_is_named(capfdbinary: Capture, changed: dict[str, Any] | None, message: str) -> None:
    if changed is not None:
        write_data(**changed)
    assert main(["predict", "photos", "-p", "dog", "-f", "coco", "--coco-ids", "instances.json"]) == ERROR
    out, err = capfdbinary.readouterr()
    assert (out, err.count(b"\n")) == (b"", 1)
    assert message in err.decode()


def test_a_category_of_two_phrases_is_named(capfdbinary: Capture) -> None:
    write_data(categories=[{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}])
    options = ["-f", "coco", "--coco-ids", "instances.json"]
    assert main(["predict", "photos", "-p", "dog", "-p", "cat", *options]) == ERROR
    assert "category 1 is both 'cat' and 'dog'" in capfdbinary.readouterr().err.decode()
    assert main(["predict", "photos", "-p", "dog", "-p", "Dog", *options]) == FOUND  # one category, asked twice


def test_labelme_finds_its_picture(capfdbinary: Capture) -> None:
    assert main(["predict", "photos", "-p", "dog", "-p", "no dog", "-f", "labelme", "-o", "out/made/"]) == FOUND
    for name in "ab":
        file = Path(f"out/made/{name}.json")
        found = json.loads(file.read_text())
        assert (file.parent / found["imagePath"]).resolve() == Path(f"photos/{name}.jpg").resolve()
        assert [shape["label"] for shape in found["shapes"]] == ["dog"]
    assert main(["predict", "photos/a.jpg", "dog", "-f", "labelme"]) == FOUND
    assert json.loads(capfdbinary.readouterr().out)["imagePath"] == "photos/a.jpg"


def test_yolo_has_a_file_for_each_picture(capfdbinary: Capture) -> None:
    assert main(["predict", "photos", "-p", "no dog", "-p", "dog", "-f", "yolo-seg", "-o", "labels/"]) == FOUND
    lines = "1 0.222222 0.166667 0.777778 0.166667 0.777778 0.5 0.222222 0.5\n"
    assert {path.name: path.read_text() for path in Path("labels").iterdir()} == {"a.txt": lines, "b.txt": lines}
    assert main(["predict", "photos/a.jpg", "no dog", "-f", "yolo-seg", "-o", "labels/none.txt"]) == NO_TARGET
    assert Path("labels/none.txt").read_text() == ""  # a picture without objects, as YOLO has it


def test_soft_is_every_pixel_s_probability(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "open_segmenter", Soft)
    assert main(["predict", "photos/a.jpg", "no dog", "-f", "soft", "-o", "./"]) == NO_TARGET
    with Image.open("a.soft.png") as found:
        assert found.mode == "I;16"
        values = np.asarray(found) / 65535
    np.testing.assert_allclose(values.ravel(), np.linspace(0, 1, HEIGHT * WIDTH), atol=0.6 / 65535)


@pytest.mark.parametrize("format", ["polygons", "labelme", "yolo-seg"])
def test_simplify_leaves_corners_away(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    monkeypatch.setitem(globals(), "MASK", np.tri(HEIGHT, WIDTH, dtype=bool))  # a staircase
    lengths = []
    for pixels in ("0", "1"):
        assert main(["predict", "photos/a.jpg", "dog", "-f", format, "--simplify", pixels]) == FOUND
        lengths.append(len(capfdbinary.readouterr().out))
    assert lengths[1] < lengths[0]


def test_text_about_many_pictures_may_go_into_a_folder(capfdbinary: Capture) -> None:
    assert main(["predict", "photos", "-p", "dog", "--json", "-o", "out/"]) == FOUND
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.jsonl", "b.jsonl"]
    assert json.loads(Path("out/b.jsonl").read_text())["image"] == "photos/b.jpg"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-f", "soft", "-o", "out/"], "fake: decides object by object, and has no probabilities of pixels"),
        (["-f", "yolo-seg"], "yolo-seg does not say which of 2 pictures it is of (give -o FOLDER/"),
        (["-f", "labelme", "-o", "all.json"], "labelme does not say which of 2 pictures"),
        (["-f", "boxes", "--coco-ids", "x.json"], "--format boxes has no use for --coco-ids"),
        (["-f", "coco", "--simplify", "2"], "--format coco has no use for --simplify"),
        (["-f", "polygons", "--simplify", "-1"], "Invalid value for '--simplify'"),
    ],
)
def test_errors_are_one_line(capfdbinary: Capture, words: list[str], message: str) -> None:
    assert main(["predict", "photos", "-p", "dog", *words]) == ERROR
    out, err = capfdbinary.readouterr()
    assert (out, err.count(b"\n")) == (b"", 1)
    assert message in err.decode()
