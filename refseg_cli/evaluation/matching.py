"""Which expression an entry of a file means: the one that all the names it gives fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from refseg_cli.data.picture_names import PictureNames
from refseg_cli.evaluation.predictions import Given, Problems, quoted


class Wanted(NamedTuple):
    """An expression of a split, as an entry may name it.

    phrases: how it may be written.  targets: as in `Expression`.
    """

    split: str
    image_id: int
    file_name: str
    ref_id: int
    sent_id: int
    phrases: tuple[str, ...]
    targets: tuple[int, ...]

    @property
    def plain(self) -> Iterable[str]:
        """The phrases, each once, as `_plain` makes them."""
        return dict.fromkeys(map(_plain, self.phrases))

    def __str__(self) -> str:
        return f"{self.file_name} {quoted(self.phrases[0])}"


Places = tuple[int, ...]  # of expressions in the list of those wanted
# What an entry names, None for what it does not: split, image_id, ref_id, sent_id, phrase.
Names = tuple[str | None, int | None, int | None, int | None, str | None]


def match(
    given: Sequence[Given], wanted: Sequence[Wanted], problems: Problems, *, union: bool = False
) -> dict[int, Sequence[Given]]:
    """The entries of each expression, by the expression's place in `wanted`: one, or with `union` at least one.

    An entry answers every expression that its names fit, if these are of one picture and have one phrase or the same
    targets; otherwise it is ambiguous. Where there are as many entries as such expressions, each answers one; if it
    mattered which, they are ambiguous, too. Of entries that fit differently many expressions, those that fit the
    fewest go first, and the others answer what is left.

    Args:
        problems: entries that answer nothing are appended here.
        union: several entries of the same names are parts of one answer.
    """
    index = _Index(wanted)
    groups: dict[int, list[Given]] = {}
    fits: dict[int, Places] = {}
    for entry in given:
        if places := index.find(entry, problems):
            key = id(places)  # equal places are one object, and may be many
            if key in groups:
                groups[key].append(entry)
            else:
                groups[key], fits[key] = [entry], places
    answered: dict[int, Sequence[Given]] = {}
    for key in sorted(groups, key=lambda key: len(fits[key])):
        places, entries = fits[key], groups[key]
        if len(places) == len(entries) == 1:  # nearly all; no other group of one place has this one
            answered[places[0]] = entries
            continue
        free = [n for n in places if n not in answered]
        if not _are_alike([wanted[n] for n in places]):
            _add_ambiguous(entries, places, wanted, problems)
        elif not free:
            _add_duplicates(entries, answered[places[0]][0], problems)
        elif union:
            answered |= dict.fromkeys(free, entries)
        elif len(entries) == len(free):
            if _may_be_dealt_out(entries, [wanted[n] for n in free]):
                answered |= {n: [entry] for n, entry in zip(free, entries, strict=True)}
            else:
                _add_ambiguous(entries, free, wanted, problems)
        else:
            answered |= dict.fromkeys(free, entries[:1])
            _add_duplicates(entries[1:], entries[0], problems)
    return answered


def _are_alike(expressions: Sequence[Wanted]) -> bool:
    """Whether one answer may stand for all: same picture, and same phrase or same targets."""
    if len(expressions) == 1:
        return True
    if len({expression.image_id for expression in expressions}) > 1:
        return False
    phrases = [set(expression.plain) for expression in expressions]
    return bool(set.intersection(*phrases)) or _have_one_truth(expressions)


def _have_one_truth(expressions: Iterable[Wanted]) -> bool:
    return len({frozenset(expression.targets) for expression in expressions}) == 1


def _may_be_dealt_out(entries: Sequence[Given], expressions: Sequence[Wanted]) -> bool:
    """Whether the figures are the same, whichever of the entries answers which of the expressions."""
    first = entries[0]
    return _have_one_truth(expressions) or all(
        (entry.masks, entry.says_target, entry.instances) == (first.masks, first.says_target, first.instances)
        for entry in entries
    )


def _add_ambiguous(
    entries: Iterable[Given], places: Sequence[int], wanted: Sequence[Wanted], problems: Problems
) -> None:
    one, other = (wanted[n] for n in places[:2])
    fits = f"{len(places)} expressions, {one} (ref {one.ref_id}) and {other} (ref {other.ref_id})"
    for entry in entries:
        problems.add("ambiguous", entry.where, f"{entry} fits {fits}" + (", ..." if len(places) > 2 else ""))


def _add_duplicates(entries: Iterable[Given], first: Given, problems: Problems) -> None:
    for entry in entries:
        problems.add("duplicate", entry.where, f"{entry} is answered by {first.where}")


class _Index:
    """Finds expressions by any combination of names; each combination that occurs costs one walk over them all."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self._wanted = wanted
        self._places: dict[Names, Places] = {}
        self._built: set[tuple[bool, ...]] = set()
        self._single = [(n,) for n in range(len(wanted))]
        self._several: dict[Places, Places] = {}
        self._image_ids: dict[tuple[int | str, ...], int | None] = {(): None}

    @cached_property
    def _pictures(self) -> PictureNames:
        return PictureNames((one.image_id, one.file_name) for one in self._wanted)

    def find(self, entry: Given, problems: Problems) -> Places:
        """The expressions that all its names fit; none with a problem added."""
        images = entry.images
        if images not in self._image_ids:
            self._image_ids[images] = self._image_id(images)
        image_id = self._image_ids[images]
        if image_id is not None or not images:
            phrase = None if entry.phrase is None else _plain(entry.phrase)
            if places := self._lookup((entry.split, image_id, entry.ref_id, entry.sent_id, phrase)):
                return places
        self._explain(entry, problems)
        return ()

    def _image_id(self, images: Sequence[int | str]) -> int | None:
        """The one picture that all of these name, if there is one."""
        found = {self._pictures.find(image) for image in images}
        ids = found.pop()
        return ids[0] if not found and len(ids) == 1 else None

    def _explain(self, entry: Given, problems: Problems) -> None:
        """Names that fit together nowhere: of several pictures, of nothing, or of different things."""
        for image in entry.images:
            if len(found := self._pictures.find(image)) > 1:
                problems.add("ambiguous", entry.where, f"{quoted(image)} is the name of {len(found)} pictures")
                return
        known: Places = ()
        kind = ""
        if entry.sent_id is not None:
            known, kind = self._lookup((entry.split, None, None, entry.sent_id, None)), f"sent_id {entry.sent_id}"
        elif entry.ref_id is not None:
            known, kind = self._lookup((entry.split, None, entry.ref_id, None, None)), f"ref_id {entry.ref_id}"
        if known:
            one = self._wanted[known[0]]
            others = f" (and {len(known) - 1} others)" if len(known) > 1 else ""
            is_of = f"{kind} is of {one}, image {one.image_id}, ref {one.ref_id}{others}"
            problems.add("contradictory", entry.where, f"{entry}: {is_of}")
        else:
            problems.add("unknown", entry.where, str(entry))

    def _lookup(self, names: Names) -> Places:
        found = self._places.get(names)
        if found is None:
            given = tuple(name is not None for name in names)
            if given not in self._built:
                self._build(*given)
                self._built.add(given)
                found = self._places.get(names)
        return found or ()

    def _build(self, split: bool, image: bool, ref: bool, sent: bool, phrase: bool) -> None:
        """Enter every expression under these of its names."""
        shared: dict[Names, list[int]] = {}
        for n, one in enumerate(self._wanted):
            name, image_id = one.split if split else None, one.image_id if image else None
            ref_id, sent_id = one.ref_id if ref else None, one.sent_id if sent else None
            for text in one.plain if phrase else (None,):
                names = (name, image_id, ref_id, sent_id, text)
                first = self._places.setdefault(names, self._single[n])
                if first[0] != n:
                    shared.setdefault(names, [first[0]]).append(n)
        for names, numbers in shared.items():
            places = tuple(numbers)
            self._places[names] = self._several.setdefault(places, places)


def _plain(phrase: str) -> str:
    """Letters' case and spaces do not matter."""
    return " ".join(phrase.lower().split())
