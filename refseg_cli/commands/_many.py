"""`refseg predict` on many pictures: each phrase is asked of each; a broken picture is named and stops no other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from refseg_cli.commands._forms import Asked
from refseg_cli.commands._output import STDIO
from refseg_cli.console import console
from refseg_cli.data.remote import is_url
from refseg_cli.errors import ERROR, FOUND, NO_TARGET, RefsegError
from refseg_cli.progress import silent

if TYPE_CHECKING:
    import numpy as np


Read = Callable[[str], tuple[str, "np.ndarray"]]  # the argument -> what to call it, and its pixels (3, h, w)
AHEAD = 2  # pictures that are decoded while one is answered


def read_phrases(file: Path) -> list[str]:
    """One on each line; blank lines are passed over.

    Raises:
        RefsegError: it cannot be read, is not UTF-8, or holds none.
    """
    try:
        found = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RefsegError(f"{file}: cannot read phrases: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise RefsegError(f"{file}: holds no phrase", hint="write one on each line")
    return found


def expand(names: Sequence[str], endings: Sequence[str], *, recursive: bool) -> list[str]:
    """The pictures that are named, a folder standing for those in it in alphabetical order.

    endings: of pictures.  recursive: those in its folders too.

    Raises:
        RefsegError: a folder without any, or standard input more than once.
    """
    found: list[str] = []
    for name in names:
        if name == STDIO or is_url(name) or not Path(name).is_dir():
            found.append(name)
            continue
        inside = Path(name).rglob("*") if recursive else Path(name).iterdir()
        pictures = sorted(str(p) for p in inside if p.suffix.lower() in endings and p.is_file())
        if not pictures:
            raise RefsegError(
                f"{name}: no pictures in this folder", hint=None if recursive else "--recursive looks below"
            )
        found += pictures
    if found.count(STDIO) > 1:
        raise RefsegError("- reads one picture from standard input", hint="name it once")
    return found


def each(pictures: Sequence[str], read: Read, take: Callable[[Asked], bool]) -> int:
    """Have every picture answered, and give the exit status.

    take: says whether anything is found.
    """
    exists, broken = False, 0
    with console.progress() if len(pictures) > 1 else nullcontext(silent) as progress:
        for done, (picture, loaded) in enumerate(_ahead(pictures, read), start=1):
            try:
                name, pixels = loaded()
            except RefsegError as error:
                console.error(error)
                broken += 1
            else:
                exists |= take(Asked(picture, name, pixels))
            progress("predict", done, len(pictures))
    if broken:
        console.error(f"{broken} of {len(pictures)} pictures could not be read")
        return ERROR
    return FOUND if exists else NO_TARGET


def _ahead(pictures: Sequence[str], read: Read) -> Iterator[tuple[str, Callable[[], tuple[str, np.ndarray]]]]:
    """The pictures in their order, each with what gives it, while the next ones are being decoded."""
    if len(pictures) == 1:
        yield pictures[0], partial(read, pictures[0])
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[str, Callable[[], tuple[str, np.ndarray]]]] = deque()
        try:
            for picture in pictures:
                waiting.append((picture, pool.submit(read, picture).result))
                if len(waiting) > AHEAD:
                    yield waiting.popleft()
            yield from waiting
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
