"""English for the forms of logic.py: several natural wordings for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from refseg_cli.data.phrases.logic import (
    CORNERS,
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
)
from refseg_cli.data.phrases.nouns import Vocabulary

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
ORDINALS = ("zeroth", "first", "second", "third", "fourth")

# `{}` stands for the noun and what is said of it.
SIDE_WORDINGS: dict[str, tuple[str, ...]] = {
    "left": ("{} on the left", "left {}", "{} on the left side", "{} at left", "{} to the left"),
    "right": ("{} on the right", "right {}", "{} on the right side", "{} at right", "{} to the right"),
    "top": ("{} at the top", "top {}", "upper {}", "{} at the top of the picture", "{} up top"),
    "bottom": ("{} at the bottom", "bottom {}", "lower {}", "{} at the bottom of the picture", "{} down low"),
    "middle": ("{} in the middle", "middle {}", "{} in the center", "center {}"),
}
for corner in CORNERS:
    at = ("{} in the * corner", "* {}", "{} at the *", "{} in the *")
    SIDE_WORDINGS[corner] = tuple(wording.replace("*", corner) for wording in at)
FIRST_WORDINGS = {
    "left": ("leftmost {}", "{} furthest left", "{} farthest to the left", "{} furthest to the left"),
    "right": ("rightmost {}", "{} furthest right", "{} farthest to the right", "{} furthest to the right"),
    "top": ("topmost {}", "highest {}", "uppermost {}"),
    "bottom": ("lowest {}", "bottommost {}"),
    "big": ("biggest {}", "largest {}", "big {}", "large {}"),
    "small": ("smallest {}", "small {}", "tiniest {}", "little {}"),
    "near": ("closest {}", "nearest {}", "front {}", "{} in front", "{} in the foreground", "{} closest to us"),
    "far": ("furthest {}", "farthest {}", "back {}", "{} in the back", "{} in the background", "{} furthest away"),
}
# What people also type, where they are in a hurry; of photographs only.
CASUAL_SIDES = {
    "left": ("{} on left", "{} left", "left side {}", "{} left side", "{} to left", "{} on the left hand side"),
    "right": ("{} on right", "{} right", "right side {}", "{} right side", "{} to right", "{} on the right hand side"),
    "top": ("{} on top", "{} at top", "{} top"),
    "bottom": ("{} on bottom", "{} at bottom", "{} on the bottom", "{} bottom"),
    "middle": ("{} in middle", "{} in center", "middle most {}", "{} middle"),
    **{corner: ("{} in * corner".replace("*", corner), "{} *".replace("*", corner)) for corner in CORNERS},
}
CASUAL_FIRSTS = {
    "left": (
        "far left {}",
        "{} far left",
        "{} on far left",
        "left most {}",
        "{} on the far left",
        "first {} from left",
    ),
    "right": ("far right {}", "{} far right", "{} on far right", "right most {}", "{} on the far right"),
    "top": ("top most {}", "{} highest up"),
    "bottom": ("bottom most {}",),
    "big": ("bigger {}", "larger {}"),
    "small": ("smaller {}", "tiny {}"),
    "near": ("{} closest to camera", "front most {}", "{} up front"),
    "far": ("back most {}", "{} in background", "{} in back", "{} way in the back"),
}
SHORT_ORDINALS = ("0th", "1st", "2nd", "3rd", "4th")
CASUAL_ORDINALS = (
    "{} {{}} from the {}",
    "{} {{}} from {}",
    "{} from {} {{}}",
    "{{}} {} from the {}",
    "{{}} {} from {}",
)
USUAL_NOUN = 0.5  # share of the nouns with casual words that stay as they are
RELATION_WORDINGS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath", "lower than"),
    "next to": ("next to", "beside", "near", "close to", "by"),
}
# 'dog that *' and 'dogs that *': the verb for one and for several.
MOTION_WORDINGS: dict[str, tuple[str, ...]] = {
    **{
        side: (
            f"{{}} moving to the {side}",
            f"{{}} going {side}",
            f"{{}} that move* to the {side}",
            f"{{}} moving {side}",
        )
        for side in ("left", "right")
    },
    "up": ("{} moving up", "{} that move* up", "{} rising", "{} going up"),
    "down": ("{} moving down", "{} that move* down", "{} sinking", "{} going down"),
    "moves": ("{} that move*", "moving {}", "{} in motion", "{} that move* along"),
    "still": ("{} that stand* still", "{} standing still", "{} not moving", "{} that stay* in place"),
    "enters": ("{} that come* in", "{} coming into view", "{} entering the picture", "{} that enter* the picture"),
    "leaves": ("{} that leave* the picture", "{} leaving", "{} going out of view", "{} that leave*"),
}
CLOTHES_WORDINGS = (
    "{} in {colour}",
    "{} wearing {colour}",
    "{} in the {colour} shirt",
    "{} wearing the {colour} shirt",
)


@dataclass(frozen=True, slots=True)
class Number:
    """Grammatical number.

    count: how many objects the phrase names, or pretends to name.  counted: it says how many.
    all: it stresses that it names each of them.  definite: it needs an article.
    alone: there is nothing to tell it apart from: 'dog on the left', but hardly 'left dog'.
    parts: the numbers of what 'and' joins, or 'except' leaves out.
    """

    count: int
    counted: bool = False
    all: bool = False
    definite: bool = False
    alone: bool = False
    parts: tuple[Number, ...] = ()

    @property
    def plural(self) -> bool:
        return self.count > 1


def word(form: Form, number: Number, nouns: Vocabulary, rng: Random) -> str:
    """One English wording of a form, lower case, without punctuation."""
    match form:
        case Or(left, right):
            # 'top dog and cat' might mean the top cat, 'the top dog and the cat' does not
            definite = rng.random() < 0.5 or not (isinstance(left, Is) and isinstance(right, Is))
            first, second = (replace(part, definite=definite) for part in number.parts)
            return f"{word(left, first, nouns, rng)} and {word(right, second, nouns, rng)}"
        case Except(whole, part):
            but = rng.choice(("except", "except for", "but", "other than", "apart from"))
            plural = number.parts[0].plural
            noun = None if isinstance(part, Is) else "ones" if plural else "one"
            return f"{word(whole, number, nouns, rng)} {but} the {phrase(part, nouns, rng, plural=plural, noun=noun)}"
        case Everything():
            return "everything"
        case Is("person") if number.all and rng.random() < 0.4:
            return rng.choice(("everyone", "everybody"))
        case Counted(of, count):
            return determined(of, replace(number, count=count, counted=True), nouns, rng)
        case _:
            return determined(form, number, nouns, rng)


def determined(form: Form, number: Number, nouns: Vocabulary, rng: Random) -> str:
    """The phrase of a form with its article, quantifier or count."""
    if number.all and rng.random() < 0.2:
        strict = replace(nouns, casual={})  # 'every man' are not all people
        return f"{rng.choice(('every', 'each'))} {phrase(form, strict, rng)}"
    if number.counted:
        count = NUMBERS[number.count]
        choices = (f"{count} {{}}", f"the {count} {{}}") + (("both {}",) if number.count == 2 else ())
    elif number.all:
        choices = ("all {}", "all the {}", "all of the {}")
    else:
        choices = ("the {}",) if number.definite else ("{}", "the {}")
        if nouns.casual and not number.definite and not number.plural and isinstance(form, Is | Coloured):
            choices = (*choices, "a {}")
    said = rng.choice(choices).format(phrase(form, nouns, rng, plural=number.plural, alone=number.alone))
    return f"an{said[1:]}" if said[:2] == "a " and said[2] in "aeio" else said  # 'a unicycle'


def phrase(
    form: Form,
    nouns: Vocabulary,
    rng: Random,
    *,
    plural: bool = False,
    alone: bool = False,
    noun: str | None = None,
) -> str:
    """A noun with what is said of it, without article. alone: as in `Number`. noun: a pronoun to say in its place."""
    match form:
        case Is(name):
            return noun or _called(name, nouns, rng, plural=plural)
        case Coloured(of, colour):
            head = phrase(of, nouns, rng, plural=plural, noun=noun)
            if nouns.wears_clothes(of.word):
                clothes = CLOTHES_WORDINGS[:2] if plural else CLOTHES_WORDINGS
                return rng.choice(clothes).format(head, colour=colour)
            return f"{colour} {head}"
        case Placed(of, side):
            wordings = _wordings(SIDE_WORDINGS, CASUAL_SIDES, side, nouns)
            # 'dogs on the left', but hardly 'left dogs'
            wording = rng.choice([w for w in wordings if w.startswith("{}")] if plural or alone else wordings)
        case Ranked(of, order, 1):
            wording = rng.choice(_wordings(FIRST_WORDINGS, CASUAL_FIRSTS, order, nouns))
        case Ranked(of, order, rank):
            wording = f"{ORDINALS[rank]} {{}} from the {order}"
            if nouns.casual:
                number = rng.choice((ORDINALS[rank], SHORT_ORDINALS[rank]))
                wording = rng.choice(CASUAL_ORDINALS).format(number, order)
        case Moves(of, motion):
            wording = rng.choice(MOTION_WORDINGS[motion]).replace("*", "" if plural else "s")
        case Related(of, relation, anchor):
            article = rng.choice(("the ", "the ", "a ", "")) if nouns.casual else "the "
            wording = f"{{}} {rng.choice(RELATION_WORDINGS[relation])} {article}{phrase(anchor, nouns, rng)}"
        case _:
            raise TypeError(f"no wording for {form}")
    return wording.format(phrase(of, nouns, rng, plural=plural, noun=noun))


def _wordings(
    usual: Mapping[str, tuple[str, ...]], casual: Mapping[str, tuple[str, ...]], key: str, nouns: Vocabulary
) -> tuple[str, ...]:
    return usual[key] + (casual[key] if nouns.casual else ())


def _called(name: str, nouns: Vocabulary, rng: Random, *, plural: bool) -> str:
    """The noun, or what people say in its place."""
    words = nouns.casual.get(nouns.plural(name) if plural else name)
    if not words or rng.random() < USUAL_NOUN:
        return nouns.plural(name) if plural else name
    return rng.choice(words)
