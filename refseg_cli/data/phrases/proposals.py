"""Forms that one might say of a scene, by kind. A proposal may fail: `generate.py` keeps only what it can prove.

Every kind is a function of a `View`. It returns None where the scene offers nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from refseg_cli.data.phrases.colours import PAINTS
from refseg_cli.data.phrases.logic import (
    AXES,
    DISTANCES,
    MOTIONS,
    RELATIONS,
    SIDES,
    SIZES,
    Coloured,
    Counted,
    Everything,
    Except,
    Form,
    Is,
    Moves,
    Or,
    Placed,
    Ranked,
    Related,
    targets,
)
from refseg_cli.data.phrases.nouns import Category, Vocabulary
from refseg_cli.data.phrases.scene import Scene, Thing

# Chances are cumulative, each from the one before.
USUAL_NAME, ANY_NAME = 0.62, 0.84  # 'dog', 'puppy'; the rest is a wider word: 'animal'
COLOUR_TOO, NOUN_ONLY = 0.25, 0.93  # 'red car on the left', 'car on the left'; the rest: 'thing on the left'
VAGUE = frozenset({"object", "thing"})
MOST_COUNTED = 6  # larger groups are not counted
LAST_ORDINAL = 4
SAME_SECTION = 0.7  # share of absent things that resemble a present one
OFTEN_THERE = 0.7  # share of absent things that often go with a present one, where that is known
LINKS = (*RELATIONS, "next to")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A form, and how to say how many it names.

    counted: 'two dogs'.  all: 'all the dogs'.  pretended: the count that a no-target phrase pretends to name.
    """

    form: Form
    counted: bool = False
    all: bool = False
    pretended: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A scene, seen by one who describes it.

    nouns: the words that may be used.  subject: the categories that the phrases may be about.
    companions: index of a category -> what often is in a picture with it, with weights; empty if nobody counted.
    """

    scene: Scene
    nouns: Vocabulary
    rng: Random
    subject: Callable[[Category], bool]
    companions: Mapping[int, Mapping[Category, float]] = field(default_factory=dict)

    def may_name(self, named: Sequence[int]) -> bool:
        """Whether these objects, by their positions in the scene, may be the targets."""
        things = self.scene.things
        doubtful = {things[i].category for i in named if not things[i].traced}
        return all(self.subject(things[i].category) for i in named) and all(
            category in self.scene.together
            and all(i in named for i, thing in enumerate(things) if thing.category == category)
            for category in doubtful
        )

    def subjects(self) -> list[Thing]:
        """The objects that a phrase may be about, alone or together with others."""
        return [
            thing
            for thing in self.scene.things
            if self.subject(thing.category) and (thing.traced or thing.category in self.scene.together)
        ]

    def thing(self) -> Thing:
        """An object that the phrase may be about."""
        return self.rng.choice(self.subjects())

    def noun(self, thing: Thing) -> Is:
        """A noun that is true of the object."""
        chance, category = self.rng.random(), thing.category
        if chance < USUAL_NAME:
            return Is(category.name)
        wider = sorted(category.general - VAGUE) if chance > ANY_NAME else ()
        return Is(self.rng.choice(wider or category.names))

    def coloured(self, thing: Thing) -> Coloured | None:
        """A noun and the colour of the object."""
        return Coloured(self.noun(thing), thing.colour) if thing.colour else None

    def base(self, thing: Thing) -> Form:
        """A noun that is true of the object, sometimes with its colour, now and then only 'object'."""
        chance = self.rng.random()
        if chance < COLOUR_TOO:
            return self.coloured(thing) or self.noun(thing)
        vague = sorted(thing.category.general & VAGUE) if chance > NOUN_ONLY else ()
        return Is(self.rng.choice(vague)) if vague else self.noun(thing)

    def several(self) -> Is | None:
        """A noun that is true of several objects."""
        nouns = {self.noun(self.thing()) for _ in range(3)}
        nouns = {noun for noun in nouns if len(targets(noun, self.scene) or ()) > 1}
        return self.rng.choice(sorted(nouns, key=lambda noun: noun.word)) if nouns else None

    def unique(self, excluded: Thing) -> Form | None:
        """A form that names exactly one object, another than the excluded one: a landmark."""
        thing = self.rng.choice(self.scene.things)
        names: Sequence[Form | None] = (Is(thing.category.name), self.coloured(thing))
        for form in names:
            if thing is not excluded and form and len(targets(form, self.scene) or ()) == 1:
                return form
        return None

    def any(self, choices: Sequence[str]) -> str:
        return self.rng.choice(choices)


# --- one object ---------------------------------------------------------------------------------------------------


def category(view: View) -> Proposal | None:
    """'the dog'"""
    return Proposal(view.noun(view.thing()))


def colour(view: View) -> Proposal | None:
    """'red car'"""
    form = view.coloured(view.thing())
    return Proposal(form) if form else None


def size(view: View) -> Proposal | None:
    """'the biggest dog'"""
    noun = view.several()
    return Proposal(Ranked(noun, view.any(tuple(SIZES)))) if noun else None


def position(view: View) -> Proposal | None:
    """'dog on the left'"""
    return Proposal(Placed(view.base(view.thing()), view.any(SIDES)))


def superlative(view: View) -> Proposal | None:
    """'leftmost dog'"""
    noun = view.several()
    return Proposal(Ranked(noun, view.any(tuple(AXES)))) if noun else None


def distance(view: View) -> Proposal | None:
    """'the closest dog'"""
    noun = Is(view.thing().category.name)  # an elephant further off is larger than a dog
    return Proposal(Ranked(noun, view.any(tuple(DISTANCES))))


def ordinal(view: View) -> Proposal | None:
    """'second dog from the left'"""
    noun = view.several()
    if noun is None:
        return None
    side = view.any(("left", "left", "right", "right", "top"))
    return Proposal(Ranked(noun, side, view.rng.randint(2, LAST_ORDINAL)))


def relation(view: View) -> Proposal | None:
    """'dog left of the car'"""
    thing = view.thing()
    landmark = view.unique(thing)
    return Proposal(Related(view.base(thing), view.any(LINKS), landmark)) if landmark else None


def motion(view: View) -> Proposal | None:
    """'the car that moves to the right', where another does not"""
    thing = view.thing()
    form = Moves(view.base(thing), view.any(sorted(thing.motions)))
    return Proposal(form) if decides(form, view.scene) else None


def decides(form: Moves, scene: Scene) -> bool:
    """Whether the motion says more than the noun: it is not that of all that the noun names."""
    return targets(form.of, scene) != targets(form, scene)


# --- several objects ----------------------------------------------------------------------------------------------


def some(view: View) -> Form | None:
    """A form that may name several objects."""
    noun = view.several()
    if noun is None:
        return None
    named = targets(noun, view.scene) or ()
    tint = view.scene.things[view.rng.choice(named)].colour
    form: Form = Coloured(noun, tint) if tint and view.rng.random() < 0.25 else noun
    return Placed(form, view.any(SIDES[:4])) if view.rng.random() < 0.5 else form


def group(view: View) -> Proposal | None:
    """'all the dogs', 'people on the right'"""
    form = some(view)
    return Proposal(form, all=view.rng.random() < 0.6) if form else None


def count(view: View) -> Proposal | None:
    """'two people on the left'"""
    form = some(view)
    few = form and len(targets(form, view.scene) or ()) <= MOST_COUNTED
    return Proposal(form, counted=True) if form and few else None


def compound(view: View) -> Proposal | None:
    """'the dog and the red car'"""
    parts = [view.rng.choice((category, colour, position, superlative, group))(view) for _ in range(2)]
    forms = [part.form for part in parts if part]
    named = [targets(form, view.scene) for form in forms]
    if len(forms) < 2 or not all(named) or set(named[0] or ()) & set(named[1] or ()):
        return None
    # 'the dogs and the cat on the left' might mean the dogs on the left; so what is said of a place comes first
    forms.sort(key=lambda form: isinstance(form, Is | Coloured))
    return Proposal(Or(*forms))


def exception(view: View) -> Proposal | None:
    """'all dogs except the leftmost one', 'everything except the people'"""
    whole: Form = Everything() if view.rng.random() < 0.15 else view.several() or Everything()
    thing = view.thing()
    if isinstance(whole, Is):
        part = view.rng.choice(
            (
                Ranked(whole, view.any((*AXES, *SIZES))),
                Placed(whole, view.any(SIDES[:4])),
                Coloured(whole, thing.colour) if thing.colour else Is(thing.category.name),
                Is(thing.category.name),
            )
        )
    else:
        landmark = view.rng.choice(view.scene.things)
        part = Is(view.any((landmark.category.name, *sorted(landmark.category.general - {"object", "thing"}))))
    left_out, all_of_it = targets(part, view.scene), targets(whole, view.scene)
    if part == whole or not left_out or not set(left_out) < set(all_of_it or ()):
        return None
    return Proposal(Except(whole, part), all=True)


def motions(view: View) -> Proposal | None:
    """'all the dogs that stand still', 'two cars moving to the left'"""
    noun = view.several()
    if noun is None:
        return None
    form = Moves(noun, view.any(MOTIONS))
    if not decides(form, view.scene):
        return None
    number = len(targets(form, view.scene) or ())
    counted = number <= MOST_COUNTED and view.rng.random() < 0.4
    return Proposal(form, counted=counted, all=not counted and view.rng.random() < 0.6)


# --- nothing ------------------------------------------------------------------------------------------------------


def pretence(view: View) -> int:
    """The count that a no-target phrase pretends to name: mostly one."""
    return view.rng.choice((1, 1, 1, 1, 2))


def absent_noun(view: View) -> Is:
    """A noun that fits nothing in sight, preferably one for something like what is there."""
    present = view.thing().category
    if (often := view.companions.get(present.index)) and view.rng.random() < OFTEN_THERE:
        companion = view.rng.choices(list(often), weights=list(often.values()))[0]
        return Is(view.any(companion.names))
    alike = view.rng.random() < SAME_SECTION
    choices = [c for c in view.nouns.categories if view.subject(c) and (not alike or c.section == present.section)]
    return Is(view.any(view.rng.choice(choices).names))


def absent_category(view: View) -> Proposal | None:
    """'horse' where there is none"""
    return Proposal(absent_noun(view), pretended=pretence(view))


def absent_colour(view: View) -> Proposal | None:
    """'blue car' where the cars are red"""
    seen = [thing.colour for thing in view.scene.things if thing.colour]
    return Proposal(Coloured(view.noun(view.thing()), view.any((*seen, *PAINTS))), pretended=pretence(view))


def absent_position(view: View) -> Proposal | None:
    """'cat on the left' where the only cat is on the right"""
    return Proposal(Placed(view.base(view.thing()), view.any(SIDES)), pretended=pretence(view))


def absent_ordinal(view: View) -> Proposal | None:
    """'third dog from the left' where there are two"""
    noun = view.several()
    rank = len(targets(noun, view.scene) or ()) + 1 if noun else 0
    if noun is None or rank > LAST_ORDINAL:
        return None
    return Proposal(Ranked(noun, view.any(("left", "right")), rank), pretended=1)


def absent_count(view: View) -> Proposal | None:
    """'three dogs' where there are two"""
    noun = view.noun(view.thing())
    number = len(targets(noun, view.scene) or ()) + view.rng.choice((1, 1, 2))
    return Proposal(Counted(noun, number), pretended=number) if number <= MOST_COUNTED else None


def absent_relation(view: View) -> Proposal | None:
    """'dog left of the car' where it is on the right"""
    proposal = relation(view)
    return Proposal(proposal.form, pretended=1) if proposal else None


def absent_motion(view: View) -> Proposal | None:
    """'the car that moves to the left' where the cars move to the right, or stand"""
    return Proposal(Moves(view.base(view.thing()), view.any(MOTIONS)), pretended=pretence(view))


# Kinds by number of targets, with their weights among those of the same number.
Kinds = Mapping[str, Mapping[Callable[[View], Proposal | None], float]]
KINDS: Kinds = {
    "single": {category: 19, colour: 17, size: 8, position: 21, superlative: 12, ordinal: 7, relation: 16},
    "multi": {group: 40, count: 30, compound: 18, exception: 12},
    "no_target": {
        absent_category: 30,
        absent_colour: 17,
        absent_position: 26,
        absent_ordinal: 9,
        absent_relation: 18,
    },
}
# Of photographs. Scenes have no wrong counts and no depth: those of a seed stay as they are.
PHOTO_KINDS = {
    **KINDS,
    "single": {**KINDS["single"], distance: 8},
    "no_target": {**KINDS["no_target"], absent_count: 14},
}
# Of clips: much is said of motion, and of places only what holds in every frame.
CLIP_KINDS: Kinds = {
    "single": {category: 12, colour: 12, motion: 46, position: 12, superlative: 6, size: 6, relation: 6},
    "multi": {motions: 45, group: 25, count: 15, compound: 15},
    "no_target": {absent_motion: 50, absent_category: 20, absent_colour: 15, absent_position: 15},
}
