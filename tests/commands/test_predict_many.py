"""`refseg predict IMAGE... -p PHRASE...`: which pictures are asked, where answers go, and what a broken one does."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering import Answering
from PIL import Image

from refseg_cli.app import main
from refseg_cli.commands import _many
from refseg_cli.commands._forms import Asked
from refseg_cli.console import console
from refseg_cli.errors import ERROR, FOUND, NO_TARGET, RefsegError
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

Capture = pytest.CaptureFixture[bytes]


class FakeSegmenter(Answering):
    """Finds "dog" in dark pictures and "cat" in light ones."""

    opened: list[dict[str, Any]]
    asked: list[list[str]]
    answered: list[str]

    def __init__(self, model: str | None = None, **options: Any) -> None:
        self.opened.append({"model": model, **options})

    def predict(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        self.asked.append(list(phrases))
        for phrase in phrases:
            self.answered.append(phrase)
            exists = phrase == ("cat" if image.mean() > 128 else "dog")
            yield Found(phrase, np.full(image.shape[1:], exists), exists, float(exists), image[0].size * exists)

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        return [f"{name}: unsure"]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """dark.png, light.png, broken.png; photos/ with dark.jpg, notes.txt and below/light.jpg."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "open_segmenter", FakeSegmenter)
    FakeSegmenter.opened, FakeSegmenter.asked, FakeSegmenter.answered = [], [], []
    (tmp_path / "photos/below").mkdir(parents=True)
    for path, grey in (("dark.png", 9), ("light.png", 250), ("photos/dark.jpg", 9), ("photos/below/light.jpg", 250)):
        Image.new("RGB", (9, 6), (grey, grey, grey)).save(path)
    Path("broken.png").write_bytes(b"once upon a time")
    Path("photos/notes.txt").touch()


def printed(capfdbinary: Capture) -> list[str]:
    return capfdbinary.readouterr().out.decode().splitlines()


def test_with_a_phrase_option_all_arguments_are_pictures(capfdbinary: Capture) -> None:
    assert main(["predict", "dark.png", "light.png", "-p", "dog", "--phrase", "cat", "--json"]) == FOUND
    found = [json.loads(line) for line in printed(capfdbinary)]
    assert [(r["image"], r["phrase"], r["no_target"]) for r in found] == [
        ("dark.png", "dog", False),
        ("dark.png", "cat", True),
        ("light.png", "dog", True),
        ("light.png", "cat", False),
    ]
    assert len(FakeSegmenter.opened) == 1
    assert FakeSegmenter.opened[0]["once"] is False
    assert FakeSegmenter.asked == [["dog", "cat"]] * 2


def test_the_model_s_cautions_are_said_once(capfdbinary: Capture) -> None:
    assert main(["predict", "dark.png", "light.png", "-p", "dog", "-l"]) == FOUND
    assert [line for line in capfdbinary.readouterr().err.splitlines() if b"unsure" in line] == [
        b"refseg: warning: dark.png: unsure"
    ]


def test_one_picture_may_be_asked_so_too(capfdbinary: Capture) -> None:
    assert main(["predict", "-p", "dog", "dark.png", "-o", "m.png"]) == FOUND
    assert Path("m.png").exists()
    assert FakeSegmenter.opened[0]["once"] is True


def test_phrases_from_a_file(capfdbinary: Capture) -> None:
    Path("phrases.txt").write_text("cat\n\n  bird \n")
    assert main(["predict", "light.png", "--phrases", "phrases.txt", "-p", "dog", "-c"]) == FOUND
    assert printed(capfdbinary) == ["light.png:1"]
    assert FakeSegmenter.asked == [["dog", "cat", "bird"]]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["photos"], ["photos/dark.jpg:1"]),
        (["-r", "photos"], ["photos/below/light.jpg:0", "photos/dark.jpg:1"]),
        (["light.png", "photos"], ["light.png:0", "photos/dark.jpg:1"]),
    ],
)
def test_a_folder_stands_for_its_pictures(capfdbinary: Capture, words: list[str], lines: list[str]) -> None:
    assert main(["predict", *words, "-p", "dog", "--count"]) == FOUND
    assert printed(capfdbinary) == lines


@pytest.mark.parametrize(
    ("options", "lines", "status"),
    [
        (["-l"], ["dark.png"], FOUND),
        (["-L"], ["light.png"], FOUND),
        (["-c"], ["dark.png:1", "light.png:0"], FOUND),
        (["-l", "-p", "cat"], ["dark.png", "light.png"], FOUND),
        (["-q"], [], FOUND),
        (["-q", "-l"], [], FOUND),
    ],
)
def test_names_are_printed_as_grep_prints_them(
    capfdbinary: Capture, options: list[str], lines: list[str], status: int
) -> None:
    assert main(["predict", "dark.png", "light.png", "-p", "dog", *options]) == status
    assert printed(capfdbinary) == lines
    assert sorted(p.name for p in Path().glob("*mask*")) == []


def test_the_status_is_grep_s(capfdbinary: Capture) -> None:
    assert main(["predict", "dark.png", "light.png", "-p", "bird", "-l"]) == NO_TARGET
    assert main(["predict", "dark.png", "light.png", "-p", "bird", "-l", "--no-target-ok"]) == FOUND
    assert printed(capfdbinary) == []


def test_masks_of_many_pictures_go_into_a_folder(capfdbinary: Capture) -> None:
    assert main(["predict", "dark.png", "light.png", "-p", "dog", "-o", "out/"]) == FOUND
    assert sorted(p.name for p in Path("out").iterdir()) == ["dark.mask.png", "light.mask.png"]
    assert main(["predict", "dark.png", "light.png", "-p", "dog", "-p", "cat", "-f", "overlay", "-o", "two/"]) == FOUND
    assert len(list(Path("two").glob("*.overlay-[12].png"))) == 4


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_broken_picture_is_named_and_stops_no_other(capfdbinary: Capture, at: int) -> None:
    pictures = ["dark.png", "light.png"]
    pictures.insert(at, "broken.png")
    assert main(["predict", *pictures, "gone.png", "-p", "dog", "--json", "-o", "all.jsonl"]) == ERROR
    err = [line for line in capfdbinary.readouterr().err.decode().splitlines() if "read" in line]
    assert err[0].startswith("refseg: broken.png: cannot read the image: ")
    assert err[1].startswith("refseg: gone.png: cannot read the image: ")
    assert err[-1] == "refseg: 2 of 4 pictures could not be read"
    lines = [json.loads(line)["image"] for line in Path("all.jsonl").read_text().splitlines()]
    assert lines == ["dark.png", "light.png"]


def test_what_is_no_picture_s_fault_stops(capfdbinary: Capture) -> None:
    Path("full").write_text("")
    pictures = [f"{n}.png" for n in range(9)]
    for name in pictures:
        Path(name).write_bytes(Path("dark.png").read_bytes())
    assert main(["predict", *pictures, "-p", "dog", "-o", "full/"]) == ERROR
    assert b"full" in capfdbinary.readouterr().err
    assert len(FakeSegmenter.asked) <= 1 + _many.ANSWERS_AHEAD + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dark.png", "light.png", "-p", "dog"], "the answers about 2 pictures do not fit into one PNG"),
        (["dark.png", "light.png", "-p", "dog", "-o", "m.png"], "give -o FOLDER/, or --format json"),
        (["dark.png", "photos", "-p", "dog", "-o", "out/"], "would both become out/dark.mask.png"),
        (["dark.png", "light.png", "-p", "dog", "-f", "rle"], "rle does not say which of 2 pictures it is of"),
        (["dark.png", "-p", "light.png"], "'light.png': a file, not a phrase"),
        (["photos", "dog"], "photos: a folder (name phrases with -p PHRASE"),
        (["dark.png", "dog", "-r"], "--recursive is for folders of images"),
        (["photos/below", "-r", "-p", "dog", "-l", "-L"], "exclude each other"),
        (["dark.png", "dog", "-l", "--json"], "printing names has no use for --json"),
        (["dark.png", "dog", "-l", "--force"], "printing names has no use for --force"),
        (["dark.png", "dog", "-c", "-o", "m.png"], "printing names has no use for --output"),
        (["dark.png", "dog", "-c", "--resume"], "printing names has no use for --resume"),
        (["-", "-", "-p", "dog", "-l"], "- reads one picture"),
        (["empty", "-p", "dog", "-l"], "empty: no pictures in this folder"),
        (["dark.png", "--phrases", "nowhere.txt"], "nowhere.txt: cannot read phrases: No such file"),
        (["dark.png", "--phrases", "blank.txt"], "blank.txt: holds no phrase"),
        (["-p", "dog"], "predict needs an image and a phrase"),
    ],
)
def test_errors_are_one_line_and_come_first(capfdbinary: Capture, words: list[str], message: str) -> None:
    Path("empty").mkdir()
    Path("blank.txt").write_text("\n\n")
    assert main(["predict", *words]) == ERROR
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert message in err.decode()
    assert err.count(b"\n") == 1
    assert FakeSegmenter.opened == []


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"\xef\xbb\xbfdog\r\ncat\r\n", ["dog", "cat"]),
        ("dog\u2028\x0bcat\nbird\x85\n".encode(), ["dog\u2028\x0bcat", "bird"]),
        ("dog".encode("utf-16"), None),
    ],
)
def test_files_of_phrases_from_other_systems(capfdbinary: Capture, written: bytes, read: list[str] | None) -> None:
    Path("phrases.txt").write_bytes(written)
    status = main(["predict", "dark.png", "--phrases", "phrases.txt", "-c"])
    if read is None:
        assert status == ERROR
        assert capfdbinary.readouterr().err == b"refseg: phrases.txt: not UTF-8 text (save the phrases as UTF-8)\n"
    else:
        assert FakeSegmenter.asked == [read]


def test_what_cannot_be_looked_into_is_named_and_counted(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to nowhere, and a folder that is closed to us. Links to folders are not followed, be they circles."""
    Path("photos/lost.jpg").symlink_to("nowhere.jpg")
    Path("photos/folder.jpg").mkdir()
    Path("photos/again").symlink_to(".")
    os.mkfifo("photos/pipe.jpg")
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if os.fspath(path).endswith("below"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert main(["predict", "-r", "photos", "-p", "dog", "-l"]) == ERROR
    out, err = capfdbinary.readouterr()
    assert out == b"photos/dark.jpg\n"
    assert b"photos/lost.jpg: cannot read the image: No such file" in err
    assert b"photos/below: cannot read the image" in err
    assert b"2 of 3 pictures could not be read" in err


NAMES = [str(n) for n in range(9)]


def pipeline(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[str], None], ask: Callable[[str], None] = lambda name: None
) -> list[str]:
    """What happens when nine pictures are read, asked about and written, in the order in which it begins."""
    events: list[str] = []

    def reading(picture: str) -> tuple[str, np.ndarray]:
        events.append(f"read {picture}")
        return picture, np.zeros((3, 2, 2), np.uint8)

    def asking(pictures: Sequence[Asked]) -> Iterator[Iterator[Found]]:
        [asked] = pictures
        events.append(f"ask {asked.name}")
        ask(asked.name)
        yield iter([Found("dog", np.ones((2, 2), bool), True, 0.9, 4)])

    def writing(asked: Asked, answers: Iterable[Found]) -> None:
        assert [found.phrase for found in answers] == ["dog"]
        events.append(f"write {asked.name}")
        write(asked.name)

    monkeypatch.setattr(console, "quiet", True)
    try:
        assert _many.each(NAMES, reading, asking, writing) == FOUND
    finally:
        assert threading.active_count() == 1  # nothing goes on behind the caller's back
    return events


def test_reading_asking_and_writing_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is written only once the next picture has been asked about."""
    asked = threading.Event()

    def write(name: str) -> None:
        if name == "0":
            assert asked.wait(60)

    def ask(name: str) -> None:
        if name == "1":
            asked.set()

    events = pipeline(monkeypatch, write, ask)
    for kind in ("read", "ask", "write"):
        assert [e for e in events if e.startswith(kind)] == [f"{kind} {n}" for n in NAMES]


def test_memory_does_not_grow_with_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that waits to be written holds the others back."""
    gate = threading.Event()

    def write(name: str) -> None:
        if name == "0":
            gate.wait(0.2)  # more than enough for everything to be read, if nothing held it back

    events = pipeline(monkeypatch, write)
    begun = events[: events.index("write 0") + 1]
    begun += events[len(begun) : events.index("write 1")]
    assert sum(e.startswith("read") for e in begun) <= 2 + _many.ANSWERS_AHEAD + 1 + _many.PICTURES_AHEAD


@pytest.mark.parametrize("at", ["read", "ask", "write"])
@pytest.mark.parametrize("error", [RefsegError("no more"), KeyboardInterrupt(), SystemExit(141)])
def test_what_ends_one_step_ends_all(monkeypatch: pytest.MonkeyPatch, at: str, error: BaseException) -> None:
    def fail(name: str) -> None:
        if name == "4":
            raise error

    if at == "read":
        items = (int(n) if n != "4" else fail(n) for n in NAMES)
        with pytest.raises(type(error)):
            list(_many.ahead(items, 2))
        return
    with pytest.raises(type(error)):
        pipeline(monkeypatch, fail if at == "write" else lambda name: None, fail if at == "ask" else lambda name: None)
    assert threading.active_count() == 1


def test_a_caller_that_stops_stops_the_thread() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(99):
            made.append(number)
            yield number

    stream = _many.ahead(items(), 2)
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    assert threading.active_count() == 1
    assert len(made) <= 5


def test_of_a_picture_that_is_found_nothing_more_is_asked(capfdbinary: Capture) -> None:
    assert main(["predict", "dark.png", "light.png", "-p", "dog", "-p", "cat", "-p", "bird", "-l"]) == FOUND
    assert FakeSegmenter.answered == ["dog", "dog", "cat"]
