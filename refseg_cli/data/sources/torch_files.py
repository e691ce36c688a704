"""What `torch.save` wrote of plain data and NumPy's masks, read without running anything that is in it.

Such a file is a zip archive, whose `data.pkl` is a pickle. Files of predictions have gigabytes of pixels, so each mask
becomes run lengths as soon as it is read, and its pixels are gone.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import IO, Any, ClassVar

import numpy as np

from refseg_cli.data import masks, storage
from refseg_cli.data.sources import pickles
from refseg_cli.data.sources.pickles import Refused
from refseg_cli.errors import RefsegError
from refseg_cli.records import Rle

LONG = 1 << 12  # a string or bytes from here on are pixels, of which nobody speaks twice
OF_A_BYTE = {"b1": np.bool_, "i1": np.int8, "u1": np.uint8}


@dataclass(slots=True)
class Mask:
    """Stands in for a numpy.ndarray of a byte each; `rle` is there once its pixels were read."""

    rle: Rle | None = None


def _array(*_: Any) -> Mask:
    return Mask()


def _remembering(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """To remember something, unless it is long: what is remembered is kept until the end."""

    def remember(self: _Unpickler) -> None:
        top = self.stack[-1]
        if _is_long(top) or (type(top) is tuple and any(map(_is_long, top))):
            self.stack[-1] = None
            load(self)
            self.stack[-1] = top
        else:
            load(self)

    return remember


def _is_long(value: Any) -> bool:
    return type(value) in (str, bytes) and len(value) > LONG


class _Unpickler(pickles.Unpickler):
    """Knows NumPy's arrays, too, as far as they are masks: (h, w) or (1, h, w), a byte for each pixel."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickles.Unpickler.dispatch)
    makers: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        **pickles.Unpickler.makers,
        ("numpy", "ndarray"): _array,  # only named, as the kind of what is made
        ("numpy.core.multiarray", "_reconstruct"): _array,  # of numpy 1
        ("numpy._core.multiarray", "_reconstruct"): _array,
    }

    def load_build(self) -> None:
        if type(self.stack[-2]) is not Mask:
            super().load_build()
            return
        state, made = self.stack.pop(), self.stack[-1]
        # numpy's state of an array: version, shape, dtype, whether the columns come first, bytes
        _, shape, dtype, by_columns, data = state
        if getattr(dtype, "code", None) not in OF_A_BYTE or type(data) is not bytes:
            raise Refused("has an array that is no mask: not of a byte for each pixel")
        if len(shape) != 2 + (len(shape) == 3 and shape[0] == 1) or prod(shape) != len(data):
            raise Refused("has an array that is no mask: not of height and width")
        pixels = np.frombuffer(data, OF_A_BYTE[dtype.code]).reshape(shape, order="F" if by_columns else "C")
        made.rle = masks.encode(pixels.reshape(shape[-2:]))

    dispatch[pickle.BUILD[0]] = load_build
    for _code in (pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE):
        dispatch[_code[0]] = _remembering(dispatch[_code[0]])


def read(uri: str) -> Any:
    """The plain data in a file of `torch.save`, with a `Mask` in place of each array.

    Raises:
        RefsegError: no such file, no archive, damaged, or it holds more than plain data and masks.
    """
    place = storage.locate(uri)
    try:
        with place.open() as stream, _archive(stream, uri) as archive:
            member = next((one for one in archive.infolist() if one.filename.endswith("/data.pkl")), None)
            if member is None:
                raise RefsegError(f"{uri}: no file of torch.save", hint="an archive without data.pkl")
            if member.compress_type != zipfile.ZIP_STORED:  # torch compresses nothing; a bomb would
                raise Refused("is compressed")
            with archive.open(member) as data:
                value = _Unpickler(data, member.file_size).load()
            pickles.check_shape(value, member.file_size)
            return value
    except RefsegError:
        raise
    except Exception as error:
        # A damaged pickle can fail in any way; none of what it holds has run.
        raise pickles.unread(uri, error) from error


def _archive(stream: IO[bytes], uri: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError) as error:
        raise RefsegError(f"{uri}: no file of torch.save", hint="torch 1.6 and later write zip archives") from error
