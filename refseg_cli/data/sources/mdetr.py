"""`finetune_refcoco_train.json`, `final_refexp_val.json` and so on of MDETR, which mmdetection reads, too.

COCO's form with an image for each phrase, its `caption`; its annotations are the targets. `original_id` is COCO's id of
the photo or the object. The converters write no masks: COCO's own file, given beside it, has them. gRefCOCO's marks an
annotation that stands for no target by `empty`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from refseg_cli.data.sources import Ref
from refseg_cli.data.sources.gathering import File, Gathering, load
from refseg_cli.data.sources.refer import parse
from refseg_cli.data.sources.values import flag, string, whole
from refseg_cli.errors import RefsegError, reason_of


def tells(value: Any) -> bool:
    """Whether a JSON value is of this form."""
    if not isinstance(value, dict) or not isinstance(value.get("annotations"), list):
        return False
    images = value.get("images")
    return isinstance(images, list) and bool(images) and isinstance(images[0], dict) and "caption" in images[0]


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The references of one file: captions of one photo that have the same targets are one.

    Raises:
        RefsegError: it has boxes only, and COCO's own file is not given.
    """
    table = load(file.path, tells)
    targets: dict[Any, list[Any]] = defaultdict(list)
    try:
        for row in table.get("categories", ()):
            gathering.category(row["id"], row["name"])
        for row in table["annotations"]:
            targets[row["image_id"]].append(row)
        objects = [row for row in table["annotations"] if not _is_empty(row)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefsegError(
            f"{file.path}: not in MDETR's form: {reason_of(error)}", hint="see docs/data.md for the forms"
        ) from error
    if objects and gathering.known is None and not any(row.get("segmentation") for row in objects):
        raise RefsegError(
            f"{file.path}: boxes, and no masks",
            hint="--instances is COCO's instances_train2014.json, or REFER's instances.json, which has them",
        )
    ref_ids: dict[tuple[int, str, tuple[int, ...]], int] = {}

    def ref(row: Any) -> Ref:
        found = [annotation for annotation in targets[row["id"]] if not _is_empty(annotation)]
        if any(a.get("tokens_positive") != found[0].get("tokens_positive") for a in found):
            raise ValueError("a caption whose words have targets of their own, no phrase for all of them")
        size = (row["height"], row["width"])
        image_id = gathering.photo(string(row["file_name"], "file_name"), image_id=row.get("original_id"), size=size)
        ann_ids = tuple(_target(annotation, image_id, gathering) for annotation in found)
        split = file.split_of(row.get("split"))
        phrase = string(row["caption"], "caption")
        said = gathering.ref(image_id, ann_ids, [phrase], split=split, ref_id=ref_ids.get((image_id, split, ann_ids)))
        ref_ids.setdefault((image_id, split, ann_ids), said.ref_id)
        return said

    return parse(table["images"], ref, file=file.path.name, problems=gathering.problems)


def _is_empty(row: Any) -> bool:
    return flag(row.get("empty") or 0, "empty")


def _target(row: Any, image_id: int, gathering: Gathering) -> int:
    ann_id = row.get("original_id", row["id"])
    if gathering.known is not None:
        return whole(ann_id, "original_id")
    category = gathering.category(row.get("category_id", 0))
    return gathering.annotation(
        image_id,
        row.get("segmentation"),
        ann_id=ann_id,
        box=row.get("bbox"),
        category=category,
        iscrowd=row.get("iscrowd", 0),
    )
