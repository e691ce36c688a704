"""labelme's JSON, a file for each picture: shapes, whose description or else label is a phrase.

Shapes of one phrase are its targets; those of one group_id are one object in parts. A polygon, a rectangle, a circle
(its centre and a point on it) and a mask (a PNG, and the corners of where it lies) are regions; a line or a point is
none. The photo is the file that `imagePath` names, beside the JSON or below the folder of photos, or else `imageData`.

Axes: h w of the picture.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refseg_cli.data import formats, masks
from refseg_cli.data.sources import Problem, Reason, Ref
from refseg_cli.data.sources.downloads import recognised
from refseg_cli.data.sources.gathering import File, Gathering
from refseg_cli.data.sources.refer import parse
from refseg_cli.data.sources.values import brief, string
from refseg_cli.errors import RefsegError
from refseg_cli.files import parse_json

POLYGONS = ("polygon", "oriented_rectangle")


def tells(value: Any) -> bool:
    """Whether a JSON value is of this form."""
    return isinstance(value, dict) and isinstance(value.get("shapes"), list)


def load(path: Path) -> Any:
    """A JSON file's value; in the code page of Western Windows where it is not UTF-8.

    Raises:
        RefsegError: no such file, or not JSON.
    """
    try:
        data = path.read_bytes()
        try:
            return parse_json(data)
        except UnicodeDecodeError:
            return parse_json(data.decode("cp1252", "replace"))
    except OSError as error:
        raise RefsegError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise recognised(path, data, form="JSON", otherwise=RefsegError(f"{path}: not JSON: {error}")) from error


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The references to one picture, one for each phrase."""
    for image_id, table in pictures(file, gathering):

        def ref(row: Any, image_id: int = image_id) -> Ref:
            ann_ids = [_annotation(image_id, shapes, gathering) for shapes in _objects(row["shapes"])]
            return gathering.ref(image_id, ann_ids, [row["phrase"]], split=file.split_of(None))

        phrases: dict[str, list[Any]] = {}
        for shape in table["shapes"]:
            phrases.setdefault(phrase_of(shape), []).append(shape)
        rows = [{"phrase": phrase, "shapes": shapes} for phrase, shapes in phrases.items()]
        yield from parse(rows, ref, file=file.path.name, problems=gathering.problems)


def pictures(file: File, gathering: Gathering) -> Iterator[tuple[int, Any]]:
    """The id of a file's photo, and the file's value, in which all shapes have a label; nothing if it is broken."""

    def note(table: Any) -> tuple[int, Any]:
        if not tells(table):
            raise ValueError("no shapes")
        for shape in table["shapes"]:
            phrase_of(shape)
        size = (table["imageHeight"], table["imageWidth"]) if table.get("imageHeight") else None
        name = string(table.get("imagePath") or f"{file.path.stem}.jpg", "imagePath")
        path = gathering.find_beside(file.path, name)
        data = _decoded(table["imageData"], "imageData") if path is None and table.get("imageData") else None
        if path is None and data is None:
            raise ValueError(f"its photo {name} is not in {gathering.photos.searched}")
        image_id = gathering.photo(re.split(r"[/\\]", name)[-1], size=size, path=path, data=data)
        if not all(gathering.size(image_id)):
            raise ValueError(f"its photo {path or name} cannot be read")
        return image_id, table

    try:
        table = load(file.path)
    except RefsegError as error:
        detail = error.message.removeprefix(f"{file.path}: ")
        gathering.problems.append(Problem(Reason.BROKEN_ANNOTATION, file.path.name, (), detail))
        return
    yield from parse([table], note, file=file.path.name, problems=gathering.problems)


def phrase_of(shape: Any) -> str:
    """What a shape is called.

    Raises:
        ValueError: it is no shape with a label.
    """
    if not isinstance(shape, dict):
        raise ValueError(f"{brief(shape)} in place of a shape")
    label = string(shape.get("label"), "label")
    description = shape.get("description")
    return description if isinstance(description, str) and description.strip() else label


def region(shape: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """A shape as COCO's segmentation.

    size: (height, width) of its picture.

    Raises:
        ValueError: it is no region, or broken.
    """
    points, kind = _points(shape.get("points")), shape.get("shape_type") or "polygon"
    if kind in POLYGONS:
        return [[value for point in points for value in point]]
    if kind == "rectangle" and len(points) in (2, 4):
        (left, top), (right, bottom) = map(min, zip(*points, strict=True)), map(max, zip(*points, strict=True))
        return [[left, top, right, top, right, bottom, left, bottom]]
    if kind == "circle" and len(points) == 2:
        return masks.coco_json(masks.encode(_disc(points[0], math.dist(*points), size)))
    if kind == "mask" and points:
        return masks.coco_json(masks.encode(_pasted(_decoded(shape.get("mask"), "mask"), points[0], size)))
    raise ValueError(f"shape_type {brief(kind)} with {len(points)} points is no region")


def _objects(shapes: Sequence[Any]) -> list[list[Any]]:
    """The shapes of each object."""
    groups: dict[Any, list[Any]] = {}
    for number, shape in enumerate(shapes):
        group = shape.get("group_id")
        groups.setdefault(("alone", number) if group is None else ("group", repr(group)), []).append(shape)
    return list(groups.values())


def _annotation(image_id: int, shapes: Sequence[Any], gathering: Gathering) -> int:
    size = gathering.size(image_id)
    parts = [region(shape, size) for shape in shapes]
    if all(isinstance(part, list) for part in parts):
        whole = [polygon for part in parts for polygon in part]
    else:  # COCO has no polygons and runs together
        whole = [masks.coco_json(masks.from_segmentation(part, *size)) for part in parts]
    return gathering.annotation(image_id, whole, category=gathering.category(name=shapes[0]["label"]))


def _points(value: Any) -> list[tuple[float, float]]:
    try:
        points = [(float(x), float(y)) for x, y in value]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"points {brief(value)}") from error
    if not all(map(math.isfinite, (number for point in points for number in point))):
        raise ValueError("points with NaN or infinite coordinates")
    return points


def _disc(centre: tuple[float, float], radius: float, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: the pixels whose centres are in a circle."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.hypot(columns + 0.5 - centre[0], rows + 0.5 - centre[1]) <= radius


def _pasted(png: bytes, corner: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: a mask of a part of the picture in its place; corner: (x, y) of its first pixel."""
    with formats.opened(png) as image:
        patch = np.asarray(image)
    if patch.ndim != 2:
        raise ValueError("a mask in colours")
    left, top = round(corner[0]), round(corner[1])
    mask = np.zeros(size, bool)
    inside = mask[max(top, 0) : max(top + patch.shape[0], 0), max(left, 0) : max(left + patch.shape[1], 0)]
    first = (max(-top, 0), max(-left, 0))
    inside[:] = patch[first[0] : first[0] + inside.shape[0], first[1] : first[1] + inside.shape[1]] != 0
    return mask


def _decoded(text: Any, name: str) -> bytes:
    try:
        return base64.b64decode(string(text, name))
    except binascii.Error as error:
        raise ValueError(f"{name}: {error}") from error
