"""Answers of a model, one an expression: as rows that are written, and as columns that are scored.

Written to Parquet, the answers give the same scores again without a model, and give others the masks to score by their
own rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from refseg_cli.config import build
from refseg_cli.data import tables
from refseg_cli.errors import RefsegError
from refseg_cli.files import parse_json
from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.rules import ORIGINAL, Matching, Protocol, View
from refseg_cli.records import Detection, Rle, Thresholds

RECORDS_FORMAT = "refseg.records/1"  # columns may be added within /1, never renamed or given another meaning


@dataclass(frozen=True, slots=True)
class Answer:
    """One expression and how it was answered; pixels are counted at the image's original size.

    instance_count: annotated targets.  categories: theirs, each once.  says_target: what the model decided.
    p_target: probability of a target by the no-target head (`has_head`), else the mask's highest probability.
    intersection, union, predicted, target: pixels of P ∩ G, P ∪ G, P and G; P is empty where the model says no target.
    raw_intersection, raw_predicted: before that rule emptied it.
    curve: raw (intersection, predicted) at each mask threshold of `About.mask_thresholds`, one after the other.
    views: raw (intersection, predicted, target) at each of `About.views`, likewise.
    mask: P, at original size; `NO_MASK` where nobody asked for it.
    instances: the objects that were told apart; None where they were not.
    """

    image_id: int
    ref_id: int
    sent_id: int
    split: str
    text: str
    instance_count: int
    has_target: bool
    says_target: bool
    p_target: float
    intersection: int
    union: int
    predicted: int
    target: int
    mask: Rle
    has_head: bool = False
    categories: tuple[str, ...] = ()
    raw_intersection: int = 0
    raw_predicted: int = 0
    curve: tuple[int, ...] = ()
    views: tuple[int, ...] = ()
    instances: tuple[Detection, ...] | None = None


NO_MASK = Rle((0, 0), b"")


# The protocols whose counts were made by other rules, by `About.rules`: such counts are no longer theirs.
OUTDATED = {1: frozenset({"cris", "lavt", "lisa", "rela"}), 2: frozenset({"lisa"})}
RULES = 3


@dataclass(frozen=True, slots=True)
class About:
    """What answers depend on.

    data, dataset, split_by: where the expressions come from, the name of that set, and whose splits.
    trained_on: the set that the model was trained on, as far as it says.  blind: with shuffled phrases, as a control.
    changed: settings of the model's recipe that were others, and what was done to phrases or pictures before they were
    asked; empty for nothing.
    mask_thresholds: those of `Answer.curve`.
    views: protocol -> its place in `Answer.views`; those that count at original size by `thresholds.mask` need none.
    Further thresholds of a protocol stand behind it, as "protocol threshold"; there pairs are counted, and instances.
    without_raw: the model reads sentences as they were typed, but the data had only the cleaned ones to ask.
    rules: which version of the protocols counted `Answer.views`, see `OUTDATED`.
    finished: masks were all there was, no logits: what is counted at original size serves every protocol that compares
    all pixels there, and thresholds are not known.
    masks: whether the answers say which pixels; False where there were boxes only, and no pixel was counted.
    """

    data: str = ""
    dataset: str = ""
    split_by: str = ""
    model: str = ""
    arch: str = ""
    trained_on: str | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    changed: str = ""
    mask_thresholds: tuple[float, ...] = ()
    views: dict[str, int] = field(default_factory=dict)
    without_raw: bool = False
    rules: int = RULES
    finished: bool = False
    masks: bool = True
    blind: bool = False


OF_PICTURES = ("mask", "instances")  # columns that figures do not need
NUMBERS = ("image_id", "ref_id", "sent_id", "instance_count", "intersection", "predicted", "target")
RAW = ("raw_intersection", "raw_predicted")
FLAGS = ("has_target", "says_target", "has_head")


@dataclass(frozen=True, eq=False, slots=True)
class Answers:
    """n answers as columns, without their masks: (n,) int64, bool or float64, and lists of n; as in `Answer`.

    curve: (n, thresholds, 2) int64.  views: (n, views, 3) int64.
    """

    about: About
    image_id: np.ndarray
    ref_id: np.ndarray
    sent_id: np.ndarray
    split: list[str]
    text: list[str]
    categories: list[tuple[str, ...]]
    instance_count: np.ndarray
    has_target: np.ndarray
    says_target: np.ndarray
    has_head: np.ndarray
    p_target: np.ndarray
    intersection: np.ndarray
    predicted: np.ndarray
    target: np.ndarray
    raw_intersection: np.ndarray
    raw_predicted: np.ndarray
    curve: np.ndarray
    views: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    @property
    def references(self) -> np.ndarray:
        """(n,) int64, the same for the phrases of one reference: their ids may begin anew in each split and picture."""
        key = np.zeros(len(self), dtype=np.int64)
        for column in (np.array(self.split, dtype=np.str_), self.image_id, self.ref_id):
            names, which = np.unique(column, return_inverse=True)
            key = key * len(names) + which
        return key

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(self.split))

    def of_split(self, name: str) -> Answers:
        return self.rows(np.flatnonzero(np.array(self.split, dtype=object) == name))

    def rows(self, which: np.ndarray) -> Answers:
        """Those of the answers, in the order given; which: (k,) indices."""
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "about"}
        taken: dict[str, Any] = {
            name: [column[i] for i in which] if isinstance(column, list) else column[which]
            for name, column in columns.items()
        }
        return replace(self, **taken)

    def counts(self, protocol: Protocol | None = None) -> Counts:
        """What a protocol counts; None for the original size and the model's own mask threshold.

        Raises:
            KeyError: the pass that gave these answers did not count on that protocol's grid.
        """
        if protocol is None or self._at_original(protocol):
            return self._counts(self.raw_intersection, self.raw_predicted, self.target)
        place = self.about.views[protocol.name]
        intersection, predicted, target = self.views[:, place].T
        counts = self._counts(intersection, predicted, target)
        more = len(protocol.matching.thresholds) - 1 if protocol.matching else 0
        return replace(counts, further=self.views[:, place + 1 : place + 1 + more, 0]) if more else counts

    def has_counts(self, protocol: Protocol) -> bool:
        """Whether `counts` can answer for that protocol."""
        outdated = OUTDATED.get(self.about.rules, frozenset())
        return self._at_original(protocol) or (protocol.name in self.about.views and protocol.name not in outdated)

    def _at_original(self, protocol: Protocol) -> bool:
        """Whether a protocol counts what every evaluation counts."""
        about = self.about
        if protocol.matching or not about.masks:
            return False
        everywhere = protocol.size is None and not protocol.ignores
        return is_own(protocol, about.thresholds) or (about.finished and everywhere)

    def counts_at(self, threshold: int) -> Counts:
        """What is counted at one of the curve's mask thresholds, by its place; decided by the model's own rule."""
        intersection, predicted = self.curve[:, threshold].T
        at = self._counts(intersection, predicted, self.target)
        own = self.about.thresholds
        says = (at.predicted >= own.min_pixels) & (~self.has_head | (self.p_target >= own.exists))
        return replace(at, says_target=says)

    def _counts(self, intersection: np.ndarray, predicted: np.ndarray, target: np.ndarray) -> Counts:
        p_target = np.where(self.has_head, self.p_target, np.nan)
        return Counts(intersection, predicted, target, self.has_target, self.says_target, p_target)


def is_own(protocol: Protocol, thresholds: Thresholds) -> bool:
    """Whether a protocol counts what every evaluation counts: at original size, by the model's own mask threshold."""
    return protocol.view(thresholds.mask) == View(ORIGINAL, thresholds.mask)


def plan_views(protocols: Sequence[Protocol], thresholds: Thresholds) -> tuple[dict[str, int], list[View | Matching]]:
    """What one pass must count besides its own: protocol -> place, and what is counted at each place, each once.

    Protocols that need instances are left out: our models give one mask.
    """
    asked = [p for p in protocols if not (p.matching and p.matching.needs_instances)]
    views = {p.name: p.view(thresholds.mask) for p in asked if not is_own(p, thresholds)}
    distinct = list(dict.fromkeys(views.values()))
    return {name: distinct.index(view) for name, view in views.items()}, distinct


def places_of(protocol: Protocol, first: int) -> dict[str, int]:
    """The places that a protocol's counts take, by name: one for each threshold of a matching, else one."""
    further = protocol.matching.thresholds[1:] if protocol.matching else ()
    names = (protocol.name, *(f"{protocol.name} {threshold:g}" for threshold in further))
    return {name: first + n for n, name in enumerate(names)}


def collect(about: About, rows: Sequence[Answer]) -> Answers:
    """The rows as columns."""
    return _columns(about, {f.name: [getattr(row, f.name) for row in rows] for f in fields(Answer)})


def concatenate(about: About, parts: Sequence[Answers]) -> Answers:
    """All rows of all parts; none give an `Answers` of length 0."""
    if not parts:
        return collect(about, [])
    joined: dict[str, Any] = {}
    for f in fields(Answers):
        columns = [getattr(part, f.name) for part in parts]
        if isinstance(columns[0], np.ndarray):
            joined[f.name] = np.concatenate(columns)
        elif isinstance(columns[0], list):
            joined[f.name] = [value for column in columns for value in column]
    return replace(parts[0], about=about, **joined)


@contextmanager
def writing_records(uri: str, about: About) -> Iterator[Callable[[Sequence[Answer]], None]]:
    """Gives a function that appends answers to a Parquet file, which appears when the block ends, whole or not at all.

    A column for each field of `Answer`; `mask` is COCO's {size: [height, width], counts: string}. `about` is kept
    as JSON in the file's metadata.

    Raises:
        RefsegError: the file cannot be written.
    """
    metadata = {"format": RECORDS_FORMAT, "about": json.dumps(asdict(about))}
    with tables.writing_rows(uri, Answer, metadata=metadata) as append:
        yield append


def read_answers(uri: str) -> Answers:
    """The answers of a file, without their masks.

    Raises:
        RefsegError: no such file, not a file of records, or counts that no masks have.
    """
    added = ("has_head", "categories", *RAW, "curve", "views")  # later than the first files
    names = [f.name for f in fields(Answer) if f.name not in (*added, *OF_PICTURES)]
    writer = "`refseg eval --records FILE` writes one"
    try:
        columns, metadata = tables.read_columns(uri, names, optional=added)
    except RefsegError as error:
        raise RefsegError(error.message, hint=error.hint or writer) from error
    if metadata.get("format") != RECORDS_FORMAT:
        raise RefsegError(f"{uri}: not a file of records", hint=writer)
    try:
        about = _about(parse_json(metadata.get("about", "{}")), uri)
        answers = _columns(about, columns)
        wrong = columns["union"] != answers.predicted + answers.target - answers.intersection
        if wrong.any():
            raise ValueError(f"expression {int(np.argmax(wrong))} has a union that its masks do not give")
        answers.counts()
        for name in about.views.keys() & PROTOCOLS.keys():
            answers.counts(PROTOCOLS[name])
        return answers
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise RefsegError(f"{uri}: damaged records: {error}", hint=writer) from error


def read_masks(uri: str) -> list[Any]:
    """The predicted masks of a file of records.

    As they stand there, which nobody has looked at: COCO's RLE as a dictionary, as a rule.

    Raises:
        RefsegError: no such file, or without masks.
    """
    columns, _ = tables.read_columns(uri, ["mask"])
    return [_listed(mask) for mask in columns["mask"]]


def read_instances(uri: str) -> list[Any]:
    """The instances of all rows, as a file of predictions has them; None for rows, and for files, without any.

    Raises:
        RefsegError: no such file.
    """
    columns, _ = tables.read_columns(uri, ["sent_id"], optional=["instances"])
    found = columns.get("instances", [None] * len(columns["sent_id"]))
    return [_listed(instances) for instances in found]


def _listed(value: Any) -> Any:
    """With arrays as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _listed(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return [_listed(part) for part in value] if value.dtype == object else value.tolist()
    return value


def _about(table: Mapping[str, Any], uri: str) -> About:
    """What the metadata says; keys that a later version adds are passed over."""
    known = {f.name for f in fields(About)}
    kept = {key: value for key, value in table.items() if key in known}
    return build(About, {"rules": 1, **kept}, f"{uri}: about")


def _columns(about: About, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Answers:
    n = len(columns["target"])
    known: dict[str, Any] = {name: _whole(columns[name], name) for name in NUMBERS}
    # Files from before these columns: what the rule left is all that is known.
    known |= {
        name: _whole(columns[name], name) if name in columns else known[name.removeprefix("raw_")] for name in RAW
    }
    known |= {name: np.asarray(columns.get(name, np.zeros(n)), dtype=np.bool_) for name in FLAGS}
    known |= {name: list(columns[name]) for name in ("split", "text")}
    return Answers(
        about=about,
        **known,
        categories=list(map(tuple, columns.get("categories", [()] * n))),
        p_target=np.asarray(columns["p_target"], dtype=np.float64),
        curve=_stacked(columns.get("curve"), n, len(about.mask_thresholds), 2),
        views=_stacked(columns.get("views"), n, len(set(about.views.values())), 3),
    )


def _whole(column: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    """(n,) int64. Raises ValueError: numbers that are not whole, or too large to be told apart."""
    values = np.asarray(column)
    if not values.size:
        return values.astype(np.int64)
    with np.errstate(invalid="ignore"):
        found = values.astype(np.int64, copy=False)
    if values.dtype.kind not in "iuf" or (found != values).any():
        raise ValueError(f"{name} has values that are not whole numbers")
    return found


def _stacked(rows: Sequence[Any] | np.ndarray | None, n: int, count: int, each: int) -> np.ndarray:
    if rows is None or not count or not n:
        return np.zeros((n, count, each), dtype=np.int64)
    if isinstance(rows, np.ndarray) and rows.ndim == 2:
        return rows.astype(np.int64).reshape(n, count, each)
    return np.array([np.asarray(row) for row in rows], dtype=np.int64).reshape(n, count, each)
