"""Boxes, scores and single instances of an entry in a file of predictions, before anybody knows its picture.

Axes: k instances of an entry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SEVERAL = ("instances", "boxes", "scores")  # keys that tell instances apart
ONE = ("bbox", "box", "score")  # of an entry that is an instance itself, as a row of COCO results is
KEYS = frozenset((*SEVERAL, *ONE))
BOX = ("bbox", "box")
MASK = ("mask", "segmentation")
FORMATS = ("xywh", "xyxy")
KEPT = 0.5  # the least score of instances whose masks are the answer, where no mask of the whole is given


class Outline(NamedTuple):
    """One instance. box: x, y, width, height, None where only a mask is given.  mask: as it stood there, or None.

    scale: what the picture's right and lower edge are in the box's coordinates; None for pixels.
    """

    box: tuple[float, float, float, float] | None
    score: float
    mask: Any = None
    scale: float | None = None


def outlines(entry: Mapping[str, Any]) -> tuple[Outline, ...] | None:
    """The instances that an entry tells apart; None where it does not.

    Raises:
        ValueError: boxes that are none, scores that are no numbers, or lists of different lengths.
    """
    if KEYS.isdisjoint(entry) or all(entry.get(key) is None for key in KEYS):
        return None
    scale, form = _scale(entry.get("box_scale")), entry.get("box_format", "xywh")
    if form not in FORMATS:
        raise ValueError(f"box_format is neither {' nor '.join(FORMATS)}")
    if entry.get("instances") is not None:
        return tuple(_one(part, form, scale) for part in _listed(entry, "instances"))
    if entry.get("boxes") is not None or entry.get("scores") is not None:
        return tuple(_columns(entry, form, scale))
    box, mask = _first(entry, BOX), _first(entry, MASK)
    if box is None and mask is None:  # a score alone is of the whole answer
        return None
    return (_outline(box, entry.get("score"), mask, form, scale),)


def _columns(entry: Mapping[str, Any], form: str, scale: float | None) -> list[Outline]:
    lists = {name: _listed(entry, name) for name in ("boxes", "scores", "masks") if entry.get(name) is not None}
    if "boxes" not in lists and "masks" not in lists:
        raise ValueError("scores without boxes or masks")
    k = len(lists["boxes"] if "boxes" in lists else lists["masks"])
    if lists.get("masks") is not None and len(lists["masks"]) != k and "boxes" in lists:
        del lists["masks"]  # parts of the answer, not a mask for each box
    if {len(column) for column in lists.values()} - {k}:
        raise ValueError(" and ".join(f"{len(column)} {name}" for name, column in lists.items()))
    none = [None] * k
    rows = zip(*(lists.get(name, none) for name in ("boxes", "scores", "masks")), strict=True)
    return [_outline(box, score, mask, form, scale) for box, score, mask in rows]


def _one(part: Any, form: str, scale: float | None) -> Outline:
    if not isinstance(part, Mapping):
        raise ValueError("instances are not objects")
    return _outline(_first(part, BOX), part.get("score"), _first(part, MASK), form, scale)


def _outline(box: Any, score: Any, mask: Any, form: str, scale: float | None) -> Outline:
    if box is None and mask is None:
        raise ValueError("an instance without box and mask")
    if score is not None and not _is_number(score):
        raise ValueError("a score that is not a number")
    return Outline(None if box is None else _box(box, form), 1.0 if score is None else float(score), mask, scale)


def _box(box: Any, form: str) -> tuple[float, float, float, float]:
    if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError("a box that is not a list of four numbers")
    x, y, a, b = map(float, box)
    width, height = (a, b) if form == "xywh" else (a - x, b - y)
    if width < 0 or height < 0:
        raise ValueError("a box of negative width or height")
    return x, y, width, height


def _scale(value: Any) -> float | None:
    if value is not None and (not _is_number(value) or value <= 0):
        raise ValueError("box_scale is no positive number")
    return None if value is None else float(value)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _listed(entry: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = entry[name]
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def _first(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The first that is there and not empty."""
    return next((value for key in keys if (value := entry.get(key)) is not None and value != []), None)
