"""Pictures behind URLs: whatever fsspec reads, which is imported for them alone."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from refseg_cli.errors import RefsegError, first_line

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
CHAIN = "::"  # fsspec's: zip://inside.jpg::https://host/file.zip


def is_url(name: str) -> bool:
    return _SCHEME.match(name) is not None or (CHAIN in name and "://" in name)


def read_url(url: str, *, max_pixels: int) -> bytes:
    """The bytes of a file.

    max_pixels: of the largest picture to read; a file of more bytes than it has decoded is none.

    Raises:
        RefsegError: no such file, not reached, too large, or a protocol that is unknown or needs another package.
    """
    import fsspec

    limit = 3 * max_pixels
    try:
        with fsspec.open(url, "rb") as file:
            data: bytes = file.read(limit + 1)
    except ImportError as error:
        raise RefsegError(f"{url}: cannot read the image: {_reason(error)}", hint="pip install it") from error
    except Exception as error:  # every protocol has errors of its own
        raise RefsegError(f"{url}: cannot read the image: {_reason(error)}", hint="check the URL") from error
    if len(data) > limit:
        raise RefsegError(f"{url}: a file of more than {limit / 1e9:.2g} GB", hint="--max-pixels raises the limit")
    return data


def path_of(url: str) -> PurePosixPath:
    """Where a URL's file lies on its host, the host first; without a query."""
    from urllib.parse import urlsplit

    parts = urlsplit(url.split(CHAIN, 1)[0])
    return PurePosixPath(f"{parts.netloc}/{parts.path}".lstrip("/"))


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        why = error.__cause__  # to fsspec a host out of reach and one that refuses have no such file, either
        if why is None or isinstance(why, FileNotFoundError) or getattr(why, "status", None) == 404:
            return "no such file"
        return first_line(why)
    return first_line(error)
