"""Running `refseg prepare` on the raw layout, and what may happen to one of its photos."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from refseg_cli.app import main
from refseg_cli.engine.prepare import Output, PrepareReport, PrepareRequest, prepare


def run(raw: Path, out: str | Path, dataset: str = "refcoco", **options: Any) -> PrepareReport:
    made = {name: options.pop(name) for name in [f.name for f in fields(Output)] if name in options}
    return prepare(PrepareRequest(dataset, raw, Output(str(out), **made), **options))


def refseg(*words: object) -> int:
    """The exit status of a command line."""
    return main([str(word) for word in words])


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def photo_of_three(raw: Path) -> Path:
    return raw / "images/COCO_train2014_000000000003.jpg"


def cut(data: bytes) -> bytes:
    return data[:-200]


def zeroed(data: bytes) -> bytes:
    """Damaged at the same length."""
    return data[:-60] + bytes(60)


def another_density(data: bytes) -> bytes:
    """As sound as before: one byte of the JFIF header, dots per inch in place of none."""
    return data[:13] + bytes([data[13] ^ 1]) + data[14:]


def longer(data: bytes) -> bytes:
    """As sound as before: with a comment of 3 kB."""
    return data[:-2] + b"\xff\xfe\x0c\x00" + bytes(0xBFE) + b"\xff\xd9"
