"""SeqTR's and SimVG's `instances.json`: for each split a list of objects with their `expressions`.

An object has `mask` (or `segmentation`), polygons or an RLE, `bbox`, `image_id`, `width` and `height`. Photos are named
after their ids: COCO_train2014_000000000009.jpg, or 9.jpg where they are not COCO's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from refseg_cli.data.sources import Ref
from refseg_cli.data.sources.gathering import File, Gathering, load
from refseg_cli.data.sources.refer import parse
from refseg_cli.data.sources.values import string, whole


def tells(value: Any) -> bool:
    """Whether a JSON value is of this form."""
    if not isinstance(value, dict) or not value or not all(isinstance(rows, list) for rows in value.values()):
        return False
    first = next((rows[0] for rows in value.values() if rows), None)
    return isinstance(first, dict) and "expressions" in first


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The references of one file, split by split."""
    table = load(file.path, tells)
    for name, rows in table.items():
        # SimVG's mixed files have val_refcoco_unc and the like.
        split = file.split_of(name)

        def ref(row: Any, split: str = split) -> Ref:
            size = (row["height"], row["width"])
            number = whole(row["image_id"], "image_id")
            name = _file_name(number, row.get("data_source"), gathering)
            image_id = gathering.photo(name, image_id=number, size=size, source=row.get("data_source") or "")
            mask = row["mask"] if "mask" in row else row.get("segmentation")
            if not mask:
                raise ValueError("no mask: it is a file of boxes")
            category = gathering.category(row.get("category_id", 0))
            ann_id = gathering.annotation(image_id, mask, box=row.get("bbox"), category=category)
            return gathering.ref(image_id, [ann_id], row["expressions"], split=split)

        yield from parse(rows, ref, file=f"{file.path.name}: {name}", problems=gathering.problems)


def _file_name(image_id: int, source: Any, gathering: Gathering) -> str:
    """A photo's name; source: `data_source`, if the row has it, otherwise the photos that are there tell."""
    of_coco, other = f"COCO_train2014_{image_id:012d}.jpg", f"{image_id}.jpg"
    if source is not None:
        return of_coco if "coco" in string(source, "data_source") else other
    return other if gathering.photos.find(other) and not gathering.photos.find(of_coco) else of_coco
