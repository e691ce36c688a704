"""Pickles of rows that are known to be harmless before anything in them is carried out.

They may be read by the unpickler in C, which is five times as fast as one in Python (`pickles.Unpickler`), but takes
memory for whatever number a PUT names, and hashes whatever stands for a key. Here a regular expression tells that a
file holds a list of dicts as REFER's are: keys are text, values are scalars, lists of scalars, or lists of dicts of
such; nothing is called; and the numbers of what is remembered are in proportion to the file. It knows protocols 0 to 3,
from 1 on with texts of less than 256 bytes.
"""

from __future__ import annotations

import pickle
import re
from functools import cache
from typing import Any

LEAST_BYTES = 1 << 20  # of less, which is soon read anyway, compiling the expression takes longer


def load(data: bytes) -> Any:
    """The rows, strings of Python 2 read as latin-1; None if it is no such pickle, which says nothing against it.

    Raises:
        Exception: it is damaged, in any way.
    """
    if len(data) < LEAST_BYTES:
        return None
    rows = _in_lines(len(str(len(data))) - 1) if data[:1] == b"(" else _in_bytes(len(data) >> 16)
    return pickle.loads(data, encoding="latin1") if rows.fullmatch(data) else None


@cache
def _in_lines(digits: int) -> re.Pattern[bytes]:
    """Rows in protocol 0.  digits: that numbers of what is remembered may have."""
    put = rb"(?:p\d{1,%d}\n)?+" % digits
    text = rb"""(?:(?:V[^\n]*+\n|S(?:'[^'\\\n]*+'|"[^"\\\n]*+")\n)""" + put + rb"|g\d{1,%d}\n)" % digits
    scalar = rb"(?:" + text + rb"|I(?:-?[1-9]\d{0,17}|0[01]?)\n|N|F-?[\d.e+-]{1,25}\n)"

    def a_list(item: bytes) -> bytes:
        return rb"\(l" + put + rb"(?:(?:" + item + rb")a)*+"

    def a_dict(value: bytes) -> bytes:
        return rb"\(d" + put + rb"(?:" + text + rb"(?:" + value + rb")s)*+"

    inner = a_dict(a_list(scalar) + rb"|" + scalar)
    row = a_dict(a_list(inner + rb"|" + scalar) + rb"|" + scalar)
    return re.compile(a_list(row) + rb"\.", re.DOTALL)


@cache
def _in_bytes(most: int) -> re.Pattern[bytes]:
    """Rows in protocols 1 to 3.  most: upper half of the numbers, of four bytes, that what is remembered may have."""
    put = rb"(?:q.|r..[\x00-" + re.escape(bytes([min(most, 0xFF)])) + rb"]\x00)?+"
    by_size = [(re.escape(bytes([size])), rb".{%d}" % size) for size in range(256)]
    short, long = (rb"|".join(size + zeros + text for size, text in by_size) for zeros in (b"", rb"\x00\x00\x00"))
    text = rb"(?:(?:U(?:" + short + rb")|X(?:" + long + rb"))" + put + rb"|h.|j....)"
    scalar = rb"(?:" + text + rb"|K.|M..|J....|I0[01]\n|[N\x88\x89]|G.{8})"

    def a_list(item: bytes) -> bytes:
        return rb"\]" + put + rb"(?:\((?:" + item + rb")*+e|(?:" + item + rb")a)?+"

    def a_dict(value: bytes) -> bytes:
        return rb"\}" + put + rb"\((?:" + text + rb"(?:" + value + rb"))*+u"

    inner = a_dict(a_list(scalar) + rb"|" + scalar)
    row = a_dict(a_list(inner + rb"|" + scalar) + rb"|" + scalar)
    return re.compile(rb"(?:\x80[\x02\x03])?+\]" + put + rb"(?:\((?:" + row + rb")*+e)*+\.", re.DOTALL)
