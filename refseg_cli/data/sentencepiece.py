"""BEiT-3's vocabulary: its sentencepiece model (`beit3.spm`) as a pipeline of the `tokenizers` library.

A model is a protocol buffer (google/sentencepiece, sentencepiece_model.proto), of which a few fields are read. Ids are
XLM-R's, one above the model's own: <s> 0, <pad> 1, </s> 2, <unk> 3. Phrases are cleaned as DeRIS cleans them, the only
model here that reads BEiT-3's words.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from refseg_cli.errors import RefsegError

PAD_ID = 1
_MARKS = ["<s>", "<pad>", "</s>", "<unk>"]
_UNIGRAM = 1  # of the kinds of models
_REMOVED, _SPACED = r"[.,'!?\"()*#:;]", "[-/]"  # Dmmm1997/DeRIS, datasets/pipelines/loading.py


def read_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """The pipeline, with <s> and </s> around every phrase.

    Raises:
        RefsegError: it cannot be read, or is no unigram model with <unk>, <s> and </s> as its first pieces.
    """
    try:
        pieces, kind, characters = _parsed(path.read_bytes())
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise RefsegError(f"{path}: not a sentencepiece model: {error}", hint="BEiT-3's is beit3.spm") from error
    if kind != _UNIGRAM or [piece for piece, _ in pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise RefsegError(
            f"{path}: not BEiT-3's kind of sentencepiece model: a unigram one that begins with <unk>, <s>, </s>",
            hint="BEiT-3's is beit3.spm",
        )
    vocabulary = [*((mark, 0.0) for mark in _MARKS), *pieces[3:]]
    pipeline = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=_MARKS.index("<unk>"), byte_fallback=False))
    pipeline.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(_REMOVED), ""),
            normalizers.Replace(tokenizers.Regex(_SPACED), " "),
            *([normalizers.Precompiled(characters)] if characters else []),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pipeline.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return pipeline


def _parsed(model: bytes) -> tuple[list[tuple[str, float]], int, bytes]:
    """Pieces with their scores, the kind of model, and the table by which characters are normalised."""
    pieces: list[tuple[str, float]] = []
    kind, characters = _UNIGRAM, b""  # the format's default
    for number, value in _fields(model):
        if number == 1 and isinstance(value, bytes):
            of = dict(_fields(value))
            pieces.append((_bytes(of, 1).decode(), struct.unpack("<f", _bytes(of, 2) or bytes(4))[0]))
        elif number == 2 and isinstance(value, bytes):
            found = dict(_fields(value)).get(3, _UNIGRAM)
            kind = found if isinstance(found, int) else 0
        elif number == 3 and isinstance(value, bytes):
            characters = _bytes(dict(_fields(value)), 2)
    if len(pieces) < len(_MARKS):
        raise ValueError(f"{len(pieces)} pieces")
    return pieces, kind, characters


def _bytes(fields: dict[int, int | bytes], number: int) -> bytes:
    value = fields.get(number, b"")
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is a number")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an integer, or bytes (also of fixed 4 or 8)."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            length, at = _varint(message, at)
        elif key & 7 in (1, 5):
            length = 8 if key & 7 == 1 else 4
        else:
            raise ValueError(f"byte {at} begins no field")
        if at + length > len(message):
            raise ValueError("it is cut off")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
