"""Words that a word-level vocabulary does not hold, and which of its words they may be meant for. Knows no torch.

A typo is told from another word by the kind of slip and the length of the word; the first letter must be right.
Measured with the 324 words of generated phrases about photographs and the 609 of scenes, on the known misspellings of
their words (codespell's dictionary, 434 and 624) and on all other words of four letters or more in BERT's vocabulary
(20,154 and 19,943, names among them): an edit distance of a quarter of the letters reads 87 and 89 % of misspellings,
and takes 433 and 681 other words for known ones ("house" for "horse"), most by another letter in short words. The rules
below read 65 and 73 %, and take 77 and 103 other words for known ones, 76 of these 180 as the other number of a noun.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

UNK = "[UNK]"
SHORTEST = 4  # letters of a word that may be misspelt, and of one that it may be meant for

# Letters that a word must have for a slip to be likelier than another word. Doubled letters need `SHORTEST` only.
SWAPPED, ONE_MORE_OR_LESS, ANOTHER = 5, 6, 8
TWICE = 8  # a doubled letter and another slip
NO_TYPOS = frozenset({"there"})  # the one frequent word that these take for another one, "three"
_DOUBLED = re.compile(r"(.)\1+")


@dataclass(frozen=True, slots=True)
class Reading:
    """A phrase as a vocabulary reads it.

    text:    the phrase with known words in place of misspelt ones.
    read_as: misspelt word -> known word, as they stood.  unknown: words that mean nothing to it, each once.
    """

    text: str
    read_as: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def read(phrase: str, pipeline: tokenizers.Tokenizer, spelling: Spelling | None) -> Reading:
    """How a word-level pipeline reads a phrase, up to the length that it truncates to; one of sub-words knows all.

    spelling: None to take no word for another.
    """
    text, unknown = phrase.strip(), pipeline.token_to_id(UNK)
    encoded = pipeline.encode(text)
    read_as: dict[str, str] = {}
    lost: dict[str, None] = {}
    parts, done = [], 0
    for i, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if unknown is None or i != unknown or end <= start:
            continue
        word = text[start:end]
        if spelling and (meant := spelling.meant_by(word.lower())):
            read_as[word] = meant
            parts += [text[done:start], meant]
            done = end
        else:
            lost[word] = None
    return Reading("".join([*parts, text[done:]]), read_as, tuple(lost))


class Spelling:
    """A vocabulary's words, by what they may be mistaken for.

    vocabulary: lower-cased words; those of other signs than letters are nobody's typo.
    """

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self._words: dict[str, list[str]] = {}  # by first letter
        self._all = frozenset(vocabulary)
        for word in sorted(self._all):
            if word.isalpha() and len(word) >= SHORTEST:
                self._words.setdefault(word[0], []).append(word)
        self._meant: dict[str, str | None] = {}

    def meant_by(self, word: str) -> str | None:
        """The one known word that an unknown one is closest to; None if there is none, or more than one.

        word: in lower case. Of the plural of a known word, that word; of a singular, the plural.
        """
        if word not in self._meant:
            self._meant[word] = self._find(word) if _may_be_typo(word) else None
        return self._meant[word]

    def _find(self, word: str) -> str | None:
        for number in (word.removesuffix("s"), f"{word}s"):
            if number != word and number in self._all:
                return number
        near: dict[int, list[str]] = {}
        for known in self._words.get(word[0], ()):
            if (slips := _slips(word, known)) is not None:
                near.setdefault(slips, []).append(known)
        best = near[min(near)] if near else []
        return best[0] if len(best) == 1 else None


def _may_be_typo(word: str) -> bool:
    return word.isalpha() and len(word) >= SHORTEST and word not in NO_TYPOS


def _slips(word: str, known: str) -> int | None:
    """How far a typo is from the word it is for: 0 by doubled letters alone, 1 by one slip, 2 by both; None if it is
    too far to be one.
    """
    plain, meant = _DOUBLED.sub(r"\1", word), _DOUBLED.sub(r"\1", known)
    if plain == meant:
        return 0
    if len(word) >= _length_for(word, known):
        return 1
    return 2 if len(word) >= max(TWICE, _length_for(plain, meant)) else None


def _length_for(word: str, known: str) -> float:
    """Letters that a word needs for its one slip to be taken for one; infinity where it is not one slip."""
    start = 0
    while start < min(len(word), len(known)) and word[start] == known[start]:
        start += 1
    a, b = word[start:], known[start:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    if len(a) + len(b) == 1:
        return ONE_MORE_OR_LESS
    if len(a) == len(b) == 1:
        return ANOTHER
    return SWAPPED if len(a) == 2 and a == b[::-1] else float("inf")
