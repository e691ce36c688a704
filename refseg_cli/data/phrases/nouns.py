"""Categories of objects and the words for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PEOPLE = "people"  # the section of the one who wears clothes


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of object.

    section: what it is grouped with, such as `PEOPLE`.  names: synonyms, the usual one first.
    general: wider words that are true of it.  doubtful: words that fit it for some people only.
    """

    index: int
    section: str
    names: tuple[str, ...]
    general: frozenset[str]
    doubtful: frozenset[str]

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All categories that phrases may name, and the irregular plurals of their words.

    casual: a noun, or its plural -> what people say in its place without having looked closer, as 'guy' for a person;
        empty where phrases are not to be casual in other ways either ('2nd dog from left').
    """

    categories: Sequence[Category]
    plurals: dict[str, str]
    casual: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def plural(self, noun: str) -> str:
        """The plural of a noun."""
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

    def wears_clothes(self, noun: str) -> bool:
        """Whether a colour said of this noun is that of the clothes."""
        return any(noun in c.names or noun in c.general for c in self.categories if c.section == PEOPLE)


def words_of(text: str) -> tuple[str, ...]:
    """A catalogue's words."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
