"""Where the answers of `refseg predict` go: down a pipe, or into files with names that one can foresee."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refseg_cli.console import console
from refseg_cli.errors import RefsegError

Format = Literal["png", "overlay", "explain", "rle", "json"]
STDIO = "-"
ENDINGS = {"png": ".mask", "overlay": ".overlay", "explain": ".explain"}  # IMAGE.mask.png and so on


@dataclass(frozen=True)
class Sink:
    """Takes bytes. path: a file; None for standard output."""

    path: Path | None

    def write(self, data: bytes) -> None:
        """Write all of it or nothing: nobody ever reads half a mask."""
        from refseg_cli.files import whole

        if self.path is None:
            console.binary(data)
        else:
            with whole(self.path) as part:
                part.write_bytes(data)


def sinks_for(image: str, count: int, format: Format, output: str | None) -> list[Sink]:
    """One sink for all lines of text (rle, json), or one for each of `count` pictures.

    Without `output`, lines go to standard output, and a picture goes down the pipe if there is one, else to
    IMAGE.mask.png in the current folder; with --quiet it goes nowhere, as the exit status is the answer. Several
    pictures get numbers: IMAGE.mask-1.png and so on. An `output` that is a folder, or ends with a slash, gets files of
    those names; any other names the file.

    Raises:
        RefsegError: several pictures for one pipe, or a file name that promises something else than PNG.
    """
    if format in ("rle", "json"):
        return [Sink(None if output in (None, STDIO) else Path(str(output)))]
    if output is None and console.quiet:
        return []
    if output == STDIO or (output is None and not console.on_terminal()):
        if count > 1:
            raise RefsegError(f"{count} masks do not fit into one PNG", hint="give -o FOLDER/, or --format rle or json")
        return [Sink(None)]
    file = _picture_file(image, format, output)
    return [Sink(file)] if count == 1 else [Sink(file.with_stem(f"{file.stem}-{n}")) for n in range(1, count + 1)]


def _picture_file(image: str, format: Format, output: str | None) -> Path:
    stem = "stdin" if image == STDIO else Path(image).stem
    file = Path(f"{stem}{ENDINGS[format]}.png")
    if output is not None:
        is_folder = Path(output).is_dir() or output.endswith("/")
        file = Path(output) / file if is_folder else Path(output)
    if file.suffix not in ("", ".png"):
        raise RefsegError(f"{file}: masks are written as PNG", hint="name it .png, or use --format rle or json")
    return file
