"""Somebody's predictions in a file: JSON lines, a JSON list or object, COCO results, refseg's records.

An entry names its expression by any of sent_id, ref_id, picture and phrase, and holds masks in one of the usual forms;
docs/metrics.md lists them all. Nothing here knows the data: `matching` finds the expressions, `mask_forms` the masks.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, Literal, NamedTuple

from refseg_cli.data import storage
from refseg_cli.data.sources.json_files import parse
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation import project_files
from refseg_cli.evaluation.answers import Answers, read_answers, read_instances, read_masks
from refseg_cli.evaluation.outlines import KEPT, Outline, outlines

Reason = Literal[
    "unreadable", "unknown", "contradictory", "ambiguous", "duplicate", "wrong size", "changed truth", "missing"
]
REASONS: tuple[Reason, ...] = (
    "unreadable",
    "unknown",
    "contradictory",
    "ambiguous",
    "duplicate",
    "wrong size",
    "changed truth",
    "missing",
)

# Of each kind of name the first that is there counts.
SENT_IDS = ("sent_id", "expression_id")
IMAGES = ("image", "file_name")
PHRASES = ("phrase", "sent", "text", "expression", "caption")
MASKS = ("mask", "segmentation", "masks", "mask_path")
WRAPPERS = ("annotations", "results", "predictions", "data")  # keys of an object that holds the list of entries

PARQUET = b"PAR1"  # how such a file begins
NO_PIXELS = {"size": [0, 0], "counts": ""}  # in records, where there is no mask

_QUOTE = reprlib.Repr()  # what others wrote may be of any length and depth
_QUOTE.maxstring = _QUOTE.maxother = _QUOTE.maxlong = 80


def quoted(value: Any) -> str:
    """A value of the file, short enough for a message."""
    return _QUOTE.repr(value)


class Given(NamedTuple):
    """One entry of a file; a tuple, since there may be millions.

    where:    its line or place, for messages.  number: of the row, in records.
    sent_id, ref_id: of the expression.  images: ids (int) and file names (str) of its picture, which have to agree.
    phrase:   as it stood there.  split: of records.  What it does not name is None or empty.
    masks:    as they stood there; the prediction is their union, and empty if there are none.
    says_target: None where the entry does not say.
    instances: those that it tells apart; None where it does not.
    squashed: its masks lie on another grid over the whole picture, as at the input of a network.
    """

    where: str
    sent_id: int | None = None
    ref_id: int | None = None
    images: tuple[int | str, ...] = ()
    phrase: str | None = None
    split: str | None = None
    masks: tuple[Any, ...] = ()
    says_target: bool | None = None
    number: int = 0
    instances: tuple[Outline, ...] | None = None
    squashed: bool = False

    @property
    def has_mask(self) -> bool:
        """Whether it says which pixels: boxes alone do not."""
        return bool(self.masks) or not any(one.mask is None for one in self.instances or ())

    def __str__(self) -> str:
        """Its names."""
        ids = (("sent_id", self.sent_id), ("ref_id", self.ref_id))
        names = [f"{kind} {value}" for kind, value in ids if value is not None]
        words = [f"image {image}" if isinstance(image, int) else image[:80] for image in self.images]
        words += [quoted(self.phrase)] if self.phrase is not None else []
        return ", ".join([*names, " ".join(words)] if words else names)


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

    Of a file of records those of `splits` are taken; `.pth` and folders are those of
    `project_files`; a file that begins with [ or is one JSON object with a list under one of `WRAPPERS` is read as a
    whole; anything else has a JSON object a line.

    Raises:
        RefsegError: no such file, or none of these.
    """
    if are_records(uri):
        return from_records(uri, read_answers(uri), splits, read_masks(uri), read_instances(uri))
    if uri.endswith(project_files.ARCHIVES):
        return list(_given(project_files.read_archive(uri), problems))
    place = storage.locate(uri)
    if place.is_folder():
        return list(_given(project_files.read_folder(uri, place.names()), problems))
    try:
        text = place.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _foreign(uri) from error
    entries = _whole_file(text, uri)
    numbered = _lines(text, uri, problems) if entries is None else ((f"{uri}: entry {i}", e) for i, e in entries)
    return list(_given(numbered, problems))


def are_records(uri: str) -> bool:
    """By its name, or by how Parquet begins: `--records` takes any name."""
    if uri.endswith(".parquet"):
        return True
    place = storage.locate(uri)
    return place.exists() and place.begins(len(PARQUET)) == PARQUET


def from_records(
    uri: str, answers: Answers, splits: Sequence[str], found: Sequence[Any] = (), instances: Sequence[Any] = ()
) -> list[Given]:
    """The entries of records, those of `splits`.

    found, instances: the masks and the instances of all rows; none if they are not wanted.

    Raises:
        RefsegError: instances that are none.
    """

    def told(row: int) -> tuple[Outline, ...] | None:
        try:
            return outlines({"instances": instances[row]}) if instances else None
        except ValueError as error:
            raise RefsegError(f"{uri}: row {row}: damaged records: {error}") from error

    return [
        Given(
            where=f"{uri}: row {row}",
            sent_id=int(answers.sent_id[row]),
            ref_id=int(answers.ref_id[row]),
            images=(int(answers.image_id[row]),),
            phrase=answers.text[row],
            split=split,
            masks=tuple(mask for mask in found[row : row + 1] if mask is not None and mask != NO_PIXELS),
            says_target=bool(answers.says_target[row]) if answers.has_head[row] else None,
            number=row,
            instances=told(row),
        )
        for row, split in enumerate(answers.split)
        if split in splits
    ]


def _foreign(uri: str) -> RefsegError:
    return RefsegError(f"{uri}: neither JSON nor Parquet", hint="JSON lines, COCO results, or refseg's records")


def _whole_file(text: str, uri: str) -> Iterable[tuple[int, Any]] | None:
    """The entries of one JSON value, numbered from 0; None if the file is not one with a list of them."""
    start = re.search(r"\S", text)
    if not start:
        raise RefsegError(f"{uri}: empty", hint="it needs a line of JSON for each expression")
    if start.group() not in "[{":
        raise _foreign(uri)
    try:
        value = parse(text)
    except (ValueError, RecursionError) as error:
        if start.group() == "[":
            what = error if isinstance(error, ValueError) else "nested too deeply"
            raise RefsegError(f"{uri}: not valid JSON: {what}") from error
        return None
    if isinstance(value, Mapping):
        value = next((value[key] for key in WRAPPERS if isinstance(value.get(key), list)), None)
    return enumerate(value) if isinstance(value, list) else None


def _lines(text: str, uri: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    # Not splitlines, to which U+2028 and the like inside a phrase are line ends too.
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace():
            where = f"{uri}:{number}"
            try:
                yield where, parse(line)
            except ValueError:
                problems.add("unreadable", where, "not JSON")
            except RecursionError:
                problems.add("unreadable", where, "nested too deeply")


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
    if error := entry.get("error"):
        raise ValueError(f"holds an error: {error[:200] if isinstance(error, str) else quoted(error)}")
    sent_id = _whole(_first(entry, SENT_IDS), "sent_id")
    ref_id = _whole(entry.get("ref_id"), "ref_id")
    images = _images(entry)
    phrase = _first(entry, PHRASES)
    if phrase is not None and not isinstance(phrase, str):
        raise ValueError(f"phrase {quoted(phrase)} is not text")
    if sent_id is None and ref_id is None and not (images and phrase is not None):
        raise ValueError("names no expression: neither sent_id, nor ref_id, nor image and phrase")
    no_target = entry.get("no_target")
    if no_target is not None and not (isinstance(no_target, bool | int | float) and no_target in (0, 1)):
        raise ValueError(f"no_target {quoted(no_target)} is neither true nor false")
    instances = outlines(entry)
    if not no_target and instances is None and not any(key in entry for key in MASKS):
        raise ValueError("has no mask")
    return Given(
        where=where,
        sent_id=sent_id,
        ref_id=ref_id,
        images=images,
        phrase=phrase,
        masks=_masks(entry, instances or ()),
        says_target=None if no_target is None else not no_target,
        instances=instances,
        squashed=entry.get("squashed") is True,
    )


def _first(entry: Mapping[str, Any], keys: Iterable[str]) -> Any:
    for key in keys:
        if (value := entry.get(key)) is not None:
            return value
    return None


def _whole(value: Any, name: str) -> int | None:
    """An id: as a number, as one that pandas made a float, or as digits."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if (isinstance(value, float) and value.is_integer()) or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    raise ValueError(f"{name} {quoted(value)} is not a whole number")


def _images(entry: Mapping[str, Any]) -> tuple[int | str, ...]:
    """What names the picture: an id and a file name, each of which people put under the other's key."""
    image_id, image = entry.get("image_id"), _first(entry, IMAGES)
    if isinstance(image_id, str) and image_id.isdecimal():
        image_id = int(image_id)
    names = [value if isinstance(value, str) else _whole(value, "image id") for value in (image_id, image)]
    return tuple([name for name in names if name is not None])


def _masks(entry: Mapping[str, Any], instances: Sequence[Outline]) -> tuple[Any, ...]:
    """What makes up the answer: the masks given for it, or those of its instances that are sure enough."""
    for key in MASKS:
        value = entry.get(key)
        if value is not None and value != []:
            if key != "masks":
                return (value,)
            if not isinstance(value, list):
                raise ValueError("masks is not a list")
            return tuple(part for part in value if part is not None and part != [])
    return tuple(one.mask for one in instances if one.mask is not None and one.score >= KEPT)
