"""Real pictures with phrases to ask of them: the bundled demo's, or those of prepared data. Knows no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from refseg_cli import checkpoint
from refseg_cli.errors import RefsegError

PICTURES, PHRASES = 3, 5  # at most, and of each picture: a large model takes seconds for each on a CPU


@dataclass(frozen=True, slots=True)
class Question:
    """A picture file's bytes, and phrases, none of them empty."""

    image: bytes
    phrases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoPicture:
    """A bundled picture, the bundled model that knows what is on it, and phrases."""

    file: Path
    model: str
    phrases: tuple[str, ...]


def demo_pictures() -> list[DemoPicture]:
    """The pictures beside the bundled models: `demo/demo.json` is a list of
    ``{"image": "cat.jpg", "model": "photos", "phrases": ["the cat", ...]}``.

    Raises:
        RefsegError: the package is damaged.
    """
    folder = checkpoint.BUNDLE / "demo"
    try:
        listed = json.loads((folder / "demo.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RefsegError(f"{folder}: no demo in this installation: {error}", hint="install refseg again") from error
    return [DemoPicture(folder / one["image"], one["model"], tuple(one["phrases"])) for one in listed]


def real_questions(data: str | None, split: str = "val") -> list[Question]:
    """The first `PICTURES` pictures of a split that have phrases, with up to `PHRASES` each; without data the demo's.

    Raises:
        RefsegError: no such data or split, damaged shards, or no phrase in them.
    """
    if data is None:
        return [Question(one.file.read_bytes(), one.phrases[:PHRASES]) for one in demo_pictures()]
    from refseg_cli.data.shards import open_shards

    shards, found = open_shards(data, split), []
    for place in range(len(shards)):
        record = shards[place]
        phrases = tuple(e.text for e in record.expressions if e.text.strip())[:PHRASES]
        if phrases:
            found.append(Question(record.image, phrases))
        if len(found) == PICTURES:
            break
    if not found:
        raise RefsegError(f"{data}: no phrase in {split}", hint="name another --split")
    return found
