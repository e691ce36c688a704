"""PhraseCut's `refer_train.json`: a list of phrases on photos of Visual Genome, each with the objects that it means.

`Polygons` has for each object a list of polygons, each a list of points; `instance_boxes` has its box XYWH. Photos are
named after their ids, and predictions after `task_id`, which is the photo's id and a number: `107899__2`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from refseg_cli.data.sources import Ref
from refseg_cli.data.sources.gathering import File, Gathering, load, rows
from refseg_cli.data.sources.refer import parse
from refseg_cli.data.sources.values import whole

tells = rows("phrase", "Polygons")
VISUAL_GENOME = "visual-genome"
PHRASES_OF_A_PHOTO = 10_000  # at most


def ref_id(image_id: int, number: int) -> int:
    """The reference of a task, from the two parts of its id."""
    return image_id * PHRASES_OF_A_PHOTO + number


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The references of one file, one for each phrase."""

    def ref(row: Any) -> Ref:
        number = whole(row["image_id"], "image_id")
        image_id = gathering.photo(f"{number}.jpg", image_id=number, source=VISUAL_GENOME)
        polygons, boxes = row["Polygons"], row["instance_boxes"]
        if len(polygons) != len(boxes):
            raise ValueError(f"{len(polygons)} objects in Polygons, {len(boxes)} in instance_boxes")
        category = gathering.category(name=(row.get("phrase_structure") or {}).get("name") or "")
        ann_ids = [
            gathering.annotation(image_id, [_flat(polygon) for polygon in parts], box=box, category=category)
            for parts, box in zip(polygons, boxes, strict=True)
        ]
        split, task = file.split_of(row.get("split")), _task(row.get("task_id"))
        return gathering.ref(image_id, ann_ids, [row["phrase"]], split=split, ref_id=task)

    return parse(load(file.path, tells), ref, file=file.path.name, problems=gathering.problems)


def _task(task_id: Any) -> int | None:
    """Its reference; None for an id of another form, or none."""
    photo, _, number = task_id.partition("__") if isinstance(task_id, str) else ("", "", "")
    return ref_id(int(photo), int(number)) if photo.isdecimal() and number.isdecimal() else None


def _flat(polygon: Any) -> list[Any]:
    """[x, y, ...] of [[x, y], ...]."""
    return [value for x, y in polygon for value in (x, y)]
