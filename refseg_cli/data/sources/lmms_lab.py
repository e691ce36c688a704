"""`lmms-lab/RefCOCO`, `RefCOCOplus`, `RefCOCOg` on the Hugging Face hub: Parquet with a reference and its photo a row.

`answer` lists the phrases (`question` is a prompt for captioning). `segmentation` is one flat list of numbers, so that
an object in several parts cannot be told: as one polygon these numbers would join the parts. Its box shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from refseg_cli.data import tables
from refseg_cli.data.sources import Problem, Reason, Ref
from refseg_cli.data.sources.gathering import File, Gathering, columns
from refseg_cli.data.sources.refer import parse
from refseg_cli.data.sources.values import string

tells = columns("image", "answer", "segmentation", "bbox", "file_name")
SLACK = 2.0  # pixels by which a polygon may end before its box does


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The references of one file."""

    def ref(row: Any) -> Ref:
        name, numbers, box = string(row["file_name"], "file_name"), row["segmentation"], row["bbox"]
        image_id = gathering.photo(name, data=(row["image"] or {}).get("bytes"))
        ann_id = gathering.annotation(image_id, [numbers], box=box, iscrowd=row.get("iscrowd") or 0)
        found = gathering.ref(image_id, [ann_id], row["answer"], split=file.split_of(row.get("split")))
        if short_of_box(numbers, box):
            detail = "its polygon ends before its box does: other parts of the object are not in this form"
            gathering.problems.append(Problem(Reason.BROKEN_MASK, name, (found.ref_id,), detail, caution=True))
        return found

    rows = tables.iter_rows(str(file.path))
    return parse(rows, ref, file=file.path.name, problems=gathering.problems)


def short_of_box(polygon: Any, box: Any) -> bool:
    """Whether a polygon [x0, y0, x1, y1, ...] leaves more than `SLACK` pixels of its box XYWH free at some side."""
    if not polygon or not box or len(box) != 4:
        return False
    x, y, w, h = box
    left, top, right, bottom = min(polygon[0::2]), min(polygon[1::2]), max(polygon[0::2]), max(polygon[1::2])
    return max(left - x, top - y, x + w - right, y + h - bottom) > SLACK
