"""`refseg predict -o`: how files are named, what is never replaced, and how a run that was killed goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from answering import Answering
from PIL import Image

from refseg_cli import files
from refseg_cli.app import main
from refseg_cli.errors import ERROR, FOUND, INTERRUPTED, NO_TARGET
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

Capture = pytest.CaptureFixture[bytes]


class FakeSegmenter(Answering):
    """Finds every dog in the upper rows, as many as the picture is grey; notes the pictures' greys."""

    asked: list[int]
    interrupt_at = -1

    def predict(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        grey = int(image[0, 0, 0])
        for phrase in phrases:
            if grey == self.interrupt_at:
                raise KeyboardInterrupt
            mask = np.zeros(image.shape[1:], bool)
            mask[: 1 + grey % 6] = "dog" in phrase
            yield Found(phrase, mask, bool(mask.any()), 0.75, int(mask.sum()))
        self.asked.append(grey)


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """photos/ with a.png, b.png, c.png and below/a.png, of greys 0 to 3."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "open_segmenter", FakeSegmenter)
    FakeSegmenter.asked, FakeSegmenter.interrupt_at = [], -1
    Path("photos/below").mkdir(parents=True)
    for grey, name in enumerate(("a", "b", "c", "below/a")):
        Image.new("RGB", (9, 6), (grey, grey, grey)).save(f"photos/{name}.png")


def tree(folder: str | Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


# ---- names


@pytest.mark.parametrize(
    ("words", "template", "made"),
    [
        (["photos/a.png"], "m/{stem}-{phrase}.png", ["a-a-dog.png", "a-a-cat.png"]),
        (["photos/a.png"], "m/{n:02}_{name}", ["01_a.png", "02_a.png"]),
        (["photos/a.png"], "m/{{{n}}}.png", ["{1}.png", "{2}.png"]),
        (
            ["-r", "photos"],
            "m/{folder}/{stem}.{n}.png",
            [f"photos/{name}.{n}.png" for name in ("a", "b", "c", "below/a") for n in (1, 2)],
        ),
    ],
)
def test_templates(capfdbinary: Capture, words: list[str], template: str, made: list[str]) -> None:
    assert main(["predict", *words, "-p", "a dog", "-p", "a cat", "-o", template]) == FOUND
    assert sorted(tree("m")) == sorted(made)
    assert capfdbinary.readouterr().out == b""


def test_a_template_for_text_names_a_file_for_each_picture(capfdbinary: Capture) -> None:
    assert main(["predict", "-r", "photos", "-p", "a dog", "--json", "-o", "m/{folder}-{stem}.jsonl"]) == FOUND
    assert sorted(tree("m")) == ["photos-a.jsonl", "photos-b.jsonl", "photos-c.jsonl", "photos/below-a.jsonl"]


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("../../etc/passwd dog", "etc-passwd-dog"),
        ("/dog\\dog\0\n: *?", "dog-dog"),
        (".hidden Dog", "hidden-dog"),
        ("собака, слева", "собака-слева"),
        ("कुत्ता", "कुत्ता"),
        ("?!", "phrase"),
        ("dog " * 100, ("dog-" * 20).rstrip("-")),
        ("д" * 100, "д" * 40),
    ],
)
def test_any_phrase_is_safe_in_a_name(phrase: str, name: str) -> None:
    assert files.safe_name(phrase) == name


def test_no_picture_s_folder_leads_out(capfdbinary: Capture, tmp_path: Path) -> None:
    Path("inner").mkdir()
    os.chdir("inner")
    pictures = ["../photos/a.png", str(tmp_path / "photos/b.png")]
    assert main(["predict", *pictures, "-p", "dog", "-o", "m/{folder}/{stem}.png"]) == FOUND
    assert sorted(tree("m")) == sorted(["photos/a.png", f"{tmp_path}/photos/b.png".lstrip("/")])
    assert main(["predict", "-p", "dog", "-o", "{folder}/m.png", "../photos/a.png"]) == FOUND
    os.chdir("../photos")
    assert main(["predict", "-p", "dog", "-o", "{folder}/made.png", "a.png"]) == FOUND
    assert Path("made.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "-o", "{stme}.png"], "unknown field in a file name 'stme' (did you mean 'stem'?)"),
        (["photos", "-o", "{stem.x}.png"], "unknown field in a file name 'stem.x'"),
        (["photos", "-o", "{}.png"], "unknown field in a file name ''"),
        (["photos", "-o", "a}.png"], "a}.png: Single '}' encountered in format string ({{ and }}"),
        (["photos", "-o", "{n:x!}.png"], "{n:x!}.png: "),
        (["photos", "-o", "{stem}.jpg"], "a.jpg: masks are written as PNG"),
        (["photos", "-o", "{phrase}.png"], "photos/a.png and photos/b.png would both become dog.png ({folder}"),
        (["photos/a.png", "./photos/a.png", "-o", "out/"], "would both become out/a.mask.png (name the picture once)"),
        (["photos", "-p", "Dog!", "-o", "{stem}-{phrase}.png"], "'dog' and 'Dog!' would both become a-dog.png ({n}"),
        (["photos", "--json", "-o", "{stem}-{n}.jsonl"], "a file of json holds the answers to all phrases"),
        (["photos/a.png", "-o", "photos/{name}", "--force"], "photos/a.png: is the input"),
        (["photos", "-o", "m/", "--force", "--resume"], "--force has no use for --resume"),
        (["photos", "--json", "--resume"], "--resume goes on where files are"),
        (["photos", "-f", "coco", "-o", "m.json", "--resume"], "one file of coco is written as a whole"),
    ],
)
def test_errors_come_before_the_first_picture(capfdbinary: Capture, words: list[str], message: str) -> None:
    before = tree(".")
    assert main(["predict", "-p", "dog", *words]) == ERROR
    out, err = capfdbinary.readouterr()
    assert (out, err.count(b"\n")) == (b"", 1)
    assert message in err.decode()
    assert FakeSegmenter.asked == []
    assert tree(".") == before


# ---- what is there


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (["photos/a.png", "-o", "m.png"], "m.png"),
        (["photos", "-o", "m/"], "m/c.mask.png"),
        (["photos", "-o", "m/{stem}.{n}.png"], "m/b.1.png"),
        (["photos", "--json", "-o", "m.jsonl"], "m.jsonl"),
        (["photos", "-f", "yolo-seg", "-o", "m/"], "m/a.txt"),
    ],
)
def test_a_file_is_replaced_by_force_alone(capfdbinary: Capture, words: list[str], there: str) -> None:
    Path(there).parent.mkdir(exist_ok=True)
    Path(there).write_text("precious")
    assert main(["predict", "-p", "dog", *words]) == ERROR
    assert f"refseg: {there}: is there already (--force replaces it)" in capfdbinary.readouterr().err.decode()
    assert (FakeSegmenter.asked, Path(there).read_text()) == ([], "precious")
    assert main(["predict", "-p", "dog", *words, "--force"]) == FOUND
    assert Path(there).read_bytes() != b"precious"


def test_devices_are_no_files(capfdbinary: Capture) -> None:
    assert main(["predict", "photos", "-p", "dog", "--json", "-o", "/dev/null"]) == FOUND


# ---- resuming


@pytest.mark.parametrize(
    "options",
    [["-o", "m/"], ["-o", "m/{stem}/{phrase}.png"], ["--json", "-o", "m/found.jsonl"], ["-f", "boxes", "-o", "m/x"],
     ["-f", "labelme", "-o", "m/"]],
)  # fmt: skip
def test_an_interrupted_run_goes_on(capfdbinary: Capture, options: list[str]) -> None:
    words = ["predict", "photos", "-p", "dog", "-p", "cat", "--resume", *options]
    FakeSegmenter.interrupt_at = 2
    assert main(words) == INTERRUPTED
    assert FakeSegmenter.asked == [0, 1]
    FakeSegmenter.interrupt_at = -1
    assert main(words) == FOUND
    assert FakeSegmenter.asked == [0, 1, 2]
    assert b"1 of 3 pictures are missing\n" in capfdbinary.readouterr().err
    assert main(words) == FOUND
    assert FakeSegmenter.asked == [0, 1, 2]  # nothing left to do
    resumed = tree("m")
    Path("m").rename("other")
    assert main([word for word in words if word != "--resume"]) == FOUND
    assert resumed == tree("m")


def test_a_picture_with_some_of_its_answers_is_asked_again(capfdbinary: Capture) -> None:
    words = ["predict", "photos", "-p", "dog", "-p", "cat", "--resume", "-o", "m/"]
    assert main(words) == FOUND
    whole = tree("m")
    Path("m/b.mask-2.png").unlink()
    Path("m/.b.mask-2.png-0123abcd.part").write_text("cut sho")
    Path("m/.z.mask-2.png-0123abcd.part").write_text("somebody else's")
    FakeSegmenter.asked = []
    assert main(words) == FOUND
    assert FakeSegmenter.asked == [1]
    assert tree("m") == {**whole, ".z.mask-2.png-0123abcd.part": b"somebody else's"}


def test_lines_that_were_cut_are_written_again(capfdbinary: Capture) -> None:
    words = ["predict", "photos", "-p", "dog", "-p", "cat", "--resume", "-f", "count", "-o", "m.jsonl"]
    assert main(words) == FOUND
    whole = Path("m.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    for left in (b"", b"".join(lines[:3]), b"".join(lines[:3]) + lines[3][:20], lines[0][:5]):
        Path("m.jsonl").write_bytes(left)
        assert main(words) == FOUND
        assert Path("m.jsonl").read_bytes() == whole


DOG = b'{"image": "x", "phrase": "dog", "schema": "refseg.predict/1"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"image": "photos/a.png", "phrase": "bird"}\n', "m.jsonl:1: an answer to another question"),
        (DOG + DOG.replace(b"x", b"y"), "m.jsonl:2: an answer to another"),
        (
            b'{"image": "x", "phrase": "dog", "schema": "refseg.boxes/1"}\n',
            "m.jsonl:1: not an answer in the format json",
        ),
        (b'{"image": "x", "phrase": "dog", "mine": 1}\n', "m.jsonl:1: not an answer in the format json"),
        (b"[1]\n", "m.jsonl:1: no line of `refseg predict`"),
        (b"hello\n", "m.jsonl:1: no line of `refseg predict`"),
    ],
)
def test_other_lines_are_left_alone(capfdbinary: Capture, content: bytes, message: str) -> None:
    Path("m.jsonl").write_bytes(content)
    assert main(["predict", "photos", "-p", "dog", "-p", "cat", "--json", "--resume", "-o", "m.jsonl"]) == ERROR
    assert message in capfdbinary.readouterr().err.decode()
    assert Path("m.jsonl").read_bytes() == content


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
import test_predict_files as here
from refseg_cli.app import main
from refseg_cli.segmenters import choice
class Dying(here.FakeSegmenter):
    asked = []
    def predict(self, image, phrases):
        if len(self.asked) == 90:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(image, phrases)
choice.open_segmenter = Dying
main(sys.argv[2:])
"""


@pytest.mark.parametrize("options", [["-o", "m/"], ["--json", "-o", "m/found.jsonl"]])
def test_200_pictures_killed_in_the_middle(capfdbinary: Capture, options: list[str]) -> None:
    """Five are broken: 195 results, five named, status 2, and all as if nothing had happened."""
    Path("many").mkdir()
    for number in range(200):
        Image.new("RGB", (9, 6), (number, number, number)).save(f"many/{number:03}.png", compress_level=0)
    broken = [f"many/{number:03}.png" for number in (0, 77, 91, 150, 199)]
    for name in broken:
        Path(name).write_bytes(b"once upon a time")
    words = ["predict", "many", "-p", "dog", *options]
    killed = [sys.executable, "-c", KILLED, str(Path(__file__).parent), *words, "--resume"]
    assert subprocess.run(killed, capture_output=True).returncode == -signal.SIGKILL
    assert sum(map(len, tree("m").values())) > 0
    assert main([*words, "--resume"]) == ERROR
    err = capfdbinary.readouterr().err.decode()
    assert 0 < len(FakeSegmenter.asked) < 120
    named = [line.split(": ")[1] for line in err.splitlines() if "cannot read the image" in line]
    assert named == broken
    resumed = tree("m")
    Path("m").rename("killed")
    FakeSegmenter.asked = []
    assert main(words) == ERROR
    assert "refseg: 5 of 200 pictures could not be read" in capfdbinary.readouterr().err.decode()
    assert resumed == tree("m")
    results = resumed if "--json" not in options else resumed["found.jsonl"].splitlines()
    assert len(results) == len(FakeSegmenter.asked) == 195


def test_the_status_is_of_what_was_asked(capfdbinary: Capture) -> None:
    words = ["predict", "photos", "-p", "cat", "--resume", "-o", "m/"]
    assert main(words) == NO_TARGET
    assert main(words) == FOUND
    assert FakeSegmenter.asked == [0, 1, 2]
