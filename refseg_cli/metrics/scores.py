"""The one scorer: counts and a protocol in, metrics out (Liu, thesis 2024, section 6.4.1, and those who differ).

Every metric is a sum over expressions divided by another sum over expressions (`Ratios`), or the sum of two such, so
that slices are rows of a table, and what a picture adds is a sum of rows. Integer sums are exact, and means of IoU
correctly rounded, so that no score depends on the order of the expressions, not even in its last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from refseg_cli.metrics.concepts import columns, figure
from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.exact import exact_sum, grid_bits, on_grid
from refseg_cli.metrics.protocols import REFSEG
from refseg_cli.metrics.rules import Absence, Metric, Protocol


class Outcome(NamedTuple):
    """How a protocol sees each of n expressions.

    iou: (n,) float64, never NaN.  intersection, union: (n,) int64, what enters the overall IoU.  absent: (n,) bool, the
    answer counts as "no target"; all False where the protocol knows no such answer.  present: (n,) bool, there is a
    target.  single: (n,) bool, exactly one true instance, of protocols that match instances.
    """

    iou: np.ndarray
    intersection: np.ndarray
    union: np.ndarray
    absent: np.ndarray
    present: np.ndarray
    single: np.ndarray


@dataclass(frozen=True, eq=False, slots=True)
class Ratios:
    """metrics[j] of any set of rows is numerators[j][rows].sum() / denominators[j][rows].sum().

    Both are m columns (n,), each of float64, int64 or bool as its metric needs: of a million expressions they are most
    of the memory.

    An expression that a metric leaves out is 0 in both. A metric of kind `sum` is that of its terms' ratios; its own
    columns are 0. The share of a reference stands in one of its rows: a set has all of its rows, or none.

    concepts: (n, k) whole numbers, of whose sums the metrics that are no ratios are formed; k is 0 without such ones.
    Their own columns say which expressions take part.
    """

    metrics: tuple[Metric, ...]
    numerators: tuple[np.ndarray, ...]
    denominators: tuple[np.ndarray, ...]
    concepts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    def terms(self, j: int) -> tuple[int, ...]:
        """The columns whose ratios add up to metric j: itself, or its terms."""
        return tuple(map(self.names.index, self.metrics[j].terms)) or (j,)

    def sums(self, rows: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """(m,) numerators and (m,) denominators added up over those rows."""
        parts, wholes = np.zeros(len(self.metrics)), np.zeros(len(self.metrics))
        for j, metric in enumerate(self.metrics):
            column = self.numerators[j][rows]
            # Sums of whole numbers are exact in any order.
            parts[j] = exact_sum(column) if metric.adds_fractions else column.sum()
            wholes[j] = self.denominators[j][rows].sum()
        parts, wholes = self.added(parts, wholes)
        for j, metric in enumerate(self.metrics):
            if metric.concept:
                value = float(figure(metric.concept, self.concepts[rows].sum(0)))
                parts[j], wholes[j] = (0.0, 0.0) if math.isnan(value) else (value, 1.0)
        return parts, wholes

    def added(self, parts: np.ndarray, wholes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) sums, with those of metrics of kind `sum` filled in: their terms over the common denominator."""
        for j, metric in enumerate(self.metrics):
            if metric.terms:
                first, second = self.terms(j)
                parts[j] = parts[first] * wholes[second] + parts[second] * wholes[first]
                wholes[j] = wholes[first] * wholes[second]
        return parts, wholes

    def values(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(m,) fractions over those rows, NaN where nothing defines one."""
        parts, wholes = self.sums(rows)
        return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)


@dataclass(frozen=True, slots=True)
class Scores:
    """The metrics of one set of expressions.

    sums: the protocol's name of each metric -> what is divided by what.
    expressions, no_target: how many there are, and how many of them have no target.
    """

    protocol: Protocol
    sums: dict[str, tuple[float, float]]
    expressions: int
    no_target: int

    @property
    def values(self) -> dict[str, float]:
        """Fractions, NaN where the set defines none."""
        return {name: part / whole if whole else math.nan for name, (part, whole) in self.sums.items()}

    def table(self) -> dict[str, float | None]:
        """Percent, None where undefined (JSON has no NaN)."""
        return {name: 100 * part / whole if whole else None for name, (part, whole) in self.sums.items()}


def scores(counts: Counts, protocol: Protocol = REFSEG, references: np.ndarray | None = None) -> Scores:
    """Every metric of a protocol.

    Args:
        counts: as seen on the protocol's grid and at its threshold.
        references: as for `ratios`.
    """
    table = ratios(counts, protocol, references)
    parts, wholes = table.sums()
    return Scores(
        protocol=protocol,
        sums={name: (float(p), float(w)) for name, p, w in zip(table.names, parts, wholes, strict=True)},
        expressions=len(counts),
        no_target=int(np.count_nonzero(~counts.has_target)),
    )


def ratios(counts: Counts, protocol: Protocol = REFSEG, references: np.ndarray | None = None) -> Ratios:
    """Each expression's share in each metric.

    references: (n,) any numbers, the same for the phrases of one reference; None where each is its own.
    """
    seen = outcome(counts, protocol)
    shares = []
    groups = np.arange(len(counts)) if protocol.by_reference and references is None else references
    for metric in protocol.metrics:
        share = _column(metric, seen, strict=protocol.strict)
        if protocol.by_reference and metric.by == "reference":
            assert groups is not None
            share = _by_reference(*share, groups)
        shares.append(share)
    numerators, denominators = zip(*shares, strict=True)
    return Ratios(protocol.metrics, numerators, denominators, _concepts(counts, protocol, seen))


def sample_iou(counts: Counts, protocol: Protocol = REFSEG) -> np.ndarray:
    """(n,) float64: the IoU of each expression as the protocol's means read it, never NaN."""
    return outcome(counts, protocol).iou


def outcome(counts: Counts, protocol: Protocol = REFSEG) -> Outcome:
    """Apply the protocol's rule for no-target, and divide where it says so.

    Where the truth is empty: `unknown` divides as ever, so that the empty union decides; the other rules count a right
    "no target" as 1 and anything else as 0. A target that was annotated without a pixel is a target, unless the
    protocol goes by the true mask.
    """
    absence = protocol.absence
    has, single = counts.has_target if absence.truth == "annotated" else counts.target > 0, counts.target == 1
    if absence.rule == "unknown":
        never = np.zeros(len(counts), dtype=bool)
        iou = _divide(counts.intersection, counts.union, protocol)
        return Outcome(iou, counts.intersection, counts.union, never, has, single)
    says = decide(counts, absence)
    if absence.rule == "emptied":
        predicted, intersection = np.where(says, counts.predicted, 0), np.where(says, counts.intersection, 0)
        union = predicted + counts.target - intersection
        absent = predicted == 0
        iou = np.where(has, _divide(intersection, union, protocol), absent)
        return Outcome(iou, intersection, union, absent, has, single)
    # A denied target keeps the union of its mask as predicted; a right "no target" has none.
    found = has if absence.rule == "asked-again" else has & says
    iou = np.where(has, np.where(found, _divide(counts.intersection, counts.union, protocol), 0.0), ~says)
    intersection, union = np.where(found, counts.intersection, 0), np.where(has | says, counts.union, 0)
    return Outcome(iou, intersection, union, ~says, has, single)


def _concepts(counts: Counts, protocol: Protocol, seen: Outcome) -> np.ndarray:
    """(n, k), see `concepts.columns`; k is 0 where no metric asks for them."""
    if not any(metric.concept for metric in protocol.metrics):
        return np.zeros((len(counts), 0))
    matched = np.column_stack([counts.target, counts.intersection, counts.further])
    return columns(seen.present, seen.absent, counts.predicted, matched)


def decide(counts: Counts, absence: Absence) -> np.ndarray:
    """(n,) bool: whether an answer says that there is a target."""
    enough = counts.predicted >= absence.pixels
    if not absence.head:
        return enough
    if absence.exists is None:
        return counts.says_target
    return np.where(counts.has_head, counts.p_target >= absence.exists, enough)


def _divide(intersection: np.ndarray, union: np.ndarray, protocol: Protocol) -> np.ndarray:
    part, whole = intersection + protocol.smoothing[0], union + protocol.smoothing[1]
    return np.divide(part, whole, out=np.full(len(union), protocol.empty), where=union > 0)


def _column(metric: Metric, seen: Outcome, *, strict: bool) -> tuple[np.ndarray, np.ndarray]:
    """A metric's numerators and denominators, (n,) each."""
    has = seen.present
    if metric.kind == "sum":
        return np.zeros(len(has)), np.zeros(len(has))
    if metric.kind == "no-target":
        return ~has & seen.absent, ~has
    if metric.kind == "target":
        return has & ~seen.absent, has
    if metric.kind == "F2":  # 5pr / (4p + r), of precision p and recall r, is 5 TP / (5 TP + 4 FN + FP)
        right, missed, wrong = ~has & seen.absent, ~has & ~seen.absent, has & seen.absent
        return 5 * right, 5 * right + 4 * missed + wrong
    taken = {"all": np.ones_like(has), "targets": has, "single": seen.single}[metric.of]
    if metric.concept:
        return np.zeros(len(has)), taken
    if metric.kind == "overall":
        return np.where(taken, seen.intersection, 0), np.where(taken, seen.union, 0)
    if metric.kind == "mean":
        return np.where(taken, seen.iou, 0.0), taken
    # Division of doubles is correctly rounded, so the IoU of 7/10 pixels is the very number that `0.7` denotes.
    hit = seen.iou > metric.threshold if strict else seen.iou >= metric.threshold
    return taken & hit, taken


def _by_reference(part: np.ndarray, whole: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) each: what a reference's phrases make together, in its first row, and 1 where that is defined."""
    _, first, which, size = np.unique(references, return_index=True, return_inverse=True, return_counts=True)
    exact = on_grid(part.astype(np.float64), grid_bits(int(size.max(initial=0))))
    parts, wholes = np.bincount(which, exact), np.bincount(which, whole)
    defined = wholes > 0
    numerators, denominators = np.zeros(len(part)), np.zeros(len(part))
    numerators[first[defined]] = parts[defined] / wholes[defined]
    denominators[first[defined]] = 1
    return numerators, denominators
