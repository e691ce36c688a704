"""What the pages show of a picture: its photo as a browser takes it, and its objects as shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refseg_cli.annotate.gallery import selectable
from refseg_cli.annotate.shapes import label_point, path_of
from refseg_cli.data import masks
from refseg_cli.records import Record, Rle
from refseg_cli.report.pictures import LONGEST, MIME, for_web


@dataclass(frozen=True, slots=True)
class Shape:
    """An object to choose.

    name: its category, and where it is.  path: of an SVG, see `shapes.path_of`.  label: (x, y) of its number.
    """

    ann_id: int
    name: str
    path: str
    label: tuple[int, int]


@dataclass(frozen=True, slots=True)
class View:
    """A picture's objects, the largest first, so that small ones lie on top.  size: (height, width) of the drawing."""

    size: tuple[int, int]
    shapes: tuple[Shape, ...]


def view_of(record: Record) -> View:
    """The objects of a picture, at the size at which pages show it."""
    size = drawn_size((record.height, record.width))
    drawn = [(instance, masks.resize_by_centres(masks.decode(instance.rle), size)) for instance in selectable(record)]
    drawn.sort(key=lambda pair: -int(np.count_nonzero(pair[1])))
    shapes = (
        Shape(
            instance.ann_id,
            f"{instance.category}, {_whereabouts(label_point(mask), size)}",
            path_of(mask),
            label_point(mask),
        )
        for instance, mask in drawn
        if mask.any()
    )
    return View(size, tuple(shapes))


def drawn_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture's drawing."""
    scale = min(1.0, LONGEST / max(size))
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def path_of_mask(rle: Rle) -> str:
    """A mask of the whole picture as a shape of its drawing."""
    return path_of(masks.resize_by_centres(masks.decode(rle), drawn_size(rle.size)))


def photo_of(record: Record) -> tuple[bytes, str]:
    """The photo's bytes for a page, and their media type."""
    data, ending = for_web(record.image, record.orientation)
    return data, MIME[ending]


def _whereabouts(point: tuple[int, int], size: tuple[int, int]) -> str:
    """Where a point is, in words, so that the names of objects tell them apart."""
    (x, y), (height, width) = point, size
    across = ("left", "middle", "right")[min(2, 3 * x // width)]
    down = ("top ", "", "bottom ")[min(2, 3 * y // height)]
    return f"{down}{across}"
