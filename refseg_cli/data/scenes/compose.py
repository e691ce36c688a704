"""Compose one picture: choose objects, place them, paint them, and see what remains visible of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from refseg_cli.data.phrases.colours import PAINTS, repaint
from refseg_cli.data.phrases.scene import Scene, Thing
from refseg_cli.data.scenes.backgrounds import background
from refseg_cli.data.scenes.catalogue import SECTIONS, DrawnCategory, Sprite, atlas, catalogue

SHAPES = ((4, 3), (4, 3), (3, 2), (16, 10), (1, 1), (3, 4), (2, 3))  # width to height
LONG_SIDE = (300, 400)  # pixels
SHORT_SIDE = 240  # pixels, at least
SIDE = (26, 90)  # pixels: the longer side of an object
OBJECTS = (3, 14)
USUAL_OBJECTS = 8
SUBJECTS = 3  # objects, at least, that the phrases may be about
BRIGHTNESS = (0.85, 1.1)
COPIES = (1, 1, 2, 2, 3, 3, 4)
ROW = 0.35  # chance that the copies of a category stand in a row
CROWDED = 0.3  # chance that an object may cover part of another
MOST_COVERED, TOUCHING = 0.35, 0.02  # share of an earlier object's box that a later one may cover; otherwise
CLOSENESS = 0.77  # distance of such a pair's centres, 1 where their boxes only touch
LEAST_VISIBLE = 0.45  # share of an object; less is dropped
LEAST_AREA = 150  # visible pixels; fewer are dropped
PLACES = 25  # tries to find a place for an object
OPAQUE = 128  # alpha from which a pixel belongs to the object


@dataclass(frozen=True, slots=True)
class Item:
    """An object to be drawn. size: (width, height) in pixels.  place: left and top in pixels."""

    category: DrawnCategory
    sprite: Sprite
    colour: str | None
    size: tuple[int, int]
    flipped: bool
    brightness: float
    place: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Composition:
    """image: (h, w, 3) uint8 RGB.  masks: (n, h, w) bool, the visible part of each object, disjoint."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    scene: Scene


def compose(rng: Random, subject: Callable[[DrawnCategory], bool]) -> Composition:
    """A picture with something in it to talk about; subject: the categories that the phrases will be about."""
    while True:
        width, height = canvas_size(rng)
        drawn = [(item, draw(item)) for item in arrange(rng, cast(rng, subject), width, height)]
        drawn, owner = visible_only(drawn, width, height)
        if len(drawn) >= OBJECTS[0] and sum(subject(item.category) for item, _ in drawn) >= SUBJECTS:
            break
    image = Image.fromarray(background(np.random.default_rng(rng.getrandbits(64)), height, width))
    for item, sprite in drawn:
        image.paste(sprite, item.place, sprite)
    masks = owner == np.arange(len(drawn))[:, None, None]
    things = tuple(thing_of(item, mask) for (item, _), mask in zip(drawn, masks, strict=True))
    return Composition(np.asarray(image), masks, Scene(width, height, things))


def canvas_size(rng: Random) -> tuple[int, int]:
    """Width and height in pixels."""
    across, down = rng.choice(SHAPES)
    side = rng.randint(*LONG_SIDE)
    width, height = round(side * across / max(across, down)), round(side * down / max(across, down))
    return max(width, SHORT_SIDE), max(height, SHORT_SIDE)


def cast(rng: Random, subject: Callable[[DrawnCategory], bool]) -> list[list[Item]]:
    """The objects, still without a place: one list of copies for each category."""
    total = round(rng.triangular(OBJECTS[0] + 1, OBJECTS[1], USUAL_OBJECTS))
    theme = rng.sample(SECTIONS, rng.choice((1, 2, 2, 3)))
    groups: list[list[Item]] = []
    while (count := sum(map(len, groups))) < total:
        chosen = {group[0].category.index for group in groups}
        lacking = sum(len(group) for group in groups if subject(group[0].category)) < SUBJECTS
        pool = [c for c in catalogue().categories if (subject(c) if lacking else c.section in theme)]
        category = rng.choice([c for c in pool if c.index not in chosen])
        groups.append(copies(rng, category, min(rng.choice(COPIES), total - count)))
    return groups


def copies(rng: Random, category: DrawnCategory, count: int) -> list[Item]:
    """Some objects of a category: alike or not in drawing, size and colour."""
    sprites = category.sprites if rng.random() < 0.5 else [rng.choice(category.sprites)]
    palette = rng.sample(sorted(PAINTS), rng.choice((1, 2, 2, 3)))
    usual = log_uniform(rng, *SIDE)
    alike = rng.random() < 0.5
    items = []
    for _ in range(count):
        sprite = rng.choice(sprites)
        side = usual * rng.uniform(0.92, 1.08) if alike else log_uniform(rng, *SIDE)
        height, width = atlas()[sprite.name].shape[:2]
        scale = min(max(side, SIDE[0]), SIDE[1]) / max(width, height)
        items.append(
            Item(
                category=category,
                sprite=sprite,
                colour=rng.choice(palette) if sprite.repaintable else sprite.colour,
                size=(max(1, round(width * scale)), max(1, round(height * scale))),
                flipped=category.mirrorable and rng.random() < 0.5,
                brightness=rng.uniform(*BRIGHTNESS),
            )
        )
    return items


def log_uniform(rng: Random, low: float, high: float) -> float:
    """A number whose logarithm is uniform: as many small objects as large ones."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def arrange(rng: Random, groups: list[list[Item]], width: int, height: int) -> list[Item]:
    """Give each object a place where it covers little of the earlier ones; what finds no place is left out."""
    placed: list[Item] = []
    for group in groups:
        in_row = len(group) > 2 and rng.random() < ROW
        row = row_places(rng, group, width, height) if in_row else [None] * len(group)
        for item, first_try in zip(group, row, strict=True):
            crowded = bool(placed) and rng.random() < CROWDED
            place = first_try or (touching_place(rng, item, rng.choice(placed), width, height) if crowded else None)
            for _ in range(PLACES):
                candidate = replace(item, place=place or random_place(rng, item, width, height))
                if all(covered(earlier, candidate) <= (MOST_COVERED if crowded else TOUCHING) for earlier in placed):
                    placed.append(candidate)
                    break
                place = None
    return placed


def touching_place(rng: Random, item: Item, other: Item, width: int, height: int) -> tuple[int, int]:
    """A place at the edge of another object, so that the item may cover a part of it."""
    angle = rng.uniform(0, 2 * math.pi)
    place = []
    for axis, towards in enumerate((math.cos(angle), math.sin(angle))):
        centre = other.place[axis] + other.size[axis] / 2
        reach = CLOSENESS * (other.size[axis] + item.size[axis]) / 2
        place.append(centre + towards * reach - item.size[axis] / 2)
    return clamp(place[0], width - item.size[0]), clamp(place[1], height - item.size[1])


def random_place(rng: Random, item: Item, width: int, height: int) -> tuple[int, int]:
    return rng.randint(0, width - item.size[0]), rng.randint(0, height - item.size[1])


def row_places(rng: Random, group: list[Item], width: int, height: int) -> list[tuple[int, int]]:
    """Places side by side, about evenly spaced, at about one height."""
    level = rng.uniform(0.2, 0.8) * height
    pitch = width / len(group)
    places = []
    for i, item in enumerate(group):
        x = (i + rng.uniform(0.35, 0.65)) * pitch - item.size[0] / 2
        y = level + rng.uniform(-0.05, 0.05) * height - item.size[1] / 2
        places.append((clamp(x, width - item.size[0]), clamp(y, height - item.size[1])))
    return places


def clamp(value: float, most: int) -> int:
    return round(min(max(value, 0), most))


def covered(earlier: Item, later: Item) -> float:
    """The share of the earlier object's box that the later one's box covers."""
    shared = 1
    for axis in (0, 1):
        end = min(earlier.place[axis] + earlier.size[axis], later.place[axis] + later.size[axis])
        shared *= max(0, end - max(earlier.place[axis], later.place[axis]))
    return shared / (earlier.size[0] * earlier.size[1])


def draw(item: Item) -> Image.Image:
    """The object as an RGBA picture of its size."""
    sprite = painted(item.sprite, item.colour if item.sprite.repaintable else None)
    if item.flipped:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(sprite.resize(item.size, Image.Resampling.BICUBIC)).enhance(item.brightness)


@cache
def painted(sprite: Sprite, colour: str | None) -> Image.Image:
    """A sprite of the atlas in a colour; None leaves it as it is."""
    pixels = atlas()[sprite.name]
    return Image.fromarray(repaint(pixels, sprite.colour, colour) if sprite.colour and colour else pixels)


Drawn = list[tuple[Item, Image.Image]]


def visible_only(drawn: Drawn, width: int, height: int) -> tuple[Drawn, NDArray[np.int16]]:
    """Drop objects of which too little remains visible, and say which object owns each pixel: (h, w), -1 for none."""
    while True:
        owner = np.full((height, width), -1, np.int16)
        whole = []
        for i, (item, sprite) in enumerate(drawn):
            x, y = item.place
            solid = np.asarray(sprite.getchannel("A")) >= OPAQUE
            owner[y : y + solid.shape[0], x : x + solid.shape[1]][solid] = i
            whole.append(solid.sum())
        seen = np.bincount(owner.ravel() + 1, minlength=len(drawn) + 1)[1:]
        kept = [d for d, s, w in zip(drawn, seen, whole, strict=True) if s >= max(LEAST_AREA, LEAST_VISIBLE * w)]
        if len(kept) == len(drawn):
            return drawn, owner
        drawn = kept


def thing_of(item: Item, mask: NDArray[np.bool_]) -> Thing:
    """What a phrase may know of an object. mask: (h, w), its visible part."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Thing(item.category, item.colour, box, area=int(mask.sum()), extent=item.size[0] * item.size[1])
