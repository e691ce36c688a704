"""Masks as others write them: whatever COCO has, a flat polygon, a PNG file; several of them are one.

Axes: h w of the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from refseg_cli.data import mask_values, masks
from refseg_cli.data.orientation import AS_STORED, turned, turned_size
from refseg_cli.evaluation.outlines import Outline
from refseg_cli.evaluation.predictions import Given
from refseg_cli.records import Detection, Rle

LARGEST = 1 << 14  # side of a network's input, in pixels

Ready = Mapping[int, Rle]  # by the id of the value in the file


def read_together(entries: Iterable[tuple[Given, tuple[int, int]]]) -> Ready:
    """Those masks of many entries that are what most tools write, COCO's compressed RLE of the picture's size.

    One by one, looking through their strings is most of the work. If one of them is damaged, there are none here, and
    each is read on its own, and named.

    entries: with the size of their pictures, upright.
    """
    plain = [(value, size) for entry, size in entries for value in entry.masks if _is_plain(value, size)]
    try:
        rles = masks.normal([Rle(size, value["counts"].encode()) for value, size in plain])
    except ValueError:
        return {}
    return {id(value): rle for (value, _), rle in zip(plain, rles, strict=True)}


def lying(entries: Sequence[Given]) -> Rle | None:
    """The masks in one as they lie at the input of a network, if all entries are squashed to one size.

    Raises:
        ValueError: one is no RLE.
    """
    if not all(entry.squashed for entry in entries):
        return None
    found = [_squashed(value) for entry in entries for value in entry.masks]
    sizes = {rle.size for rle in found}
    return masks.union(found, sizes.pop()) if len(sizes) == 1 else None


def _squashed(value: Any) -> Rle:
    if not isinstance(value, Mapping) or not _is_size(value.get("size")):
        raise ValueError("a squashed mask that is not an RLE")
    height, width = value["size"]
    return masks.upright(mask_values.as_coco(value, (height, width)), (height, width), AS_STORED)


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(side) is int and 0 < side < LARGEST for side in value)
    )


def _is_plain(value: Any, size: tuple[int, int]) -> bool:
    return type(value) is dict and value.get("size") == [*size] and type(value.get("counts")) is str


def as_rle(entry: Given, size: tuple[int, int], orientation: int, ready: Ready, *, source: str) -> Rle:
    """The entry's masks in one, on the upright picture.

    Args:
        size: (height, width) of its picture, upright.
        orientation: EXIF's number; an RLE or a PNG of the size of the stored pixels is turned by it.
        ready: masks that have been read.
        source: the file of the entry; where a mask is a file, its path begins at that one's folder.

    Raises:
        MaskTooLarge: it was made for a picture of another size.
        ValueError: it is no mask.
    """
    if entry.squashed:
        found = [masks.encode(masks.resize_by_centres(masks.decode(_squashed(v)), size)) for v in entry.masks]
    else:
        found = [ready.get(id(value)) or _mask(value, size, orientation, source) for value in entry.masks]
    return masks.union(found, size)


def detections(
    found: Sequence[Outline], size: tuple[int, int], orientation: int, ready: Ready, *, source: str
) -> tuple[Detection, ...]:
    """Instances on the upright picture, boxes in its pixels; a mask without a box has its tightest one.

    Args and Raises: as `as_rle`.
    """
    made = []
    for one in found:
        rle = None if one.mask is None else ready.get(id(one.mask)) or _mask(one.mask, size, orientation, source)
        if one.box is None:
            assert rle is not None
            box = masks.box(rle)
        elif one.scale is None:
            box = one.box
        else:
            across, down = size[1] / one.scale, size[0] / one.scale
            box = (one.box[0] * across, one.box[1] * down, one.box[2] * across, one.box[3] * down)
        made.append(Detection(box, one.score, rle))
    return tuple(made)


def _mask(value: Any, size: tuple[int, int], orientation: int, source: str) -> Rle:
    if isinstance(value, str):
        stored = turned_size(size, orientation)
        mask = mask_values.read_png(value, beside=source, sizes=(size, stored))
        return masks.encode(mask if mask.shape == size else turned(mask, orientation))
    return masks.upright(mask_values.as_coco(value, size), size, orientation)
