"""Somebody's predictions in a file, matched with prepared expressions: JSON lines, COCO results, refseg's records.

An entry names its expression by `sent_id` (or `expression_id`), or by `image` (file name) or `image_id` and `phrase`
(or `text`, `sent`). Its mask is COCO's (`mask` or `segmentation`: RLE or polygons, null for none); `no_target` (a
boolean) may stand beside it. So the lines of `refseg predict --json` will do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product, zip_longest
from typing import Any, Literal

from refseg_cli.data import storage
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import read_answers, read_masks
from refseg_cli.records import Rle

Reason = Literal["unreadable", "unknown", "duplicate", "wrong size", "missing"]
REASONS: tuple[Reason, ...] = ("unreadable", "unknown", "duplicate", "wrong size", "missing")
IDS = ("sent_id", "expression_id")
PHRASES = ("phrase", "text", "sent")
MASKS = ("mask", "segmentation")


@dataclass(frozen=True, slots=True)
class Given:
    """One entry of a file.

    where:    its line or place, for messages.
    sent_id:  of the expression; None where `image` (a file name, or an id) and `phrase` name it.
    mask:     as it stood there: RLE or polygons of COCO; None for an empty one.
    says_target: None where the entry does not say.
    """

    where: str
    sent_id: int | None
    image: str | int | None
    phrase: str | None
    mask: Any
    says_target: bool | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry that cannot be scored, or an expression without one. where: the entry, or the expression's sent_id."""

    reason: Reason
    where: str
    what: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f": {self.what}" if self.what else "")


@dataclass(slots=True)
class Problems:
    """What was found wrong with a file of predictions."""

    found: list[Problem] = field(default_factory=list)

    def add(self, reason: Reason, where: str, what: str = "") -> None:
        self.found.append(Problem(reason, where, what))

    def counts(self) -> dict[str, int]:
        """How many of each reason, those that occur."""
        counted = {reason: sum(p.reason == reason for p in self.found) for reason in REASONS}
        return {reason: n for reason, n in counted.items() if n}

    def examples(self, count: int) -> list[Problem]:
        """At most `count` of them, reason by reason in turn, so that many of one kind hide no other."""
        kinds = ([p for p in self.found if p.reason == reason] for reason in REASONS)
        turns = chain.from_iterable(zip_longest(*kinds))
        return [problem for problem in turns if problem is not None][:count]

    def __str__(self) -> str:
        return ", ".join(f"{n} {reason}" for reason, n in self.counts().items())


def read_predictions(uri: str, problems: Problems, *, splits: Sequence[str]) -> list[Given]:
    """The entries of a file; what is no entry goes to `problems`.

    `.parquet` is a file of records, of which those of `splits` are taken; a file that begins with [ or is one JSON
    object with `annotations` is a COCO result; anything else has a JSON object a line.

    Raises:
        RefsegError: no such file, or none of these.
    """
    if uri.endswith(".parquet"):
        return list(_from_records(uri, splits))
    try:
        text = storage.locate(uri).read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _foreign(uri) from error
    entries = _whole_file(text, uri)
    numbered = _lines(text, uri, problems) if entries is None else ((f"{uri}: entry {i}", e) for i, e in entries)
    return list(_given(numbered, problems))


def _foreign(uri: str) -> RefsegError:
    return RefsegError(f"{uri}: neither JSON nor Parquet", hint="JSON lines, COCO results, or refseg's records")


def _from_records(uri: str, splits: Sequence[str]) -> Iterator[Given]:
    answers, found = read_answers(uri), read_masks(uri)
    for i, mask in enumerate(found):
        if answers.split[i] in splits:
            yield Given(
                where=f"{uri}: row {i}",
                sent_id=int(answers.sent_id[i]),
                image=None,
                phrase=None,
                mask={"size": list(mask.size), "counts": mask.counts.decode("ascii")},
                says_target=bool(answers.says_target[i]) if answers.has_head[i] else None,
            )


def _whole_file(text: str, uri: str) -> Iterable[tuple[int, Any]] | None:
    """The entries of a COCO result, numbered from 0; None if the file is not one JSON value with a list of them."""
    if not text.strip():
        raise RefsegError(f"{uri}: empty", hint="a line of JSON for each expression")
    if not text.lstrip().startswith(("[", "{")):
        raise _foreign(uri)
    try:
        value = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise RefsegError(f"{uri}: not valid JSON: {error}") from error
        return None
    if isinstance(value, Mapping):
        value = value.get("annotations")
    return enumerate(value) if isinstance(value, list) else None


def _lines(text: str, uri: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            where = f"{uri}:{number}"
            try:
                yield where, json.loads(line)
            except ValueError:
                problems.add("unreadable", where, "not JSON")


def _given(entries: Iterable[tuple[str, Any]], problems: Problems) -> Iterator[Given]:
    for where, entry in entries:
        try:
            yield _entry(where, entry)
        except ValueError as error:
            problems.add("unreadable", where, str(error))


def _entry(where: str, entry: Any) -> Given:
    """Raises ValueError: no object, no name of an expression, no mask, or values of another kind."""
    if not isinstance(entry, Mapping):
        raise ValueError("not an object")
    if entry.get("error"):
        raise ValueError(f"holds an error: {entry['error']}")
    sent_id = next((entry[key] for key in IDS if key in entry), None)
    image = next((entry[key] for key in ("image_id", "image", "file_name") if entry.get(key) is not None), None)
    phrase = next((entry[key] for key in PHRASES if key in entry), None)
    if sent_id is None and (image is None or not isinstance(phrase, str)):
        raise ValueError("names no expression: neither sent_id, nor image and phrase")
    if isinstance(sent_id, str) and sent_id.isdecimal():
        sent_id = int(sent_id)
    if sent_id is not None and (isinstance(sent_id, bool) or not isinstance(sent_id, int)):
        raise ValueError(f"sent_id {sent_id!r} is no whole number")
    no_target = entry.get("no_target")
    if not any(key in entry for key in MASKS) and no_target is not True:
        raise ValueError("has no mask")
    if no_target is not None and not isinstance(no_target, bool):
        raise ValueError(f"no_target {no_target!r} is neither true nor false")
    return Given(
        where=where,
        sent_id=sent_id,
        image=image if isinstance(image, int) else str(image).replace("\\", "/").rpartition("/")[2],
        phrase=phrase,
        mask=next((entry[key] for key in MASKS if key in entry), None),
        says_target=None if no_target is None else not no_target,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """An expression of the split, as an entry may name it.  raw: the phrase as it was typed, if that is another."""

    sent_id: int
    image_id: int
    file_name: str
    phrase: str
    raw: str = ""


def match(given: Sequence[Given], wanted: Sequence[Wanted], problems: Problems) -> dict[int, Given]:
    """The entry of each expression, by the expression's place in `wanted`.

    An entry of image and phrase answers every expression of that image with that phrase; where there are as many
    entries as such expressions, each answers one, in order. A phrase may be given as it was typed or as it was cleaned;
    letters' case and spaces do not matter.
    """
    by_id: dict[int, list[int]] = defaultdict(list)
    by_name: dict[tuple[str | int, str], list[int]] = defaultdict(list)
    for n, expression in enumerate(wanted):
        by_id[expression.sent_id].append(n)
        phrases = dict.fromkeys(map(_plain, (expression.phrase, expression.raw or expression.phrase)))
        for image, phrase in product((expression.image_id, expression.file_name), phrases):
            by_name[image, phrase].append(n)
    groups: dict[tuple[int, ...], list[Given]] = defaultdict(list)
    for entry in given:
        if entry.sent_id is not None:
            places = tuple(by_id.get(entry.sent_id, ()))
        else:
            assert entry.image is not None
            places = tuple(by_name.get((entry.image, _plain(entry.phrase or "")), ()))
        if places:
            groups[places].append(entry)
        else:
            problems.add("unknown", entry.where, _named(entry))
    answered: dict[int, Given] = {}
    for numbers, entries in groups.items():
        each = len(entries) == len(numbers)
        for n, entry in zip(numbers, entries if each else [entries[0]] * len(numbers), strict=True):
            if n in answered:
                problems.add("duplicate", entry.where, f"{_named(entry)} is answered by {answered[n].where}")
            else:
                answered[n] = entry
        for entry in () if each else entries[1:]:
            problems.add("duplicate", entry.where, f"{_named(entry)} is answered by {entries[0].where}")
    return answered


def _plain(phrase: str) -> str:
    return " ".join(phrase.lower().split())


def _named(entry: Given) -> str:
    return f"sent_id {entry.sent_id}" if entry.sent_id is not None else f"{entry.image} {entry.phrase!r}"


def as_rle(entry: Given, size: tuple[int, int], orientation: int) -> Rle:
    """The entry's mask on the upright picture.

    Args:
        size: (height, width) of its picture, upright.
        orientation: EXIF's number; an RLE of the size of the stored pixels is turned by it.

    Raises:
        MaskTooLarge: it was made for a picture of another size.
        ValueError: it is no mask.
    """
    from refseg_cli.data import masks

    if entry.mask is None or entry.mask == []:
        return masks.union([], size)
    return masks.upright(entry.mask, size, orientation)
