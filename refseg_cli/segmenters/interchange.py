"""Answers as other tools read them: COCO results, labelme, YOLO, and lines of polygons, boxes or numbers.

An object of an answer is one of its instances where the model tells them apart, and else all that its mask covers. A
phrase without a target has no object.

Axes: h w pixels of the picture, k corners.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refseg_cli.data import masks
from refseg_cli.data.polygons import joined, polygons
from refseg_cli.records import Rle
from refseg_cli.segmenters.base import Found, schema_of

LABELME = "5.5.0"  # whose keys are written
DIGITS = 6  # of a YOLO coordinate: finer than a pixel of any picture that is read


class Object(NamedTuple):
    """rle: its mask at the picture's size.  score: how sure the model is of it."""

    rle: Rle
    score: float


def objects(found: Found) -> list[Object]:
    if not found.exists:
        return []
    told = [Object(one.rle, one.score) for one in found.instances or () if one.rle is not None]
    if not told or len(told) < len(found.instances or ()):
        told = [Object(masks.encode(found.mask), found.p_target)]
    return [one for one in told if masks.area(one.rle)]


def _parts(one: Object, tolerance: float) -> list[np.ndarray]:
    return polygons(masks.decode(one.rle) != 0, tolerance)


def polygons_line(image: str, found: Found, *, tolerance: float = 0) -> dict[str, Any]:
    """`refseg.polygons/1`: of each object the polygons of its parts, as COCO has them: x0, y0, x1, y1 and so on.

    tolerance: here and below, see `polygons`.
    """
    outlines = [[part.flatten().tolist() for part in _parts(one, tolerance)] for one in objects(found)]
    return {**_head("polygons", image, found), "objects": outlines}


def boxes_line(image: str, found: Found) -> dict[str, Any]:
    """`refseg.boxes/1`: of each object its box (x, y, width, height) in pixels, and its score."""
    boxes = [
        {"bbox": [int(side) for side in masks.box(one.rle)], "score": round(one.score, 6)} for one in objects(found)
    ]
    return {**_head("boxes", image, found), "boxes": boxes}


def count_line(image: str, found: Found) -> dict[str, Any]:
    """`refseg.count/1`: how many instances there are, or, where the model does not tell them apart, parts."""
    told = found.instances is not None
    count = len(found.instances or ()) if told else len(polygons(found.mask))
    return {**_head("count", image, found), "count": count, "of": "instances" if told else "parts"}


def coco_results(image: str, image_id: int, category_id: int, found: Found) -> list[dict[str, Any]]:
    """A COCO result for each object. Without a bbox: of results with one, pycocotools takes the box for the area."""
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "segmentation": masks.coco_json(one.rle),
            "score": round(one.score, 6),
            "file_name": image,
            "phrase": found.phrase,
        }
        for one in objects(found)
    ]


def yolo_lines(number: int, found: Found, *, tolerance: float = 0) -> list[str]:
    """A line for each object: the phrase's number from 0, and the corners of one polygon as shares of the picture."""
    size = found.mask.shape[::-1]
    lines = []
    for one in objects(found):
        corners = joined(_parts(one, tolerance)) / size
        numbers = (f"{value:.{DIGITS}f}".rstrip("0").rstrip(".") for value in corners.ravel())
        lines.append(" ".join([str(number), *numbers]))
    return lines


def labelme_file(path: str, size: Sequence[int], answers: Iterable[Found], *, tolerance: float = 0) -> dict[str, Any]:
    """A labelme file: a polygon for each part of an object, the phrase its label; parts of one object share a group.

    Args:
        path: of the picture, from the folder of the labelme file.
        size: (height, width) of the picture.
    """
    shapes: list[dict[str, Any]] = []
    group = 0
    for found in answers:
        for one in objects(found):
            parts = _parts(one, tolerance)
            group += len(parts) > 1
            shapes += [_shape(found.phrase, corners, group if len(parts) > 1 else None) for corners in parts]
    return {
        "version": LABELME,
        "flags": {},
        "shapes": shapes,
        "imagePath": path,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def _shape(label: str, corners: np.ndarray, group: int | None) -> dict[str, Any]:
    return {
        "label": label,
        "points": corners.tolist(),
        "group_id": group,
        "description": "",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }


def _head(kind: str, image: str, found: Found) -> dict[str, Any]:
    height, width = found.mask.shape
    return {
        "schema": schema_of(kind),
        "image": image,
        "width": width,
        "height": height,
        "phrase": found.phrase,
        "no_target": not found.exists,
    }
