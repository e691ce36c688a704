"""Pickles from the internet, read without running anything that is in them.

A pickle is a program that may call any function it names. Here it may name none but the makers of plain containers and
of numpy's numbers, and these are ours. What a program makes is bounded, too: whatever it does, reading takes time and
memory in proportion to the file.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, ClassVar

from refseg_cli.data.sources import plain_pickles
from refseg_cli.data.sources.downloads import recognised
from refseg_cli.data.sources.values import levels
from refseg_cli.errors import RefsegError

MAX_BYTES = 1 << 30  # the largest file of the family has 50 MB
MAX_DEPTH = 32  # the rows of the family are five containers deep
MAX_ITEMS_PER_BYTE = 8  # what is spelled out has less than one; more come of containers that are held again and again
# Python salts the hashes of strings, not those of numbers, so numbers can be chosen to collide. Among so few that costs
# no more than reading them does.
MAX_NUMBER_KEYS = 100

_TEXT_KEYS = frozenset({str, bytes})
_TEXT = tuple(_TEXT_KEYS)  # for isinstance; `str | bytes` would be made anew for each value
_KEYS = _TEXT_KEYS | {int, float, bool, type(None)}
_SEQUENCES = frozenset({list, tuple, set, frozenset})
_NOTHING = object()  # what was never remembered


class Refused(Exception):
    """The pickle asks for something that is no plain data, or for more of it than it holds."""


class _Stop(Exception):
    """The program has come to its end."""


@dataclass(slots=True)
class _Dtype:
    """Stands in for numpy.dtype.  code: as in ``dtype("i8")``.  order: as `struct` writes it."""

    code: str
    order: str = "<"


# numpy's codes of numbers -> those of `struct`
_NUMBERS = {
    **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"},
}
_ORDERS = {"<": "<", "|": "<", "=": "=", ">": ">"}


class Unpickler(pickle._Unpickler):
    """The one in Python, though it is three times slower: the one in C takes memory for the number that a PUT names, so
    that six bytes can take all there is.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    makers: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {}  # of this module: at its end
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: IO[bytes], size: int) -> None:
        """size: of the file, in bytes."""
        super().__init__(file, encoding="latin1")
        # Frames, which tell how much to read at a time, are passed over.
        self.read, self.readline = file.read, file.readline
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        # A list, since a dict's keys would be numbers of the file's choice.
        self.memo: list[Any] = []
        self._size = self._left = size

    def load(self) -> Any:
        read, dispatch = self.read, self.dispatch
        try:
            while code := read(1):
                dispatch[code[0]](self)
        except _Stop:
            return self.stack.pop()
        raise EOFError("truncated")

    def load_stop(self) -> None:
        raise _Stop

    def load_frame(self) -> None:
        self.read(8)

    # Keys and members are looked at before they are hashed: hashing a tuple goes through all that it holds, each time
    # that it holds it.

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        table = self._table()
        if type(key) is not str:
            _check_keys([key], table)
        table[key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _fill(self._table(), items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        _fill(self.stack[-1], items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(_frozenset(items))

    def load_additems(self) -> None:
        items, members = self.pop_mark(), self.stack[-1]
        if type(members) is not set:
            raise pickle.UnpicklingError("members of what is no set")
        _check_keys(items, members)
        members.update(items)

    def _table(self) -> dict[Any, Any]:
        """The dict on top of the stack."""
        table = self.stack[-1]
        if not isinstance(table, dict):
            raise pickle.UnpicklingError("keys of what is no dict")
        return table

    # What was remembered; picklers number it as it comes, though some leave numbers out

    def load_memoize(self) -> None:
        self.memo.append(self.stack[-1])

    def load_binput(self) -> None:
        self._put(self.read(1)[0])

    def load_long_binput(self) -> None:
        number = int.from_bytes(self.read(4), "little")
        if number == len(self.memo):
            self.memo.append(self.stack[-1])
        else:
            self._put(number)

    def load_put(self) -> None:
        self._put(int(self.readline()))

    def _put(self, number: int) -> None:
        if not 0 <= number <= self._size:
            raise pickle.UnpicklingError(f"remembers more than {self._size} things in as many bytes")
        missing = number + 1 - len(self.memo)
        if missing > 0:
            self.memo.extend([_NOTHING] * missing)
        self.memo[number] = self.stack[-1]

    def load_get(self) -> None:
        number = int(self.readline())
        if number < 0:
            raise pickle.UnpicklingError(f"memo {number}")
        self.append(self.memo[number])

    # Calls: of our makers only, and with no more than the file spells out

    def find_class(self, module: str, name: str) -> Any:
        if module == "__builtin__":  # Python 2's name of it, in protocols that are not translated
            module = "builtins"
        if (module, name) not in self.makers:
            raise Refused(f"asks for {_printable(f'{module}.{name}')}")
        return self.makers[module, name]

    def load_reduce(self) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or maker not in self.makers.values():
            raise pickle.UnpicklingError("a call of what is no function")
        # An argument that is remembered could be copied again and again.
        self._left -= len(arguments) + sum(len(a) for a in arguments if type(a) in (*_SEQUENCES, str, bytes))
        if self._left < 0:
            raise Refused("makes more than it holds")
        self.append(maker(*arguments))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        # numpy's state of a dtype: (version, order, ...)
        if type(made) is not _Dtype or type(state) is not tuple or type(state[1]) is not str:
            raise Refused("gives an object a state of its own")
        made.order = _ORDERS[state[1]]

    def load_inst(self) -> None:
        self.find_class(self.readline()[:-1].decode(), self.readline()[:-1].decode())
        self._load_object()

    def _load_object(self) -> None:
        raise Refused("asks for an object, an extension or a buffer")

    for _code in (
        *(pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.BINPERSID),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        dispatch[_code[0]] = _load_object
    for _code, _load in {
        pickle.STOP: load_stop,
        pickle.FRAME: load_frame,
        pickle.SETITEM: load_setitem,
        pickle.SETITEMS: load_setitems,
        pickle.DICT: load_dict,
        pickle.FROZENSET: load_frozenset,
        pickle.ADDITEMS: load_additems,
        pickle.MEMOIZE: load_memoize,
        pickle.BINPUT: load_binput,
        pickle.LONG_BINPUT: load_long_binput,
        pickle.PUT: load_put,
        pickle.GET: load_get,
        pickle.REDUCE: load_reduce,
        pickle.BUILD: load_build,
        pickle.INST: load_inst,
    }.items():
        dispatch[_code[0]] = _load


def _check_keys(keys: Collection[Any], container: Collection[Any] = ()) -> None:
    """Refuse keys (or members) of `container` that hold others, or could be made to collide."""
    kinds = set(map(type, keys))
    if kinds <= _TEXT_KEYS:
        return
    for kind in kinds - _KEYS:
        raise Refused(f"has a {kind.__name__} as a key or as a member of a set")
    if len(container) + len(keys) > MAX_NUMBER_KEYS:
        raise Refused(f"has a number as a key or as a member among more than {MAX_NUMBER_KEYS}")


def _fill(table: dict[Any, Any], items: list[Any]) -> None:
    """Add items in the order key, value, key, value, ..."""
    keys = items[::2]
    _check_keys(keys, table)
    table.update(zip(keys, items[1::2], strict=True))


def _set(items: Any = ()) -> set[Any]:
    return set(_members(items))


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_members(items))


def _members(items: Any) -> Any:
    if type(items) not in _SEQUENCES:
        raise pickle.UnpicklingError("a set of what is no sequence")
    _check_keys(items)
    return items


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    if type(pairs) not in _SEQUENCES or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise pickle.UnpicklingError("an OrderedDict of what are no pairs")
    table: OrderedDict[Any, Any] = OrderedDict()
    _fill(table, list(chain.from_iterable(pairs)))
    return table


def _bytes_from_latin1(text: Any, encoding: Any) -> bytes:
    """What `_codecs.encode` does for bytes in pickles of protocol 2 and below, and nothing else."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused(f"asks for _codecs.encode to {_printable(encoding)}")
    return text.encode("latin1")


def _dtype(code: Any, *_: Any) -> _Dtype:
    if type(code) is not str or code not in _NUMBERS:
        raise Refused(f"asks for numpy.dtype {_printable(code)}, which is no number")
    return _Dtype(code)


def _scalar(dtype: Any, data: Any) -> Any:
    """The plain number that a numpy scalar was.  data: its bytes, which come from Python 2 as latin-1."""
    if type(dtype) is not _Dtype or type(data) not in (str, bytes):
        raise pickle.UnpicklingError("a scalar without a type")
    [number] = struct.unpack(dtype.order + _NUMBERS[dtype.code], data.encode("latin1") if type(data) is str else data)
    return number


Unpickler.makers = {
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _frozenset,
    ("collections", "OrderedDict"): _ordered_dict,
    ("_codecs", "encode"): _bytes_from_latin1,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,  # of numpy 1
    ("numpy._core.multiarray", "scalar"): _scalar,
}


def read(path: Path) -> Any:
    """The plain data in a pickle of protocol 0 to 5; strings of Python 2 come as str, read as latin-1 (see `text`).

    Raises:
        RefsegError: no such file, damaged, too large, or it asks for what is no plain data.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RefsegError(f"{path}: too large: {size} bytes", hint=f"at most {MAX_BYTES} are read")
        data = path.read_bytes()
    except OSError as error:
        raise RefsegError(f"{path}: {error.strerror}") from error
    try:
        value = plain_pickles.load(data)
        if value is None:
            value = Unpickler(io.BytesIO(data), len(data)).load()
        check_shape(value, len(data))
        return value
    except Exception as error:
        # A damaged pickle can fail in any way; none of what it holds has run.
        raise recognised(path, data, form="pickle", otherwise=unread(path, error)) from error


def check_shape(value: Any, size: int) -> None:
    """Refuse what is too deep, or too large for a file of `size` bytes, for those who go through all of it."""
    items = 0
    for depth, level in enumerate(levels(value)):
        items += sum(map(len, level))
        if depth == MAX_DEPTH:
            raise Refused(f"nests more than {MAX_DEPTH} containers")
        if items > MAX_ITEMS_PER_BYTE * size:
            raise Refused("makes more than it holds")


def unread(path: Path | str, error: Exception) -> RefsegError:
    """What to say of a pickle that failed with `error`."""
    if isinstance(error, Refused):
        hint = "only lists, dicts, sets, strings and numbers are read; a file that asks for more may be an attack"
        return RefsegError(f"{path}: refused: the pickle {error}", hint=hint)
    return RefsegError(f"{path}: damaged pickle: {type(error).__name__}: {str(error)[:200]}")


def rows(value: list[Any] | tuple[Any, ...]) -> Iterator[Any]:
    """References as JSON would have them: keys and strings as `str`.

    They are bytes if somebody saved the file again under another Python.
    """
    for row in value:
        if not isinstance(row, dict):
            yield row
            continue
        plain = _plain(row)
        if isinstance(plain.get("sentences"), list | tuple):
            plain["sentences"] = [_plain(s) if isinstance(s, dict) else s for s in plain["sentences"]]
        yield plain


def _plain(row: dict[Any, Any]) -> dict[Any, Any]:
    return {_as_text(key): value if type(value) is int else _as_text(value) for key, value in row.items()}


def _as_text(value: Any) -> Any:
    if type(value) is str and value.isascii():  # nearly always
        return value
    return text(value) if isinstance(value, _TEXT) else value


def text(value: str | bytes) -> str:
    """A string of a pickle as text: Python 2's bytes came through as latin-1, though most of them are UTF-8."""
    if isinstance(value, bytes):
        value = value.decode("latin1")
    if value.isascii():
        return value
    try:
        return value.encode("latin1").decode("utf-8")
    except UnicodeError:
        return value


def _printable(name: Any) -> str:
    """What the file gives for a name, fit for a line of a message."""
    if type(name) is not str:
        return f"a {type(name).__name__}"
    return name[:80] if name.isascii() and name[:80].isprintable() else ascii(name[:80])
