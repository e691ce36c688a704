"""JSON files of annotations, read piece by piece: neither all their bytes nor all their text are held at once.

A piece ends where an object in an array may end. Whether it does, reading it tells: if brackets were left open before,
the one that is put behind the piece does not close them all.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from refseg_cli.data.sources.downloads import recognised
from refseg_cli.errors import RefsegError

BELOW_ROOT = "--root is the folder that holds refcoco/, grefcoco/ and the like"
CHUNK = 1 << 20  # bytes
TRIES = 3  # to end a piece, before objects are read one by one

# Polygons are most of the file, and only numbers and brackets, so quoting one makes it a string, which takes a quarter
# of the memory. `photos.drawn` reads the string, in whatever process makes the shard.
# Without \d and \s, which take twice the time in a set.
_SEGMENTATION = b'"segmentation"'
_POLYGONS = re.compile(_SEGMENTATION + rb"\s*:\s*(\[\s*\[[-+0-9.eE,\[\] \t\n\r\f\v]*\]\s*\])")
_TOKENS = b'"tokens"'
_SPACE = re.compile(r"[ \t\n\r]*")


def load_json(path: Path, *, hint: str | None = BELOW_ROOT) -> tuple[Any, str]:
    """A JSON file's value, with polygons as strings and sentences without their tokens, and the file's SHA-256.

    Args:
        hint: what to do if there is no such file.

    Raises:
        RefsegError: no such file, or not JSON.
    """
    try:
        with path.open("rb") as file:
            try:
                pieces = _Pieces(file)
                return pieces.value(), pieces.digest.hexdigest()
            except (ValueError, RecursionError):
                file.seek(0)
                data = file.read()
        return _whole(path, data), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise RefsegError(f"{path}: {error.strerror}", hint=hint) from error


def parse(text: str) -> Any:
    """What a JSON text says.

    By msgspec, in a quarter of the standard library's time. That reads what msgspec refuses, though JSON in Python has
    it (NaN, half of a surrogate pair), and says what is wrong.

    Raises:
        ValueError, RecursionError: not JSON, or nested more deeply than Python follows.
    """
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return json.loads(text)


def _whole(path: Path, data: bytes) -> Any:
    """What is not read in pieces: other encodings, values that are no containers, and what is broken.

    Raises:
        RefsegError: not JSON.
    """
    decoder = _decoder(_TOKENS in data)
    try:
        try:
            return decoder.decode(_text(_quoted(data)))
        except ValueError:  # perhaps what was quoted is the beginning of something deeper
            return decoder.decode(_text(data))
    except RecursionError as error:
        raise RefsegError(f"{path}: not JSON as annotations have it: nested too deeply") from error
    except ValueError as error:
        raise recognised(path, data, form="JSON", otherwise=RefsegError(f"{path}: not JSON: {error}")) from error


def _quoted(data: bytes) -> bytes:
    parts = _POLYGONS.split(data)
    parts[1::2] = [b'%b:"%b"' % (_SEGMENTATION, polygons) for polygons in parts[1::2]]  # quicker than a template
    return b"".join(parts)


def _text(data: bytes) -> str:
    return data.decode(json.detect_encoding(data), "surrogatepass")


def _decoder(has_tokens: bool) -> json.JSONDecoder:
    # Not strict: a polygon may go over several lines.
    return json.JSONDecoder(object_hook=_without_tokens if has_tokens else None, strict=False)


def _without_tokens(table: dict[str, Any]) -> dict[str, Any]:
    table.pop("tokens", None)
    return table


class _Pieces:
    """A file of UTF-8, of which the text that was read is let go.

    digest: of what was read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file, self._ended = file, False
        self._rest = b""  # what may belong to a polygon that goes on
        self._bytes_to_text = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        self._text, self._at = "", 0
        self._scan = _decoder(False).raw_decode
        self._has_tokens, self._tries = False, TRIES

    def value(self) -> Any:
        """The file's value.

        Raises:
            ValueError, RecursionError: it is not JSON, or must be read as a whole to tell.
        """
        found = self._table() if self._next() == "{" else self._array()
        if self._skip_space():
            raise ValueError("something behind the value")
        return found

    def _table(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        self._take("{")
        while self._next() != "}":
            if table:
                self._take(",")
            if self._next() != '"':
                raise ValueError("no key")
            key = self._one()
            self._take(":")
            table[key] = self._array() if self._next() == "[" else self._one()
        self._take("}")
        return _without_tokens(table)

    def _array(self) -> list[Any]:
        found: list[Any] = []
        self._take("[")
        while self._next() != "]":
            if found:
                self._take(",")
                self._next()
            found += self._several() or [self._one()]
        self._take("]")
        return found

    def _several(self) -> list[Any]:
        """The next items of an array, as far as their text is there; none if it is not told where one ends."""
        end = len(self._text)
        for _ in range(self._tries):
            end = self._text.rfind("},", self._at, end)
            if end < 0:
                return []
            text = f"[{self._text[self._at : end + 1]}]"
            try:
                items, past = self._quick(text) or self._scan(text, 0)
            except ValueError:
                continue
            self._at += past - 2  # the bracket before it is none of the text's, and the one that ends it is not taken
            return list(items)
        self._tries = 0  # or each object of this kind would be read in vain with all that follow it
        return []

    def _quick(self, text: str) -> tuple[Any, int] | None:
        """The items and where they end, if the text ends there; None if it may be before, or msgspec refuses it."""
        try:
            return None if self._has_tokens else (msgspec.json.decode(text), len(text))
        except ValueError:
            return None

    def _one(self) -> Any:
        """The value that begins here."""
        amount = CHUNK
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except ValueError:
                pass
            else:
                if end < len(self._text) or self._ended:  # a number may go on
                    self._at = end
                    return value
            if self._ended:
                raise ValueError("no value")
            self._read_on(amount)
            amount *= 2  # so that what is read in vain is no more than what is read

    def _take(self, mark: str) -> None:
        if self._next() != mark:
            raise ValueError(f"no {mark}")
        self._at += 1

    def _next(self) -> str:
        """The next character that is no space.

        Raises:
            ValueError: there is none.
        """
        if not self._skip_space():
            raise ValueError("the end")
        return self._text[self._at]

    def _skip_space(self) -> bool:
        """Whether something follows it."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return True
            if self._ended:
                return False
            self._read_on(CHUNK)

    def _read_on(self, amount: int) -> None:
        chunk = self._file.read(max(amount, len(self._rest)))
        self.digest.update(chunk)
        data = self._rest + chunk
        if not self._has_tokens and _TOKENS in data:
            self._has_tokens, self._scan = True, _decoder(True).raw_decode
        self._ended = not chunk
        end = len(data)
        if chunk:  # whatever begins with the key is whole, or left for the next time
            last = data.rfind(_SEGMENTATION)
            end = last if last >= 0 else max(0, end - len(_SEGMENTATION))
        ready, self._rest = data[:end], data[end:]
        text = self._bytes_to_text.decode(_quoted(ready), not chunk)
        self._text, self._at = self._text[self._at :] + text, 0
