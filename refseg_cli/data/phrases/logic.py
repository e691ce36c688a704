"""The small language in which every generated phrase is meant.

A form says of each object of a scene whether the phrase fits it: TRUE, FALSE, or UNCLEAR where two people might
disagree (Kleene's three-valued logic: and is the minimum, or the maximum, not the mirror image). The margins are part
of the predicates, so a phrase is safe exactly if no object is UNCLEAR, and none that is not known of may fit;
`assert_unambiguous` is that proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refseg_cli.data.phrases.colours import CONFUSABLE, CONFUSABLE_IN_PHOTOS
from refseg_cli.data.phrases.scene import Scene, Thing

FALSE, UNCLEAR, TRUE = 0, 1, 2
Truths = NDArray[np.int8]  # (n,) one truth value for each object

# Margins. Positions and gaps along an axis are shares of the picture's side.
SIDE, OTHER_SIDE = 0.40, 0.55  # "on the left": centre before the first; clearly not: beyond the second
CENTRE, OFF_CENTRE = 0.10, 0.20  # "in the middle": distance of the centre from the picture's, as above
CENTRE_ACROSS = 0.18  # how far from the middle line it may lie on the other axis
SAME_PLACE = 0.12  # objects this close together have no left and right one among them
GAP = 0.05  # least distance between neighbours that are counted off from a side
SIZE_RATIO = 1.35  # least ratio of areas for "bigger"
BESIDE = 0.08  # least offset for "left of the car", which must also exceed the offset on the other axis
NOT_BESIDE = -0.02  # clearly not: it lies at least this much beyond the landmark
END = 0.33  # "at the bottom" of a photo, in place of SIDE
# Large objects: how far from a side the far edge of one "on the left" may be, or of one "in the top left corner".
SIDE_REACH, CORNER_REACH = 0.75, 0.65
OVERLAP = 0.3  # what is this much within the other's box, as a share of the smaller, is on it or behind it, not beside
NEAR, FAR = 0.05, 0.20  # "next to": the gap between the boxes, as a share of the picture's diagonal

AXES = {"left": ("x", 1), "right": ("x", -1), "top": ("y", 1), "bottom": ("y", -1)}
SIZES = {"big": 1, "small": -1}
DISTANCES = {"near": 1, "far": -1}  # of objects of a kind, the nearer is larger, and stands lower in the picture
CORNERS = ("top left", "top right", "bottom left", "bottom right")
SIDES = (*AXES, "middle", *CORNERS)
MOTIONS = ("left", "right", "up", "down", "moves", "still", "enters", "leaves")  # of things in a clip
RELATIONS = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}  # and "next to"


class Form(Protocol):
    """The meaning of a phrase, apart from its number."""

    def truth(self, scene: Scene) -> Truths:
        """Whether it fits each object of the scene."""


@dataclass(frozen=True, slots=True)
class Is:
    """A noun: 'dog', 'animal', 'old lady'."""

    word: str

    def truth(self, scene: Scene) -> Truths:
        return scene.each(self.fits)

    def fits(self, thing: Thing) -> int:
        category = thing.category
        if self.word in category.names or self.word in category.general:
            return TRUE
        return UNCLEAR if self.word in category.doubtful else FALSE


@dataclass(frozen=True, slots=True)
class Everything:
    """'everything'"""

    def truth(self, scene: Scene) -> Truths:
        return np.full(len(scene.things), TRUE, np.int8)


@dataclass(frozen=True, slots=True)
class Coloured:
    """'red dog'"""

    noun: Is
    colour: str

    def truth(self, scene: Scene) -> Truths:
        confusable = CONFUSABLE_IN_PHOTOS if scene.photograph else CONFUSABLE

        def fits(thing: Thing) -> int:
            if thing.colour == self.colour:
                return TRUE
            unclear = thing.colour is None or frozenset((thing.colour, self.colour)) in confusable
            return UNCLEAR if unclear else FALSE

        return np.minimum(self.noun.truth(scene), scene.each(fits))


@dataclass(frozen=True, slots=True)
class Placed:
    """'dog on the left', 'cup in the top left corner', 'person in the middle'.

    The side is a region of the picture. People also say it of the leftmost of several, wherever these are; so an
    object is UNCLEAR where the two readings differ.
    """

    of: Form
    side: str

    def truth(self, scene: Scene) -> Truths:
        of = self.of.truth(scene)
        truth = np.minimum(of, in_region(scene, self.side))
        compared = comparatively(scene, self.side, of > FALSE)
        if self.side == "middle" and compared.any():
            truth[(truth == TRUE) & ~compared] = UNCLEAR
        if not (truth == TRUE).any():
            truth[compared] = np.maximum(truth[compared], UNCLEAR)
        return truth


def in_region(scene: Scene, side: str) -> Truths:
    """Whether each object lies on that side of the picture."""
    if side == "middle":
        off = np.abs(scene.x - 0.5)
        across = np.abs(scene.y - 0.5)
        central = graded(off < CENTRE, off > OFF_CENTRE)
        if scene.photograph:
            left, right = edges(scene, "left")
            central[(central == FALSE) & (left < 0.5 + CENTRE) & (right > 0.5 - CENTRE)] = UNCLEAR
        return np.where((central == TRUE) & (across > CENTRE_ACROSS), np.int8(UNCLEAR), central)
    return np.minimum.reduce([at_side(scene, part, corner=side in CORNERS) for part in side.split()])


def at_side(scene: Scene, side: str, *, corner: bool) -> Truths:
    """Whether each object lies at a side, or, of a corner, at one of its two."""
    place = along(scene, side)
    truth = graded(place < SIDE, place > OTHER_SIDE)
    if scene.photograph:
        if side in ("top", "bottom"):  # most of what stands on the ground is a little below the middle
            truth[(truth == TRUE) & (place > END)] = UNCLEAR
        near, far = edges(scene, side)
        reach = CORNER_REACH if corner else SIDE_REACH
        truth[((truth == TRUE) & (far > reach)) | ((truth == FALSE) & (near < SIDE))] = UNCLEAR
    return truth


def comparatively(scene: Scene, side: str, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The candidates that 'the left dog' may mean if the dogs are only compared with each other."""
    if side == "middle":
        inner = candidates & (candidates.sum() > 2)
        x = scene.x[candidates]
        return inner & (scene.x > x.min()) & (scene.x < x.max()) if inner.any() else inner
    compared = candidates.copy()
    for part in side.split() if candidates.any() else ():
        place = along(scene, part)
        spread = np.ptp(place[candidates])
        compared &= (spread > SAME_PLACE) & (place - place[candidates].min() < spread / 2)
    return compared & (candidates.sum() > 1)


def along(scene: Scene, side: str) -> NDArray[np.float64]:
    """Distance of each centre from a side, 0 at the side to 1 at the opposite one."""
    axis, sign = AXES[side]
    place: NDArray[np.float64] = getattr(scene, axis)
    return place if sign > 0 else 1 - place


def edges(scene: Scene, side: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of the near and of the far edge of each object from a side, as `along`."""
    axis, sign = AXES[side]
    first, size = (0, scene.width) if axis == "x" else (1, scene.height)
    low, high = scene.boxes[:, first] / size, scene.boxes[:, first + 2] / size
    return (low, high) if sign > 0 else (1 - high, 1 - low)


def graded(true: NDArray[np.bool_], false: NDArray[np.bool_]) -> Truths:
    """TRUE where the first holds, FALSE where the second does, UNCLEAR between."""
    return np.where(true, TRUE, np.where(false, FALSE, UNCLEAR)).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Ranked:
    """'leftmost dog', 'biggest dog', 'closest dog', 'second dog from the left': order is a side, a size or a distance,
    rank counts from 1."""

    of: Form
    order: str
    rank: int = 1

    def truth(self, scene: Scene) -> Truths:
        of = self.of.truth(scene)
        before = clearly_before(scene, self.order)  # (n, n): row before column
        candidates = of > FALSE
        first = 1 + before[of == TRUE].sum(0)  # the best place that each may take ...
        last = candidates.sum() - before[:, candidates].sum(1)  # ... and the worst
        sure = (first == self.rank) & (last == self.rank)
        return np.minimum(of, graded(sure, (self.rank < first) | (self.rank > last)))


def clearly_before(scene: Scene, order: str) -> NDArray[np.bool_]:
    """(n, n) bool: whether the row's object comes clearly before the column's."""
    if order in SIZES:
        # what is seen and what is known to be there: a large dog half behind a tree is no small dog
        by_area = scene.area[:, None] >= SIZE_RATIO * scene.area
        larger = by_area & (scene.extent[:, None] >= SIZE_RATIO * scene.extent)
        return larger if SIZES[order] > 0 else larger.T
    if order in DISTANCES:
        foot = scene.boxes[:, 3] / scene.height
        nearer = clearly_before(scene, "big") & (foot[:, None] >= foot + GAP)
        return nearer if DISTANCES[order] > 0 else nearer.T
    place = along(scene, order)
    return place[:, None] + GAP <= place


@dataclass(frozen=True, slots=True)
class Related:
    """'dog left of the car', 'cat next to the tree'. Without exactly one car, all is UNCLEAR."""

    of: Form
    relation: str
    anchor: Form

    def truth(self, scene: Scene) -> Truths:
        of, anchor = self.of.truth(scene), self.anchor.truth(scene)
        if (anchor == UNCLEAR).any() or (anchor == TRUE).sum() != 1:
            return np.minimum(of, np.int8(UNCLEAR))
        landmark = int(np.flatnonzero(anchor == TRUE)[0])
        placed = next_to(scene, landmark) if self.relation == "next to" else beside(scene, landmark, self.relation)
        if scene.photograph:
            placed[(placed == TRUE) & (shared(scene, landmark) > OVERLAP)] = UNCLEAR
        placed[landmark] = FALSE
        return np.minimum(of, placed)


def beside(scene: Scene, landmark: int, relation: str) -> Truths:
    """Whether each object lies on that side of the landmark: within 45 degrees of it, not merely further that way."""
    side = RELATIONS[relation]
    place = along(scene, side)
    offset = {
        "x": (scene.x - scene.x[landmark]) * scene.width,
        "y": (scene.y - scene.y[landmark]) * scene.height,
    }
    axis, sign = AXES[side]
    ahead, aside = -sign * offset[axis], np.abs(offset["y" if axis == "x" else "x"])
    before = place[landmark] - place
    truth = graded((before > BESIDE) & (aside < ahead), before < NOT_BESIDE)
    if scene.photograph:  # its centre lies beyond the landmark's edge, or no part of it does
        near, _ = edges(scene, side)
        within = (truth == TRUE) & (place > near[landmark])
        truth[within | ((truth == FALSE) & (near < near[landmark]))] = UNCLEAR
    return truth


def next_to(scene: Scene, landmark: int) -> Truths:
    """Whether each object is near the landmark: the gap between their boxes."""
    box = scene.boxes[landmark]
    gaps = np.maximum(np.maximum(scene.boxes[:, :2] - box[2:], box[:2] - scene.boxes[:, 2:]), 0)  # (n, 2)
    gap = np.hypot(gaps[:, 0], gaps[:, 1]) / np.hypot(scene.width, scene.height)
    return graded(gap < NEAR, gap > FAR)


def shared(scene: Scene, landmark: int) -> NDArray[np.float64]:
    """What each box has in common with the landmark's, as a share of the smaller of the two."""
    box = scene.boxes[landmark]
    sides = np.minimum(scene.boxes[:, 2:], box[2:]) - np.maximum(scene.boxes[:, :2], box[:2])  # (n, 2)
    sizes = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
    common: NDArray[np.float64] = np.prod(np.maximum(sides, 0), axis=1) / np.minimum(sizes, sizes[landmark])
    return common


@dataclass(frozen=True, slots=True)
class Moves:
    """'car that moves to the right', 'dog that stands still': a motion of `MOTIONS`."""

    of: Form
    motion: str

    def truth(self, scene: Scene) -> Truths:
        moves = scene.each(lambda thing: TRUE if self.motion in thing.motions else FALSE)
        return np.minimum(self.of.truth(scene), moves)


@dataclass(frozen=True, slots=True)
class Counted:
    """'three dogs': nothing where there are fewer. Where there are more it may mean any of them, so all is UNCLEAR."""

    of: Form
    number: int

    def truth(self, scene: Scene) -> Truths:
        of = self.of.truth(scene)
        sure, possible = int((of == TRUE).sum()), int((of > FALSE).sum())
        if possible < self.number:
            return np.full(len(of), FALSE, np.int8)
        return of if sure == possible == self.number else np.minimum(of, np.int8(UNCLEAR))


@dataclass(frozen=True, slots=True)
class Or:
    """'the dog and the cat': what either names."""

    left: Form
    right: Form

    def truth(self, scene: Scene) -> Truths:
        return np.maximum(self.left.truth(scene), self.right.truth(scene))


@dataclass(frozen=True, slots=True)
class Except:
    """'all dogs except the leftmost one'"""

    whole: Form
    part: Form

    def truth(self, scene: Scene) -> Truths:
        return np.minimum(self.whole.truth(scene), TRUE - self.part.truth(scene))


def words(form: Form) -> Iterator[str | None]:
    """The nouns that a form says; None for 'everything'."""
    match form:
        case Is(word):
            yield word
        case Coloured(noun):
            yield from words(noun)
        case Placed(of) | Ranked(of) | Counted(of) | Moves(of):
            yield from words(of)
        case Related(of, _, anchor):
            yield from (*words(of), *words(anchor))
        case Or(left, right) | Except(left, right):
            yield from (*words(left), *words(right))
        case Everything():
            yield None
        case _:
            raise TypeError(f"no nouns of {form}")


def may_mean_unseen(form: Form, scene: Scene) -> bool:
    """Whether an object that nobody annotated might change what the form names."""
    everything = scene.photograph or bool(scene.unseen)
    return any(everything if word is None else word in scene.unseen_words for word in words(form))


def targets(form: Form, scene: Scene) -> tuple[int, ...] | None:
    """Positions of the objects that the form names; None if it is unclear for any object, known or not."""
    if may_mean_unseen(form, scene):
        return None
    truth = throughout(form, scene) if scene.moments else form.truth(scene)
    return None if (truth == UNCLEAR).any() else tuple(map(int, np.flatnonzero(truth == TRUE)))


def throughout(form: Form, clip: Scene) -> Truths:
    """Whether the form fits each object of a clip in all frames that show it; UNCLEAR where it does in some only."""
    least = np.full(len(clip.things), TRUE, np.int8)
    most = np.full(len(clip.things), FALSE, np.int8)
    for moment in clip.moments:
        shown, truth = list(moment.shown), form.truth(moment.scene)
        least[shown] = np.minimum(least[shown], truth)
        most[shown] = np.maximum(most[shown], truth)
    return np.where(least == most, least, np.int8(UNCLEAR))


def assert_unambiguous(form: Form, scene: Scene, claimed: tuple[int, ...]) -> None:
    """Prove that the form fits exactly the claimed objects, and clearly none of the others."""
    named = targets(form, scene)
    if named != claimed:
        raise AssertionError(f"{form} names {named}, not {claimed}")
