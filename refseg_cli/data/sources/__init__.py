"""Raw annotations to records: one file for each format that people have.

A reader turns its file into `Ref`s; `drafts` joins them with `instances.json` into `Draft`s (records without their
photos); `finish` adds the photo and the masks. Whatever is broken becomes a `Problem` and is left out; the caller
decides whether that stops the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from refseg_cli.data.sources.values import flag, string, whole
from refseg_cli.records import Expression, Rle


class Reason(StrEnum):
    """Why something in the raw data cannot be used."""

    MISSING_IMAGE = "missing image"
    MISSING_MASK = "missing mask"
    BROKEN_IMAGE = "broken image"
    IMAGE_SIZE = "image size differs from the annotation"
    LARGE_MASK = "mask larger than image"
    BROKEN_MASK = "broken mask"
    UNKNOWN_ANNOTATION = "unknown ann_id"
    UNKNOWN_IMAGE = "unknown image_id"
    UNKNOWN_CATEGORY = "unknown category"
    BROKEN_BOX = "NaN or broken box"
    BROKEN_ANNOTATION = "broken annotation"
    BROKEN_REF = "broken ref"
    BROKEN_TEXT = "broken text"
    SHORT_POLYGON = "polygon of fewer than three points"
    EMPTY_EXPRESSION = "empty expression"


class Unusable(Exception):
    """A row or an annotation that cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken input.

    file: the file at fault.  ref_ids: the refs that it is about; unless it is a caution, they lose an expression by it.
    caution: no expression is lost by it, so that it stops no run.
    """

    reason: Reason
    file: str
    ref_ids: tuple[int, ...] = ()
    detail: str = ""
    caution: bool = False

    def __str__(self) -> str:
        named = ", ".join(str(ref_id) for ref_id in self.ref_ids[:3]) + (", ..." if len(self.ref_ids) > 3 else "")
        where = f"{self.file}: ref {named}" if named else self.file
        return f"{where}: {self.reason}" + (f": {self.detail}" if self.detail else "")


class Annotation(msgspec.Struct, frozen=True, gc=False):
    """One object as annotated; a struct, for there are ten a picture, and a dataclass takes ten times as long to make.

    box: (x, y, width, height) in pixels; None to take the mask's.  segmentation: in COCO's form, not yet looked at, but
    not deeper than that; polygons as a JSON string.  reliable: the mask is truth; otherwise the object is there, and
    nobody knows which pixels are its.
    """

    ann_id: int
    image_id: int
    category_id: int
    category: str
    box: tuple[float, float, float, float] | None
    segmentation: Any
    iscrowd: bool
    reliable: bool = True


class Sentence(NamedTuple):
    """A phrase of a reference.

    text, raw: as in `records.Expression`.  exists: False for a wrong description, which has no target (R-RefCOCO).
    """

    sent_id: int
    text: str
    raw: str
    exists: bool = True


def to_sentence(row: Mapping[str, Any]) -> Sentence:
    """A row of `sentences`; where it has one of `sent` and `raw` only, that stands for both.

    Raises:
        KeyError, ValueError: the row is broken.
    """
    sent, raw = row.get("sent"), row.get("raw")
    text = string(raw if sent is None else sent, "sent")
    typed = string(sent if raw is None else raw, "raw")
    typed = text if typed == text else typed  # held once
    return Sentence(whole(row["sent_id"], "sent_id"), text, typed, flag(row.get("exist", True), "exist"))


@dataclass(frozen=True, slots=True)
class Ref:
    """One reference: some phrases for the same targets.

    ann_ids: none for no target.  ignored: as in `records.Expression`, on the pixels that annotations are drawn on.
    """

    ref_id: int
    image_id: int
    split: str
    ann_ids: tuple[int, ...]
    sentences: tuple[Sentence, ...]
    ignored: Rle | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A record whose photo was not read yet and whose masks were not made.

    Expressions name their targets by position in `annotations`; what they ignore is not turned upright yet.
    height, width: pixels of the picture that the masks were drawn on; zeros where nobody says.
    clip, frame: as in `Record`; the annotations are then all things of the clip, without a segmentation where this
        frame does not show them.
    palette: of a frame, a file with the masks of all its things, see `palettes`; then no annotation has a segmentation.
    """

    image_id: int
    file_name: str
    split: str
    height: int
    width: int
    annotations: tuple[Annotation, ...]
    expressions: tuple[Expression, ...]
    # Not in what it is printed as, of which fingerprints of pictures are made.
    clip: str = field(default="", repr=False)
    frame: int = field(default=0, repr=False)
    palette: Path | None = field(default=None, repr=False)


def without(expressions: Sequence[Expression], lost: Iterable[int]) -> tuple[Expression, ...]:
    """The expressions with no target among the lost instances, renumbered to the instances that are left."""
    gone = set(lost)
    return tuple(
        replace(e, targets=tuple(t - sum(g < t for g in gone) for t in e.targets))
        for e in expressions
        if not gone.intersection(e.targets)
    )
