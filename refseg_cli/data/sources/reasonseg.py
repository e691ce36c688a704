"""ReasonSeg's JSON, a file for each picture: labelme's shapes, with the phrases in `text`.

Shapes labelled `target` are the targets of all the phrases; those with `ignore` in their label are regions that do not
count, and what is labelled `flag` means nothing. As LISA draws them, larger ones first, so that a smaller region lies
upon a larger one. The photo is the .jpg beside the file.

Axes: h w of the picture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from refseg_cli.data import masks
from refseg_cli.data.sources import Problem, Reason, Ref, labelme
from refseg_cli.data.sources.gathering import File, Gathering
from refseg_cli.data.sources.refer import parse


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
            targets = list(_targets(regions, ignored, gathering.size(image_id)))
            if shapes and not targets:
                raise ValueError("no target, or none that ignore regions do not cover")
            ann_ids = [gathering.annotation(image_id, target) for target in targets]
            phrases = [row["text"]] if isinstance(row["text"], str) else row["text"]
            found = gathering.ref(image_id, ann_ids, phrases, split=file.split_of(None))
            if any(ignored):
                detail = f"{sum(ignored)} of them, whose pixels count as background"
                problem = Problem(Reason.IGNORE_REGION, file.path.name, (found.ref_id,), detail, caution=True)
                gathering.problems.append(problem)
            return found

        yield from parse([table], ref, file=file.path.name, problems=gathering.problems)


def _targets(regions: list[Any], ignored: list[bool], size: tuple[int, int]) -> Iterator[Any]:
    """The segmentations of the targets, without what a smaller ignore region covers."""
    if not any(ignored):
        yield from regions
        return
    drawn = [masks.decode(masks.from_segmentation(region, *size)).astype(bool) for region in regions]
    for mask, is_ignored in zip(drawn, ignored, strict=True):
        if not is_ignored:
            for other, over in zip(drawn, ignored, strict=True):
                if over and other.sum() < mask.sum():
                    mask = mask & ~other
            if mask.any():
                yield labelme.as_coco(masks.encode(mask))
