"""Files and folders behind a path or a URI: local disks by pyarrow, `s3://` and the like by pyarrow or fsspec.

A file that is written here appears whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from refseg_cli.errors import RefsegError, first_line
from refseg_cli.files import file_in_the_way, part_name, whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 20  # bytes read at a time


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or file.  uri: as the user wrote it, for messages."""

    uri: str
    files: fs.FileSystem
    path: str

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.uri.rstrip('/')}/{name}", self.files, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def is_local(self) -> bool:
        return isinstance(self.files, fs.LocalFileSystem)

    def parent(self) -> Place:
        return Place(self.uri, self.files, str(PurePosixPath(self.path).parent))

    def exists(self) -> bool:
        with _explained(self):
            return self.files.get_file_info(self.path).type == fs.FileType.File

    def is_folder(self) -> bool:
        with _explained(self):
            return self.files.get_file_info(self.path).type == fs.FileType.Directory

    def names(self) -> list[str]:
        """The files in this folder, sorted; none if there is no such folder."""
        if self.is_local:  # not by pyarrow, which fails at a name of other bytes than UTF-8, whosever it is
            with _explained(self), suppress(FileNotFoundError), os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
            return []
        with _explained(self):
            found = self.files.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    def open(self) -> pa.NativeFile:
        """For random access; a local file is mapped into memory.

        Raises:
            RefsegError: it cannot be opened.
        """
        with _explained(self):
            return pa.memory_map(self.path) if self.is_local else self.files.open_input_file(self.path)

    def read(self) -> bytes:
        with _explained(self), self.files.open_input_stream(self.path) as stream:
            return stream.read()

    def begins(self, count: int) -> bytes:
        """The file's first bytes, `count` at most."""
        with _explained(self), self.files.open_input_stream(self.path) as stream:
            return bytes(stream.read(count))

    def delete(self) -> None:
        with _explained(self):
            self.files.delete_file(self.path)

    def size(self) -> int:
        """Bytes of the file."""
        with _explained(self):
            return int(self.files.get_file_info(self.path).size or 0)

    def sha256(self) -> str:
        """Of the file's bytes, as hexadecimal digits."""
        digest = hashlib.sha256()
        with _explained(self), self.files.open_input_stream(self.path) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()


class Sink(io.RawIOBase):
    """A file-like object that counts and hashes what it passes on."""

    def __init__(self, stream: pa.NativeFile) -> None:
        super().__init__()
        self.stream = stream
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.stream.write(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True


def locate(uri: str | Path) -> Place:
    """The place that a path or URI names; nothing has to be there.

    Raises:
        RefsegError: no such kind of URI, or its storage cannot be reached; or it is empty, and names nothing.
    """
    text = str(uri)
    if not text:
        raise RefsegError("the name of a file or folder is empty", hint="a variable of the shell that is not set?")
    if "://" not in text:
        return Place(text, fs.LocalFileSystem(), str(Path(text).absolute()))
    try:
        files, path = fs.FileSystem.from_uri(text)
    except pa.ArrowInvalid:
        files, path = _by_fsspec(text)
    except (OSError, ValueError) as error:
        raise RefsegError(f"{text}: {first_line(error)}", hint="check the URI and the credentials") from error
    return Place(text, files, path)


def is_shared(place: Place) -> bool:
    """Whether another process sees the same files; fsspec's `memory://` lives in one."""
    return "memory" not in place.files.type_name


@contextmanager
def locked(folder: Place) -> Iterator[None]:
    """Keep a local folder, which is made if need be, from a second run until the block or its process ends.

    Other storage has no locks; what is written there appears whole, the later of two.

    Raises:
        RefsegError: another run has it, it is a file, or it cannot be made.
    """
    if folder.is_local and (file := file_in_the_way(Path(folder.path))):
        named = "" if file == Path(folder.path) else f"{file} "
        raise RefsegError(f"{folder.uri}: {named}is a file, not a folder", hint="choose another --out")
    if not folder.is_local or fcntl is None:
        yield
        return
    with _explained(folder):
        folder.files.create_dir(folder.path, recursive=True)
        handle = os.open(folder.path, os.O_RDONLY)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Place) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefsegError(
            f"{folder.uri}: another `refseg prepare` is writing here", hint="wait for it, or choose another --out"
        ) from None
    except OSError as error:  # NFS, Lustre and others have no locks on folders
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


@contextmanager
def writing(place: Place) -> Iterator[Sink]:
    """A stream for a new file, which appears under its name when the block ends, and never if the block fails.

    Raises:
        RefsegError: disk full, no permission or the like.
    """
    with whole(Path(place.path)) if place.is_local else _unfinished(place) as part, _explained(place):
        stream = place.files.open_output_stream(str(part))
        try:
            yield Sink(stream)
            stream.close()
        except BaseException:
            with suppress(OSError, ValueError):
                stream.close()
            raise


def write(place: Place, data: bytes) -> None:
    """Write a small file, whole or not at all."""
    with writing(place) as stream:
        stream.write(data)


@contextmanager
def _unfinished(place: Place) -> Iterator[str]:
    """`files.whole` for storage elsewhere: the path of a new file, moved to its place when the block ends well."""
    part = place.parent() / part_name(place.name)
    with _explained(place):
        place.files.create_dir(place.parent().path, recursive=True)
        try:
            yield part.path
            place.files.move(part.path, place.path)
        except BaseException:
            with suppress(OSError):
                place.files.delete_file(part.path)
            raise


def _by_fsspec(uri: str) -> tuple[fs.FileSystem, str]:
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise RefsegError(f"{uri}: {first_line(error)}", hint="a path, or a URI such as s3://bucket/folder") from error
    return fs.PyFileSystem(fs.FSSpecHandler(files)), path


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """What the storage complains of, in one line with the place's name."""
    try:
        yield
    except FileNotFoundError as error:
        raise RefsegError(f"{place.uri}: no such file or folder") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RefsegError(
                f"{place.uri}: disk full", hint="free some space or choose another folder; a rerun goes on from here"
            ) from error
        if place.is_local and os.path.isdir(place.path):  # noqa: PTH112 - no error of its own for a name that is too long
            raise RefsegError(f"{place.uri}: is a folder, not a file") from error
        raise RefsegError(f"{place.uri}: {first_line(error)}") from error
