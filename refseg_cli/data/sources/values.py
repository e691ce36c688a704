"""Single values of the raw files: ids, texts and how to name what is neither."""

from __future__ import annotations

import hashlib
import re
import reprlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Any

_CONTAINERS = frozenset({list, tuple, set, frozenset, dict, OrderedDict})
# "12.0" is what pandas writes of an id where others are missing. int() would take "2007_000063", too.
_DIGITS = re.compile(r"(-?[0-9]{1,19})(?:\.0)?")
_FLAGS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
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


def identifier(value: Any, name: str) -> int:
    """A number for an id of any kind: its own if it is a whole number, otherwise one made of its text.

    The same text has the same number everywhere, so that a picture of two files is known as one. It has 52 bits, which
    JavaScript's numbers hold, too: of a million ids two are alike with a chance of 1 in 9,000.

    Raises:
        ValueError: it is neither a number nor text.
    """
    if isinstance(value, str) and (plain := value.strip()):
        if found := _DIGITS.fullmatch(plain):
            return whole(found[1], name)
        return int.from_bytes(hashlib.sha256(text(plain, name).encode()).digest()[:8]) >> 12
    return whole(value, name)


def flag(value: Any, name: str) -> bool:
    """Yes or no, as a flag, as 0 or 1, or in words: to Python the text "0" is as true as any.

    Raises:
        ValueError: it is neither.
    """
    if type(value) in (bool, int) and 0 <= value <= 1:  # nearly always, three times an annotation
        return bool(value)
    said = _FLAGS.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None
    if said is None:
        raise ValueError(f"{name} {brief(value)} is neither true nor false")
    return said


def made_ids(given: Sequence[int | None]) -> list[int]:
    """The ids, and for each that is missing one of the numbers after the largest."""
    following = count(max((one for one in given if one is not None), default=-1) + 1)
    return [next(following) if one is None else one for one in given]


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
