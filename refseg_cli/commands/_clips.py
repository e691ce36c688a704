"""What `refseg eval` does of clips: figures over their frames together, and submissions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli.commands._given import unread
from refseg_cli.console import console
from refseg_cli.errors import RefsegError
from refseg_cli.metrics.protocols import VIDEO

if TYPE_CHECKING:
    from refseg_cli.evaluation.analysis import Analysis
    from refseg_cli.evaluation.answers import Answer, Answers
    from refseg_cli.metrics.intervals import Difference
    from refseg_cli.records import Rle


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """What is wanted of clips.

    any: whether the data are clips.  only_to_submit: there is nothing to score against.
    submission: where to; None for none.  palette: as in `write_submission`.
    """

    any: bool
    only_to_submit: bool
    submission: Path | None
    palette: bool


class KeptMasks:
    """Keeps the mask of each answer of an evaluation."""

    def __init__(self) -> None:
        self.masks: list[Rle] = []

    def __call__(self, batch: Any, prediction: Any, answers: Sequence[Answer]) -> None:
        """Evaluation calls it after each batch."""
        self.masks += [answer.mask for answer in answers]


def keep_or_refuse(data: str, splits: Sequence[str], submission: Path | None, *, palette: bool) -> ClipRequest:
    """What the options ask for, before an evaluation and not behind it. Data that are none are left to the evaluation.

    Raises:
        RefsegError: splits that nobody can score, or a submission that cannot be.
    """
    from refseg_cli.data.shards import read_manifest
    from refseg_cli.evaluation.submission import check_place

    try:
        known = read_manifest(data).splits
    except RefsegError:
        known = {}
    if submission is None and unread({"--palette": palette}):
        raise RefsegError("--palette is for submissions", hint="add --submission, or omit it")
    if submission is not None:
        if len(splits) > 1:
            raise RefsegError("--submission is of one split", hint="name it with --split")
        check_place(submission)
        if any(not known[name].clips for name in splits if name in known):
            raise RefsegError(
                f"{data}: {splits[0]} has pictures, not clips: --submission is for clips", hint="omit --submission"
            )
    secret = [name for name in splits if name in known and not known[name].masks]
    if secret and submission is None:
        raise RefsegError(
            f"{data}: {secret[0]} has no masks to score against", hint="--submission writes the answers for a server"
        )
    return ClipRequest(any(known[name].clips for name in splits if name in known), bool(secret), submission, palette)


def submit(data: str, answers: Mapping[str, Answers], predicted: Sequence[Rle], request: ClipRequest) -> None:
    """Write the submission, if one is asked for."""
    from refseg_cli.data.shards import open_shards
    from refseg_cli.evaluation.submission import write_submission

    if request.submission:
        [(name, own)] = answers.items()
        path, split = request.submission, open_shards(data, name)
        number = write_submission(path, split, own, predicted, palette=request.palette)
        console.info(f"{number} masks of {name} -> {path}")


def by_clip(data: str, name: str, answers: Answers) -> Answers:
    """The answers with the number of its clip in place of each frame's `image_id`: clips differ independently, frames
    of one do not.
    """
    import numpy as np

    from refseg_cli.data.shards import open_shards

    split = open_shards(data, name)
    numbers: dict[str, int] = {}
    number_of = {
        image_id: numbers.setdefault(clip, len(numbers))
        for image_id, clip in zip(split.image_ids().tolist(), split.clip_names(), strict=True)
    }
    return replace(answers, image_id=np.array([number_of[i] for i in answers.image_id.tolist()], np.int64))


def scored_by_clip(
    data: str,
    answers: Mapping[str, Answers],
    predicted: Sequence[Rle],
    analyses: Mapping[str, Analysis],
    protocols: Sequence[str],
    intervals: bool,
) -> dict[str, Analysis]:
    """The analyses with the figures of `VIDEO`; where nothing else is asked for, with these alone, and slices by them.

    predicted: of all answers, split after split.
    """
    from refseg_cli.data.shards import open_shards
    from refseg_cli.evaluation.clips import analyse_clips, score_clips

    found: dict[str, Analysis] = {}
    first = 0
    for name, own in answers.items():
        masks = predicted[first : first + len(own)]
        first += len(own)
        scores, slices = score_clips(open_shards(data, name), own, masks), bool(analyses[name].slices)
        clips = analyse_clips(scores, slices=slices, intervals=intervals)
        if tuple(protocols) == (VIDEO.name,):
            taken = {what: getattr(clips, what) for what in ("expressions", "images", "no_target", "scores", "slices")}
            found[name] = replace(analyses[name], **taken)
        else:
            found[name] = replace(analyses[name], scores={**analyses[name].scores, **clips.scores})
    return found


def compared_by_clip(
    a: tuple[str, Answers], b: tuple[str, Answers], swaps: int
) -> dict[tuple[str, str], dict[str, Difference]]:
    """The figures of `VIDEO` of two files of records against each other, by split.

    Raises:
        RefsegError: the data that they are about are no longer there, or they answer other expressions.
    """
    from refseg_cli.data.shards import open_shards
    from refseg_cli.evaluation.clips import compare_clips, score_clips
    from refseg_cli.evaluation.outside import OutsideRequest, score_file

    found: dict[tuple[str, str], dict[str, Difference]] = {}
    for name in a[1].splits:
        scored = []
        for uri, answers in (a, b):
            data = answers.about.data
            told = score_file(OutsideRequest(uri, data, (name,), masks=True))
            scored.append(score_clips(open_shards(data, name), told.answers[name], told.masks))
        found[name, VIDEO.name] = compare_clips(scored[0], scored[1], swaps=swaps)
    return found
