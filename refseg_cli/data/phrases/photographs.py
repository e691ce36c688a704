"""Phrases about the annotated objects of a photo.

Axes: h w pixels of the photo, upright.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from refseg_cli.data import formats, masks
from refseg_cli.data.phrases.annotated import Outline, scene_of
from refseg_cli.data.phrases.generate import Reference, describe
from refseg_cli.data.phrases.nouns import Category, Vocabulary
from refseg_cli.data.phrases.proposals import PHOTO_KINDS
from refseg_cli.data.sources import Draft, Problem, Reason
from refseg_cli.data.sources.photos import Photo, Rules, examine
from refseg_cli.files import parse_json

SAME_MASK = 0.98  # IoU from which the objects of a category are the whole of it: annotators' borders differ a little
# Photos show fewer things than scenes do, and there are more ways of saying what they show.
SENTENCES, REPEATS = (12, 20), 5
ABSENT = 0.4  # references without a target for each one that has some, but one at least


@dataclass(frozen=True, slots=True)
class Subject:
    """A photo to describe.

    draft: without expressions.  complete: ids of the categories whose every object is annotated; None for all.
    class_masks: category id -> the whole category as a segmentation, where that is known.
    """

    draft: Draft
    path: Path
    complete: frozenset[int] | None = None
    class_masks: Mapping[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Describer:
    """How photos are described.

    categories: by id.  nouns: the same with their plurals.  companions: as in `proposals.View`.
    """

    categories: Mapping[int, Category]
    nouns: Vocabulary
    companions: Mapping[int, Mapping[Category, float]]
    seed: int
    rules: Rules

    def __call__(self, subject: Subject) -> tuple[list[Reference], list[Problem]]:
        """References whose targets are positions in the draft's annotations, the same ones for the same seed and image.

        With a photo that cannot be used there are none, and the problems say why.
        """
        problems: list[Problem] = []
        photo = examine(subject.draft, subject.path, problems, self.rules)
        if photo is None:
            return [], problems
        try:
            pixels = formats.upright(photo.data, photo.orientation)
        except ValueError as error:
            return [], [Problem(Reason.BROKEN_IMAGE, subject.draft.file_name, (), str(error))]
        annotations = subject.draft.annotations
        sound = [i for i in range(len(annotations)) if i not in photo.lost]
        outlines = [
            Outline(
                instance.category_id,
                masks.decode(instance.rle).astype(bool),
                crowd=instance.iscrowd,
                traced=annotations[i].reliable,
            )
            for i, instance in zip(sound, photo.instances, strict=True)
        ]
        together, doubtful = _class_masks(subject.class_masks, outlines, photo)
        doubtful |= {annotations[i].category_id for i in photo.lost}
        complete = set(self.categories if subject.complete is None else subject.complete) - doubtful
        scene, places = scene_of(
            outlines, self.categories, photo.size, complete=complete, together=together, pixels=pixels
        )
        rng = Random(f"{self.seed}/{subject.draft.image_id}")
        found = describe(
            scene,
            self.nouns,
            rng,
            _anything,
            kinds=PHOTO_KINDS,
            companions=self.companions,
            sentences=SENTENCES,
            repeats=REPEATS,
        )
        return [_placed(reference, [sound[place] for place in places]) for reference in _balanced(found)], []


def _anything(category: Category) -> bool:
    return True


def _balanced(references: list[Reference]) -> list[Reference]:
    """Fewer that fit nothing: of these there are as many as one likes where little is to be seen."""
    absent = [reference for reference in references if not reference.targets]
    most = max(1, round(ABSENT * (len(references) - len(absent))))
    surplus = {id(reference) for reference in absent[most:]}
    return [reference for reference in references if id(reference) not in surplus]


def _placed(reference: Reference, places: list[int]) -> Reference:
    targets = tuple(sorted(places[target] for target in reference.targets))
    return Reference(reference.kind, reference.form, targets, reference.phrases)


def _class_masks(
    class_masks: Mapping[int, Any], outlines: Collection[Outline], photo: Photo
) -> tuple[set[int], set[int]]:
    """Categories whose objects are, taken together, all of the category; and those of which there is more."""
    together: set[int] = set()
    doubtful: set[int] = set()
    for category_id, segmentation in class_masks.items():
        try:
            plain = parse_json(segmentation) if isinstance(segmentation, str) else segmentation
            whole = masks.decode(masks.from_segmentation(plain, *photo.size)).astype(bool)
        except ValueError:
            doubtful.add(category_id)
            continue
        objects = np.zeros(photo.size, dtype=bool)
        for outline in outlines:
            objects |= outline.mask & (outline.category_id == category_id)
        same = np.count_nonzero(whole & objects) >= SAME_MASK * np.count_nonzero(whole | objects)
        (together if same else doubtful).add(category_id)
    return together, doubtful


def companions_of(
    pictures: Iterable[Collection[int]], categories: Mapping[int, Category]
) -> dict[int, dict[Category, float]]:
    """What often is in a picture with each category, by the category's index.

    The weights are roots of how often the two are seen together, or people would be all that is ever missing.

    pictures: ids of the categories in each.
    """
    together: dict[int, Counter[int]] = defaultdict(Counter)
    for present in pictures:
        for one in present:
            together[one].update(other for other in present if other != one)
    return {
        categories[one].index: {categories[other]: count**0.5 for other, count in sorted(counts.items())}
        for one, counts in together.items()
    }
