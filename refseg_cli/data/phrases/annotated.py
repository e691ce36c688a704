"""Photographs with annotated objects as scenes, so that phrases can be proven of them.

What annotators leave open stays open here: a category that is not annotated exhaustively may be anywhere in the
picture, a crowd is of unknown number, a doubtful outline counts but is no target.

Axes: h w pixels of the picture.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg_cli.data.phrases.colours import name_of
from refseg_cli.data.phrases.nouns import PEOPLE, Category, Vocabulary, words_of
from refseg_cli.data.phrases.scene import Scene, Thing
from refseg_cli.errors import RefsegError

SECTIONS = (PEOPLE, "vehicle", "animal", "food", "thing")
MANY = 10  # objects of a category, from which on annotators leave some out: COCO's were told to stop at 10 to 15
COLOUR_PIXELS = 256  # fewer show little of an object, and much of what is around it
DARK = 80  # mean value, of 255
OTHER = "thing"  # the section of categories that nobody wrote words for


@dataclass(frozen=True, slots=True)
class Outline:
    """One annotated object.

    mask: (h, w) bool.  crowd: stands for several objects.  traced: whether the mask is truth.
    """

    category_id: int
    mask: NDArray[np.bool_]
    crowd: bool = False
    traced: bool = True


def categories_of(names: Mapping[int, str]) -> dict[int, Category]:
    """What phrases may call the categories of a data set: COCO's by `coco.toml`, any others by their names.

    names: category id -> name, such as "dog", "teddy_bear" or "bow_(weapon)".

    Raises:
        RefsegError: a name without a word.
    """
    known = _coco()["categories"]
    found = {
        category_id: _category(index, known.get(_plain(name)) or (OTHER, {"names": _plain(name)}, ""))
        for index, (category_id, name) in enumerate(sorted(names.items()))
    }
    for category_id, category in found.items():
        if not category.names:
            raise RefsegError(
                f"category {category_id}: no phrase can speak of {names[category_id]!r}, a name without a word",
                hint="name it in `categories` of the annotations",
            )
    return found


def vocabulary(categories: Iterable[Category]) -> Vocabulary:
    """The categories with the irregular plurals and the casual words of `coco.toml`."""
    return Vocabulary(tuple(categories), _coco()["plurals"], _coco()["casual"])


@cache
def _coco() -> dict[str, Any]:
    """plurals, casual words, and category name -> (section, row, the section's wider words)."""
    table = tomllib.loads(Path(__file__).with_name("coco.toml").read_text("utf-8"))
    rows = {n: (section, row, table["section"][section]) for section in SECTIONS for n, row in table[section].items()}
    casual = {name: words_of(words) for name, words in table["casual"].items()}
    return {"plurals": table["plurals"], "casual": casual, "categories": rows}


def _category(index: int, entry: tuple[str, Mapping[str, str], str]) -> Category:
    section, row, wider = entry
    names = words_of(row["names"])
    general = frozenset(words_of(wider))
    return Category(index, section, names, general, frozenset(words_of(row.get("maybe", ""))) - general - set(names))


def _plain(name: str) -> str:
    """'Bow_(weapon)' as people say it."""
    return " ".join(re.sub(r"\(.*?\)", " ", name.replace("_", " ")).lower().split())


def scene_of(
    outlines: Collection[Outline],
    categories: Mapping[int, Category],
    size: tuple[int, int],
    *,
    complete: Collection[int] | None = None,
    together: Collection[int] = (),
    pixels: NDArray[np.uint8] | None = None,
) -> tuple[Scene, tuple[int, ...]]:
    """The scene that phrases are proven of, and for each of its things the position of its outline.

    Args:
        size: (height, width) of the picture.
        complete: ids of the categories of which every object is annotated; None for all of them.
        together: ids of the categories whose objects' outlines are truth taken together.
        pixels: (h, w, 3) uint8 RGB; without it no object has a colour.
    """
    # A crowd is of unknown number, and what has no pixels is somewhere, or was never there.
    uncounted = {outline.category_id for outline in outlines if outline.crowd or not outline.mask.any()}
    numbers = Counter(outline.category_id for outline in outlines)
    uncounted.update(category_id for category_id, number in numbers.items() if number >= MANY)
    exhaustive = set(categories if complete is None else complete) - uncounted
    seen = [i for i, outline in enumerate(outlines) if not outline.crowd and outline.mask.any()]
    listed = list(outlines)
    if pixels is not None and pixels.max(axis=-1).mean() < DARK:
        pixels = None  # in the dark everything is black or brown
    things = tuple(_thing(listed[i], categories[listed[i].category_id], pixels) for i in seen)
    unseen = tuple(category for category_id, category in categories.items() if category_id not in exhaustive)
    known = tuple(category for category_id, category in categories.items() if category_id in together)
    return Scene(size[1], size[0], things, unseen, known, photograph=True), tuple(seen)


def _thing(outline: Outline, category: Category, pixels: NDArray[np.uint8] | None) -> Thing:
    rows, columns = np.flatnonzero(outline.mask.any(1)), np.flatnonzero(outline.mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    colour = None
    area = int(np.count_nonzero(outline.mask))
    # A colour said of people is that of their clothes.
    if pixels is not None and category.section != PEOPLE and area >= COLOUR_PIXELS:
        colour = name_of(pixels[top:bottom, left:right][outline.mask[top:bottom, left:right]])
    return Thing(
        category=category,
        colour=colour,
        box=(left, top, right, bottom),
        area=area,
        extent=(right - left) * (bottom - top),  # what is hidden of it lies within its box, or nobody knows of it
        traced=outline.traced,
    )
