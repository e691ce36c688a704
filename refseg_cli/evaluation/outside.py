"""Scoring finished masks without a model: `refseg eval --from`.

A mask is taken as it is: whatever threshold made it stands. Protocols that compare at the picture's own size differ in
their rules only; those that compare at a network's input see prediction and truth at its official size, both brought
there by nearest neighbour. `About.finished` says so.

Axes: h w original picture, H W a protocol's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refseg_cli.data import masks, shards
from refseg_cli.data.shards import Shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import About, Answer, Answers, collect, read_answers, read_masks, writing_records
from refseg_cli.evaluation.predictions import Given, Problems, Wanted, as_rle, match, read_predictions
from refseg_cli.files import refuse_input
from refseg_cli.metrics.counts import Pixels, count_pixels
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Expression, Record, Rle

NAMED = 5  # problems that a message spells out


@dataclass(frozen=True, slots=True)
class OutsideRequest:
    """What to score.

    source:    file of predictions.
    data:      folder or URI of prepared shards.  splits: their names.
    protocols: names of `PROTOCOLS`.
    skip:      leave expressions without a proper prediction out, rather than refuse the file.
    masks:     keep the masks too, to show them.
    records:   Parquet file to write the answers to, as an evaluation does; None for none.
    """

    source: str
    data: str
    splits: tuple[str, ...]
    protocols: tuple[str, ...] = ("refseg",)
    skip: bool = False
    masks: bool = False
    records: str | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """The answers of each split, and what was wrong with the file (nothing, unless `skip`).

    masks: of the answers, split after split; none unless asked for.
    """

    answers: dict[str, Answers]
    problems: Problems
    masks: list[Rle]


def score_file(request: OutsideRequest, *, progress: Progress = silent) -> Outside:
    """Match a file of predictions with prepared data, and count.

    A file of refseg's records that holds the counts of every protocol asked for is scored from these, to the last bit;
    like any other it has to answer every expression of the splits, and each once.

    Raises:
        RefsegError: no such data or file; or, unless `skip`, entries that are unreadable, unknown, doubled or of other
            sizes than their pictures, or expressions without one; records that cannot be written, or are there already.
    """
    if request.records:
        refuse_input(Path(request.records), Path(request.source))
    splits = [shards.open_shards(request.data, name) for name in request.splits]
    problems = Problems()
    rows: list[Answer] = []
    found = _recorded(request, splits, problems)
    if found is None:
        found, rows = _matched(request, splits, problems, progress)
    elif request.records:
        raise RefsegError(f"{request.source} has these records already", hint="leave --records away")
    if problems.found and not request.skip:
        listed = "; ".join(str(problem) for problem in problems.examples(NAMED))
        more = f"; and {len(problems.found) - NAMED} more" if len(problems.found) > NAMED else ""
        raise RefsegError(
            f"{request.source} against {','.join(request.splits)} of {request.data}: {problems} ({listed}{more})",
            hint="--on-error skip scores the others only",
        )
    for name, answers in found.answers.items():
        if not len(answers):
            raise RefsegError(f"{request.source}: nothing in it can be scored on {name} of {request.data}: {problems}")
    if request.records:
        with writing_records(request.records, found.answers[request.splits[0]].about) as append:
            append(rows)
    return found


def _matched(
    request: OutsideRequest, splits: Sequence[Shards], problems: Problems, progress: Progress
) -> tuple[Outside, list[Answer]]:
    """What can be scored of a file of masks, and its answers, split after split."""
    given = read_predictions(request.source, problems, splits=request.splits)
    answered = match(given, [wanted for split in splits for wanted in _wanted(split)], problems)
    answers: dict[str, Answers] = {}
    all_rows: list[Answer] = []
    first = 0
    for split in splits:
        mine = {n - first: entry for n, entry in answered.items() if n >= first}
        rows = _score_split(request, split, mine, problems, progress)
        answers[split.split] = collect(_about(request, split), rows)
        all_rows += rows
        first += int(split.expression_counts.sum())
    return Outside(answers, problems, [row.mask for row in all_rows] if request.masks else []), all_rows


def _recorded(request: OutsideRequest, splits: Sequence[Shards], problems: Problems) -> Outside | None:
    """The answers of records that need no masks to be scored; None for any other file."""
    if not request.source.endswith(".parquet"):
        return None
    answers = read_answers(request.source)
    if not all(answers.has_counts(PROTOCOLS[name]) for name in request.protocols):
        return None
    missing = [name for name in request.splits if name not in answers.splits]
    if missing:
        raise RefsegError(f"{request.source}: no answers of {missing[0]}", hint=f"it has {', '.join(answers.splits)}")
    rows = {split.split: _asked(request.source, answers, split, problems) for split in splits}
    kept = read_masks(request.source, np.concatenate(list(rows.values())).tolist()) if request.masks else []
    return Outside({name: answers.rows(which) for name, which in rows.items()}, problems, kept)


def _asked(source: str, answers: Answers, split: Shards, problems: Problems) -> np.ndarray:
    """(k,) the rows of the records that answer an expression of the split, each once; the others are problems.

    Where every image has as many answers as expressions, as after an evaluation of the whole split, nothing else is
    read: pictures lie beside their expressions, and there may be gigabytes of them.
    """
    rows = np.flatnonzero(np.array(answers.split, dtype=object) == split.split)
    expected = np.repeat(split.image_ids(), split.expression_counts)
    if np.array_equal(np.sort(answers.image_id[rows]), np.sort(expected)):
        return rows
    wanted = {(one.image_id, one.sent_id): one for one in _wanted(split)}
    found: dict[tuple[int, int], int] = {}
    for row in rows.tolist():
        key = (int(answers.image_id[row]), int(answers.sent_id[row]))
        where, what = f"{source}: row {row}", f"sent_id {key[1]}"
        if key not in wanted:
            problems.add("unknown", where, f"{what} of image {key[0]}")
        elif key in found:
            problems.add("duplicate", where, f"{what} is answered by row {found[key]}")
        else:
            found[key] = row
    for key, one in wanted.items():
        if key not in found:
            _miss(problems, one)
    return np.array(list(found.values()), dtype=np.int64)


def _miss(problems: Problems, expression: Wanted) -> None:
    problems.add("missing", f"sent_id {expression.sent_id}", f"{expression.file_name} {expression.phrase!r}")


def _wanted(split: Shards) -> Iterator[Wanted]:
    for record in _records(split):
        for expression in record.expressions:
            yield Wanted(expression.sent_id, record.image_id, record.file_name, expression.text)


def _score_split(
    request: OutsideRequest, split: Shards, answered: dict[int, Given], problems: Problems, progress: Progress
) -> list[Answer]:
    """answered: the entry of each expression, by its place in the split."""
    sizes = _sizes(request)
    rows: list[Answer] = []
    n = 0
    for done, record in enumerate(_records(split), start=1):
        for expression in record.expressions:
            entry = answered.get(n)
            n += 1
            if entry is None:
                _miss(problems, Wanted(expression.sent_id, record.image_id, record.file_name, expression.text))
                continue
            try:
                mask = as_rle(entry, (record.height, record.width))
            except masks.MaskTooLarge as error:
                problems.add("wrong size", entry.where, f"{error}, the picture has {record.width}x{record.height}")
            except ValueError as error:
                problems.add("unreadable", entry.where, str(error))
            else:
                rows.append(_answer(record, expression, entry, mask, split.split, sizes))
        progress(f"score {split.split}", done, len(split))
    return rows


def _records(split: Shards) -> Iterator[Record]:
    return (split[i] for i in range(len(split)))


def _sizes(request: OutsideRequest) -> list[tuple[int, int]]:
    """The sizes, each once, at which protocols compare masks that come without a network."""
    return list(dict.fromkeys(size for name in request.protocols if (size := PROTOCOLS[name].size)))


def _about(request: OutsideRequest, split: Shards) -> About:
    sizes = _sizes(request)
    return About(
        data=request.data,
        dataset=split.manifest.dataset,
        split_by=split.manifest.split_by,
        model=request.source,
        views={name: sizes.index(size) for name in request.protocols if (size := PROTOCOLS[name].size)},
        finished=True,
    )


def _answer(
    record: Record, expression: Expression, entry: Given, mask: Rle, split: str, sizes: Sequence[tuple[int, int]]
) -> Answer:
    size = (record.height, record.width)
    truth = masks.decode(masks.union([record.instances[t].rle for t in expression.targets], size)).astype(bool)
    predicted = masks.decode(mask).astype(bool)
    pixels = count_pixels(predicted, truth)
    says = True if entry.says_target is None else entry.says_target
    kept = pixels if says else Pixels(0, 0, pixels.target)
    resized = [count_pixels(_nearest(predicted, to), _nearest(truth, to)) for to in sizes]
    has_head = entry.says_target is not None
    return Answer(
        image_id=record.image_id,
        ref_id=expression.ref_id,
        sent_id=expression.sent_id,
        split=split,
        text=expression.text,
        instance_count=len(expression.targets),
        has_target=bool(expression.targets),
        says_target=says,
        # Decided already: what other thresholds would make of a probability, these masks cannot show.
        p_target=float(says),
        intersection=kept.intersection,
        union=kept.union,
        predicted=kept.predicted,
        target=pixels.target,
        mask=mask,
        has_head=has_head,
        categories=tuple(sorted({record.instances[t].category for t in expression.targets})),
        raw_intersection=pixels.intersection,
        raw_predicted=pixels.predicted,
        views=tuple(count for pixels in resized for count in pixels),
    )


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool -> (H, W) by the pixel under each new pixel's centre."""
    rows, columns = (((np.arange(to) + 0.5) * of / to).astype(int) for to, of in zip(size, mask.shape, strict=True))
    return mask[rows][:, columns]
