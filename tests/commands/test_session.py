"""A session at a terminal and in pipes: every status, stream and format, narrow and wide, with and without colour."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import terminals
from answering import Answering
from PIL import Image
from terminals import run

from refseg_cli import app
from refseg_cli.app import main
from refseg_cli.commands._output import DRAWN, ENDINGS, Format
from refseg_cli.errors import CLOSED_PIPE, ERROR, FOUND, INTERRUPTED, NO_TARGET
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

FORMATS: tuple[Format, ...] = get_args(Format)
TEXTS = [format for format in FORMATS if format not in DRAWN]
PIPED = {"NO_COLOR": "", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "GITHUB_ACTIONS": "true"}  # what makes rich colour
BLOCK = (slice(2, 5), slice(1, 7))  # of the picture, what every dog is


class FakeSegmenter(Answering):
    """Finds a dog in every picture, and nothing else; never ends with a "sloth"."""

    def predict(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        for phrase in phrases:
            if phrase == "sloth":
                print("asking", flush=True)  # noqa: T201 - for the test to know
                time.sleep(60)
            mask = np.zeros(image.shape[1:], bool)
            mask[BLOCK] = "dog" in phrase
            soft = np.where(mask, np.float32(0.9), np.float32(0.1))
            yield Found(phrase, mask, bool(mask.any()), 0.9, int(mask.sum()), soft=soft)

    soften = explain = predict

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        return [f"{name}: unsure"]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """photo.png and other.png; broken.png is none."""
    assert app.app, "every command, imported before the forks"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "open_segmenter", FakeSegmenter)
    monkeypatch.setattr(choice, "open_explaining", FakeSegmenter)
    for name in ("COLUMNS", "LINES", "NO_COLOR", *PIPED):
        monkeypatch.delenv(name, raising=False)
    for name in ("photo", "other"):
        Image.new("RGB", (9, 6), (90, 60, 30)).save(f"{name}.png")
    Path("broken.png").write_bytes(b"once upon a time")


# ---- predict


@pytest.mark.parametrize("format", FORMATS)
def test_a_pipe_gets_the_answer_and_nothing_else(format: Format) -> None:
    for phrase, status in (("a dog", FOUND), ("a cat", NO_TARGET)):
        ran = run(["predict", "photo.png", phrase, "-f", format], terminal=["stdin", "stderr"], env=PIPED)
        assert ran.status == status
        assert b"photo.png: unsure" in ran.screen
        if format in DRAWN:
            with Image.open(io.BytesIO(ran.stdout)) as picture:
                assert picture.size == (9, 6) or format in ("overlay", "explain")
        elif format == "yolo-seg":
            assert ran.stdout.decode().split()[:1] == (["0"] if status == FOUND else [])
        else:
            assert json.loads(ran.stdout) is not None
    assert not list(Path().glob("photo.*.*"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_terminal_gets_text_and_the_name_of_a_picture(format: Format) -> None:
    ran = run(["predict", "photo.png", "a dog", "-f", format])
    assert (ran.status, ran.stdout, ran.stderr) == (FOUND, b"", b"")
    assert terminals.colours(ran.screen) == {b"33"}, "the warning's yellow"
    if format in DRAWN:
        assert f"a dog: found 90 %, 18 pixels -> photo{ENDINGS[format]}" in ran.lines
        assert Path(f"photo{ENDINGS[format]}").exists()
    else:
        assert not Path(f"photo{ENDINGS[format]}").exists()


@pytest.mark.parametrize("format", TEXTS)
def test_text_is_the_same_in_a_pipe_and_in_a_file(format: Format) -> None:
    words = ["predict", "photo.png", "a dog", "a cat", "-f", format]
    piped = run(words, terminal=[])
    assert piped.stderr == b"refseg: warning: photo.png: unsure\n"
    assert run([*words, "-o", "there"], terminal=[]).stdout == b""
    assert Path("there").read_bytes() == piped.stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("photo.png cat -q", NO_TARGET, b""),
        ("photo.png cat -q --no-target-ok", FOUND, b""),
        ("photo.png dog -q", FOUND, b""),
        ("broken.png dog", ERROR, b"refseg: broken.png: cannot read the image: "),
        ("photo.png", ERROR, b"refseg: predict needs an image and a phrase"),
        ("photo.png dog --foo", ERROR, b"refseg: unknown option --foo"),
        ("photo.png broken.png other.png -p dog -l", ERROR, b"refseg: 1 of 3 pictures could not be read"),
        ("photo.png other.png -p cat -l", NO_TARGET, b""),
        ("photo.png other.png -p cat -L", NO_TARGET, b""),
        ("photo.png other.png -p dog -c", FOUND, b""),
    ],
)
def test_the_status_is_the_same_everywhere(words: str, status: int, said: bytes) -> None:
    seen = run(["predict", *words.split()])
    piped = run(["predict", *words.split()], terminal=[])
    deaf = run(["predict", *words.split()], terminal=[], closed="stderr")
    assert [ran.status for ran in (seen, piped, deaf)] == [status] * 3
    assert said in seen.screen
    assert said in piped.stderr
    assert deaf.stdout == piped.stdout
    assert not terminals.codes(piped.stdout + piped.stderr)
    assert (b"\x1b[31mrefseg: " in seen.screen) == (status == ERROR)


def test_names_go_where_the_reader_is() -> None:
    words = ["--progress", "never", "predict", "photo.png", "broken.png", "other.png", "-p", "dog", "-l"]
    assert run(words, terminal=["stderr"]).stdout == b"photo.png\nother.png\n"
    assert run(words, terminal=[]).stderr.count(b"\n") == 3, "a warning, the broken picture, and how many"


def test_ctrl_c_is_130_and_without_a_word() -> None:
    ran = run(["predict", "photo.png", "sloth", "--json"], interrupt_at=b"asking")
    assert ran.status == INTERRUPTED
    assert b"Traceback" not in ran.screen


@pytest.mark.parametrize("format", FORMATS)
def test_a_reader_that_goes_away_is_141(format: Format) -> None:
    ran = run(["predict", "photo.png", "a dog", "-f", format], terminal=[], closed="stdout")
    assert ran.status == CLOSED_PIPE
    assert ran.stderr.startswith(b"refseg: warning: photo.png: unsure\n")
    assert b"Traceback" not in ran.stderr


def test_a_picture_comes_down_the_pipe_and_goes_on() -> None:
    photo = Path("photo.png").read_bytes()
    mask = run(["predict", "-", "a dog"], terminal=["stderr"], given=photo)
    assert mask.status == FOUND
    with Image.open(io.BytesIO(mask.stdout)) as picture:
        assert np.asarray(picture)[BLOCK].all()
    assert run(["predict", "-", "a dog"]).status == ERROR, "nobody types one"
    requests = json.dumps({"image": "photo.png", "phrase": "a dog"}).encode() + b"\n{}\n"
    answers = run(["predict", "--jsonl", "-"], terminal=["stderr"], given=requests)
    assert answers.status == ERROR
    assert [json.loads(line)["error"] is None for line in answers.stdout.splitlines()] == [True, False]


# ---- the others


@pytest.fixture(scope="module")
def records(scenes: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("records") / "answers.parquet"
    assert main(["eval", "--data", str(scenes), "--model", str(run), "--records", str(out), "-q"]) == FOUND
    return out


SESSION = [
    "--help",
    "predict --demo",
    "recipes list --arch cris",
    "recipes show vlt-tiny",
    "config show predict",
    "eval --data {scenes} --from {records} --protocol refseg,rela --resamples 0",
    "compare {records} {records} --resamples 0",
    "prepare check {scenes}",
]


@pytest.fixture
def words(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, scenes: Path, records: Path) -> list[str]:
    from refseg_cli.engine import catalogue
    from refseg_cli.engine import predict as engine

    monkeypatch.setattr(engine, "open_segmenter", FakeSegmenter)
    monkeypatch.setattr(catalogue, "recipe_names", lambda: ["cris-r101-refcocog-umd", "cris-tiny"])
    return request.param.format(scenes=scenes, records=records).split(" ")


@pytest.mark.parametrize("words", SESSION, indirect=True)
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_what_is_drawn_is_not_wider_than_the_terminal(words: list[str], columns: int) -> None:
    """Frames and bars, which a terminal would break; lines of talk it may break."""
    ran = run(words, columns=columns)
    assert ran.status == FOUND
    assert "…" not in ran.screen.decode()
    drawn = [line for line in ran.lines if set(line) & set("│┃━└┏╸╺")]
    assert max(map(len, drawn), default=0) <= columns


@pytest.mark.parametrize("words", SESSION, indirect=True)
def test_colours_and_frames_are_for_terminals_that_want_them(words: list[str]) -> None:
    plain = run(words, env={"NO_COLOR": "1"})
    assert not terminals.colours(plain.screen)
    piped = run(words, terminal=[], env=PIPED)
    assert (plain.status, piped.status) == (FOUND, FOUND)
    assert not terminals.codes(piped.stdout + piped.stderr)
    assert "│" not in piped.stdout.decode()


def test_a_bar_fits_between_the_words_of_a_narrow_terminal() -> None:
    names = [f"{n}.png" for n in range(4)]
    for name in names:
        Path(name).write_bytes(Path("photo.png").read_bytes())
    ran = run(["predict", *names, "-p", "a dog", "-o", "out/"], columns=40)
    assert ran.status == FOUND
    assert b"4/4" in ran.screen
    assert max(len(line) for line in ran.lines if "━" in line) <= 40
    assert not terminals.codes(run(["predict", *names, "-p", "a dog", "-l"], terminal=[], env=PIPED).stderr)
