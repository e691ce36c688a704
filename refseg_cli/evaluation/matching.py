"""Which expression an entry of a file means: the one that all the names it gives fit."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refseg_cli.evaluation.predictions import Given, Problems, quoted

# COCO_train2014_000000000009.jpg is 000000000009.jpg since 2017, and COCO_train2014_000000000009_0.jpg in REFER's refs.
_COCO = re.compile(r"(?:coco_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?")
_ENDING = re.compile(r"\.(jpe?g|png|bmp|gif|webp|tiff?|pgm|ppm)$")
_FOLDERS = 8  # of a path, that are looked at to tell pictures of one name apart


@dataclass(frozen=True, slots=True)
class Wanted:
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

    def __str__(self) -> str:
        return f"{self.file_name} {quoted(self.phrases[0])}"


Places = tuple[int, ...]  # of expressions in the list of those wanted
# What an entry names, None for what it does not: split, image_id, ref_id, sent_id, phrase.
Names = tuple[str | None, int | None, int | None, int | None, str | None]


def match(
    given: Sequence[Given], wanted: Sequence[Wanted], problems: Problems, *, union: bool = False
) -> dict[int, tuple[Given, ...]]:
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
    groups: dict[int, tuple[Places, list[Given]]] = {}
    for entry in given:
        if places := index.find(entry, problems):
            groups.setdefault(id(places), (places, []))[1].append(entry)  # equal places are one object
    answered: dict[int, tuple[Given, ...]] = {}
    for places, entries in sorted(groups.values(), key=lambda group: len(group[0])):
        free = [n for n in places if n not in answered]
        if not _are_alike([wanted[n] for n in places]):
            _add_ambiguous(entries, places, wanted, problems)
        elif not free:
            _add_duplicates(entries, answered[places[0]][0], problems)
        elif union:
            answered |= dict.fromkeys(free, tuple(entries))
        elif len(entries) == len(free):
            if _may_be_dealt_out(entries, [wanted[n] for n in free]):
                answered |= {n: (entry,) for n, entry in zip(free, entries, strict=True)}
            else:
                _add_ambiguous(entries, free, wanted, problems)
        else:
            answered |= dict.fromkeys(free, (entries[0],))
            _add_duplicates(entries[1:], entries[0], problems)
    return answered


def _are_alike(expressions: Sequence[Wanted]) -> bool:
    """Whether one answer may stand for all: same picture, and same phrase or same targets."""
    if len(expressions) == 1:
        return True
    if len({expression.image_id for expression in expressions}) > 1:
        return False
    phrases = [set(map(_plain, expression.phrases)) for expression in expressions]
    return bool(set.intersection(*phrases)) or _have_one_truth(expressions)


def _have_one_truth(expressions: Iterable[Wanted]) -> bool:
    return len({frozenset(expression.targets) for expression in expressions}) == 1


def _may_be_dealt_out(entries: Sequence[Given], expressions: Sequence[Wanted]) -> bool:
    """Whether the figures are the same, whichever of the entries answers which of the expressions."""
    first = entries[0]
    return _have_one_truth(expressions) or all(
        (entry.masks, entry.says_target) == (first.masks, first.says_target) for entry in entries
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
        self._pictures = _Pictures(wanted)
        self._places: dict[Names, Places] = {}
        self._built: set[tuple[bool, ...]] = set()
        self._same: dict[Places, Places] = {}

    def find(self, entry: Given, problems: Problems) -> Places:
        """The expressions that all its names fit; none with a problem added."""
        pictures = [self._pictures.find(image) for image in entry.images]
        image_id = pictures[0][0] if pictures and pictures[0] else None
        if not any(len(found) != 1 or found[0] != image_id for found in pictures):
            phrase = None if entry.phrase is None else _plain(entry.phrase)
            if places := self._lookup((entry.split, image_id, entry.ref_id, entry.sent_id, phrase)):
                return places
        for image, found in zip(entry.images, pictures, strict=True):
            if len(found) > 1:
                problems.add("ambiguous", entry.where, f"{quoted(image)} is the name of {len(found)} pictures")
                return ()
        self._explain(entry, problems)
        return ()

    def _explain(self, entry: Given, problems: Problems) -> None:
        """Names that fit together nowhere: those of nothing, or those of different things."""
        if entry.sent_id is not None:
            known, kind = self._lookup((entry.split, None, None, entry.sent_id, None)), f"sent_id {entry.sent_id}"
        elif entry.ref_id is not None:
            known, kind = self._lookup((entry.split, None, entry.ref_id, None, None)), f"ref_id {entry.ref_id}"
        else:
            known, kind = (), ""
        if known:
            one = self._wanted[known[0]]
            others = f" (and {len(known) - 1} others)" if len(known) > 1 else ""
            is_of = f"{kind} is of {one}, image {one.image_id}, ref {one.ref_id}{others}"
            problems.add("contradictory", entry.where, f"{entry}: {is_of}")
        else:
            problems.add("unknown", entry.where, str(entry))

    def _lookup(self, names: Names) -> Places:
        given = tuple(name is not None for name in names)
        if given not in self._built:
            self._build(given)
            self._built.add(given)
        return self._places.get(names, ())

    def _build(self, given: tuple[bool, ...]) -> None:
        """Enter every expression under these of its names."""
        split, image, ref, sent, phrase = given
        found: dict[Names, list[int]] = defaultdict(list)
        for n, one in enumerate(self._wanted):
            for text in dict.fromkeys(map(_plain, one.phrases)) if phrase else (None,):
                names = (
                    one.split if split else None,
                    one.image_id if image else None,
                    one.ref_id if ref else None,
                    one.sent_id if sent else None,
                    text,
                )
                found[names].append(n)
        for names, places in found.items():
            self._places[names] = self._same.setdefault(tuple(places), tuple(places))


class _Pictures:
    """Finds pictures by what people call them."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self._ids: set[int] = set()
        self._by_path: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        self._by_number: dict[int, list[int]] = defaultdict(list)
        self._found: dict[int | str, Sequence[int]] = {}
        for image_id, file_name in dict.fromkeys((one.image_id, one.file_name) for one in wanted):
            path = _slashed(file_name)
            stem = _stem(path)
            self._ids.add(image_id)
            self._by_path[path].append(image_id)
            self._by_stem[stem].append(image_id)
            if number := _COCO.fullmatch(stem):
                self._by_number[int(number[1])].append(image_id)

    def find(self, image: int | str) -> Sequence[int]:
        """The ids of the pictures of that name: one, as a rule."""
        if image not in self._found:
            self._found[image] = self._by_id(image) if isinstance(image, int) else self._by_name(image)
        return self._found[image]

    def _by_id(self, image_id: int) -> Sequence[int]:
        return (image_id,) if image_id in self._ids else self._by_number.get(image_id, ())

    def _by_name(self, name: str) -> Sequence[int]:
        """By as much of the path as both have, else by the name without folders and ending, else by its number."""
        parts = _slashed(name).split("/")[-_FOLDERS:]
        for first in range(len(parts)):
            if found := self._by_path.get("/".join(parts[first:])):
                return found
        stem = _stem(parts[-1])
        if found := self._by_stem.get(stem):
            return found
        if number := _COCO.fullmatch(stem):
            return self._by_number.get(int(number[1])) or self._by_id(int(number[1]))
        return self._by_id(int(stem)) if stem.isdecimal() and len(stem) < 20 else ()


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def _stem(path: str) -> str:
    """The file's name without folders and without the ending of a picture, lower case."""
    return _ENDING.sub("", path.rpartition("/")[2].lower())


def _plain(phrase: str) -> str:
    """Letters' case and spaces do not matter."""
    return " ".join(phrase.lower().split())
