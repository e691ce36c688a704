"""`jxu124/refcoco`, `refcocoplus`, `refcocog` on the Hugging Face hub: Parquet with REFER's rows, and no photos.

A row is a reference as REFER has it; `raw_anns` and `raw_image_info` are its annotation and its photo, as JSON. What
the hub calls the split `test` of RefCOCO and RefCOCO+ is testA: it has a testB beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from refseg_cli.data import tables
from refseg_cli.data.sources import Ref
from refseg_cli.data.sources.gathering import File, Gathering, columns
from refseg_cli.data.sources.refer import parse
from refseg_cli.files import parse_json

tells = columns("ann_id", "ref_id", "image_id", "sentences", "raw_anns", "raw_image_info")


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The references of one file.

    splits: those that the names of all the files tell.
    """

    def ref(row: Any) -> Ref:
        split = file.split_of(row.get("split"))
        photo, listed = parse_json(row["raw_image_info"]), parse_json(row["raw_anns"])
        annotation = listed[0] if isinstance(listed, list) and len(listed) == 1 else listed
        size = (photo["height"], photo["width"])
        image_id = gathering.photo(photo["file_name"], image_id=row["image_id"], size=size)
        ann_id = gathering.annotation(
            image_id,
            annotation["segmentation"],
            ann_id=row["ann_id"],
            box=annotation.get("bbox"),
            category=gathering.category(annotation["category_id"]),
            iscrowd=annotation.get("iscrowd", 0),
        )
        split = "testA" if split == "test" and "testB" in splits and not file.forced else split
        return gathering.ref(image_id, [ann_id], row["sentences"], split=split, ref_id=row["ref_id"])

    rows = tables.iter_rows(str(file.path), without=("captions",))
    return parse(rows, ref, file=file.path.name, problems=gathering.problems)
