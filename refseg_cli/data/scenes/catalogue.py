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

from refseg_cli.data.phrases.nouns import Category, Vocabulary, words_of

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
class DrawnCategory(Category):
    """A category and its drawings.  mirrorable: whether it may be drawn flipped."""

    sprites: tuple[Sprite, ...]
    mirrorable: bool = True


@dataclass(frozen=True, slots=True)
class Catalogue(Vocabulary):
    """The vocabulary of what can be drawn."""

    categories: tuple[DrawnCategory, ...]


@cache
def catalogue() -> Catalogue:
    """Read the catalogue that ships with the package."""
    table = tomllib.loads((HERE / "catalogue.toml").read_text("utf-8"))
    rows = [(section, row) for section in SECTIONS for row in table[section].values()]
    categories = [_category(i, section, row, table["section"][section]) for i, (section, row) in enumerate(rows)]
    return Catalogue(tuple(categories), table["plurals"])


def _category(index: int, section: str, row: dict[str, Any], inherited: dict[str, str]) -> DrawnCategory:
    names = words_of(row["names"])
    general = {*words_of(inherited.get("is", "")), *words_of(row.get("is", ""))}
    doubtful = {*words_of(inherited.get("maybe", "")), *words_of(row.get("maybe", ""))} - general - set(names)
    return DrawnCategory(
        index=index,
        section=section,
        names=names,
        general=frozenset(general),
        doubtful=frozenset(doubtful),
        sprites=tuple(sprite for item in row["sprites"].split() for sprite in _sprites(item)),
        mirrorable=not row.get("fixed", False),
    )


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
