"""A small sentencepiece model, written by hand."""

from __future__ import annotations

import struct

SPACE = "\u2581"
# Log probabilities: the best split of a word is the one with the largest sum.
PIECES = {
    "<unk>": 0.0,
    "<s>": 0.0,
    "</s>": 0.0,
    f"{SPACE}red": -1.0,
    f"{SPACE}": -3.0,
    "cu": -2.0,
    "p": -2.5,
    "cup": -5.0,
}
PIECES |= {"e": -4.0, "d": -4.1, "r": -4.2, "s": -2.2, f"{SPACE}le": -1.5, "ft": -1.5}


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128 * (number > 127)]) + (varint(number >> 7) if number > 127 else b"")


def part(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def written(pieces: dict[str, float], *, kind: int | None = 1) -> bytes:
    """A model: its pieces, what it was trained as, and settings that nobody reads, of every type that there is."""
    model = b""
    for piece, score in pieces.items():
        model += part(
            1, part(1, piece.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + varint(3 << 3) + b"\1"
        )
    trainer = varint(9 << 3 | 1) + bytes(8) + (b"" if kind is None else varint(3 << 3) + varint(kind))
    return model + part(2, trainer) + part(3, part(1, b"nmt_nfkc"))
