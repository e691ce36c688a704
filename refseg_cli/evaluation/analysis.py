"""What a set of answers says: metrics by every protocol with intervals, slices, curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import Answers
from refseg_cli.metrics.curves import (
    MaskCurve,
    NoTargetCurve,
    Reliability,
    mask_curve,
    no_target_curve,
    reliability,
)
from refseg_cli.metrics.intervals import Difference, Estimate, differences, estimates
from refseg_cli.metrics.pictures import number_pictures
from refseg_cli.metrics.protocols import PHRASECUT, PROTOCOLS, REFSEG
from refseg_cli.metrics.rules import Matching, Protocol
from refseg_cli.metrics.scores import Ratios, ratios
from refseg_cli.metrics.slices import Slice, find_phrasecut_subsets, find_slices
from refseg_cli.metrics.swaps import SWAPS

INSTANCES = "predictions have them as `instances` or `boxes`: docs/metrics.md, Scoring other models' predictions"
BOXES_ONLY = "these predictions are boxes, without masks"


@dataclass(frozen=True, slots=True)
class SliceScores:
    """The metrics of some of the expressions. group: what they are told apart by."""

    group: str
    name: str
    expressions: int
    images: int
    scores: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Analysis:
    """One split.

    scores: protocol -> its metrics by its own names.  slices: by the protocol `refseg`, its headline metrics, or of
    clips by `video`; none unless asked for.  subsets: PhraseCut's, by its protocol's metrics; none unless slices and
    that protocol are asked for.  no_target_curve, mask_curve, reliability: None where there is nothing to draw.
    """

    expressions: int
    images: int
    no_target: int
    scores: dict[str, dict[str, Estimate]]
    slices: tuple[SliceScores, ...] = ()
    no_target_curve: NoTargetCurve | None = None
    mask_curve: MaskCurve | None = None
    reliability: Reliability | None = None
    subsets: tuple[SliceScores, ...] = ()

    def only(self, *, slices: bool, curves: bool) -> Analysis:
        """Without its slices, without its curves, unless they are wanted."""
        kept = self if slices else replace(self, slices=(), subsets=())
        return kept if curves else replace(kept, no_target_curve=None, mask_curve=None, reliability=None)


def analyse(
    answers: Answers,
    protocols: Sequence[str] = ("refseg",),
    *,
    slices: bool = True,
    curves: bool = True,
    intervals: bool = True,
) -> Analysis:
    """Everything that the answers of one split say.

    Args:
        intervals: otherwise there are none, NaN.

    Raises:
        RefsegError: the answers hold no counts for one of the protocols.
    """
    tables: list[tuple[Ratios, np.ndarray | None]] = [(table_of(answers, PROTOCOLS[name]), None) for name in protocols]
    found = estimates(tables, answers.image_id, intervals=intervals)
    drawn = curves and not answers.about.finished  # finished masks have one threshold behind them
    own, thresholds = answers.counts(), answers.about.thresholds
    return Analysis(
        expressions=len(answers),
        images=len(np.unique(answers.image_id)),
        no_target=int(np.count_nonzero(~answers.has_target)),
        scores=dict(zip(protocols, found, strict=True)),
        slices=_slices(answers, intervals=intervals) if slices else (),
        subsets=_subsets(answers, intervals=intervals) if slices and PHRASECUT.name in protocols else (),
        no_target_curve=no_target_curve(own, exists=thresholds.exists, min_pixels=thresholds.min_pixels)
        if drawn
        else None,
        mask_curve=mask_curve(
            [answers.counts_at(i) for i in range(len(answers.about.mask_thresholds))],
            answers.about.mask_thresholds,
            chosen=thresholds.mask,
        )
        if drawn
        else None,
        reliability=reliability(own) if drawn else None,
    )


def table_of(answers: Answers, protocol: Protocol) -> Ratios:
    """Each expression's share in each of the protocol's metrics.

    Raises:
        RefsegError: it was not counted on that protocol's grid.
    """
    if not answers.has_counts(protocol):
        if protocol.matching and protocol.matching.needs_instances:
            raise RefsegError(f"{protocol.name}: {_lacks_instances(protocol.matching)}", hint=INSTANCES)
        if not protocol.matching and not answers.about.masks:
            raise RefsegError(f"{answers.about.model}: {BOXES_ONLY}", hint="protocols of boxes: --protocol rec,grec")
        raise RefsegError(
            f"these answers were not counted as the protocol {protocol.name!r} does",
            hint=f"`refseg eval --protocol {protocol.name} --records FILE` does that",
        )
    return ratios(answers.counts(protocol), protocol, answers.references if protocol.by_reference else None)


def unfit(answers: Answers, protocol: Protocol) -> str | None:
    """Why these answers are nothing for a protocol, in words; None where they are."""
    if not answers.has_counts(protocol):
        if protocol.matching and protocol.matching.needs_instances:
            return _lacks_instances(protocol.matching)
        if not protocol.matching and not answers.about.masks:
            return BOXES_ONLY
        return f"these records hold no counts of it: `refseg eval --protocol {protocol.name} --records FILE` keeps them"
    if any(metric.of == "single" for metric in protocol.metrics):
        return None if (answers.instance_count == 1).any() else "no phrase has exactly one target"
    if not protocol.by_reference:
        return None
    references = answers.references
    both = np.intersect1d(references[answers.has_target], references[~answers.has_target])
    return None if len(both) else "no reference has phrases both with and without a target"


def _lacks_instances(matching: Matching) -> str:
    what = "a mask and a score" if matching.of == "masks" else "a box and a score"
    return f"it needs {what} of each instance, which these answers do not give"


def compare(a: Answers, b: Answers, protocol: Protocol = REFSEG, *, swaps: int = SWAPS) -> dict[str, Difference]:
    """The protocol's metrics of two models on the same expressions, B minus A.

    Raises:
        RefsegError: they answer other expressions, or hold no counts for that protocol.
    """
    rows_a, rows_b = _order(a), _order(b)
    keys_a, keys_b = _keys(a, rows_a), _keys(b, rows_b)
    if keys_a != keys_b:
        extra, missing = len(set(keys_b) - set(keys_a)), len(set(keys_a) - set(keys_b))
        raise RefsegError(
            f"the two do not answer the same expressions: {missing} only in the first, {extra} only in the second",
            hint="evaluate both models on the same data and splits",
        )
    one, other = a.rows(rows_a), b.rows(rows_b)
    if (one.target != other.target).any() or (one.has_target != other.has_target).any():
        raise RefsegError(
            "the two files have different ground truth for the same expressions", hint="prepare the data once"
        )
    return differences(table_of(one, protocol), table_of(other, protocol), one.image_id, swaps=swaps)


def compare_by_split(
    a: Answers, b: Answers, protocols: Sequence[str], *, swaps: int = SWAPS
) -> dict[tuple[str, str], dict[str, Difference]]:
    """`compare` for each (split, protocol).

    Raises:
        RefsegError: as `compare`, or they answer other splits.
    """
    if set(a.splits) != set(b.splits):
        raise RefsegError(
            f"the two files answer different splits: {', '.join(a.splits)} and {', '.join(b.splits)}",
            hint="evaluate both models on the same ones",
        )
    return {
        (split, name): compare(a.of_split(split), b.of_split(split), PROTOCOLS[name], swaps=swaps)
        for split in a.splits
        for name in protocols
    }


def _order(answers: Answers) -> np.ndarray:
    keys = _keys(answers, range(len(answers)))
    return np.array(sorted(range(len(answers)), key=lambda i: (keys[i], i)), dtype=np.int64)


def _keys(answers: Answers, rows: Iterable[int]) -> list[tuple[str, int, int, int]]:
    ids = np.stack([answers.image_id, answers.ref_id, answers.sent_id], axis=1).tolist()
    return [(answers.split[i], *ids[i]) for i in rows]


def _slices(answers: Answers, *, intervals: bool) -> tuple[SliceScores, ...]:
    if not answers.about.masks:
        raise RefsegError(f"{answers.about.model}: {BOXES_ONLY}", hint="slices are of masks: omit --slices")
    table = _only(ratios(answers.counts(), REFSEG), REFSEG.headline)
    return score_slices(answers, table, intervals=intervals)


def score_slices(answers: Answers, table: Ratios, *, intervals: bool) -> tuple[SliceScores, ...]:
    """The table's metrics of each slice of its expressions, whose targets and words `answers` have."""
    found = find_slices(answers.text, answers.instance_count, answers.target, answers.categories)
    return _scored(answers, table, found, intervals=intervals)


def _subsets(answers: Answers, *, intervals: bool) -> tuple[SliceScores, ...]:
    found = find_phrasecut_subsets(answers.instance_count, answers.categories)
    return _scored(answers, table_of(answers, PHRASECUT), found, intervals=intervals)


def _scored(answers: Answers, table: Ratios, found: Sequence[Slice], *, intervals: bool) -> tuple[SliceScores, ...]:
    pictures, _ = number_pictures(answers.image_id)
    scores = estimates([(table, part.rows) for part in found], answers.image_id, intervals=intervals)
    return tuple(
        SliceScores(
            part.group,
            part.name,
            int(np.count_nonzero(part.rows)),
            int(np.count_nonzero(np.bincount(pictures[part.rows], minlength=1))),
            scored,
        )
        for part, scored in zip(found, scores, strict=True)
    )


def _only(table: Ratios, names: Sequence[str]) -> Ratios:
    """The same table with some of its metrics."""
    places = [table.names.index(name) for name in names]
    metrics = tuple(table.metrics[place] for place in places)
    numerators, denominators = (
        tuple(columns[place] for place in places) for columns in (table.numerators, table.denominators)
    )
    return Ratios(metrics, numerators, denominators, table.concepts)
