"""What the game's referee decides, and what a phrase may be. Knows neither pictures nor players' names.

A sample is a phrase with the objects that its annotator means in one picture: none, one or several. Validators see the
picture and the phrase only and find the objects on their own (Liu, 2024, section 6.2.2).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Role = Literal["annotate", "validate"]

VALIDATORS = 2  # who may fail to find the targets before a sample is discarded
LONGEST = 200  # characters of a phrase; the longest of gRefCOCO has about half of that


class State(StrEnum):
    """Where a sample stands."""

    WAITING = "waiting"  # for its first validator
    DISPUTED = "disputed"  # the first validator chose otherwise: waits for the second
    ACCEPTED = "accepted"
    DISCARDED = "discarded"
    REJECTED = "rejected"


OPEN = (State.WAITING, State.DISPUTED)

# Why a validator rejects a sample, as the page says it.
REASONS = {
    "irrelevant": "It has nothing to do with the picture",
    "ambiguous": "It could mean different objects",
    "language": "It is not clear, correct English",
    "offensive": "It is offensive or names a private person",
}


class Refused(Exception):
    """The rules do not allow what a player did; the message is for the player."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A validator's: the ids of the objects that the phrase names, none for nothing in the picture; or a rejection.

    reason: a key of `REASONS` for a rejection, else None.
    """

    targets: frozenset[int] = frozenset()
    reason: str | None = None


def verdict(targets: Iterable[int], answers: Sequence[Answer]) -> State:
    """What becomes of a sample.

    Args:
        targets: ids of the objects that the annotator means; none for a no-target phrase.
        answers: of different validators, in their order.
    """
    meant = frozenset(targets)
    for answer in answers:
        if answer.reason is not None:
            return State.REJECTED
        if answer.targets == meant:
            return State.ACCEPTED
    if len(answers) >= VALIDATORS:
        return State.DISCARDED
    return State.DISPUTED if answers else State.WAITING


def choice(targets: Iterable[int], nothing: bool, selectable: Iterable[int]) -> frozenset[int]:
    """A player's selection, as the form gives it.

    Args:
        targets: ids of the chosen objects.
        nothing: the player says that nothing in the picture is meant.
        selectable: ids of the picture's objects.

    Raises:
        Refused: both, neither, or an object that the picture does not have.
    """
    chosen = frozenset(targets)
    if chosen and nothing:
        raise Refused("Choose either objects or “nothing in the picture”, not both.")
    if not chosen and not nothing:
        raise Refused("Choose the objects, or “nothing in the picture”.")
    if not chosen <= frozenset(selectable):
        raise Refused("This picture has no such object. Reload the page.")
    return chosen


def clean_phrase(text: str) -> str:
    """A phrase as it is kept: composed characters (NFC), single spaces.

    Raises:
        Refused: it is empty, too long, or has characters that no one types.
    """
    phrase = " ".join(unicodedata.normalize("NFC", text).split())
    if not any(letter.isalnum() for letter in phrase):
        raise Refused("Write a phrase.")
    if len(phrase) > LONGEST:
        raise Refused(f"The phrase has {len(phrase)} characters; at most {LONGEST} are allowed.")
    # Cc controls, Cf direction marks and the like, Cs lone surrogates, Co private, Cn unassigned; joiners are spelling.
    if any(unicodedata.category(letter)[0] == "C" and letter not in "\u200c\u200d" for letter in phrase):
        raise Refused("The phrase has invisible characters. Type it again.")
    return phrase


def same(first: str, second: str) -> bool:
    """Whether two phrases differ in capitals only."""
    return first.casefold() == second.casefold()


def kind(targets: Iterable[int]) -> str:
    """``single``, ``multi`` or ``no_target``, as the counts of prepared data call them."""
    count = len(frozenset(targets))
    return "no_target" if not count else "single" if count == 1 else "multi"
