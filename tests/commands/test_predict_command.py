"""`refseg predict`: what reaches the engine, where the answers go, what the exit status says."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refseg_cli.app import main
from refseg_cli.console import console
from refseg_cli.data import masks
from refseg_cli.engine import predict as engine
from refseg_cli.engine.predict import Shown
from refseg_cli.errors import ERROR, FOUND, NO_TARGET, RefsegError
from refseg_cli.records import Explanation, Thresholds
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

Capture = pytest.CaptureFixture[bytes]
HEIGHT, WIDTH = 6, 9
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[1:3, 2:7] = True


class FakePredictor:
    """Finds `MASK` for every phrase that does not say "no"; remembers how it was called."""

    calls: list[dict[str, Any]]
    shows = True
    name = "fake"
    thresholds = Thresholds()

    def __init__(self, model: str | None = None, **options: Any) -> None:
        self.calls.append({"model": model, **options})

    def predict(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        self.calls.append({"image": tuple(image.shape), "phrases": list(phrases)})
        found = ["no" not in phrase for phrase in phrases]
        scores = [(MASK & yes, yes, 0.9 if yes else 0.1, int(MASK.sum()) * yes) for yes in found]
        return (Found(phrase, *score) for phrase, score in zip(phrases, scores, strict=True))

    def explain(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        maps = (Explanation("gaze", "map", np.zeros((1, 2, 3), np.float32), (0,), 1),) if self.shows else ()
        return (replace(found, maps=maps) for found in self.predict(image, phrases))

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        return [f"{name}: unsure"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The calls of the engine, in a folder that holds photo.png."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save("photo.png")
    FakePredictor.calls = []
    monkeypatch.setattr(choice, "open_segmenter", FakePredictor)
    monkeypatch.setattr(choice, "open_explaining", FakePredictor)
    return FakePredictor.calls


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "on_terminal", lambda: True)


def read_mask(source: str | bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(source) if isinstance(source, bytes) else source))


def test_what_reaches_the_engine(calls: list[dict[str, Any]], capfdbinary: Capture) -> None:
    options = ["--model", "run", "--device", "cpu", "--threshold", "0.3", "--no-target-threshold", "0.7", "--json"]
    options += ["--memory", "2GiB", "--precision", "bf16"]
    assert main(["predict", *options, "photo.png", "a dog", "--", "-x"]) == FOUND
    assert calls == [
        {
            "model": "run",
            "once": True,
            "device": "cpu",
            "threshold": 0.3,
            "no_target_threshold": 0.7,
            "precision": "bf16",
            "memory": 2 << 30,
        },
        {"image": (3, HEIGHT, WIDTH), "phrases": ["a dog", "-x"]},
    ]


@pytest.mark.parametrize(
    ("phrases", "options", "status"),
    [
        (["dog"], [], FOUND),
        (["no dog"], [], NO_TARGET),
        (["no dog", "dog"], ["--json"], FOUND),
        (["no dog", "no cat"], ["--json"], NO_TARGET),
        (["no dog"], ["--no-target-ok"], FOUND),
    ],
)
def test_exit_status(calls: object, capfdbinary: Capture, phrases: list[str], options: list[str], status: int) -> None:
    assert main(["predict", "photo.png", *phrases, *options]) == status


def test_mask_goes_down_the_pipe_and_words_to_stderr(calls: object, capfdbinary: Capture) -> None:
    assert main(["predict", "photo.png", "dog"]) == FOUND
    out, err = capfdbinary.readouterr()
    np.testing.assert_array_equal(read_mask(out), MASK * np.uint8(255))
    assert err.decode().splitlines() == ["refseg: warning: photo.png: unsure", "dog: found 90 %, 10 pixels"]
    assert sorted(p.name for p in Path().iterdir()) == ["photo.png"]


def test_mask_becomes_a_file_on_a_terminal(calls: object, capfdbinary: Capture, terminal: None) -> None:
    assert main(["predict", "photo.png", "dog"]) == FOUND
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert b"dog: found 90 %, 10 pixels -> photo.mask.png\n" in err
    np.testing.assert_array_equal(read_mask("photo.mask.png"), MASK * np.uint8(255))


def test_a_cutout_is_transparent_but_for_the_target(calls: object, capfdbinary: Capture) -> None:
    Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB").save("photo.png")
    assert main(["predict", "photo.png", "dog", "-f", "cutout", "-o", "there/"]) == FOUND
    found = np.asarray(Image.open("there/photo.cutout.png"))
    assert found.shape == (HEIGHT, WIDTH, 4)
    np.testing.assert_array_equal(found[..., 3], MASK * np.uint8(255))
    np.testing.assert_array_equal(found[MASK][:, :3], np.asarray(Image.open("photo.png"))[MASK])
    assert not found[~MASK].any()


def test_the_record_has_a_box(calls: object, capfdbinary: Capture) -> None:
    main(["predict", "photo.png", "dog", "no dog", "--json"])
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["bbox"] for line in lines] == [[2, 1, 5, 2], [0, 0, 0, 0]]


def test_no_target_is_a_black_mask(calls: object, capfdbinary: Capture) -> None:
    assert main(["predict", "photo.png", "no dog", "-o", "m.png"]) == NO_TARGET
    assert not read_mask("m.png").any()
    assert b"no dog: no target -> m.png\n" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["dog", "-o", "m.png"], ["m.png"]),
        (["dog", "cat", "-o", "m.png"], ["m-1.png", "m-2.png"]),
        (["dog", "-o", "new/folder/"], ["new/folder/photo.mask.png"]),
        (["dog", "no cat", "-o", "there"], ["there/photo.mask-1.png", "there/photo.mask-2.png"]),
        (["dog", "-f", "overlay", "-o", "there"], ["there/photo.overlay.png"]),
        (["dog", "--explain", "-o", "there"], ["there/photo.explain.png"]),
        (["dog", "cat", "-f", "explain", "-o", "m.png"], ["m-1.png", "m-2.png"]),
        (["dog", "cat", "--json", "-o", "x.jsonl"], ["x.jsonl"]),
        (["dog", "cat", "--json", "-o", "new/"], ["new/photo.jsonl"]),
        (["dog", "-f", "rle", "-o", "there"], ["there/photo.rle.jsonl"]),
        (["dog", "-o", "MASK.PNG"], ["MASK.PNG"]),
        (["dog", "cat", "-o", "MASK.Png"], ["MASK-1.Png", "MASK-2.Png"]),
    ],
)
def test_where_files_go(calls: object, capfdbinary: Capture, arguments: list[str], files: list[str]) -> None:
    Path("there").mkdir()
    assert main(["predict", "photo.png", *arguments]) == FOUND
    assert sorted(str(p) for p in Path().rglob("*.*")) == sorted([*files, "photo.png"])
    assert capfdbinary.readouterr().out == b""


def test_several_masks_get_names_on_a_terminal(calls: object, capfdbinary: Capture, terminal: None) -> None:
    assert main(["predict", "photo.png", "dog", "cat"]) == FOUND
    assert sorted(p.name for p in Path().glob("photo.*")) == ["photo.mask-1.png", "photo.mask-2.png", "photo.png"]


def test_overlay_is_a_picture_in_colour(calls: object, capfdbinary: Capture) -> None:
    assert main(["predict", "photo.png", "dog", "-f", "overlay"]) == FOUND
    assert read_mask(capfdbinary.readouterr().out).shape[2] == 3


def test_explain_draws_the_maps_below_the_answer(
    calls: object, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["predict", "photo.png", "dog", "--explain"]) == FOUND
    with_maps, err = capfdbinary.readouterr()
    assert b"no maps" not in err
    monkeypatch.setattr(FakePredictor, "shows", False)
    assert main(["predict", "photo.png", "no dog", "--explain"]) == NO_TARGET
    without, err = capfdbinary.readouterr()
    assert b"refseg: warning: fake has no maps to show: only its answer is drawn" in err
    assert read_mask(with_maps).shape[0] > read_mask(without).shape[0] > 0


def test_lines_of_json_and_rle(calls: object, capfdbinary: Capture) -> None:
    main(["predict", "photo.png", "dog", "no cat", "--json"])
    records = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [(r["image"], r["phrase"], r["no_target"]) for r in records] == [
        ("photo.png", "dog", False),
        ("photo.png", "no cat", True),
    ]
    main(["predict", "photo.png", "dog", "--format", "rle"])
    assert json.loads(capfdbinary.readouterr().out) == {"size": [6, 9], "counts": masks.encode(MASK).counts.decode()}


def test_an_image_from_standard_input(
    calls: list[dict[str, Any]], capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(Path("photo.png").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["predict", "-", "dog", "--json"]) == FOUND
    assert json.loads(capfdbinary.readouterr().out)["image"] == "stdin"
    assert calls[1]["image"] == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_is_status_only(calls: object, capfdbinary: Capture, terminal: None, place: str) -> None:
    words = ["-q", "predict", "photo.png"] if place == "before" else ["predict", "photo.png", "-q"]
    assert main([*words, "no dog"]) == NO_TARGET
    assert main([*words, "dog"]) == FOUND
    assert capfdbinary.readouterr() == (b"", b"")
    assert sorted(p.name for p in Path().iterdir()) == ["photo.png"]


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("", "a phrase is empty"),
        (" \t", "a phrase is empty"),
        ("caf\udce9", "'caf\\udce9': not UTF-8 text"),
        ("photo.png", "'photo.png': a file, not a phrase"),
        ("notes", "'notes': a file, not a phrase"),
        ("gone.JPEG", "'gone.JPEG': a file, not a phrase"),
    ],
)
def test_what_is_no_phrase_is_refused_before_the_model_loads(
    calls: list[dict[str, Any]], capfdbinary: Capture, phrase: str, words: str
) -> None:
    Path("notes").touch()
    assert main(["predict", "photo.png", "dog", phrase, "--json"]) == ERROR
    assert words in capfdbinary.readouterr().err.decode()
    assert calls == []


def test_what_only_resembles_a_file_is_a_phrase(calls: list[dict[str, Any]], capfdbinary: Capture) -> None:
    Path("dog").mkdir()
    phrases = ["dog", "the file photo.png on the left", "photo.png ", "a dog, etc.", "x" * 5000]
    assert main(["predict", "photo.png", *phrases, "--json"]) == FOUND
    assert calls[1]["phrases"] == phrases


def test_the_picture_on_standard_input_is_not_replaced(
    calls: object, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, standard = Path("photo.png").read_bytes(), os.dup(0)
    with Path("photo.png").open("rb") as picture:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=picture))
        try:
            os.dup2(picture.fileno(), 0)
            assert main(["predict", "-", "dog", "-o", "photo.png"]) == ERROR
        finally:
            os.dup2(standard, 0)
            os.close(standard)
    assert b"photo.png: is the input" in capfdbinary.readouterr().err
    assert Path("photo.png").read_bytes() == before


def test_each_answer_is_written_before_the_next_is_asked_for(
    calls: object, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory must not grow with the phrases, and a reader need not wait for the last one."""
    lines: list[int] = []

    def predict(self: FakePredictor, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        for phrase in phrases:
            lines.append(capfdbinary.readouterr().out.count(b"\n"))
            yield Found(phrase, MASK, True, 0.9, 10)

    monkeypatch.setattr(FakePredictor, "predict", predict)
    assert main(["predict", "photo.png", "dog", "cat", "bird", "--json"]) == FOUND
    assert lines == [0, 1, 1]
    assert main(["predict", "photo.png", "dog", "cat", "-q"]) == FOUND
    assert main(["predict", "photo.png", "dog", "cat", "-o", "there/", "-f", "overlay"]) == FOUND


def test_lines_in_a_file_appear_all_or_none(
    calls: object, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(self: FakePredictor, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        yield Found(phrases[0], MASK, True, 0.9, 10)
        raise RefsegError("broken")

    monkeypatch.setattr(FakePredictor, "predict", predict)
    assert main(["predict", "photo.png", "dog", "cat", "--json", "-o", "x.jsonl"]) == ERROR
    assert [p.name for p in Path().iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs an image and a phrase"),
        (["photo.png"], "needs an image and a phrase"),
        (["gone.png", "dog"], "gone.png"),
        (["photo.png", "dog", "cat"], "2 masks do not fit into one PNG"),
        (["photo.png", "dog", "-o", "m.jpg"], "m.jpg: masks are written as PNG"),
        (["photo.png", "dog", "--json", "-f", "rle"], "--json and --format rle exclude each other"),
        (["photo.png", "dog", "--json", "--explain"], "--json and --explain exclude each other"),
        (["photo.png", "dog", "--explain", "-f", "png"], "--explain and --format png exclude each other"),
        (["photo.png", "dog", "--threshold", "2"], "Invalid value for '--threshold'"),
        (["photo.png", "dog", "-o", "photo.png/m.png"], "photo.png/m.png: cannot write"),
        (["photo.png", "dog", "--max-pixels", "53"], "(--max-pixels 54 reads it)"),
        (["photo.png", "dog", "--max-pixels", "0"], "Invalid value for '--max-pixels'"),
        (["photo.png", "dog", "-o", "photo.png"], "photo.png: is the input, and would be overwritten"),
        (["photo.png", "dog", "-o", "./photo.png", "--json"], "photo.png: is the input, and would be overwritten"),
        (["photo.png", "dog", "cat", "-o", "fifo"], "2 masks do not fit into one PNG"),
    ],
)
def test_errors_are_one_line_and_2(calls: object, capfdbinary: Capture, arguments: list[str], words: str) -> None:
    os.mkfifo("fifo")
    assert main(["predict", *arguments]) == ERROR
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert sorted(p.name for p in Path().iterdir()) == ["fifo", "photo.png"]
    last = err.decode().splitlines()[-1]
    assert last.startswith("refseg: ")
    assert words in last


def test_a_closed_standard_input_is_an_error(
    calls: object, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python finds it after `<&-`
    assert main(["predict", "-", "dog"]) == ERROR
    assert b"standard input, which is closed" in capfdbinary.readouterr().err
    assert main(["predict", "photo.png", "dog", "--json"]) == FOUND


def test_a_closed_standard_output_is_an_error_where_it_is_needed(
    calls: object, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python finds it after `>&-`
    assert main(["predict", "photo.png", "dog", "--json"]) == ERROR
    assert b"standard output is closed" in capfdbinary.readouterr().err
    assert main(["predict", "photo.png", "dog", "-o", "m.png"]) == FOUND
    assert main(["predict", "photo.png", "dog", "-q"]) == FOUND


def test_a_file_name_that_is_no_utf8(calls: object, capfdbinary: Capture, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Path("photo.png").rename(name)
    assert main(["predict", name, "dog", "--json"]) == FOUND
    assert json.loads(capfdbinary.readouterr().out)["image"] == name
    assert main(["predict", name, "dog", "-f", "overlay", "-o", "./"]) == FOUND
    assert Path(os.fsdecode(b"caf\xe9.overlay.png")).exists()


def test_nobody_types_an_image(calls: object, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert main(["predict", "-", "dog"]) == ERROR
    assert b"which is a terminal" in capfdbinary.readouterr().err


@pytest.mark.parametrize("words", ["a.jpg dog", "-p dog", "--jsonl -", "--data scenes", "--json", "--resume", "-l"])
def test_demo_takes_no_question(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--demo", *words.split()]) == ERROR
    assert capsys.readouterr().err.startswith("refseg: --demo has no use for ")


def test_demo_says_what_was_found_and_where_to_look(
    capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def demo(out: Path, **options: Any) -> list[Shown]:
        asked.append((out, options))
        return [Shown("s.jpg", Found("no dog", ~MASK & MASK, False, 0.1, 0), out / "01-no-dog.png")]

    monkeypatch.setattr(engine, "demo", demo)
    assert main(["predict", "--demo", "--device", "cpu"]) == FOUND
    assert asked == [(Path("refseg-demo"), {"folder": None, "device": "cpu"})]
    assert capfdbinary.readouterr().out == b"no dog: no target -> refseg-demo/01-no-dog.png\n"
    main(["predict", "--demo", "-o", str(tmp_path)])
    assert asked[1][0] == tmp_path


@pytest.mark.parametrize("option", [["--engine", "ray"], ["--workers", "2"], ["--threads", "2"], ["--split", "test"]])
def test_options_of_prepared_data_are_not_passed_over(
    option: list[str], calls: list[dict[str, Any]], capfdbinary: Capture
) -> None:
    assert main(["predict", *option, "photo.png", "a dog"]) == ERROR
    assert f"{option[0]} applies to --data" in capfdbinary.readouterr().err.decode()
    assert calls == []
