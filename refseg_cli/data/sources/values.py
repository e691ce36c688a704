"""Single values of the raw files: ids, texts and how to name what is neither."""

from __future__ import annotations

import reprlib
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any

_CONTAINERS = frozenset({list, tuple, set, frozenset, dict, OrderedDict})
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


def whole(value: Any, name: str) -> int:
    """A whole number as shards can hold it; digits in a string and 3.0 are that, too.

    Args:
        name: what it is, for the message.

    Raises:
        ValueError: it is none, or needs more than 64 bits.
    """
    if type(value) is not int:
        value = _number(value, name)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{name} of {value.bit_length()} bits")
    return value


def _number(value: Any, name: str) -> int:
    if isinstance(value, float) and value.is_integer():  # infinity and NaN are not
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise ValueError(f"{name} {brief(value)}")


def string(value: Any, name: str) -> str:
    """A string, whatever is in it.

    Args:
        name: what it is, for the message.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} {brief(value)}")
    return value


def text(value: Any, name: str) -> str:
    """A string that can be written as UTF-8.

    Raises:
        ValueError: it is none.
    """
    value = string(value, name)
    if fault := fault_of(value):
        raise ValueError(f"{name} with {fault}")
    return value


def fault_of(text: str) -> str:
    """Why a string is no text; empty if it is one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a pair of UTF-16
        return f"a lone surrogate at character {error.start + 1}"
    where = text.find("\0")
    return f"a NUL at character {where + 1}" if where >= 0 else ""


def brief(value: Any) -> str:
    """A value of any kind and size, fit for a line of a message."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):  # Python prints no number of thousands of digits
        return f"a {type(value).__name__}"


def levels(value: Any) -> Iterator[list[Any]]:
    """The containers in a value, level by level, each as often as it is held; without end if one holds itself."""
    level = [value] if type(value) in _CONTAINERS else []
    while level:
        yield level
        held = chain.from_iterable(c.values() if isinstance(c, dict) else c for c in level)
        level = [c for c in held if type(c) in _CONTAINERS]


def deeper_than(value: Any, limit: int) -> bool:
    """Whether containers are nested more than `limit` deep."""
    return any(depth == limit for depth, _ in enumerate(levels(value)))
