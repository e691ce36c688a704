"""The formats of what `refseg predict` answers, and where it is written: down a pipe, or into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refseg_cli import files
from refseg_cli.console import console, json_line

Format = Literal[
    "png", "overlay", "cutout", "soft", "explain",
    "json", "rle", "polygons", "boxes", "count", "coco", "labelme", "yolo-seg",
]  # fmt: skip
STDIO = "-"
ENDINGS: dict[Format, str] = {  # IMAGE.mask.png and so on
    "png": ".mask.png",
    "overlay": ".overlay.png",
    "cutout": ".cutout.png",
    "soft": ".soft.png",
    "explain": ".explain.png",
    "json": ".jsonl",
    "rle": ".rle.jsonl",
    "polygons": ".polygons.jsonl",
    "boxes": ".boxes.jsonl",
    "count": ".count.jsonl",
    "coco": ".coco.json",
    "labelme": ".json",
    "yolo-seg": ".txt",
}
DRAWN: tuple[Format, ...] = ("png", "overlay", "cutout", "soft", "explain")  # a file for each answer; the others: text
ALONE: tuple[Format, ...] = ("rle", "labelme", "yolo-seg")  # text that does not say which picture it is of


@dataclass(frozen=True)
class Text:
    """Takes text piece by piece.

    put: takes a piece.  encoding: what it will be written in.
    """

    put: Callable[[str], None]
    encoding: str = "utf-8"

    def json(self, value: object, end: str = "\n") -> None:
        self.put(json_line(value, self.encoding) + end)


@dataclass(frozen=True)
class Sink:
    """Takes answers.  path: a file; None for standard output.  append: text goes to its end, piece by piece."""

    path: Path | None
    append: bool = False

    def write(self, data: bytes) -> None:
        """Write all of it or nothing: nobody ever reads half a mask."""
        if self.path is None:
            console.binary(data)
        else:
            files.write(self.path, data)

    @contextmanager
    def text(self) -> Iterator[Text]:
        """For text: a pipe gets each piece at once, a file appears whole."""
        if self.path is None:
            yield Text(console.text, console.encoding)
        else:
            with (files.appending if self.append else files.stream)(self.path) as out:

                def put(piece: str) -> None:
                    out.write(piece.encode())
                    out.flush()

                yield Text(put)
