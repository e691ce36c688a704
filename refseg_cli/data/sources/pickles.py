"""Pickles from the internet, read without running anything that is in them.

A pickle is a program that may call any function it names. Here it may name none but the makers of plain containers.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from refseg_cli.errors import RefsegError

MAX_BYTES = 1 << 30  # the largest file of the family has 50 MB


class Refused(Exception):
    """The pickle names something that is no plain container."""


def _bytes_from_latin1(text: str, encoding: str) -> bytes:
    """What `_codecs.encode` does for bytes in pickles of protocol 2 and below, and nothing else."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes_from_latin1,
}


class _Unpickler(pickle._Unpickler):
    """The one in Python, though it is three times slower: the one in C takes memory for the number that a PUT names, so
    that six bytes can take all there is. Bytearrays, made as long as they say before they are read, are refused too.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self) -> None:
        raise Refused("bytearray")

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        if module == "__builtin__":  # Python 2's name of it, in protocols that are not translated
            module = "builtins"
        if (module, name) not in _ALLOWED:
            raise Refused(f"{module}.{name}")
        return _ALLOWED[module, name]


def read(path: Path) -> Any:
    """The plain data in a pickle of protocol 0 to 5; strings of Python 2 come as str, read as UTF-8 if they are that.

    Raises:
        RefsegError: no such file, damaged, too large, or it names a class or function.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RefsegError(f"{path}: {size} bytes", hint=f"more than {MAX_BYTES} are not read")
        data = path.read_bytes()
    except OSError as error:
        raise RefsegError(f"{path}: {error.strerror}") from error
    try:
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Refused as error:
        raise RefsegError(
            f"{path}: refused: the pickle asks for {error}",
            hint="only lists, dicts, sets, strings and numbers are read; a file that asks for more may be an attack",
        ) from error
    except Exception as error:
        # A damaged pickle can fail in any way; none of what it holds has run.
        raise RefsegError(f"{path}: damaged pickle: {type(error).__name__}: {error}") from error


def text(value: Any) -> str:
    """A string of a pickle as text: Python 2's bytes came through as latin-1, though most of them are UTF-8.

    Raises:
        TypeError: it is no string.
    """
    if isinstance(value, bytes):
        value = value.decode("latin1")
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in place of a string")
    if value.isascii():
        return value
    try:
        return value.encode("latin1").decode("utf-8")
    except UnicodeError:
        return value
