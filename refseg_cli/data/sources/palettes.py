"""PNG files with the masks of all things of a frame: the value of a pixel is the number of the thing, 0 for none.

Ref-YouTube-VOS and DAVIS have them, with colours in a palette that only people look at. DAVIS' value 255 is void:
pixels that count for nothing.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from refseg_cli.data import formats, masks
from refseg_cli.data.sources import Draft

VOID = 255
_MODES = ("P", "L", "1")  # of Pillow: one value a pixel


def read(data: bytes) -> np.ndarray:
    """(h, w) uint8: the number of the thing at each pixel of a PNG file.

    Raises:
        ValueError: no such picture.
    """
    with formats.opened(data) as image:
        if image.mode not in _MODES:
            raise ValueError(f"a picture in {image.mode}, where masks have a palette")
        return np.asarray(image).astype(np.uint8)


def with_masks(draft: Draft) -> Draft:
    """A frame with the masks of its palette file: an annotation's `ann_id` is the number of the thing.

    Raises:
        ValueError: as `read`.
        OSError: there is no such file.
    """
    if draft.palette is None:
        return draft
    numbers = read(draft.palette.read_bytes())
    shown = frozenset(np.unique(numbers).tolist())
    void = masks.encode(numbers == VOID) if VOID in shown else None
    return replace(
        draft,
        annotations=tuple(
            msgspec.structs.replace(a, segmentation=masks.coco_json(masks.encode(numbers == a.ann_id)))
            if a.ann_id in shown
            else a
            for a in draft.annotations
        ),
        expressions=tuple(replace(e, ignored=void) for e in draft.expressions),
        palette=None,
    )


def of_shown(draft: Draft) -> Draft:
    """A frame with the things that it shows only; its expressions keep those of their targets that are among them."""
    places = [i for i, a in enumerate(draft.annotations) if a.segmentation is not None]
    if len(places) == len(draft.annotations):
        return draft
    place_of = {place: i for i, place in enumerate(places)}
    expressions = (
        replace(e, targets=tuple(place_of[t] for t in e.targets if t in place_of)) for e in draft.expressions
    )
    return replace(draft, annotations=tuple(draft.annotations[i] for i in places), expressions=tuple(expressions))
