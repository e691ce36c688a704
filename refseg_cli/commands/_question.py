"""What `refseg predict` is asked of which pictures, and how a picture is read."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from refseg_cli.commands._given import unread
from refseg_cli.commands._many import expand, read_phrases
from refseg_cli.commands._output import STDIO
from refseg_cli.commands._places import name_of
from refseg_cli.commands._predict_clips import VIDEOS
from refseg_cli.errors import RefsegError, quoted

if TYPE_CHECKING:
    import numpy as np

# Endings that no phrase has.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".jxl")


@dataclass(frozen=True)
class Question:
    """many: whether pictures were named as such, so that a broken one does not stop the others."""

    pictures: list[str]
    phrases: list[str]
    many: bool

    def expanded(self, *, recursive: bool) -> Question:
        """With the pictures that folders hold in their place."""
        if self.many:
            return replace(self, pictures=expand(self.pictures, PICTURES, recursive=recursive))
        if Path(self.pictures[0]).is_dir():
            raise RefsegError(f"{self.pictures[0]}: a folder", hint="name phrases with -p PHRASE")
        if unread({"--recursive": recursive}):
            raise RefsegError("--recursive is for folders of images", hint="name phrases with --phrase")
        return self

    def only_one(self) -> str:
        if len(self.pictures) > 1:
            raise RefsegError("one clip at a time", hint="call refseg once for each")
        return self.pictures[0]


def question_of(image: str | None, rest: Sequence[str], phrases: Sequence[str], file: Path | None) -> Question:
    """What is asked of what: by --phrase and --phrases of all arguments, else by the others of the first."""
    asked = [*phrases, *(read_phrases(file) if file else [])]
    if image is None or not (asked or rest):
        raise RefsegError("predict needs an image and a phrase", hint="refseg predict IMAGE PHRASE..., or --demo")
    if asked:
        _check(asked)
        return Question([image, *rest], asked, True)
    _check(rest)
    return Question([image], list(rest), False)


def _check(phrases: Sequence[str]) -> None:
    """That each is a phrase: what names a picture would be answered as one, and nobody would notice."""
    from refseg_cli.segmenters.base import check_phrases

    check_phrases(phrases)
    for phrase in phrases:
        if os.path.isfile(phrase) or Path(phrase).suffix.lower() in (*PICTURES, *VIDEOS):  # noqa: PTH113 - never raises
            raise RefsegError(
                f"{quoted(phrase)}: a file, not a phrase",
                hint="name images before -p PHRASE; a phrase that does read like this may end with a space",
            )


def read_picture(image: str, *, max_pixels: int | None) -> tuple[str, np.ndarray]:
    """What to call the image, and its pixels (3, h, w)."""
    from refseg_cli.data.formats import MAX_PIXELS
    from refseg_cli.data.pictures import read_pixels
    from refseg_cli.data.remote import is_url, read_url

    limit = max_pixels or MAX_PIXELS
    source: Path | bytes
    if image == STDIO:
        source = _stdin()
    else:
        source = read_url(image, max_pixels=limit) if is_url(image) else Path(image)
    return name_of(image), read_pixels(source, name_of(image), max_pixels=limit)


def _stdin() -> bytes:
    """The image that comes down the pipe; nobody types one."""
    if sys.stdin is None:
        raise RefsegError("- reads an image from standard input, which is closed", hint="refseg predict - ... < IMAGE")
    if sys.stdin.isatty():
        raise RefsegError(
            "- reads an image from standard input, which is a terminal", hint="refseg predict - ... < IMAGE"
        )
    return sys.stdin.buffer.read()
