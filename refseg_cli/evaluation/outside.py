"""Scoring finished masks without a model: `refseg eval --from`.

A mask is taken as it is: whatever threshold made it stands. Protocols that compare at the picture's own size differ in
their rules only; those that compare at a network's input see prediction and truth at its official size, both brought
there by the protocol's nearest neighbours. `About.finished` says so.

Axes: h w original picture, H W a protocol's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from refseg_cli.data import formats, masks, shards
from refseg_cli.data.orientation import AS_STORED, turned_size
from refseg_cli.data.shards import Shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import (
    NO_MASK,
    About,
    Answer,
    Answers,
    collect,
    read_answers,
    read_masks,
    writing_records,
)
from refseg_cli.evaluation.mask_forms import as_rle
from refseg_cli.evaluation.matching import Wanted, match
from refseg_cli.evaluation.predictions import Given, Problems, from_records, read_predictions
from refseg_cli.files import refuse_input
from refseg_cli.metrics.counts import Pixels, count_pixels
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.rules import Protocol
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Expression, Record, Rle

NAMED = 5  # problems that a message spells out
Merge = Literal["union"]


@dataclass(frozen=True, slots=True)
class OutsideRequest:
    """What to score.

    source:    file of predictions.
    data:      folder or URI of prepared shards.  splits: their names.
    protocols: names of `PROTOCOLS`.
    skip:      leave expressions without a proper prediction out, rather than refuse the file.
    masks:     keep the masks too, to show them.
    records:   Parquet file to write the answers to, as an evaluation does; None for none.
    merge:     make one answer of several entries for the same expression, by the union of their masks.
    """

    source: str
    data: str
    splits: tuple[str, ...]
    protocols: tuple[str, ...] = ("refseg",)
    skip: bool = False
    masks: bool = False
    records: str | None = None
    merge: Merge | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """The answers of each split, and what was wrong with the file (nothing, unless `skip`).

    masks: of the answers, split after split; none unless asked for.
    cautions: what a reader of the figures must know, a sentence each.
    """

    answers: dict[str, Answers]
    problems: Problems
    masks: list[Rle]
    cautions: tuple[str, ...] = ()


def score_file(request: OutsideRequest, *, progress: Progress = silent) -> Outside:
    """Match a file of predictions with prepared data, and count.

    A file of refseg's records that holds the counts of every protocol asked for is scored from these, to the last bit;
    so is one that holds those of several, if all protocols are asked for, and the others are left out. Like any other
    it has to answer every expression of the splits, and each once, and its counts have to be of the truth that the data
    have now.

    Raises:
        RefsegError: no such data or file, damaged shards; or, unless `skip`, entries that cannot be scored (the reasons
            are those of `predictions.Reason`), or expressions without one; records that cannot be written, or are there
            already.
    """
    if request.records:
        refuse_input(Path(request.records), Path(request.source))
    splits = [shards.open_shards(request.data, name) for name in request.splits]
    for split in splits:
        split.verify()
    problems = Problems()
    rows: list[Answer] = []
    records = read_answers(request.source) if request.source.endswith(".parquet") else None
    lacking = () if records is None else _lacking(records, request)
    if records is None or lacking:
        found, rows = _matched(request, splits, problems, progress)
        found = replace(found, cautions=tuple(_by_masks(request, lacking)))
    elif request.records:
        raise RefsegError(f"{request.source} has these records already", hint="leave --records away")
    else:
        found = _recorded(request, records, splits, problems)
    if problems.found and not request.skip:
        listed = "; ".join(str(problem) for problem in problems.examples(NAMED))
        more = f"; and {len(problems.found) - NAMED} more" if len(problems.found) > NAMED else ""
        raise RefsegError(
            f"{request.source} against {','.join(request.splits)} of {request.data}: {problems} ({listed}{more})",
            hint=_advice(problems, request),
        )
    for name, answers in found.answers.items():
        if not len(answers):
            raise RefsegError(f"{request.source}: nothing in it can be scored on {name} of {request.data}: {problems}")
    if request.records:
        with writing_records(request.records, found.answers[request.splits[0]].about) as append:
            append(rows)
    return found


def _advice(problems: Problems, request: OutsideRequest) -> str:
    found = problems.counts()
    skip = "--on-error skip scores the others only"
    if "duplicate" in found and request.merge is None:
        return f"{skip}; --merge union makes one mask of several for a phrase"
    return f"{skip}; ref_id, sent_id or the picture's folder would tell more" if "ambiguous" in found else skip


def _matched(
    request: OutsideRequest, splits: Sequence[Shards], problems: Problems, progress: Progress
) -> tuple[Outside, list[Answer]]:
    """What can be scored of a file of masks, and its answers, split after split."""
    given = read_predictions(request.source, problems, splits=request.splits)
    wanted = [one for split in splits for one in _wanted(split)]
    answered = match(given, wanted, problems, union=request.merge == "union")
    _add_missing(wanted, answered, problems)
    answers: dict[str, Answers] = {}
    all_rows: list[Answer] = []
    first = 0
    for split in splits:
        mine = {n - first: entries for n, entries in answered.items() if n >= first}
        rows = _score_split(request, split, mine, problems, progress)
        answers[split.split] = collect(_about(request, split), rows)
        all_rows += rows
        first += int(split.expression_counts.sum())
    return Outside(answers, problems, [row.mask for row in all_rows] if request.masks else []), all_rows


def _wanted(split: Shards) -> Iterator[Wanted]:
    for record in split.annotations():
        for e in record.expressions:
            names = (split.split, record.image_id, record.file_name, e.ref_id, e.sent_id, (e.text, e.raw))
            yield Wanted(*names, targets=e.targets)


def _add_missing(wanted: Sequence[Wanted], answered: Mapping[int, Any], problems: Problems) -> None:
    for n, one in enumerate(wanted):
        if n not in answered:
            problems.add("missing", f"sent_id {one.sent_id}", str(one))


def _lacking(records: Answers, request: OutsideRequest) -> tuple[str, ...]:
    """The protocols whose counts the records would have to hold, and do not."""
    lacking = tuple(name for name in request.protocols if not records.has_counts(PROTOCOLS[name]))
    # Asked for all, records of several protocols are scored by these, rather than by masks that all have to share.
    counted = bool(records.about.views) and not records.about.finished
    return () if counted and set(request.protocols) == set(PROTOCOLS) else lacking


def _by_masks(request: OutsideRequest, lacking: Sequence[str]) -> Iterator[str]:
    if lacking:
        yield (
            f"{request.source}: without counts by {', '.join(lacking)}, or with those of earlier rules: "
            "all figures are from its masks, as of finished predictions"
        )


def _recorded(request: OutsideRequest, answers: Answers, splits: Sequence[Shards], problems: Problems) -> Outside:
    """The answers of records that need no masks to be scored."""
    missing = [name for name in request.splits if name not in answers.splits]
    if missing:
        raise RefsegError(f"{request.source}: no answers of {missing[0]}", hint=f"it has {', '.join(answers.splits)}")
    given = from_records(request.source, answers, request.splits, read_masks(request.source) if request.masks else ())
    wanted = [one for split in splits for one in _wanted(split)]
    answered = match(given, wanted, problems)
    _add_missing(wanted, answered, problems)
    found: dict[str, Answers] = {}
    kept: list[Rle] = []
    first = 0
    for split in splits:
        mine = {n - first: entries[0] for n, entries in answered.items() if n >= first}
        sound = _sound_rows(request, split, mine, answers, problems)
        found[split.split] = answers.rows(np.array(list(sound), dtype=np.int64))
        kept += sound.values() if request.masks else ()
        first += int(split.expression_counts.sum())
    return Outside(found, problems, kept)


def _sound_rows(
    request: OutsideRequest, split: Shards, answered: Mapping[int, Given], answers: Answers, problems: Problems
) -> dict[int, Rle]:
    """The rows whose counts are of the truth that the data have now, in the file's order; with their masks, if asked.

    answered: the row of each expression, by its place in the split.
    """
    sound: dict[int, Rle] = {}
    n = 0
    for place, record in enumerate(split.annotations()):
        for expression in record.expressions:
            entry = answered.get(n)
            n += 1
            if entry is None:
                continue
            had, has = int(answers.target[entry.number]), masks.area(masks.targets(record, expression))
            if had != has or answers.has_target[entry.number] != bool(expression.targets):
                what = f"{entry}: counted against {had} pixels, the target now has {has}"
                problems.add("changed truth", entry.where, what)
            elif not request.masks:
                sound[entry.number] = NO_MASK
            elif mask := _read_mask((entry,), record, partial(_photo, split, place), request, problems):
                sound[entry.number] = mask
    return dict(sorted(sound.items()))


def _score_split(
    request: OutsideRequest,
    split: Shards,
    answered: Mapping[int, Sequence[Given]],
    problems: Problems,
    progress: Progress,
) -> list[Answer]:
    """answered: the entries of each expression, by its place in the split."""
    at_input = _at_input(request)[1]
    rows: list[Answer] = []
    n = 0
    for done, record in enumerate(split.annotations(), start=1):
        for expression in record.expressions:
            entries = answered.get(n, ())
            n += 1
            photo = partial(_photo, split, done - 1)
            if entries and (mask := _read_mask(entries, record, photo, request, problems)):
                rows.append(_answer(record, expression, _says_target(entries), mask, split.split, at_input))
        progress(f"score {split.split}", done, len(split))
    return rows


def _read_mask(
    entries: Sequence[Given], record: Record, photo: Callable[[], bytes], request: OutsideRequest, problems: Problems
) -> Rle | None:
    """The entries' masks in one, upright; None, with a problem added, where one of them is none.

    photo: the record's, which is read where sizes differ.
    """
    size = (record.height, record.width)
    found = []
    for entry in entries:
        try:
            found.append(as_rle(entry, size, record.orientation, source=request.source))
        except masks.MaskTooLarge as error:
            problems.add("wrong size", entry.where, f"{error}, {_described(record, photo)}")
            return None
        except ValueError as error:
            problems.add("unreadable", entry.where, str(error))
            return None
    return masks.union(found, size)


def _photo(split: Shards, place: int) -> bytes:
    return split[place].image


def _described(record: Record, photo: Callable[[], bytes]) -> str:
    """The size of a picture, and what else it has where masks are read as they lie on the stored pixels."""
    size = f"the picture has {record.width}x{record.height}"
    turns = formats.orientation_of(photo()) if record.orientation == AS_STORED else AS_STORED
    if turned_size((record.height, record.width), turns) == (record.height, record.width):
        return size
    return f"{size} as stored, and is turned by its EXIF orientation: prepare the data again"


def _says_target(entries: Sequence[Given]) -> bool | None:
    """A target, if one of the entries does not deny it; None where none says anything."""
    said = [entry.says_target for entry in entries]
    return None if said.count(None) == len(said) else said.count(False) < len(said)


def _at_input(request: OutsideRequest) -> tuple[dict[str, int], list[Protocol]]:
    """The protocols that compare masks at their network's input: name -> place, and one protocol for each place, whose
    counts are those of all that stand there.
    """
    first: dict[Any, Protocol] = {}
    keys = {}
    for protocol in (PROTOCOLS[name] for name in request.protocols if PROTOCOLS[name].size):
        key = keys[protocol.name] = (protocol.grid, protocol.no_target, protocol.size)
        first.setdefault(key, protocol)
    places = list(first)
    return {name: places.index(key) for name, key in keys.items()}, list(first.values())


def _about(request: OutsideRequest, split: Shards) -> About:
    return About(
        data=request.data,
        dataset=split.manifest.dataset,
        split_by=split.manifest.split_by,
        model=request.source,
        views=_at_input(request)[0],
        finished=True,
    )


def _answer(
    record: Record,
    expression: Expression,
    said: bool | None,
    mask: Rle,
    split: str,
    at_input: Sequence[Protocol],
) -> Answer:
    """said: whether there is a target, None if the prediction leaves that to its mask."""
    truth = masks.decode(masks.targets(record, expression)).astype(bool)
    predicted = masks.decode(mask).astype(bool)
    pixels = count_pixels(predicted, truth)
    says = True if said is None else said
    kept = pixels if says else Pixels(0, 0, pixels.target)
    resized = [
        pixels
        if expression.targets and protocol.no_target
        else _count_at_input(predicted, record, expression, protocol)
        for protocol in at_input
    ]
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
        has_head=said is not None,
        categories=tuple(sorted({record.instances[t].category for t in expression.targets})),
        raw_intersection=pixels.intersection,
        raw_predicted=pixels.predicted,
        views=tuple(count for pixels in resized for count in pixels),
    )


def _count_at_input(predicted: np.ndarray, record: Record, expression: Expression, protocol: Protocol) -> Pixels:
    """Pixels at the size of the protocol's network, where both masks are brought to by its nearest neighbours."""
    assert protocol.size is not None
    resize, targets = masks.NEAREST[protocol.grid.nearest], masks.targets
    if not protocol.grid.crowds:
        targets = masks.targets_without_crowds
    truth = masks.decode(targets(record, expression)).astype(bool)
    return count_pixels(resize(predicted, protocol.size), resize(truth, protocol.size))
