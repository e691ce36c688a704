"""A table of phrases beside a COCO file: what a person with own pictures has.

A row has an image and a phrase, and says what the phrase means: annotations by their ids, a mask, the box of an
annotated object, or that it is nothing in the picture. Of these the first that is there counts. docs/data.md lists the
columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from refseg_cli.data import mask_values, masks
from refseg_cli.data.sources import Annotation, Problem, Reason, Ref, Sentence, Unusable
from refseg_cli.data.sources.instances import Instances
from refseg_cli.data.sources.named_images import IMAGES, NamedImages
from refseg_cli.data.sources.rows import Row, as_json, check_columns, first, read_rows, use
from refseg_cli.data.sources.splits import split_of
from refseg_cli.data.sources.values import brief, flag, identifier, made_ids, text
from refseg_cli.records import Rle

# Of each kind the first column that is there counts.
PHRASES = ("phrase", "sent", "text", "expression", "caption")
ANNOTATIONS = ("ann_id", "ann_ids", "annotation_id", "annotation_ids")
MASKS = ("mask", "masks", "segmentation", "rle", "mask_path")
BOXES = ("box", "bbox", "boxes")
NO_TARGET, REF_ID, SENT_ID, CATEGORY = "no_target", "ref_id", "sent_id", "category"

BOX_TOLERANCE = 2.0  # pixels by which an edge may be off: people round boxes, or cut decimals off
NO_CATEGORY = (0, "object")  # of a mask of which the table says no more
_BETWEEN = re.compile(r"[\s,;]+")


@dataclass(frozen=True, slots=True)
class _Phrase:
    """A sound row.  ref, sent_id: as given, None where the table does not say.  split: empty likewise."""

    number: int
    image_id: int
    text: str
    ann_ids: tuple[int, ...]
    split: str
    ref: int | None
    sent_id: int | None


def read(path: Path, found: Instances, problems: list[Problem]) -> tuple[list[Ref], str]:
    """The references of a table, and the file's SHA-256. A reference without a split in the table has an empty one.

    Args:
        found: what the phrases are about; masks that are none of its annotations are added to them.
        problems: rows that make no phrase are appended here, with their numbers.

    Raises:
        RefsegError: no such table, or none with images and phrases.
    """
    rows, digest = read_rows(path)
    check_columns(rows, path, {"image": IMAGES, "phrase": PHRASES})
    phrases = list(use(rows, _Meanings(path, found).phrase, file=path.name, problems=problems))
    return list(_references(phrases, path.name, problems)), digest


def _references(phrases: Sequence[_Phrase], file: str, problems: list[Problem]) -> Iterator[Ref]:
    """One for each phrase, or for all phrases of one ref_id."""
    ref_ids = made_ids([phrase.ref for phrase in phrases])
    sent_ids = made_ids([phrase.sent_id for phrase in phrases])
    groups: dict[int, tuple[_Phrase, list[Sentence]]] = {}
    for phrase, ref_id, sent_id in zip(phrases, ref_ids, sent_ids, strict=True):
        first, sentences = groups.setdefault(ref_id, (phrase, []))
        differences = {
            "another image": first.image_id != phrase.image_id,
            "other targets": first.ann_ids != phrase.ann_ids,
            "another split": first.split != phrase.split,
        }
        if told := next((what for what, differs in differences.items() if differs), ""):
            detail = f"row {phrase.number}: its ref_id is that of row {first.number}, with {told}"
            problems.append(Problem(Reason.BROKEN_REF, file, (ref_id,), detail))
        else:
            sentences.append(Sentence(sent_id, phrase.text, phrase.text))
    for ref_id, (first, sentences) in groups.items():
        yield Ref(ref_id, first.image_id, first.split, first.ann_ids, tuple(sentences))


class _Meanings:
    """Finds what rows are about among the instances, and adds their masks to these."""

    def __init__(self, path: Path, found: Instances) -> None:
        self._path, self._found = path, found
        self._images = NamedImages(found)
        self._new_ids = count(max(found.image_of, default=0) + 1)
        self._outlines: dict[int, dict[Rle, int]] = {}  # image id -> mask -> annotation id
        self._category_ids = {name: category_id for category_id, name in found.categories.items()}

    def phrase(self, row: Row) -> _Phrase:
        """Raises Unusable: the row is broken, or names what is not there."""
        cells = row.cells
        image_id = self._images.id_of(cells)
        said = first(cells, PHRASES)
        if said is None:
            raise Unusable(Reason.EMPTY_EXPRESSION, "no phrase")
        try:
            phrase = text(said, "phrase").strip()
            ref, sent_id = (identifier(cells[name], name) if name in cells else None for name in (REF_ID, SENT_ID))
        except ValueError as error:
            raise Unusable(Reason.BROKEN_TEXT, str(error)) from error
        return _Phrase(row.number, image_id, phrase, self._targets(image_id, cells), split_of(row), ref, sent_id)

    def _targets(self, image_id: int, cells: Mapping[str, Any]) -> tuple[int, ...]:
        """Ids of the annotations that the phrase names, sorted; none for no target."""
        named = [(find, value) for find, columns in self._ways() if (value := first(cells, columns)) is not None]
        if _says_no_target(cells):
            if named:
                raise Unusable(Reason.BROKEN_REF, "says no_target, and names one")
            return ()
        if not named:
            told = "names no target: an annotation, a mask or a box; where there is none, no_target says so"
            raise Unusable(Reason.BROKEN_REF, told)
        find, value = named[0]
        return tuple(sorted(set(find(image_id, value, cells))))

    def _ways(self) -> tuple[tuple[Any, Sequence[str]], ...]:
        return (self._by_id, ANNOTATIONS), (self._by_mask, MASKS), (self._by_box, BOXES)

    def _by_id(self, image_id: int, value: Any, cells: Mapping[str, Any]) -> Iterator[int]:
        """12, "12 13" or [12, 13]"""
        for one in _listed(value, Reason.UNKNOWN_ANNOTATION):
            try:
                ann_id = self._found.number(one, "annotation")
            except ValueError as error:
                raise Unusable(Reason.UNKNOWN_ANNOTATION, str(error)) from error
            if self._found.image_of.get(ann_id) != image_id:
                other = self._found.image_of.get(ann_id)
                of = "" if other is None else f", which belongs to image {other}"
                raise Unusable(Reason.UNKNOWN_ANNOTATION, f"{one}{of}")
            self._check_sound(image_id, ann_id)
            yield ann_id

    def _check_sound(self, image_id: int, ann_id: int) -> None:
        for broken, reason, detail in self._found.broken.get(image_id, ()):
            if broken == ann_id:
                raise Unusable(reason, detail)

    def _by_mask(self, image_id: int, value: Any, cells: Mapping[str, Any]) -> Iterator[int]:
        """RLE, polygons, or a PNG file; several in a list are objects of their own."""
        try:
            value = as_json(value)
            several = isinstance(value, list) and value and isinstance(value[0], dict | str)
            for one in value if several else [value]:
                rle = self._rle(image_id, one)
                known = self._outlined(image_id)
                yield known[rle] if rle in known else self._add(image_id, rle, cells)
        except masks.MaskTooLarge as error:
            _, height, width = self._found.photos[image_id]
            raise Unusable(Reason.LARGE_MASK, f"{error} for a picture of {width}x{height}") from error
        except ValueError as error:
            raise Unusable(Reason.BROKEN_MASK, str(error)) from error

    def _rle(self, image_id: int, value: Any) -> Rle:
        """On the pixels that it was drawn on: EXIF may turn the photo by a quarter, and only its size tells."""
        _, height, width = self._found.photos[image_id]
        size, turned = (height, width), (width, height)
        if isinstance(value, str):
            return masks.encode(mask_values.read_png(value, beside=str(self._path), sizes=(size, turned)))
        is_turned = isinstance(value, dict) and value.get("size") == list(turned)
        return masks.from_segmentation(mask_values.as_coco(value, size), *(turned if is_turned else size))

    def _outlined(self, image_id: int) -> dict[Rle, int]:
        """The annotations of an image by their masks."""
        if image_id not in self._outlines:
            _, height, width = self._found.photos[image_id]
            known = self._outlines[image_id] = dict[Rle, int]()
            for annotation in self._found.by_image.get(image_id, ()):
                try:
                    rle = masks.from_segmentation(as_json(annotation.segmentation), height, width)
                except ValueError:
                    continue  # told when shards are made, or by the phrase that names it
                known.setdefault(rle, annotation.ann_id)
        return self._outlines[image_id]

    def _add(self, image_id: int, rle: Rle, cells: Mapping[str, Any]) -> int:
        """A new annotation, with the category that the row names."""
        category_id, category = NO_CATEGORY
        if CATEGORY in cells:
            category = text(cells[CATEGORY], CATEGORY).strip()
            category_id = self._category_ids.get(category, category_id)
        if not masks.area(rle):
            raise ValueError("nothing is inside; a phrase without a target says so by no_target")
        ann_id = next(self._new_ids)
        segmentation = {"size": list(rle.size), "counts": rle.counts.decode("ascii")}
        annotation = Annotation(ann_id, image_id, category_id, category, None, segmentation, iscrowd=False)
        self._found.by_image[image_id].append(annotation)
        self._found.image_of[ann_id] = image_id
        self._outlined(image_id)[rle] = ann_id
        return ann_id

    def _by_box(self, image_id: int, value: Any, cells: Mapping[str, Any]) -> Iterator[int]:
        """x, y, width, height of an annotated object, or several such"""
        listed = _listed(value, Reason.BROKEN_BOX)
        for box in listed if isinstance(listed[0], list) else [listed]:
            try:
                x, y, width, height = (float(side) for side in box)
                if not math.isfinite(x + y + width + height):
                    raise ValueError
            except (TypeError, ValueError, OverflowError) as error:
                raise Unusable(Reason.BROKEN_BOX, f"{brief(box)}: it is x, y, width, height") from error
            yield self._boxed(image_id, (x, y, x + width, y + height), brief(box))

    def _boxed(self, image_id: int, edges: tuple[float, ...], said: str) -> int:
        """The annotation whose box has these edges."""
        ids = {ann_id: rle for rle, ann_id in self._outlined(image_id).items()}
        off: dict[int, float] = {}
        for annotation in self._found.by_image.get(image_id, ()):
            box = annotation.box
            if box is None and annotation.ann_id in ids:
                box = masks.box(ids[annotation.ann_id])
            if box is not None:
                theirs = (box[0], box[1], box[0] + box[2], box[1] + box[3])
                off[annotation.ann_id] = max(abs(a - b) for a, b in zip(edges, theirs, strict=True))
        nearest = sorted(off, key=lambda ann_id: off[ann_id])[:2]
        if not nearest or not off[nearest[0]] <= BOX_TOLERANCE:
            raise Unusable(Reason.UNKNOWN_ANNOTATION, f"box {said}: no annotated object has it")
        if len(nearest) == 2 and off[nearest[0]] == off[nearest[1]]:
            raise Unusable(Reason.UNKNOWN_ANNOTATION, f"box {said}: of {nearest[0]} and {nearest[1]}; give the id")
        return nearest[0]


def _listed(value: Any, reason: Reason) -> list[Any]:
    """The values of "12 13", "[12, 13]", [12, 13] or 12; at least one."""
    try:
        value = as_json(value)
    except ValueError as error:
        raise Unusable(reason, f"{brief(value)}: {error}") from error
    if isinstance(value, str):
        return [part for part in _BETWEEN.split(value) if part] or [value]
    return value if isinstance(value, list) and value else [value]


def _says_no_target(cells: Mapping[str, Any]) -> bool:
    try:
        return flag(cells.get(NO_TARGET, False), NO_TARGET)
    except ValueError as error:
        raise Unusable(Reason.BROKEN_REF, str(error)) from error
