"""What the embedded dataset can show: categories, their sprites, and the words for them.

`catalogue.toml` holds the words, `atlas.png` the pictures, `atlas.json` where each sprite lies in the atlas.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
SECTIONS = ("people", "animal", "vehicle", "food", "thing")
TONES = ("1F3FC", "1F3FE")  # the skin tones that a `*` in the catalogue adds to the emoji's default


@dataclass(frozen=True, slots=True)
class Sprite:
    """One drawing of a category.

    name: its key in the atlas.  colour: the colour word that is true of it, if any.
    repaintable: whether the parts in that colour may take any other.
    """

    name: str
    colour: str | None = None
    repaintable: bool = False


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of object.

    names: synonyms, the usual one first.  general: wider words that are true of it.
    doubtful: words that fit it for some people only.  mirrorable: whether it may be drawn flipped.
    """

    index: int
    section: str
    names: tuple[str, ...]
    general: frozenset[str]
    doubtful: frozenset[str]
    sprites: tuple[Sprite, ...]
    mirrorable: bool = True

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All categories, and the irregular plurals of their words."""

    categories: tuple[Category, ...]
    plurals: dict[str, str]

    def plural(self, noun: str) -> str:
        """The plural of a noun of the catalogue."""
        if noun in self.plurals:
            return self.plurals[noun]
        head, _, last = noun.rpartition(" ")
        if last in self.plurals:
            return f"{head} {self.plurals[last]}"
        if noun.endswith(("s", "x", "ch", "sh")):
            return noun + "es"
        if noun.endswith("y") and noun[-2] not in "aeiou":
            return noun[:-1] + "ies"
        return noun + "s"


@cache
def catalogue() -> Catalogue:
    """Read the catalogue that ships with the package."""
    table = tomllib.loads((HERE / "catalogue.toml").read_text("utf-8"))
    rows = [(section, row) for section in SECTIONS for row in table[section].values()]
    categories = [_category(i, section, row, table["section"][section]) for i, (section, row) in enumerate(rows)]
    return Catalogue(tuple(categories), table["plurals"])


def _category(index: int, section: str, row: dict[str, Any], inherited: dict[str, str]) -> Category:
    names = _words(row["names"])
    general = {*_words(inherited.get("is", "")), *_words(row.get("is", ""))}
    doubtful = {*_words(inherited.get("maybe", "")), *_words(row.get("maybe", ""))} - general - set(names)
    return Category(
        index=index,
        section=section,
        names=names,
        general=frozenset(general),
        doubtful=frozenset(doubtful),
        sprites=tuple(sprite for item in row["sprites"].split() for sprite in _sprites(item)),
        mirrorable=not row.get("fixed", False),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _sprites(item: str) -> Iterator[Sprite]:
    """Read `name`, `name*`, `name=colour` (repaintable) or `name:colour`, as the head of catalogue.toml explains."""
    repaintable = "=" in item
    name, _, colour = item.partition("=" if repaintable else ":")
    yield Sprite(name.rstrip("*"), colour or None, repaintable)
    if name.endswith("*"):
        yield from (Sprite(f"{name[:-1]}~{tone}") for tone in TONES)


@cache
def atlas() -> dict[str, NDArray[np.uint8]]:
    """Every sprite by name: (h, w, 4) uint8, RGB with straight alpha, cropped to what is visible."""
    boxes = json.loads((HERE / "atlas.json").read_text("utf-8"))["sprites"]
    with Image.open(HERE / "atlas.png") as picture:
        sheet = np.asarray(picture.convert("RGBA"))
    return {name: sheet[y : y + h, x : x + w] for name, (x, y, w, h) in boxes.items()}
