"""`instances.json`: images, annotations and categories in COCO's form; and the join with the references."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refseg_cli.data.sources import Annotation, Draft, Problem, Reason, Ref
from refseg_cli.errors import RefsegError, unknown_name
from refseg_cli.records import Expression

SPLIT_NAME = re.compile(r"[A-Za-z0-9_]+")  # it becomes part of a file name


@dataclass(slots=True)
class Instances:
    """What `instances.json` holds.

    photos: image id -> (file name, height, width).  by_image: image id -> its sound annotations.
    image_of: annotation id -> image id.  broken: problems of annotations, by image id.
    """

    photos: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    by_image: dict[int, list[Annotation]] = field(default_factory=lambda: defaultdict(list))
    image_of: dict[int, int] = field(default_factory=dict)
    broken: dict[int, list[tuple[int, Reason, str]]] = field(default_factory=lambda: defaultdict(list))


# Polygons are most of the file, and only numbers and brackets, so quoting one makes it a string: four times as fast to
# read and a quarter of the memory. `photos.finish` reads the string, in whatever process makes the shard.
_POLYGONS = re.compile(rb'"segmentation"\s*:\s*(\[\s*\[[-+\d.eE,\[\]\s]*\]\s*\])')


def load_json(path: Path) -> tuple[Any, str]:
    """A JSON file's value, with polygons as strings and sentences without their tokens, and the file's SHA-256.

    Raises:
        RefsegError: no such file, or not JSON.
    """
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        data = _POLYGONS.sub(rb'"segmentation":"\1"', data)
        # Not strict: a polygon may go over several lines.
        return json.loads(data, object_hook=_without_tokens if b'"tokens"' in data else None, strict=False), digest
    except OSError as error:
        raise RefsegError(
            f"{path}: {error.strerror}", hint="--root is the folder that holds refcoco/, grefcoco/ and the like"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RefsegError(f"{path}: not JSON: {error}") from error


def _without_tokens(table: dict[str, Any]) -> dict[str, Any]:
    table.pop("tokens", None)
    return table


def read(path: Path) -> tuple[Instances, str]:
    """The instances of a dataset, and the file's SHA-256.

    Raises:
        RefsegError: the file is missing, or is no such file as a whole.
    """
    table, digest = load_json(path)
    found = Instances()
    try:
        categories = {int(row["id"]): str(row["name"]) for row in table["categories"]}
        for row in table["images"]:
            found.photos[int(row["id"])] = (str(row["file_name"]), int(row["height"]), int(row["width"]))
        for row in table["annotations"]:
            ann_id, image_id = int(row["id"]), int(row["image_id"])
            found.image_of[ann_id] = image_id
            _add(found, row, ann_id, image_id, categories)
    except (KeyError, TypeError, ValueError) as error:
        raise RefsegError(
            f"{path}: not a COCO file: {type(error).__name__}: {error}",
            hint="it needs images, annotations and categories, as in the REFER downloads",
        ) from error
    return found, digest


def _add(found: Instances, row: dict[str, Any], ann_id: int, image_id: int, categories: dict[int, str]) -> None:
    try:
        x, y, w, h = (float(value) for value in row["bbox"])
        box = (x, y, w, h)
    except (KeyError, TypeError, ValueError):
        found.broken[image_id].append((ann_id, Reason.BROKEN_BOX, f"annotation {ann_id}: {row.get('bbox')}"))
        return
    if not all(math.isfinite(value) for value in box) or min(box[2:]) < 0:
        found.broken[image_id].append((ann_id, Reason.BROKEN_BOX, f"annotation {ann_id}: {list(box)}"))
        return
    category = row.get("category_id")
    if category not in categories:
        detail = f"annotation {ann_id}: {category!r}"
        found.broken[image_id].append((ann_id, Reason.UNKNOWN_CATEGORY, detail))
        return
    found.by_image[image_id].append(
        Annotation(
            ann_id=ann_id,
            image_id=image_id,
            category_id=int(category),
            category=categories[category],
            box=box,
            segmentation=row.get("segmentation"),
            iscrowd=bool(row.get("iscrowd", 0)),
        )
    )


def drafts(
    refs: Iterable[Ref], instances: Instances, *, splits: Sequence[str], file: str, problems: list[Problem]
) -> list[Draft]:
    """References grouped by split and image, with all annotations of the image.

    Sorted by split in the order of their first reference, then by image id.

    Args:
        splits: the wanted ones; none for all.
        file: name of the references' file, for messages.
        problems: what is left out is appended here.

    Raises:
        RefsegError: a wanted split does not occur.
    """
    groups: dict[str, dict[int, list[Ref]]] = {}
    for ref in refs:
        if not SPLIT_NAME.fullmatch(ref.split):
            problems.append(Problem(Reason.BROKEN_REF, file, (ref.ref_id,), f"split {ref.split!r}"))
        elif ref.image_id not in instances.photos:
            problems.append(Problem(Reason.UNKNOWN_IMAGE, file, (ref.ref_id,), f"image {ref.image_id}"))
        else:
            groups.setdefault(ref.split, {}).setdefault(ref.image_id, []).append(ref)
    for name in splits:
        if name not in groups:
            raise unknown_name(f"split of {file}", name, groups)
    found: list[Draft] = []
    reported: set[int] = set()
    for split, images in groups.items():
        if split in (splits or groups):
            for image_id in sorted(images):
                draft = _draft(split, image_id, images[image_id], instances, file, problems, reported)
                if draft.expressions:
                    found.append(draft)
    return found


def _draft(
    split: str,
    image_id: int,
    refs: Sequence[Ref],
    instances: Instances,
    file: str,
    problems: list[Problem],
    reported: set[int],
) -> Draft:
    file_name, height, width = instances.photos[image_id]
    annotations = instances.by_image.get(image_id, [])
    position = {annotation.ann_id: i for i, annotation in enumerate(annotations)}
    broken = instances.broken.get(image_id, [])
    for ann_id, reason, detail in broken if image_id not in reported else ():
        losers = tuple(ref.ref_id for ref in refs if ann_id in ref.ann_ids)
        problems.append(Problem(reason, file_name, losers, detail))
    reported.add(image_id)
    known_broken = {ann_id for ann_id, _, _ in broken}
    expressions: list[Expression] = []
    for ref in refs:
        unknown = [a for a in ref.ann_ids if a not in position and a not in known_broken]
        if unknown:
            other = instances.image_of.get(unknown[0])
            detail = f"{unknown[0]}" + (f", which belongs to image {other}" if other is not None else "")
            problems.append(Problem(Reason.UNKNOWN_ANNOTATION, file, (ref.ref_id,), detail))
        if any(a not in position for a in ref.ann_ids):
            continue
        targets = tuple(dict.fromkeys(position[a] for a in ref.ann_ids))
        for sent_id, text, raw, exists in ref.sentences:
            if text.strip():
                expressions.append(Expression(text, ref.ref_id, sent_id, targets if exists else (), raw))
            else:
                problems.append(Problem(Reason.EMPTY_EXPRESSION, file, (ref.ref_id,), f"sentence {sent_id}"))
    return Draft(image_id, file_name, split, height, width, tuple(annotations), tuple(expressions))
