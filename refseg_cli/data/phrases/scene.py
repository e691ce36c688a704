"""What a phrase may talk about: the objects of one picture, without its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refseg_cli.data.phrases.nouns import Category


@dataclass(frozen=True, slots=True)
class Thing:
    """One visible object.

    colour: the colour word that is true of it; None where no word fits clearly.
    box: (left, top, right, bottom) of its visible part in pixels, right and bottom exclusive.
    area: its visible pixels.  extent: pixels of the box that it would fill if nothing covered it.
    traced: whether its mask is known well enough to be a target; otherwise it only counts.
    motions: of a thing in a clip, all of `logic.MOTIONS` that are true of it, so that the others are not.
    """

    category: Category
    colour: str | None
    box: tuple[int, int, int, int]
    area: int
    extent: int
    traced: bool = True
    motions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Moment:
    """One frame of a clip.  shown: for each object of its scene, the position in the clip's."""

    scene: Scene
    shown: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """One picture: its size in pixels and its objects. The arrays below have one entry for each object.

    unseen: categories of which there may be more objects than are known.
    together: categories whose objects have a known mask together, even if nobody knows which pixels are whose.
    moments: of a clip, its frames; `things` are then what any of them shows, each as it is where most is seen of it.
    photograph: there is more in it than the things, these may be as large as the picture, so that their centres do not
        tell where they are, and the light changes colours.
    """

    width: int
    height: int
    things: tuple[Thing, ...]
    unseen: tuple[Category, ...] = ()
    together: tuple[Category, ...] = ()
    photograph: bool = False
    moments: tuple[Moment, ...] = ()

    @cached_property
    def unseen_words(self) -> frozenset[str]:
        """What may be said of objects that are not known."""
        return frozenset(word for c in self.unseen for word in (*c.names, *c.general, *c.doubtful))

    @cached_property
    def boxes(self) -> NDArray[np.float64]:
        """(n, 4) left, top, right, bottom in pixels."""
        return np.array([thing.box for thing in self.things], dtype=np.float64).reshape(-1, 4)

    @cached_property
    def x(self) -> NDArray[np.float64]:
        """Horizontal centre as a share of the width, 0 left to 1 right."""
        return (self.boxes[:, 0] + self.boxes[:, 2]) / 2 / self.width

    @cached_property
    def y(self) -> NDArray[np.float64]:
        """Vertical centre as a share of the height, 0 top to 1 bottom."""
        return (self.boxes[:, 1] + self.boxes[:, 3]) / 2 / self.height

    @cached_property
    def area(self) -> NDArray[np.float64]:
        """Visible pixels."""
        return np.array([thing.area for thing in self.things], dtype=np.float64)

    @cached_property
    def extent(self) -> NDArray[np.float64]:
        """Pixels of the boxes that they would fill uncovered."""
        return np.array([thing.extent for thing in self.things], dtype=np.float64)

    def each(self, test: Callable[[Thing], int]) -> NDArray[np.int8]:
        """The test's answer for every object."""
        return np.array([test(thing) for thing in self.things], dtype=np.int8)
