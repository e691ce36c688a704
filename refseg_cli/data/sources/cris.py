"""CRIS's `anns/refcoco/train.json`: a list of references, whose masks are PNG files, masks/refcoco/SEGMENT_ID.png.

`segment_id` is REFER's ref_id. CRIS's LMDB files are made of these, and hold no ids of sentences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refseg_cli.data import formats, masks
from refseg_cli.data.sources import Ref
from refseg_cli.data.sources.gathering import File, Gathering, load, rows
from refseg_cli.data.sources.refer import parse
from refseg_cli.data.sources.values import string, whole

tells = rows("segment_id", "img_name")


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The references of one file."""
    folder = gathering.masks or _masks_of(file.path)

    def ref(row: Any) -> Ref:
        number = whole(row["segment_id"], "segment_id")
        mask = _mask(folder / f"{number}.png", gathering)
        image_id = gathering.photo(string(row["img_name"], "img_name"), size=(mask.shape[0], mask.shape[1]))
        category = gathering.category(row.get("cat", 0))  # `bbox` is left: it is cut to whole pixels
        ann_id = gathering.annotation(image_id, masks.coco_json(masks.encode(mask)), category=category)
        return gathering.ref(image_id, [ann_id], row["sentences"], split=file.split_of(row.get("split")), ref_id=number)

    return parse(load(file.path, tells), ref, file=file.path.name, problems=gathering.problems)


def _masks_of(path: Path) -> Path:
    """The folder of the masks of anns/... : masks/... without the file."""
    parts = list(path.absolute().parent.parts)
    places = [place for place, part in enumerate(parts) if part == "anns"]
    if places:
        parts[places[-1]] = "masks"
    return Path(*parts)


def _mask(path: Path, gathering: Gathering) -> np.ndarray:
    """(h, w) bool."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; --masks is the folder of the masks") from error
    gathering.note_mask(data)
    with formats.opened(data) as image:
        pixels = np.asarray(image)
    if pixels.ndim != 2 or len(np.unique(pixels[pixels != 0])) > 1:
        raise ValueError(f"{path.name}: no mask of two values")
    return pixels != 0
