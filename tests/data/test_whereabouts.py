"""Photos are found where people have them, under the names that annotations give them, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refseg_cli.data.sources.whereabouts import PLACES, Photos
from refseg_cli.errors import RefsegError

COCO_9 = "COCO_train2014_000000000009.jpg"


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def found(root: Path, name: str) -> str | None:
    path = Photos([root]).find(name)
    return None if path is None else path.relative_to(root).as_posix()


@pytest.mark.parametrize(
    "place",
    [
        ".",
        *("train2014", "coco/train2014", "COCO/train2014", "coco2014/train2014", "coco/images/train2014"),
        *("mscoco/train2014", "mscoco/images/train2014", "images/mscoco/images/train2014", "train2014/train2014"),
        *("JPEGImages", "saiapr_tc-12", "images/train2014"),
    ],
)
def test_photos_are_found_where_people_have_them(tmp_path: Path, place: str) -> None:
    put(tmp_path, f"{place}/{COCO_9}")
    path = Photos([tmp_path]).find(COCO_9)
    assert path is not None
    assert path.samefile(tmp_path / place / COCO_9)
    assert found(tmp_path, "COCO_train2014_000000000010.jpg") is None


@pytest.mark.parametrize(
    ("on_disk", "name"),
    [
        ("train2017/000000000009.jpg", COCO_9),
        ("val2017/000000000009.jpg", COCO_9),
        ("coco/val2017/000000000009.jpg", COCO_9),
        ("000000000009.jpg", COCO_9),
        ("train2014/COCO_train2014_000000000009.jpg", "000000000009.jpg"),
        ("COCO_val2014_000000000009.jpg", "val2017/000000000009.jpg"),
        ("a.JPG", "a.jpg"),
        ("a.jpeg", "a.jpg"),
        ("a.jpg", "a.JPEG"),
        ("a.PNG", "a.png"),
        ("train2014/a.jpg", "/data/coco/train2014/a.jpg"),
        ("train2014/a.jpg", "train2014/a.jpg"),
        ("a.jpg", "train2014/a.jpg"),
        ("b/a.jpg", "/data/b/a.jpg"),
        ("train2014/a.jpg", r"C:\data\train2014\a.jpg"),
        ("train2014/a.jpg", r"..\images\train2014\a.jpg"),
        ("a.jpg", "./a.jpg"),
        ("saiapr_tc-12/00/images/25.jpg", "00/images/25.jpg"),
        ("saiapr_tc-12/00/images/25.jpg", "25.jpg"),
        ("40/images/25.jpg", "25.jpg"),
        ("saiapr_tc-12/25.jpg", "00/images/25.jpg"),
        ("saiapr_tc-12/25.jpg", "saiapr_tc-12/00/images/25.jpg"),
    ],
)
def test_a_photo_is_found_whatever_it_is_called(tmp_path: Path, on_disk: str, name: str) -> None:
    put(tmp_path, on_disk)
    assert found(tmp_path, name) == on_disk


def test_the_very_name_comes_first(tmp_path: Path) -> None:
    put(tmp_path, "a.JPG", "train2014/a.jpg", "000000000009.jpg", f"JPEGImages/{COCO_9}", "b.JPG", "b.jpg")
    put(tmp_path, "x/c.jpg", "c.jpg")
    assert found(tmp_path, "b.jpg") == "b.jpg"
    assert found(tmp_path, COCO_9) == f"JPEGImages/{COCO_9}"
    assert found(tmp_path, "x/c.jpg") == "x/c.jpg"


def test_a_name_that_two_photos_have_is_no_name(tmp_path: Path) -> None:
    put(tmp_path, "00/images/1.jpg", "01/images/1.jpg")
    assert found(tmp_path, "1.jpg") is None
    assert found(tmp_path, "01/images/1.jpg") == "01/images/1.jpg"


def test_folders_are_searched_in_their_order(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "a.jpg", "coco/train2014/b.jpg", "images/saiapr_tc-12/00/images/1.jpg")
    photos = Photos([tmp_path / "images", tmp_path])
    assert photos.find("a.jpg") == tmp_path / "images/a.jpg"
    assert photos.find("b.jpg") == tmp_path / "coco/train2014/b.jpg"
    assert photos.find("1.jpg") == tmp_path / "images/saiapr_tc-12/00/images/1.jpg"


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "train2014/../../secret", r"..\secret", "..", ".", "", "/", "\0", "\ud800"]
)
def test_a_file_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    put(tmp_path, "secret", "images/train2014/a.jpg")
    assert found(tmp_path / "images", name) is None


def test_what_is_no_file_is_no_photo(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg/b.jpg")
    os.mkfifo(tmp_path / "c.jpg")
    (tmp_path / "d.jpg").symlink_to("nowhere")
    assert [found(tmp_path, name) for name in ("a.jpg", "c.jpg", "d.jpg")] == [None, None, None]


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *(f"coco/train2014/{number}.jpg" for number in range(50)))
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))  # type: ignore[func-returns-value]
    monkeypatch.setattr(os, "stat", None)
    photos = Photos([tmp_path])
    names = [photos.find(f"{number}.jpg") for number in range(100)]
    assert sum(name is not None for name in names) == 50
    assert listed == [str(tmp_path), str(tmp_path / "coco"), str(tmp_path / "coco/train2014")]


def test_the_folders_tried_are_named(tmp_path: Path) -> None:
    told = Photos([tmp_path]).searched
    assert told.startswith(f"{tmp_path}, or below in train2014, ")
    assert all(place in told for place in PLACES)
    with pytest.raises(RefsegError, match="No such file"):
        Photos([tmp_path / "x"])
