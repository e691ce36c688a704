"""gRefCOCO's `grefs(unc).json`: a reference has any number of targets, `ann_id` being [-1] where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from refseg_cli.data.sources import Problem, Reason, Ref, to_sentence

NO_TARGET = -1


def refs(rows: Any, *, file: str, problems: list[Problem]) -> Iterator[Ref]:
    """The references of the file's value, in its order.

    Args:
        file: its name, for messages.
        problems: broken rows are appended here.
    """
    for number, row in enumerate(rows):
        try:
            yield _ref(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            ref_id = row.get("ref_id") if isinstance(row, dict) else None
            named = (ref_id,) if isinstance(ref_id, int) else ()
            problems.append(Problem(Reason.BROKEN_REF, file, named, f"row {number}: {type(error).__name__}: {error}"))


def _ref(row: Any) -> Ref:
    listed = row["ann_id"] if isinstance(row["ann_id"], list) else [row["ann_id"]]
    ann_ids = tuple(int(ann_id) for ann_id in listed if ann_id != NO_TARGET)
    if len(ann_ids) not in (0, len(listed)):
        raise ValueError("ann_id with targets and -1 together")
    if "no_target" in row and bool(row["no_target"]) == bool(ann_ids):
        raise ValueError("ann_id and no_target disagree")
    return Ref(
        ref_id=int(row["ref_id"]),
        image_id=int(row["image_id"]),
        split=str(row["split"]),
        ann_ids=ann_ids,
        sentences=tuple(to_sentence(sentence, _text) for sentence in row["sentences"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in place of a sentence")
    return value
