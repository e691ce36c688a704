"""`refseg predict` on many pictures: each phrase is asked of each; a broken picture is named and stops no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from refseg_cli.commands._forms import Asked, Write
from refseg_cli.commands._output import STDIO
from refseg_cli.console import console
from refseg_cli.data.remote import is_url
from refseg_cli.errors import ERROR, FOUND, NO_TARGET, RefsegError
from refseg_cli.progress import silent

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.segmenters.base import Found


Read = Callable[[str], tuple[str, "np.ndarray"]]  # the argument -> what to call it, and its pixels (3, h, w)
Ask = Callable[[Sequence[Asked]], Iterator[Iterator["Found"]]]  # of each picture, before the next one's
PICTURES_AHEAD, ANSWERS_AHEAD = 2, 2  # that are ready before they are needed: large, and more would gain nothing
T = TypeVar("T")


def read_phrases(file: Path) -> list[str]:
    """One on each line, whatever ends it; blank lines are passed over.

    Raises:
        RefsegError: it cannot be read, is not UTF-8, or holds none.
    """
    try:
        found = [line.strip() for line in file.read_text("utf-8-sig").split("\n") if line.strip()]
    except OSError as error:
        raise RefsegError(f"{file}: cannot read phrases: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RefsegError(f"{file}: not UTF-8 text", hint="save the phrases as UTF-8") from error
    if not found:
        raise RefsegError(f"{file}: holds no phrase", hint="write one on each line")
    return found


def expand(names: Sequence[str], endings: Sequence[str], *, recursive: bool) -> list[str]:
    """The pictures that are named, a folder standing for those in it in alphabetical order.

    What is called like a picture and is none, such as a link to nowhere, and folders that cannot be looked into are
    among them: reading them says what is wrong.

    endings: of pictures.  recursive: those in its folders too.

    Raises:
        RefsegError: a folder without any, or standard input more than once.
    """
    found: list[str] = []
    for name in names:
        if name == STDIO or is_url(name) or not Path(name).is_dir():
            found.append(name)
            continue
        pictures = sorted(_inside(Path(name), endings, recursive=recursive))
        if not pictures:
            raise RefsegError(
                f"{name}: no pictures in this folder", hint=None if recursive else "--recursive looks below"
            )
        found += pictures
    if found.count(STDIO) > 1:
        raise RefsegError("- reads one picture from standard input", hint="name it once")
    return found


def _inside(folder: Path, endings: Sequence[str], *, recursive: bool) -> Iterator[str]:
    closed: list[str] = []
    for where, below, names in os.walk(folder, onerror=lambda error: closed.append(str(error.filename))):
        called = (Path(where) / name for name in names if Path(name).suffix.lower() in endings)
        yield from (str(path) for path in called if path.is_file() or path.is_symlink())
        if not recursive:
            below.clear()
    yield from closed


def each(
    pictures: Sequence[str], read: Read, ask: Ask, write: Write, *, until_found: bool = False, batch_images: int = 1
) -> int:
    """Have every picture answered, and give the exit status.

    While answers are being written the model is at the next ones, and the pictures after these are being decoded.

    until_found: of each picture, nothing is asked any more once something is found.
    batch_images: pictures that are asked about together.
    """
    stream = answers_about(pictures, read, ask, until_found=until_found, batch_images=batch_images)
    return report(stream, len(pictures), write)


Item = tuple["Asked | RefsegError", "Found | None"]


def answers_about(
    pictures: Sequence[str], read: Read, ask: Ask, *, until_found: bool, batch_images: int
) -> Generator[Item]:
    """Each answer with its picture, and behind a picture's last one nothing; an error with nothing."""
    loaded = _loaded(pictures, read)
    if len(pictures) < 2:
        return _answered(loaded, ask, until_found, 1)
    loaded = ahead(loaded, max(PICTURES_AHEAD, batch_images))
    return ahead(_answered(loaded, ask, until_found, batch_images), max(ANSWERS_AHEAD, batch_images))


def report(stream: Generator[Item], count: int, write: Write | None) -> int:
    """Write the answers about `count` pictures, name those that cannot be read, and give the exit status.

    write: None where that was done.
    """
    exists, broken, several = False, 0, count > 1

    def watched(answers: Iterable[Item]) -> Iterator[Found]:
        nonlocal exists
        for _, found in answers:
            if found is None:  # rather than wait for the next picture's
                return
            exists |= found.exists
            yield found

    with closing(stream), console.progress() if several else nullcontext(silent) as progress:
        for done, (asked, answers) in enumerate(groupby(stream, key=itemgetter(0)), start=1):
            if isinstance(asked, RefsegError):
                console.error(asked)
                broken += 1
            elif write is None:
                list(watched(answers))
            else:
                write(asked, watched(answers))
            progress("predict", done, count)
    if broken:
        console.error(f"{broken} of {count} pictures could not be read")
        return ERROR
    return FOUND if exists else NO_TARGET


def _loaded(pictures: Iterable[str], read: Read) -> Generator[Asked | RefsegError]:
    """Each picture, or why it cannot be read."""
    for picture in pictures:
        try:
            yield Asked(picture, *read(picture))
        except RefsegError as error:
            yield error


def _answered(
    loaded: Generator[Asked | RefsegError], ask: Ask, until_found: bool, batch_images: int
) -> Generator[Item]:
    with closing(loaded):
        while batch := list(islice(loaded, batch_images)):
            answers = ask([asked for asked in batch if isinstance(asked, Asked)])
            for asked in batch:
                if isinstance(asked, Asked):
                    for found in next(answers):
                        yield asked, found
                        if until_found and found.exists:
                            break
                yield asked, None


def ahead(items: Generator[T], count: int) -> Generator[T]:
    """The items in their order, made in a thread of their own, at most `count` of them before they are asked for.

    What is raised there is raised here. When this is closed the thread stops behind the item that it is at.
    """
    import threading
    from queue import SimpleQueue

    made: SimpleQueue[tuple[bool, Any]] = SimpleQueue()  # whether it is an item, else what ended them
    room, stopped = threading.Semaphore(count), threading.Event()

    def make() -> None:
        end: BaseException | None = None
        try:
            with closing(items):
                while room.acquire() and not stopped.is_set():
                    made.put((True, next(items)))
        except StopIteration:
            pass
        except BaseException as error:
            end = error
        made.put((False, end))

    thread = threading.Thread(target=make)
    thread.start()
    try:
        while (got := made.get())[0]:
            room.release()
            yield got[1]
        if got[1]:
            raise got[1]
    finally:
        stopped.set()
        room.release()
        thread.join()
