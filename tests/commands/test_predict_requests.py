"""`refseg predict --jsonl`: a line in, a line out, whatever the line is."""

from __future__ import annotations

import io
import json
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from answering import Answering
from PIL import Image

from refseg_cli.app import main
from refseg_cli.commands import _requests
from refseg_cli.errors import CLOSED_PIPE, ERROR, FOUND, NO_TARGET
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

Capture = pytest.CaptureFixture[bytes]
SECONDS = 60  # after which another process counts as hanging


class FakeSegmenter(Answering):
    """Finds every dog; notes what it is asked."""

    opened: list[dict[str, Any]]
    asked: list[list[str]]

    def __init__(self, model: str | None = None, **options: Any) -> None:
        self.opened.append({"model": model, **options})

    def predict(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        self.asked.append(list(phrases))
        for phrase in phrases:
            exists = "dog" in phrase
            yield Found(phrase, np.full(image.shape[1:], exists), exists, 0.75, image[0].size * exists)

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        return [f"{name}: unsure"] if "a bird" in phrases else []


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "open_segmenter", FakeSegmenter)
    FakeSegmenter.opened, FakeSegmenter.asked = [], []
    Image.new("RGB", (9, 6), "grey").save("a.png")
    Path("broken.png").write_bytes(b"once upon a time")


def ask(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, *lines: object, words: Sequence[str] = ()) -> list[Any]:
    """The answers to lines: bytes as they are, anything else as JSON; the status behind them."""
    data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(data)))
    status = main(["predict", "--jsonl", "-", *words])
    return [*map(json.loads, capfdbinary.readouterr().out.splitlines()), status]


def test_each_request_gets_a_line(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, status = ask(
        capfdbinary,
        monkeypatch,
        {"id": "x1", "image": "a.png", "phrases": ["a cat", "a dog", "a bird"]},
        b"\n",
        {"id": 2, "image": "a.png", "phrase": "a cat"},
        words=["--model", "m", "--threshold", "0.3"],
    )
    assert status == FOUND
    assert (first["schema"], first["id"], first["image"], first["error"]) == ("refseg.answer/1", "x1", "a.png", None)
    assert [(r["phrase"], r["no_target"]) for r in first["results"]] == [
        ("a cat", True),
        ("a dog", False),
        ("a bird", True),
    ]
    assert first["results"][1]["schema"] == "refseg.predict/1"
    assert first["cautions"] == ["a.png: unsure"]
    assert (second["id"], len(second["results"]), second["cautions"]) == (2, 1, [])
    assert FakeSegmenter.asked == [["a cat", "a dog", "a bird"], ["a cat"]]  # a picture once for all its phrases
    assert [(opened["model"], opened["threshold"]) for opened in FakeSegmenter.opened] == [("m", 0.3)]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], NO_TARGET),
        ([{"image": "a.png", "phrase": "a cat"}], NO_TARGET),
        ([b'{"image": "a.png", "phrase": "a dog"}'], FOUND),  # the last line may lack its end
        ([{"image": "a.png", "phrase": "a dog"}, b"{\n"], ERROR),
    ],
)
def test_the_status(
    capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, lines: Sequence[object], status: int
) -> None:
    assert ask(capfdbinary, monkeypatch, *lines)[-1] == status
    expected = FOUND if status == NO_TARGET else status
    assert ask(capfdbinary, monkeypatch, *lines, words=["--no-target-ok"])[-1] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"hello\n", "not JSON: "),
        (b"\xff\xfe\xfd\n", "not JSON: "),
        (b"[" * 100_000 + b"\n", "not JSON: "),
        ([1, 2], "not a JSON object"),
        ({"image": "a.png"}, "either phrase or phrases is needed"),
        ({"image": "a.png", "phrase": "x", "phrases": ["y"]}, "either phrase or phrases is needed"),
        ({"image": "a.png", "phrases": []}, "a phrase is not text"),
        ({"image": "a.png", "phrases": ["x", 7]}, "a phrase is not text"),
        ({"image": "a.png", "phrases": "a dog"}, "a phrase is not text"),
        ({"image": "a.png", "phrase": " "}, "a phrase is empty"),
        ({"image": "a.png", "phrase": "caf\udce9"}, "not UTF-8 text"),
        ({"image": "a.png", "phrsae": "a dog"}, "unknown key 'phrsae' (did you mean 'phrase'?)"),
        ({"phrase": "a dog"}, "image is not a path"),
        ({"image": "-", "phrase": "a dog"}, "image is not a path"),
        ({"image": 7, "phrase": "a dog"}, "image is not a path"),
        ({"image": "gone.png", "phrase": "a dog"}, "gone.png: cannot read the image: No such file"),
        ({"image": "a\0.png", "phrase": "a dog"}, "cannot read the image: embedded null byte"),
        ({"image": "broken.png", "phrase": "a dog"}, "broken.png: cannot read the image: "),
        ({"id": [1], "image": "a.png", "phrase": "a dog"}, "id is neither text nor a number"),
        (b'{"id": NaN, "image": "a.png", "phrase": "a dog"}\n', "id is neither text nor a number"),
        (b'{"id": "' + b"x" * 300 + b'"}\n', "a request of more than"),
    ],
)
def test_a_broken_request_is_answered_and_stops_no_other(
    capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, line: object, message: str
) -> None:
    monkeypatch.setattr(_requests, "LONGEST", 200_000 if isinstance(line, bytes) and line.startswith(b"[[") else 200)
    good = {"id": "good", "image": "a.png", "phrase": "a dog"}
    bad, last, status = ask(capfdbinary, monkeypatch, line, good)
    assert status == ERROR
    assert message in bad["error"]
    assert bad["results"] == []
    assert bad.keys() == last.keys()
    assert (last["id"], last["error"], len(last["results"])) == ("good", None, 1)


def test_a_failure_says_whose_it_is(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, _ = ask(capfdbinary, monkeypatch, {"id": 7, "image": "gone.png", "phrase": "a dog"})
    assert (bad["id"], bad["image"]) == (7, "gone.png")


def test_files_of_requests_and_answers(capfdbinary: Capture) -> None:
    Path("in.jsonl").write_text('{"image": "a.png", "phrase": "a dog"}\n' * 2)
    assert main(["predict", "--jsonl", "in.jsonl", "-o", "out.jsonl"]) == FOUND
    assert len(Path("out.jsonl").read_text().splitlines()) == 2
    assert main(["predict", "--jsonl", "in.jsonl", "-o", "out.jsonl"]) == ERROR
    assert b"out.jsonl: is there already" in capfdbinary.readouterr().err
    assert main(["predict", "--jsonl", "in.jsonl", "-o", "out.jsonl", "--force"]) == FOUND
    assert main(["predict", "--jsonl", "in.jsonl", "-o", "in.jsonl", "--force"]) == ERROR


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png"], "--jsonl has no use for IMAGE"),
        (["-p", "a dog"], "--jsonl has no use for --phrase"),
        (["--format", "rle"], "--jsonl has no use for --format"),
        (["--explain"], "--jsonl has no use for --explain"),
        (["-l"], "--jsonl has no use for --files-with-matches"),
        (["--no-target-ok", "--every", "1"], "--jsonl has no use for --every"),
        (["--resume", "-o", "x"], "--jsonl has no use for --resume"),
    ],
)
def test_what_does_not_go_together(capfdbinary: Capture, words: list[str], message: str) -> None:
    assert main(["predict", "--jsonl", "-", *words]) == ERROR
    out, err = capfdbinary.readouterr()
    assert (out, err.count(b"\n")) == (b"", 1)
    assert message in err.decode()


def test_no_requests_to_read(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["predict", "--jsonl", "gone.jsonl"]) == ERROR
    assert b"gone.jsonl: cannot read requests: No such file" in capfdbinary.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", "--jsonl", "-"]) == ERROR
    assert b"standard input, which is closed" in capfdbinary.readouterr().err


SERVER = """
import os, sys
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
import test_predict_requests as here
from refseg_cli.app import main
from refseg_cli.segmenters import choice
here.FakeSegmenter.opened, here.FakeSegmenter.asked = [], []
choice.open_segmenter = here.FakeSegmenter
sys.exit(main(["predict", "--jsonl", "-"]))
"""


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", SERVER, str(Path(__file__).parent)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, bufsize=0, **pipes) as process:
        yield process
        process.kill()


def answer(server: subprocess.Popen[bytes], request: bytes) -> bytes:
    assert server.stdin
    assert server.stdout
    server.stdin.write(request)
    assert select.select([server.stdout], [], [], SECONDS)[0]
    return server.stdout.readline()


def test_a_process_is_asked_and_answers_before_it_is_asked_again(server: subprocess.Popen[bytes]) -> None:
    for number in range(3):
        line = answer(server, b'{"id": %d, "image": "a.png", "phrase": "a dog"}\n' % number)
        assert json.loads(line)["id"] == number
    assert server.stdin
    server.stdin.close()
    assert server.wait(SECONDS) == FOUND
    assert server.stderr
    assert server.stderr.read() == b""


def test_a_reader_that_goes_away_ends_it(server: subprocess.Popen[bytes]) -> None:
    answer(server, b'{"image": "a.png", "phrase": "a dog"}\n')
    assert server.stdin
    assert server.stdout
    assert server.stderr
    server.stdout.close()
    server.stdin.write(b'{"image": "a.png", "phrase": "a dog"}\n')
    assert server.wait(SECONDS) == CLOSED_PIPE
    assert server.stderr.read() == b""
