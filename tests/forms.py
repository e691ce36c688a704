"""Preparing small inputs in the forms of others, and looking at what came of it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from raw_layout import HEIGHT, WIDTH

from refseg_cli.data import masks
from refseg_cli.data.shards import open_shards
from refseg_cli.engine.prepare import Output, PrepareReport
from refseg_cli.engine.prepare_from import FromRequest, prepare_from
from refseg_cli.records import Record

# A rectangle of 4 x 3 pixels with its corner at (2, 5), and one of 6 x 2 at (10, 10); boxes as COCO has them.
FIRST, FIRST_BOX = [2.0, 5.0, 6.0, 5.0, 6.0, 8.0, 2.0, 8.0], [2.0, 5.0, 4.0, 3.0]
SECOND, SECOND_BOX = [10.0, 10.0, 16.0, 10.0, 16.0, 12.0, 10.0, 12.0], [10.0, 10.0, 6.0, 2.0]


def pixels(*boxes: list[float]) -> np.ndarray:
    """(h, w) with ones in the boxes XYWH."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y, w, h in boxes:
        mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
    return mask


def points(polygon: list[float]) -> list[list[float]]:
    """[[x, y], ...] of [x, y, ...]."""
    return [list(point) for point in zip(polygon[0::2], polygon[1::2], strict=True)]


def run(out: Path, *inputs: Path, name: str = "mine", **options: Any) -> PrepareReport:
    made = {f.name: options.pop(f.name) for f in fields(Output) if f.name in options}
    return prepare_from(FromRequest(inputs, name, Output(str(out), **made), **options))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def records(out: Path, split: str) -> list[Record]:
    shards = open_shards(out, split)
    return [shards[i] for i in range(len(shards))]


def meanings(out: Path, split: str) -> list[tuple[str, int, list[list[int]]]]:
    """Phrase, number of targets and their mask of each expression of a split."""
    return [
        (e.text, len(e.targets), masks.decode(masks.targets(record, e)).tolist())
        for record in records(out, split)
        for e in record.expressions
    ]


def meaning(text: str, *boxes: list[float]) -> tuple[str, int, list[list[int]]]:
    """What `meanings` has of a phrase for the objects in some boxes."""
    return text, len(boxes), pixels(*boxes).tolist()
