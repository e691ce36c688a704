"""gRefCOCO's `grefs(unc).json`: a reference has any number of targets, `ann_id` being [-1] where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from refseg_cli.data.sources import Problem, Ref
from refseg_cli.data.sources.refer import parse, sentences
from refseg_cli.data.sources.values import flag, string, whole

NO_TARGET = -1


def refs(rows: Iterable[Any], *, file: str, problems: list[Problem]) -> Iterator[Ref]:
    """The references of the file's value, in its order.

    Args:
        file: its name, for messages.
        problems: broken rows are appended here.
    """
    return parse(rows, _ref, file=file, problems=problems)


def _ref(row: Any) -> Ref:
    listed = row["ann_id"] if isinstance(row["ann_id"], list | tuple) else [row["ann_id"]]
    ann_ids = tuple(ann_id for ann_id in (whole(value, "ann_id") for value in listed) if ann_id != NO_TARGET)
    if len(ann_ids) not in (0, len(listed)):
        raise ValueError("ann_id with targets and -1 together")
    if row.get("no_target") is not None and flag(row["no_target"], "no_target") == bool(ann_ids):
        raise ValueError("ann_id and no_target disagree")
    return Ref(
        ref_id=whole(row["ref_id"], "ref_id"),
        image_id=whole(row["image_id"], "image_id"),
        split=string(row["split"], "split"),
        ann_ids=ann_ids,
        sentences=sentences(row),
    )
