"""Where the answers of `refseg predict` go: down a pipe, or into files with names that one can foresee."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refseg_cli import files
from refseg_cli.console import console, json_line
from refseg_cli.errors import RefsegError

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
    """Takes answers. path: a file; None for standard output."""

    path: Path | None

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
            with files.stream(self.path) as out:

                def put(piece: str) -> None:
                    out.write(piece.encode())
                    out.flush()

                yield Text(put)


def sinks_for(image: str, count: int, format: Format, output: str | None) -> list[Sink]:
    """One sink for all text, or one for each of `count` pictures.

    Without `output`, text goes to standard output, and a picture goes down the pipe if there is one, else to
    IMAGE.mask.png in the current folder; with --quiet it goes nowhere, as the exit status is the answer. Several
    pictures get numbers: IMAGE.mask-1.png and so on. An `output` that is a folder, or ends with a slash, gets files of
    those names, and text IMAGE.jsonl or the like; any other names the file.

    Raises:
        RefsegError: several pictures for one pipe, a file name that promises something else than PNG, or the file that
            the image is read from.
    """
    drawn = format in DRAWN
    if output is None and drawn and console.quiet:
        return []
    if output == STDIO or (output is None and (not drawn or not console.on_terminal())):
        _refuse_several(count, format)
        return [Sink(None)]
    file = _file(image, format, output)
    if not drawn or count == 1:
        paths = [file]
    else:
        if files.is_special(file):
            _refuse_several(count, format)
        paths = [file.with_stem(f"{file.stem}-{n}") for n in range(1, count + 1)]
    for path in paths:
        files.refuse_input(path, 0 if image == STDIO else Path(image))
    return [Sink(path) for path in paths]


def is_folder(output: str | None) -> bool:
    return output is not None and (output.endswith("/") or Path(output).is_dir())


def _refuse_several(count: int, format: Format) -> None:
    if count > 1 and format in DRAWN:
        raise RefsegError(f"{count} masks do not fit into one PNG", hint="give -o FOLDER/, or --format json")


def _file(image: str, format: Format, output: str | None) -> Path:
    name = f"{'stdin' if image == STDIO else Path(image).stem}{ENDINGS[format]}"
    if output is None:
        return Path(name)
    file = Path(output) / name if is_folder(output) else Path(output)
    if format in DRAWN and file.suffix.lower() not in ("", ".png"):
        raise RefsegError(f"{file}: masks are written as PNG", hint="name it .png, or use --format rle or json")
    return file
