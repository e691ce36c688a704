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

Format = Literal["png", "overlay", "cutout", "explain", "rle", "json"]
LINES = ("rle", "json")  # formats with a line for each phrase, all in one file; the others are pictures
STDIO = "-"
ENDINGS = {  # IMAGE.mask.png and so on
    "png": ".mask.png",
    "overlay": ".overlay.png",
    "cutout": ".cutout.png",
    "explain": ".explain.png",
    "rle": ".rle.jsonl",
    "json": ".jsonl",
}


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
    def lines(self) -> Iterator[Callable[[object], None]]:
        """Gives a function that writes an object as a line of JSON: a pipe gets it at once, a file appears whole."""
        if self.path is None:
            yield console.json
        else:
            with files.stream(self.path) as out:

                def write(value: object) -> None:
                    out.write(f"{json_line(value)}\n".encode())
                    out.flush()

                yield write


def sinks_for(image: str, count: int, format: Format, output: str | None) -> list[Sink]:
    """One sink for all lines of text (rle, json), or one for each of `count` pictures.

    Without `output`, lines go to standard output, and a picture goes down the pipe if there is one, else to
    IMAGE.mask.png in the current folder; with --quiet it goes nowhere, as the exit status is the answer. Several
    pictures get numbers: IMAGE.mask-1.png and so on. An `output` that is a folder, or ends with a slash, gets files of
    those names, and lines IMAGE.jsonl or IMAGE.rle.jsonl; any other names the file.

    Raises:
        RefsegError: several pictures for one pipe, a file name that promises something else than PNG, or the file that
            the image is read from.
    """
    if output is None and format not in LINES and console.quiet:
        return []
    if output == STDIO or (output is None and (format in LINES or not console.on_terminal())):
        _refuse_several(count, format)
        return [Sink(None)]
    file = _file(image, format, output)
    if format in LINES or count == 1:
        paths = [file]
    else:
        if files.is_special(file):
            _refuse_several(count, format)
        paths = [file.with_stem(f"{file.stem}-{n}") for n in range(1, count + 1)]
    for path in paths:
        files.refuse_input(path, 0 if image == STDIO else Path(image))
    return [Sink(path) for path in paths]


def _refuse_several(count: int, format: Format) -> None:
    if count > 1 and format not in LINES:
        raise RefsegError(f"{count} masks do not fit into one PNG", hint="give -o FOLDER/, or --format rle or json")


def _file(image: str, format: Format, output: str | None) -> Path:
    name = f"{'stdin' if image == STDIO else Path(image).stem}{ENDINGS[format]}"
    if output is None:
        return Path(name)
    file = Path(output) / name if Path(output).is_dir() or output.endswith("/") else Path(output)
    if format not in LINES and file.suffix.lower() not in ("", ".png"):
        raise RefsegError(f"{file}: masks are written as PNG", hint="name it .png, or use --format rle or json")
    return file
