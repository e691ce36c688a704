"""Pictures to play with: each has three rectangles, of which two overlap, and four phrases."""

from __future__ import annotations

from pathlib import Path

from pictures import instance, picture, write_split

from refseg_cli.records import Record

SIZE = (60, 80)
PHRASES = {
    "train": ["small one", "large one", "both", "neither"],
    "val": ["val one", "val other", "val both", "val none"],
}


def garden(split: str, numbers: range) -> list[Record]:
    """Pictures with a small object (id 10 n + 1) on top of a large one (10 n + 2), and one apart (10 n + 3)."""
    found = []
    for n in numbers:
        objects = (
            instance(10 * n + 1, SIZE, 10, 10, 10, 10),
            instance(10 * n + 2, SIZE, 5, 5, 40, 30),
            instance(10 * n + 3, SIZE, 20, 50, 20, 20),
        )
        texts = [f"{text} {n}" for text in PHRASES[split]]
        found.append(picture(n, split, SIZE, objects, list(zip(texts, ((0,), (1,), (0, 1), ()), strict=True))))
    return found


def prepare_garden(folder: Path) -> Path:
    """Shards: pictures 1 to 4 in train, 5 and 6 in val."""
    folder.mkdir()
    for split, numbers in (("train", range(1, 5)), ("val", range(5, 7))):
        write_split(folder, split, garden(split, numbers))
    return folder
