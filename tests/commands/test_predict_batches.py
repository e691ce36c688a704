"""`refseg predict --batch-images`: how many pictures are asked about together, and what that changes: nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from answering import Answering
from PIL import Image

from refseg_cli.app import main
from refseg_cli.commands import _shared
from refseg_cli.commands._forms import Asked
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

Capture = pytest.CaptureFixture[bytes]
NAMES = ["0.png", "broken.png", "2.png", "3.png", "4.png"]


class Several(Answering):
    """Finds a phrase that is the grey of the picture; notes the pictures of each pass."""

    name = "several"
    passes: list[list[int]]

    def predict(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        [answers] = self.predict_many([(image, phrases)])
        return answers

    def predict_many(
        self, questions: Sequence[tuple[np.ndarray, Sequence[str]]], *, soft: bool = False
    ) -> Iterator[Iterator[Found]]:
        self.passes.append([int(image[0, 0, 0]) for image, _ in questions])
        return (self._answers(image, phrases) for image, phrases in questions)

    def _answers(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        for phrase in phrases:
            exists = phrase == str(image[0, 0, 0])
            yield Found(phrase, np.full(image.shape[1:], exists), exists, float(exists), image[0].size * exists)


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "open_segmenter", Several)
    Several.passes = []
    for name in NAMES:
        if name[0].isdigit():
            Image.new("RGB", (9 + int(name[0]), 6), (int(name[0]),) * 3).save(name)
    Path("broken.png").write_bytes(b"once upon a time")


@pytest.mark.parametrize(
    ("batch", "passes"), [("1", [[0], [2], [3], [4]]), ("2", [[0], [2, 3], [4]]), ("99", [[0, 2, 3, 4]])]
)
def test_answers_come_in_order_and_a_broken_picture_is_named(
    capfdbinary: Capture, batch: str, passes: list[list[int]]
) -> None:
    assert main(["predict", *NAMES, "-p", "3", "-p", "4", "--json", "--batch-images", batch]) == ERROR
    assert [one for one in Several.passes if one] == passes
    out, err = capfdbinary.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [(r["image"], r["phrase"], r["width"], r["no_target"]) for r in found] == [
        (f"{n}.png", phrase, 9 + n, phrase != str(n)) for n in (0, 2, 3, 4) for phrase in ("3", "4")
    ]
    assert b"broken.png: cannot read the image" in err
    assert b"1 of 5 pictures could not be read" in err


def test_names_of_pictures_of_a_batch(capfdbinary: Capture) -> None:
    """What is found first ends a picture, not its batch."""
    pictures = [name for name in NAMES if name != "broken.png"]
    assert main(["predict", *pictures, "-l", "-p", "0", "-p", "3", "-p", "9", "--batch-images", "3"]) == FOUND
    assert capfdbinary.readouterr().out.split() == [b"0.png", b"3.png"]
    assert Several.passes == [[0, 2, 3], [4]]


def test_soft_masks(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[bool] = []
    answers = Several._answers

    def predict_many(self: Several, questions: Any, *, soft: bool = False) -> Iterator[Iterator[Found]]:
        wanted.append(soft)
        halves = np.full((6, 9), 0.5, np.float32)
        return (
            (
                Found(f.phrase, f.mask, f.exists, f.p_target, f.pixels, soft=halves)
                for f in answers(self, image, phrases)
            )
            for image, phrases in questions
        )

    monkeypatch.setattr(Several, "predict_many", predict_many)
    main(["predict", "0.png", "2.png", "-p", "0", "-f", "soft", "-o", "out/", "--batch-images", "2"])
    assert wanted == [True]
    assert len(list(Path("out").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0.png", "dog", "-f", "explain"], "--format explain has no use for --batch-images"),
        (["--jsonl", "-"], "--jsonl has no use for --batch-images"),
        (["--demo"], "--demo has no use for --batch-images"),
        (["clip.mp4", "dog"], "a clip has no use for --batch-images"),
    ],
)
def test_where_it_has_no_use(capfdbinary: Capture, words: list[str], message: str) -> None:
    assert main(["predict", *words, "--batch-images", "2"]) == ERROR
    assert message in capfdbinary.readouterr().err.decode()


def test_the_bundled_model_on_onnxruntime_takes_one(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Path.cwd() / "0.png"
    monkeypatch.undo()
    assert main(["predict", str(picture), "dog", "--device", "cpu", "--batch-images", "2", "--json"]) == ERROR
    out, err = capfdbinary.readouterr()
    assert (out, err.count(b"\n")) == (b"", 1)
    assert b"this model takes one picture at a time (omit --batch-images" in err


def test_processes_that_share_do_not_cut_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared, "ROUND", 2)
    alone = SimpleNamespace(n=1, k=0, collected=lambda value: [value], decided=lambda decide: decide())
    passes: list[list[str]] = []

    def ask(pictures: Sequence[Asked]) -> Iterator[Iterator[Found]]:
        passes.append([asked.name for asked in pictures])
        return (iter([Found("dog", np.ones((2, 2), bool), True, 0.9, 4)]) for _ in pictures)

    def read(picture: str) -> tuple[str, np.ndarray]:
        return picture, np.zeros((3, 2, 2), np.uint8)

    names = [str(n) for n in range(7)]
    seen: list[str] = []
    status = _shared.each_shared(
        names,
        read,
        ask,
        lambda asked, answers: seen.extend(asked.name for _ in answers),
        alone,  # type: ignore[arg-type]
        apart=False,
        batch_images=3,
    )
    assert (status, seen) == (FOUND, names)
    assert passes == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
