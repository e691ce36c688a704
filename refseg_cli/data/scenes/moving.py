"""Compose one clip: the objects of a picture stand, move, come in or leave, and cross on their way.

Axes: f frames, h w pixels of the canvas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refseg_cli.data.phrases.scene import Moment, Scene, Thing
from refseg_cli.data.scenes.backgrounds import background
from refseg_cli.data.scenes.catalogue import DrawnCategory
from refseg_cli.data.scenes.compose import (
    LEAST_AREA,
    LEAST_VISIBLE,
    OBJECTS,
    OPAQUE,
    SUBJECTS,
    Item,
    arrange,
    canvas_size,
    cast,
    draw,
    thing_of,
)

MANNERS = {"still": 8, "moves": 7, "leaves": 3, "enters": 3}  # how often things do what
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
LEAST_WAY = 0.3  # of the canvas along the direction: what is less is hardly seen as a motion
AWAY = 0.7  # share of the frames after which what leaves is gone, and before which what enters is there
SEEN = 0.5  # share of the frames in which enough of a thing must be seen; things of which less is are dropped


@dataclass(frozen=True, slots=True)
class Actor:
    """A thing of a clip.  places: left and top in pixels, one for each frame, which may lie off the canvas.

    motions: as in `Thing`.
    """

    item: Item
    places: tuple[tuple[int, int], ...]
    motions: frozenset[str]


@dataclass(frozen=True)
class Film:
    """images: (f, h, w, 3) uint8 RGB.  masks: (n, f, h, w) bool, the visible part of each object, disjoint."""

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    scene: Scene


def film(rng: Random, subject: Callable[[DrawnCategory], bool], frames: int) -> Film:
    """A clip with something in it to talk about; subject: the categories that the phrases will be about."""
    while True:
        width, height = canvas_size(rng)
        items = arrange(rng, cast(rng, subject), width, height)
        actors = [actor(rng, item, (width, height), frames) for item in items]
        actors, owner = visible_only(actors, width, height)
        subjects = sum(subject(actor.item.category) for actor in actors)
        if len(actors) >= OBJECTS[0] and subjects >= SUBJECTS:
            break
    backdrop = Image.fromarray(background(np.random.default_rng(rng.getrandbits(64)), height, width))
    sprites = [draw(actor.item) for actor in actors]
    images = []
    for frame in range(frames):
        image = backdrop.copy()
        for one, sprite in zip(actors, sprites, strict=True):
            image.paste(sprite, one.places[frame], sprite)
        images.append(np.asarray(image))
    masks = owner == np.arange(len(actors))[:, None, None, None]
    return Film(np.stack(images), masks, scene_of(actors, masks))


def actor(rng: Random, item: Item, canvas: tuple[int, int], frames: int) -> Actor:
    """A thing with what it does.  canvas: (width, height) in pixels."""
    manner = rng.choices(list(MANNERS), weights=list(MANNERS.values()))[0]
    if manner == "still":
        return Actor(item, (item.place,) * frames, frozenset({"still"}))
    side = rng.choice(list(DIRECTIONS))
    axis = 0 if DIRECTIONS[side][0] else 1
    sign, size, room = DIRECTIONS[side][axis], item.size[axis], canvas[axis]
    way = rng.uniform(LEAST_WAY, 0.6) * room
    if manner == "moves":
        start = rng.uniform(0, max(room - size - way, 0))
        ends = (start, start + way) if sign > 0 else (start + way, start)
    else:  # one end within the canvas, so far from the edge that it has a way to go, and one beyond the edge
        beyond, within = (room, room - size - way) if (manner == "leaves") == (sign > 0) else (-size, way)
        ends = (within, beyond) if manner == "leaves" else (beyond, within)
    time = np.arange(frames) / max(frames - 1, 1)
    share = np.clip(time / AWAY, 0, 1) if manner == "leaves" else np.clip((time - 1 + AWAY) / AWAY, 0, 1)
    along = ends[0] + (time if manner == "moves" else share) * (ends[1] - ends[0])
    places = tuple((round(at), item.place[1]) if axis == 0 else (item.place[0], round(at)) for at in along.tolist())
    return Actor(item, places, frozenset({"moves", side} | ({manner} - {"moves"})))


def visible_only(actors: list[Actor], width: int, height: int) -> tuple[list[Actor], NDArray[np.int16]]:
    """Drop things of which too little is seen too long; which thing owns each pixel: (f, h, w), -1 for none."""
    while True:
        frames = len(actors[0].places) if actors else 0
        owner = np.full((frames, height, width), -1, np.int16)
        solids = [np.asarray(draw(actor.item).getchannel("A")) >= OPAQUE for actor in actors]
        for frame in range(frames):
            for number, (actor, solid) in enumerate(zip(actors, solids, strict=True)):
                paint(owner[frame], solid, actor.places[frame], number)
        seen = np.stack([np.bincount(o.ravel() + 1, minlength=len(actors) + 1)[1:] for o in owner]) if frames else owner
        enough = [
            (seen[:, i] >= max(LEAST_AREA, LEAST_VISIBLE * solid.sum())).mean() >= SEEN
            for i, solid in enumerate(solids)
        ]
        if all(enough):
            return actors, owner
        actors = [actor for actor, kept in zip(actors, enough, strict=True) if kept]


def paint(canvas: NDArray[np.int16], solid: NDArray[np.bool_], place: tuple[int, int], value: int) -> None:
    """Set the pixels of a canvas (h, w) that a thing covers, as far as these lie on it."""
    (left, top), (height, width) = place, canvas.shape
    part = solid[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    top, left = max(top, 0), max(left, 0)
    canvas[top : top + part.shape[0], left : left + part.shape[1]][part] = value


def scene_of(actors: list[Actor], masks: NDArray[np.bool_]) -> Scene:
    """What phrases are proven of. masks: (n, f, h, w)."""
    height, width = masks.shape[2:]
    moments, fullest = [], [Thing(a.item.category, a.item.colour, (0, 0, 0, 0), 0, 0) for a in actors]
    for frame in range(masks.shape[1]):
        shown = [i for i in range(len(actors)) if masks[i, frame].any()]
        things = [replace(thing_of(actors[i].item, masks[i, frame]), motions=actors[i].motions) for i in shown]
        moments.append(Moment(Scene(width, height, tuple(things)), tuple(shown)))
        for i, thing in zip(shown, things, strict=True):
            fullest[i] = max(fullest[i], thing, key=lambda one: one.area)
    return Scene(width, height, tuple(fullest), moments=tuple(moments))
