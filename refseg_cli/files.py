"""Files that appear whole or not at all, on the local disk and without pyarrow's start-up time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from refseg_cli.errors import RefsegError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to. It takes that name when the block ends well, and vanishes otherwise.

    Raises:
        RefsegError: the folder or the file cannot be written.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise RefsegError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # no such folder: the error above says so
            part.unlink(missing_ok=True)
