"""A game in figures: how many samples of which kind stand where, how far players agree, and how long they take."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from itertools import combinations
from operator import add

from refseg_cli.annotate.rules import State, kind
from refseg_cli.annotate.store import Sample

KINDS = ("single", "multi", "no_target")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two players' decisions about the same objects: whether each is meant.

    both, first, second, neither: objects that both, only one, or none of the two chose.  samples: that these are of.
    """

    both: int = 0
    first: int = 0
    second: int = 0
    neither: int = 0
    samples: int = 0

    @property
    def objects(self) -> int:
        return self.both + self.first + self.second + self.neither

    def kappa(self) -> float | None:
        """Cohen's kappa (1960), (p_o - p_e) / (1 - p_e); None without objects, or where chance alone explains all."""
        n = self.objects
        # Times n squared, so that it is exact until the division.
        by_chance = (self.both + self.first) * (self.both + self.second)
        by_chance += (self.neither + self.first) * (self.neither + self.second)
        observed = n * (self.both + self.neither)
        return (observed - by_chance) / (n * n - by_chance) if n * n != by_chance else None

    def plus(self, other: Agreement) -> Agreement:
        return Agreement(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Share:
    """What one player has done.  Times are medians in seconds, None without any."""

    player: str
    written: int
    accepted: int
    decided: int
    validated: int
    seconds_annotating: float | None
    seconds_validating: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """A game in figures.

    counts: kind -> state -> samples, all kinds and states.  reasons, origins: of rejections, of phrases -> how many.
    seconds: "annotate" and "validate" -> kind -> median seconds from seeing the picture to handing in.
    agreement: of annotators with validators, all together.  pairs: of each two players with a sample in common.
    """

    counts: dict[str, dict[str, int]]
    pictures: int
    reasons: dict[str, int]
    origins: dict[str, int]
    seconds: dict[str, dict[str, float | None]]
    agreement: Agreement
    pairs: dict[tuple[str, str], Agreement] = field(default_factory=dict)
    players: tuple[Share, ...] = ()


def figures_of(samples: Sequence[Sample], objects: Callable[[str, int], frozenset[int]]) -> Figures:
    """Count a game.

    Args:
        objects: the ids of a picture's objects, by split and image id.
    """
    counts = {one: {str(state): 0 for state in State} for one in KINDS}
    pairs: dict[tuple[str, str], Agreement] = {}
    together = Agreement()
    for sample in samples:
        counts[kind(sample.targets)][sample.state] += 1
        for first, second, table in _compared(sample, objects):
            together = together.plus(table) if first == sample.author else together
            names, turned = ((first, second), table) if first < second else ((second, first), _turned(table))
            pairs[names] = pairs.get(names, Agreement()).plus(turned)
    return Figures(
        counts=counts,
        pictures=len({(sample.split, sample.image_id) for sample in samples}),
        reasons=dict(Counter(j.answer.reason for s in samples for j in s.answers if j.answer.reason).most_common()),
        origins=dict(Counter(sample.origin["kind"] for sample in samples).most_common()),
        seconds={
            "annotate": {one: _median(_annotating(samples, one)) for one in KINDS},
            "validate": {one: _median(_validating(samples, one)) for one in KINDS},
        },
        agreement=together,
        pairs=dict(sorted(pairs.items())),
        players=tuple(_shares(samples)),
    )


def _compared(sample: Sample, objects: Callable[[str, int], frozenset[int]]) -> Iterator[tuple[str, str, Agreement]]:
    """Each two players who selected for the sample, its author first; who rejected it selected nothing."""
    chosen = [(sample.author, frozenset(sample.targets))] if sample.author else []
    chosen += [(judged.player, judged.answer.targets) for judged in sample.answers if judged.answer.reason is None]
    if len(chosen) < 2:
        return
    there = objects(sample.split, sample.image_id)
    for (first, one), (second, other) in combinations(chosen, 2):
        both, either = len(one & other), len(one | other)
        yield first, second, Agreement(both, len(one - other), len(other - one), len(there) - either, samples=1)


def _turned(table: Agreement) -> Agreement:
    return Agreement(table.both, table.second, table.first, table.neither, table.samples)


def _annotating(samples: Iterable[Sample], of: str | None = None) -> Iterator[float]:
    """Seconds for each sample that was written here."""
    for sample in samples:
        if sample.opened is not None and of in (None, kind(sample.targets)):
            yield sample.submitted - sample.opened


def _validating(samples: Iterable[Sample], of: str | None = None, player: str | None = None) -> Iterator[float]:
    for sample in samples:
        for judged in sample.answers if of in (None, kind(sample.targets)) else ():
            if player in (None, judged.player):
                yield judged.submitted - judged.opened


def _median(seconds: Iterator[float]) -> float | None:
    listed = list(seconds)
    return statistics.median(listed) if listed else None


def _shares(samples: Sequence[Sample]) -> Iterator[Share]:
    names = {sample.author for sample in samples if sample.author}
    names |= {judged.player for sample in samples for judged in sample.answers}
    for name in sorted(names):
        own = [sample for sample in samples if sample.author == name]
        yield Share(
            player=name,
            written=len(own),
            accepted=sum(sample.state is State.ACCEPTED for sample in own),
            decided=sum(sample.state in (State.ACCEPTED, State.DISCARDED, State.REJECTED) for sample in own),
            validated=sum(judged.player == name for sample in samples for judged in sample.answers),
            seconds_annotating=_median(_annotating(own)),
            seconds_validating=_median(_validating(samples, player=name)),
        )


Row = tuple[str | int | float | None, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Figures to print or to put on a page; None for what is not known."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def tables(figures: Figures) -> list[Table]:
    """The figures as a person reads them; tables without rows are left out."""
    total = {state: sum(figures.counts[one][state] for one in KINDS) for state in State}
    states: list[Row] = [(one.replace("_", " "), *figures.counts[one].values()) for one in KINDS]
    states.append(("all", *total.values()))
    seconds = [
        (one.replace("_", " "), figures.seconds["annotate"][one], figures.seconds["validate"][one]) for one in KINDS
    ]
    compared = {("annotators", "validators"): figures.agreement, **figures.pairs} if figures.pairs else {}
    pairs: list[Row] = [(*names, t.samples, t.objects, t.kappa()) for names, t in compared.items()]
    shares: list[Row] = [
        (
            *(share.player, share.written, share.accepted, share.accepted / share.decided if share.decided else None),
            *(share.validated, share.seconds_annotating, share.seconds_validating),
        )
        for share in figures.players
    ]
    found = [
        Table("Phrases", ("kind", *map(str, State)), tuple(states)),
        Table("Agreement on objects", ("player", "with", "phrases", "objects", "kappa"), tuple(pairs)),
        Table("Median seconds", ("kind", "to write", "to check"), tuple(seconds)),
        Table(
            "Players",
            ("player", "written", "accepted", "share", "checked", "seconds to write", "seconds to check"),
            tuple(shares),
        ),
        Table("Rejected because", ("reason", "phrases"), tuple(figures.reasons.items())),
        Table("Where phrases come from", ("origin", "phrases"), tuple(figures.origins.items())),
    ]
    return [table for table in found if table.rows]
