"""docs/protocols.md: one set of predictions through all protocols, and every number on that page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pictures import instance, picture, write_split

from refseg_cli.app import main
from refseg_cli.data import masks
from refseg_cli.records import Expression, Record

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
SQUARE, WIDE = (480, 480), (240, 480)
# picture, reference, phrase, target, predicted (top, left, height, width), its score, what is said of no target
PHRASES = [
    (1, 1, "left box", 0, (0, 0, 100, 70), 0.9, None),
    (1, 1, "left ball", None, None, None, None),
    (1, 2, "right box", 1, (0, 300, 100, 100), 0.9, True),
    (1, 2, "right ball", None, (200, 200, 40, 50), 0.9, False),
    (1, 3, "lower box", 2, None, None, None),
    (2, 4, "wide box", 0, (0, 0, 100, 50), 0.9, None),
    (2, 4, "wide ball", None, (200, 0, 5, 6), 0.6, None),
]  # fmt: skip
BOXES = {1: [(0, 0, 100, 100), (0, 300, 100, 100), (300, 0, 100, 100)], 2: [(0, 0, 100, 100)]}


def mask(size: tuple[int, int], box: tuple[int, int, int, int] | None) -> np.ndarray:
    found = np.zeros(size, dtype=bool)
    if box:
        top, left, height, width = box
        found[top : top + height, left : left + width] = True
    return found


def record(number: int, size: tuple[int, int]) -> Record:
    boxes = tuple(instance(10 * number + i, size, *box) for i, box in enumerate(BOXES[number]))
    expressions = tuple(
        Expression(text, ref, sent_id, () if target is None else (target,))
        for sent_id, (image, ref, text, target, _, _, _) in enumerate(PHRASES)
        if image == number
    )
    made = picture(number, "val", size, boxes, [])
    return Record(number, made.file_name, "val", *size, made.image, boxes, expressions)


def predictions() -> str:
    lines = []
    for sent_id, (image, ref, _, _, box, score, absent) in enumerate(PHRASES):
        rle = masks.encode(mask(SQUARE if image == 1 else WIDE, box))
        line = {"ref_id": ref, "sent_id": sent_id, "mask": {"size": list(rle.size), "counts": rle.counts.decode()}}
        line = line if score is None else {**line, "score": score}
        lines.append(json.dumps(line if absent is None else {**line, "no_target": absent}))
    return "\n".join(lines)


def test_every_number_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    write_split(Path("boxes"), "val", [record(1, SQUARE), record(2, WIDE)])
    Path("boxes.jsonl").write_text(predictions())
    asked = "eval --data boxes --from boxes.jsonl --protocol all --markdown --resamples 0"
    assert main(asked.split()) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    page = PAGE.read_text()
    assert f"refseg {asked}" in page
    assert "\n".join(table) in page, "\n".join(["docs/protocols.md has other numbers than:", *table])
