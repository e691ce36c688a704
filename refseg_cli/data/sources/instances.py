"""`instances.json`: images, annotations and categories in COCO's form; and the join with the references."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from refseg_cli.data.sources import Annotation, Draft, Problem, Reason, Ref, Unusable
from refseg_cli.data.sources.json_files import BELOW_ROOT, load_json
from refseg_cli.data.sources.values import brief, deeper_than, fault_of, flag, text, whole
from refseg_cli.errors import RefsegError, reason_of, unknown_name
from refseg_cli.records import Expression

SPLIT_NAME = re.compile(r"[A-Za-z0-9_]+")  # it becomes part of a file name


@dataclass(slots=True)
class Instances:
    """What `instances.json` holds.

    file: its name, for messages.
    photos: image id -> (file name, height, width).  by_image: image id -> its sound annotations.
    namesakes: (image id, file name) of photos with the id of another one, which is in `broken_photos`.
    image_of: annotation id -> image id.  categories: category id -> name.
    broken: problems of annotations, by image id.  broken_photos, broken_categories: what is wrong, by id.
    cautions: rows that nothing can refer to.
    number: what makes a number of an id, as `values.whole` does.
    complete: image id -> ids of the categories whose every object in it is annotated, where the file says so.
    class_masks: image id -> category id -> all of the category in one mask, a segmentation as in `Annotation`.
    coco_ids: image id -> the photo's id in COCO, of photos that say so.
    partial: image id -> ids of the categories of which some objects are annotated, in LVIS's form.
    """

    file: str
    number: Callable[[Any, str], int] = whole
    photos: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    namesakes: list[tuple[int, str]] = field(default_factory=list)
    by_image: dict[int, list[Annotation]] = field(default_factory=lambda: defaultdict(list))
    image_of: dict[int, int] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    broken: dict[int, list[tuple[int, Reason, str]]] = field(default_factory=lambda: defaultdict(list))
    broken_photos: dict[int, str] = field(default_factory=dict)
    broken_categories: dict[int, str] = field(default_factory=dict)
    cautions: list[Problem] = field(default_factory=list)
    complete: dict[int, frozenset[int]] = field(default_factory=dict)
    class_masks: dict[int, dict[int, Any]] = field(default_factory=lambda: defaultdict(dict))
    coco_ids: dict[int, int] = field(default_factory=dict)
    partial: dict[int, frozenset[int]] = field(default_factory=dict)


def read(
    path: Path,
    *,
    number: Callable[[Any, str], int] = whole,
    hint: str | None = BELOW_ROOT,
    wanted: Collection[int] | None = None,
) -> tuple[Instances, str]:
    """The instances of a dataset, and the file's SHA-256.

    Args:
        number: as in `Instances`.
        hint: what to do if there is no such file.
        wanted: as in `parse`.

    Raises:
        RefsegError: the file is missing, or is no such file as a whole.
    """
    table, digest = load_json(path, hint=hint)
    return parse(table, file=str(path), number=number, wanted=wanted), digest


def parse(
    table: Any,
    *,
    file: str,
    number: Callable[[Any, str], int] = whole,
    wanted: Collection[int] | None = None,
) -> Instances:
    """The instances that a COCO file's value holds, whose rows are let go one by one.

    Args:
        file: its path, for messages.
        number: as in `Instances`.
        wanted: ids of the images whose annotations are looked at; None for all.

    Raises:
        RefsegError: it is no such value as a whole.
    """
    found = Instances(Path(file).name, number)
    try:
        if not isinstance(table, dict):
            raise TypeError(f"holds a {type(table).__name__} in place of an object")
        _each(table, "categories", found, _add_category)
        _each(table, "images", found, _add_photo)
        _each(table, "annotations", found, partial(_add_annotation, wanted=wanted))
        if "class_masks" in table:
            _each(table, "class_masks", found, _add_class_mask)
        for image_id, incomplete in found.partial.items():
            present = {annotation.category_id for annotation in found.by_image.get(image_id, ())}
            found.complete[image_id] |= present - incomplete
    except (KeyError, TypeError, ValueError) as error:
        raise RefsegError(
            f"{file}: not a COCO file: {reason_of(error)}",
            hint="it needs images, annotations and categories, as in the REFER downloads",
        ) from error
    return found


def _each(table: dict[str, Any], name: str, found: Instances, add: Callable[[Instances, dict[str, Any]], None]) -> None:
    """Add every row.  Rows without a usable id are cautions, for nothing can refer to them, unless none has one."""
    cautions: list[Problem] = []
    rows = table[name]
    if not isinstance(rows, list):
        raise TypeError(f"{name} is a {type(rows).__name__}, not a list")
    rows.reverse()
    for number in range(count := len(rows)):
        row = rows.pop()  # let go, for all that is made of the others takes as much room
        try:
            if not isinstance(row, dict):
                raise TypeError(f"{brief(row)} in place of an object")
            add(found, row)
        except (KeyError, TypeError, ValueError) as error:
            detail = f"{name}, row {number}: {reason_of(error)}"
            cautions.append(Problem(Reason.BROKEN_ANNOTATION, found.file, (), detail, caution=True))
            if len(cautions) == count:
                raise ValueError(detail) from error
    found.cautions += cautions


def _add_category(found: Instances, row: dict[str, Any]) -> None:
    category_id = found.number(row["id"], "id")
    try:
        name = text(row.get("name"), "name")
        if (other := found.categories.setdefault(category_id, name)) != name:
            raise ValueError(f"of two categories, {brief(other)} and {brief(name)}")
    except ValueError as error:
        found.broken_categories[category_id] = str(error)


def _add_photo(found: Instances, row: dict[str, Any]) -> None:
    image_id = found.number(row["id"], "id")
    try:
        height, width = whole(row.get("height"), "height"), whole(row.get("width"), "width")
        name = text(row.get("file_name", row.get("coco_url")), "file_name")  # LVIS has the address only
        if (other := found.photos.setdefault(image_id, photo := (name, height, width))) != photo:
            found.namesakes.append((image_id, name))
            raise ValueError(f"of two photos, {_told(other)} and {_told(photo)}")
    except ValueError as error:
        found.broken_photos[image_id] = str(error)
    try:
        _add_knowledge(found, image_id, row)
    except ValueError as error:
        found.complete[image_id] = frozenset()  # whatever it was meant to say
        detail = f"image {image_id}: {error}"
        found.cautions.append(Problem(Reason.BROKEN_ANNOTATION, found.file, (), detail, caution=True))


def _told(photo: tuple[str, int, int]) -> str:
    name, height, width = photo
    return f"{brief(name)} of {width}x{height}"


def _add_knowledge(found: Instances, image_id: int, row: dict[str, Any]) -> None:
    """What the row says beyond COCO: what is annotated exhaustively, and which of COCO's photos it is."""

    def ids(name: str) -> frozenset[int]:
        listed = row.get(name) or []
        if not isinstance(listed, list):
            raise ValueError(f"{name} {brief(listed)}")
        return frozenset(found.number(value, name) for value in listed)

    if row.get("complete") is not None:
        found.complete[image_id] = ids("complete")
    elif "neg_category_ids" in row:  # LVIS, whose images have been searched for a few categories each
        found.complete[image_id] = ids("neg_category_ids")
        found.partial[image_id] = ids("not_exhaustive_category_ids")
    if row.get("coco_id") is not None:
        found.coco_ids[image_id] = whole(row["coco_id"], "coco_id")


def _add_annotation(found: Instances, row: dict[str, Any], *, wanted: Collection[int] | None) -> None:
    ann_id, image_id = found.number(row["id"], "id"), found.number(row["image_id"], "image_id")
    is_new = ann_id not in found.image_of
    found.image_of[ann_id] = image_id
    if wanted is not None and image_id not in wanted:
        return
    try:
        category_id = _category_id(found, row)
        annotation = Annotation(
            ann_id,
            image_id,
            category_id,
            found.categories[category_id],
            _box(row),
            _segmentation(row),
            iscrowd=_flag(row, "iscrowd", otherwise=False),
            reliable=_flag(row, "reliable", otherwise=True),
        )
        if is_new or _is_first(found, annotation):
            found.by_image[image_id].append(annotation)
    except Unusable as error:
        found.broken[image_id].append((ann_id, error.reason, f"annotation {ann_id}: {error.detail}"))


def _is_first(found: Instances, annotation: Annotation) -> bool:
    """Whether its image has no other of its id. One that is there twice, as it is, counts once.

    Raises:
        Unusable: it is another one, so that nobody knows which of both a reference means.
    """
    ann_id, image_id = annotation.ann_id, annotation.image_id
    if any(broken == ann_id for broken, _, _ in found.broken.get(image_id, ())):
        return False
    others = found.by_image.get(image_id, [])
    other = next((one for one in others if one.ann_id == ann_id), None)
    if other not in (None, annotation):
        others.remove(other)
        raise Unusable(Reason.BROKEN_ANNOTATION, "two objects have this id")
    return other is None


def _flag(row: dict[str, Any], name: str, *, otherwise: bool) -> bool:
    value = row.get(name)
    if value is None:
        return otherwise
    try:
        return flag(value, name)
    except ValueError as error:
        raise Unusable(Reason.BROKEN_ANNOTATION, str(error)) from error


def _add_class_mask(found: Instances, row: dict[str, Any]) -> None:
    image_id = found.number(row["image_id"], "image_id")
    try:
        found.class_masks[image_id][found.number(row["category_id"], "category_id")] = _segmentation(row)
    except Unusable as error:
        raise ValueError(error.detail) from error


def _category_id(found: Instances, row: dict[str, Any]) -> int:
    try:
        category_id = found.number(row.get("category_id"), "category")
    except ValueError as error:
        raise Unusable(Reason.UNKNOWN_CATEGORY, str(error)) from error
    if category_id in found.broken_categories:
        raise Unusable(Reason.BROKEN_TEXT, f"category {category_id}: {found.broken_categories[category_id]}")
    if category_id not in found.categories:
        raise Unusable(Reason.UNKNOWN_CATEGORY, str(category_id))
    return category_id


def _box(row: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """(x, y, width, height) in pixels; None if the annotation has none."""
    listed = row.get("bbox")
    if listed is None or listed == []:
        return None
    try:
        if not isinstance(listed, list):
            raise TypeError
        x, y, w, h = map(float, listed)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unusable(Reason.BROKEN_BOX, brief(listed)) from error
    if not (isfinite(x) and isfinite(y) and isfinite(w) and isfinite(h)) or w < 0 or h < 0:
        raise Unusable(Reason.BROKEN_BOX, brief(listed))
    return (x, y, w, h)


def _segmentation(row: dict[str, Any]) -> Any:
    """What it is, if no deeper than a list of RLEs: it goes to another process, and copying it must not fail."""
    segmentation = row.get("segmentation")
    if not isinstance(segmentation, str) and deeper_than(segmentation, 3):
        raise Unusable(Reason.BROKEN_MASK, "nested too deeply")
    return segmentation


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
            problems.append(Problem(Reason.BROKEN_REF, file, (ref.ref_id,), f"split {brief(ref.split)}"))
        elif ref.image_id in instances.broken_photos:
            detail = f"image {ref.image_id}: {instances.broken_photos[ref.image_id]}"
            problems.append(Problem(Reason.BROKEN_ANNOTATION, instances.file, (ref.ref_id,), detail))
        elif ref.image_id not in instances.photos:
            problems.append(Problem(Reason.UNKNOWN_IMAGE, file, (ref.ref_id,), f"image {ref.image_id}"))
        else:
            groups.setdefault(ref.split, {}).setdefault(ref.image_id, []).append(ref)
    for name in splits:
        if name not in groups:
            raise unknown_name(f"split of {file}", name, groups)
    wanted = {split: images for split, images in groups.items() if split in (splits or groups)}
    problems += _broken(instances, wanted.values())
    found: list[Draft] = []
    for split, images in wanted.items():
        for image_id in sorted(images):
            draft = _draft(split, image_id, images[image_id], instances, file, problems)
            if draft.expressions:
                found.append(draft)
    return found


def _broken(instances: Instances, splits: Iterable[dict[int, list[Ref]]]) -> Iterator[Problem]:
    """What is broken about the images that are referred to: cautions where no reference is to the broken annotation."""
    refs: dict[int, list[Ref]] = defaultdict(list)  # of all splits, since one may refer to what another does not
    for images in splits:
        for image_id, some in images.items():
            refs[image_id] += some
    for image_id, broken in instances.broken.items():
        for ann_id, reason, detail in broken if image_id in refs else ():
            losers = tuple(ref.ref_id for ref in refs[image_id] if ann_id in ref.ann_ids)
            yield Problem(reason, instances.photos[image_id][0], losers, detail, caution=not losers)
    yield from instances.cautions


def _draft(
    split: str,
    image_id: int,
    refs: Sequence[Ref],
    instances: Instances,
    file: str,
    problems: list[Problem],
) -> Draft:
    file_name, height, width = instances.photos[image_id]
    annotations = instances.by_image.get(image_id, [])
    position = {annotation.ann_id: i for i, annotation in enumerate(annotations)}
    known_broken = {ann_id for ann_id, _, _ in instances.broken.get(image_id, ())}
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
        for sent_id, phrase, raw, exists in ref.sentences:
            if fault := fault_of(phrase) or ("" if raw is phrase else fault_of(raw)):
                detail = f"sentence {sent_id} with {fault}"
                problems.append(Problem(Reason.BROKEN_TEXT, file, (ref.ref_id,), detail))
            elif phrase.strip():
                meant = targets if exists else ()
                expressions.append(Expression(phrase, ref.ref_id, sent_id, meant, raw, ref.ignored))
            else:
                problems.append(Problem(Reason.EMPTY_EXPRESSION, file, (ref.ref_id,), f"sentence {sent_id}"))
    return Draft(image_id, file_name, split, height, width, tuple(annotations), tuple(expressions))
