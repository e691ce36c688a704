"""Local files and folders that appear whole or not at all, without pyarrow's start-up time; JSON from anywhere.

What a name stands for is respected: links are followed, a file's mode is kept, and what is no regular file (a device, a
FIFO, standard output by its name) is written to, never replaced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from refseg_cli.errors import RefsegError

_PART = re.compile(r"\..*-[0-9a-f]{8}\.part", re.DOTALL)
_KEPT = 40  # characters of a file's own name in that of its part: a name has at most 255 bytes
_LONGEST = 80  # bytes of a phrase in a file's name, which has at most 255
_STANDARD = {"/dev/stdout": "/dev/fd/1", "/dev/stderr": "/dev/fd/2"}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write to, which becomes `path` when the block ends well, and vanishes otherwise.

    It lies beside the file, so that it takes its place in one step; for what is no regular file it lies elsewhere and
    is copied at the end.

    Raises:
        RefsegError: the folder or the file cannot be written.
    """
    with _explained(path):
        if is_special(path):
            import tempfile  # with all that it imports, a fiftieth of the time of a cold predict

            with _through(path) as out, tempfile.TemporaryDirectory(prefix="refseg-") as folder:
                part = Path(folder) / "part"
                part.touch()
                yield part
                with part.open("rb") as made:
                    shutil.copyfileobj(made, out)
        else:
            with _beside(Path(os.path.realpath(path))) as part:
                yield part


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends well, and vanishes otherwise.

    Raises:
        RefsegError: it cannot be written.
    """
    new, old = (path.with_name(part_name(path.name)) for _ in range(2))
    try:
        with _explained(path):
            new.mkdir(parents=True)
            yield new
            if path.exists():
                path.rename(old)
            new.rename(path)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def stream(path: Path) -> Iterator[BinaryIO]:
    """As `whole`, for what is written piece by piece: a FIFO's reader sees each as soon as it is flushed.

    Raises:
        RefsegError: the folder or the file cannot be written.
    """
    with _explained(path):
        if is_special(path):
            with _through(path) as out:
                yield out
        else:
            with whole(path) as part, part.open("wb") as out:
                yield out


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """The file, to write behind what it holds; made if need be.

    Raises:
        RefsegError: the folder or the file cannot be written.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as out:
            yield out


def write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        RefsegError: it cannot be written.
    """
    with whole(path) as part:
        part.write_bytes(data)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text from anywhere says.

    Raises:
        ValueError: not JSON, or nested more deeply than Python follows.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_own_json(text: str | bytes) -> Any:
    """What one of our own files says, which can be written again: "\\ud800", half of a pair, is no text.

    Raises:
        ValueError: as `parse_json`, or a text in it is no Unicode.
    """
    found = parse_json(text)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def part_name(name: str) -> str:
    """A name for the unfinished file of that name: hidden, its own in every process, matched by no `*.parquet`."""
    return f".{name[:_KEPT]}-{os.urandom(4).hex()}.part"


def is_part(name: str) -> bool:
    """Whether `part_name` made this name: whoever did has been killed, or is still at work."""
    return _PART.fullmatch(name) is not None


def sweep(paths: Iterable[Path]) -> None:
    """Remove the parts that killed processes left of these files."""
    begun: dict[Path, set[str]] = {}
    for path in paths:
        begun.setdefault(path.parent, set()).add(path.name[:_KEPT])
    for folder, names in begun.items():
        for left in folder.glob(".*.part"):
            if is_part(left.name) and left.name[1 : -len("-01234567.part")] in names:
                left.unlink(missing_ok=True)


def safe_name(text: str) -> str:
    """Letters and digits of any script, the rest as single dashes: a part of a file's name, wherever it lies."""
    kept = "".join(
        c if unicodedata.category(c)[0] in "LMN" else " " for c in unicodedata.normalize("NFC", text.lower())
    )
    cut = "-".join(kept.split()).encode()[:_LONGEST].decode(errors="ignore")
    return cut.rstrip("-") or "phrase"


def refuse_existing(output: Path) -> None:
    """An output that would replace a file.

    Raises:
        RefsegError: there is one; not for a device or a FIFO, which is written to.
    """
    if output.exists() and not is_special(output):
        raise RefsegError(f"{output}: is there already", hint="--force replaces it")


def refuse_input(output: Path, source: Path | int) -> None:
    """An output that would replace what is read.

    source: a file, or the number of an open one.

    Raises:
        RefsegError: both are the same regular file, by whatever names.
    """
    with suppress(OSError):  # one of them is not there
        one, other = output.stat(), os.stat(source)  # noqa: PTH116 - of an open file, too
        if stat.S_ISREG(one.st_mode) and os.path.samestat(one, other):
            raise RefsegError(f"{output}: is the input, and would be overwritten", hint="name another output")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new file in the folder of `path`, which takes its name, and the owner and mode of the one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.stat() if path.exists() else None
    part = path.with_name(part_name(path.name))
    # A new file's mode is the umask's. The part of a private one must not be open to others either.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if there else 0o666))
    try:
        yield part
        if there:
            with suppress(PermissionError):  # only root gives files away
                os.chown(part, there.st_uid, there.st_gid)
            part.chmod(stat.S_IMODE(there.st_mode))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _through(path: Path) -> Iterator[BinaryIO]:
    """What is there, opened: a device or a FIFO, at once, so that its reader hears of a failure."""
    own = _own_descriptor(path)
    with os.fdopen(os.open(path, os.O_WRONLY) if own is None else os.dup(own), "wb") as out:
        yield out


def is_special(path: Path) -> bool:
    """Whether the name stands for something that is no regular file, links followed.

    Our own descriptors do, even if the shell sends them into one: what else is written there must neither be lost nor
    come in another order.
    """
    if _own_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise RefsegError(f"{path}: cannot write: it is a folder", hint="name a file in it")
    return not stat.S_ISREG(mode)


def _own_descriptor(path: Path) -> int | None:
    """The number of our own open file that `path` is a name of, as /dev/stdout and /dev/fd/3 are."""
    found = _DESCRIPTOR.fullmatch(_STANDARD.get(str(path), str(path)))
    return int(found[1]) if found else None


def file_in_the_way(path: Path) -> Path | None:
    """The path itself or the folder above it that is a file, where a folder has to be; None if none is."""
    return next((one for one in (path, *path.parents) if one.exists() and not one.is_dir()), None)


def unwritable(path: Path, error: OSError) -> RefsegError:
    """What is said of a file or folder that could not be written."""
    file = file_in_the_way(path) if isinstance(error, FileExistsError | NotADirectoryError) else None
    if file is not None:
        return RefsegError(f"{path}: cannot write: {file} is a file, not a folder", hint="choose another place")
    return RefsegError(f"{path}: cannot write: {error.strerror or error}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error
