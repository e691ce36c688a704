"""Predictions as people hand them in, and their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refseg_cli.data import masks
from refseg_cli.evaluation.outside import Outside, OutsideRequest, score_file
from refseg_cli.records import Record


def rle(mask: np.ndarray) -> dict[str, Any]:
    found = masks.encode(mask)
    return {"size": list(found.size), "counts": found.counts.decode()}


def half(record: Record) -> np.ndarray:
    """(h, w) bool: the left half of the picture."""
    mask = np.zeros((record.height, record.width), dtype=bool)
    mask[:, : record.width // 2] = True
    return mask


def lines(path: Path, entries: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def score(
    data: Path, source: Path | str, *protocols: str, splits: tuple[str, ...] = ("val",), **options: Any
) -> Outside:
    asked = {"protocols": protocols} if protocols else {}
    return score_file(OutsideRequest(str(source), str(data), splits, **asked, **options))
