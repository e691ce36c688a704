"""ReasonSeg's JSON, a file for each picture: labelme's shapes, with the phrases in `text`.

Shapes labelled `target` are the targets of all the phrases; those with `ignore` in their label are regions that do not
count, and what is labelled `flag` means nothing. As LISA draws them (utils/data_processing.py), larger ones first, so
that a smaller region lies upon a larger one; what then is seen of ignore regions are the phrases' `ignored` pixels. The
photo is the .jpg beside the file.

Axes: h w of the picture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from refseg_cli.data import masks
from refseg_cli.data.sources import Ref, labelme
from refseg_cli.data.sources.gathering import File, Gathering
from refseg_cli.data.sources.refer import parse
from refseg_cli.records import Rle


def tells(value: Any) -> bool:
    """Whether a JSON value is of this form."""
    return labelme.tells(value) and "text" in value and "is_sentence" in value


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The reference of one picture."""
    for image_id, table in labelme.pictures(file, gathering):

        def ref(row: Any, image_id: int = image_id) -> Ref:
            shapes = [shape for shape in row["shapes"] if shape["label"].lower() != "flag"]
            regions = [labelme.region(shape, gathering.size(image_id)) for shape in shapes]
            ignored = ["ignore" in shape["label"].lower() for shape in shapes]
            targets, unknown = _drawn(regions, ignored, gathering.size(image_id))
            if shapes and not targets:
                raise ValueError("no target, or none that ignore regions do not cover")
            ann_ids = [gathering.annotation(image_id, target) for target in targets]
            phrases = [row["text"]] if isinstance(row["text"], str) else row["text"]
            return gathering.ref(image_id, ann_ids, phrases, split=file.split_of(None), ignored=unknown)

        yield from parse([table], ref, file=file.path.name, problems=gathering.problems)


def _drawn(regions: list[Any], ignored: list[bool], size: tuple[int, int]) -> tuple[list[Any], Rle | None]:
    """The targets' segmentations without what a smaller ignore region covers, and what ignore regions leave unknown."""
    if not any(ignored):
        return regions, None
    drawn = [masks.decode(masks.from_segmentation(region, *size)).astype(bool) for region in regions]
    over = [mask for mask, is_ignored in zip(drawn, ignored, strict=True) if is_ignored]
    unknown, targets = np.logical_or.reduce(over), []
    for mask, is_ignored in zip(drawn, ignored, strict=True):
        if is_ignored:
            continue
        pixels = mask.sum()
        for other in over:
            if other.sum() < pixels:
                mask = mask & ~other
        unknown = unknown & ~mask
        if mask.any():
            targets.append(masks.coco_json(masks.encode(mask)))
    return targets, masks.encode(unknown) if unknown.any() else None
