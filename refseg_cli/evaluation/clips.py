"""Answers about clips: J, F and steadiness of each expression, whose masks are looked at in the order of the frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from refseg_cli.data import masks
from refseg_cli.data.clips import MAKE
from refseg_cli.data.shards import Shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.analysis import Analysis, score_slices
from refseg_cli.evaluation.answers import Answers
from refseg_cli.metrics.intervals import Difference, differences, estimates
from refseg_cli.metrics.protocols import VIDEO
from refseg_cli.metrics.scores import Ratios
from refseg_cli.metrics.swaps import SWAPS
from refseg_cli.metrics.video import boundary_accuracy, region_similarity, steady
from refseg_cli.records import Expression, Record, Rle


@dataclass(slots=True)
class _Track:
    """One expression of a clip while its frames go by.

    fullest: the most pixels of its targets that a frame shows, and the row of the answer about that frame.
    before: the frame that was answered last, with the predicted and the true mask there.
    """

    regions: list[float] = field(default_factory=list)
    boundaries: list[float] = field(default_factory=list)
    steadiness: list[float] = field(default_factory=list)
    has_target: bool = False
    fullest: tuple[int, int] = (-1, -1)
    before: tuple[int, Rle, Rle] | None = None

    def add(self, record: Record, expression: Expression, mask: Rle, row: int) -> None:
        truth = masks.targets(record, expression)
        self.fullest = max(self.fullest, (masks.area(truth), row), key=lambda one: one[0])
        pair = [masks.decode(rle).astype(bool) for rle in (mask, truth)]
        if expression.ignored:
            counted = masks.decode(expression.ignored) == 0
            pair = [one & counted for one in pair]
        predicted, true = (one[None] for one in pair)
        self.regions += region_similarity(predicted, true).tolist()
        self.boundaries += boundary_accuracy(predicted, true).tolist()
        self.has_target |= bool(expression.targets)
        if self.before and self.before[0] == record.frame - 1:
            kept = [np.array([_overlap(*pair)]) for pair in ((mask, self.before[1]), (truth, self.before[2]))]
            self.steadiness += steady(*kept).tolist()
        self.before = (record.frame, mask, truth)


def _overlap(one: Rle, other: Rle) -> float:
    """IoU, 1 of two empty masks."""
    if not masks.area(one) and not masks.area(other):
        return 1.0
    return float(masks.overlaps([one], [other])[0, 0])


@dataclass(frozen=True, slots=True)
class ClipScores:
    """n expressions of some clips.

    asked: clip and sent_id of each.  table: their shares in `VIDEO`'s metrics.  clips: (n,) int64, the numbers of their
    clips.
    no_target: expressions whose target no frame shows.
    answers: for each expression the one about the frame that shows most of its targets, with its clip's number in place
    of the picture's.
    """

    asked: tuple[tuple[str, int], ...]
    table: Ratios
    clips: np.ndarray
    no_target: int
    answers: Answers


def score_clips(split: Shards, answers: Answers, predicted: Sequence[Rle]) -> ClipScores:
    """Each expression's figures. Frames without an answer are left out.

    Args:
        predicted: the mask of each answer; it is empty where the answer is "no target".

    Raises:
        RefsegError: the split is of pictures.
    """
    row_of = {key: row for row, key in enumerate(zip(answers.image_id.tolist(), answers.sent_id.tolist(), strict=True))}
    tracks: dict[tuple[str, int], _Track] = {}
    for record in split.annotations():
        if not record.clip:
            raise RefsegError(
                f"{split.uri}: {split.split} has pictures, not clips: the protocol video is for clips", hint=MAKE
            )
        for expression in record.expressions:
            row = row_of.get((record.image_id, expression.sent_id))
            if row is not None:
                track = tracks.setdefault((record.clip, expression.sent_id), _Track())
                mask = predicted[row] if answers.predicted[row] else masks.union([], (record.height, record.width))
                track.add(record, expression, mask, row)
    numbers = {clip: number for number, clip in enumerate(dict.fromkeys(clip for clip, _ in tracks))}
    clips = np.array([numbers[clip] for clip, _ in tracks], np.int64)
    fullest = answers.rows(np.array([track.fullest[1] for track in tracks.values()], np.int64))
    return ClipScores(
        tuple(tracks),
        _table(list(tracks.values())),
        clips,
        sum(not track.has_target for track in tracks.values()),
        replace(fullest, image_id=clips),
    )


def _table(tracks: Sequence[_Track]) -> Ratios:
    j = np.array([_mean(track.regions) for track in tracks], np.float64)
    f = np.array([_mean(track.boundaries) for track in tracks], np.float64)
    steady = np.array([_mean(track.steadiness) if track.steadiness else 0.0 for track in tracks], np.float64)
    every = np.ones(len(tracks), bool)
    several = np.array([bool(track.steadiness) for track in tracks], bool)  # frames
    return Ratios(
        VIDEO.metrics, ((j + f) / 2, j, f, steady), (every, every, every, several), np.zeros((len(tracks), 0))
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def compare_clips(one: ClipScores, other: ClipScores, *, swaps: int = SWAPS) -> dict[str, Difference]:
    """The figures of two models on the same expressions, the other's minus the one's; intervals from how clips differ.

    Raises:
        RefsegError: they answer other expressions.
    """
    if one.asked != other.asked:
        raise RefsegError(
            "the two do not answer the same expressions of clips",
            hint="evaluate both models on the same data and splits",
        )
    return differences(one.table, other.table, one.clips, swaps=swaps)


def analyse_clips(found: ClipScores, *, slices: bool = False, intervals: bool = True) -> Analysis:
    """Their figures by the protocol `video`, with intervals from how much clips differ.

    `images` of the analysis are clips.

    Args:
        slices: also of the slices of their expressions, whose targets are those of the frame that shows most of them.
        intervals: otherwise there are none, NaN.
    """
    scores = estimates([(found.table, None)], found.clips, intervals=intervals)
    return Analysis(
        expressions=len(found.clips),
        images=len(np.unique(found.clips)),
        no_target=found.no_target,
        scores={VIDEO.name: scores[0]},
        slices=score_slices(found.answers, found.table, intervals=intervals) if slices else (),
    )
