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
from itertools import islice
from pathlib import Path
from types import MappingProxyType
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
from refseg_cli.evaluation.finished import Counted, Read, answer, plan
from refseg_cli.evaluation.mask_forms import Ready, as_rle, detections, lying, read_together
from refseg_cli.evaluation.matching import Wanted, match
from refseg_cli.evaluation.predictions import Given, Problems, are_records, from_records, read_predictions
from refseg_cli.evaluation.submission import is_submission, read_submission
from refseg_cli.files import refuse_input
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Detection, Record, Rle

RECORDS_AT_A_TIME = 128  # whose masks are looked through together
NAMED = 5  # problems that a message spells out
Merge = Literal["union"]


@dataclass(frozen=True, slots=True)
class OutsideRequest:
    """What to score.

    source:    file of predictions; of clips also a folder or zip of masks, see `submission`.
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

    A file of refseg's records that holds the counts of every protocol asked for is scored from these, to the last
    bit, unless several of its rows are to be merged; so is one that holds those of several, if all protocols are
    asked for, and the others are left out. Like any other it has to answer every expression of the splits, and each
    once, and its counts have to be of the truth that the data have now.

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
    records = read_answers(request.source) if are_records(request.source) else None
    lacking = () if records is None else _lacking(records, request)
    parts = records is not None and not lacking and _has_parts(request, records, splits)
    if records is None or lacking or parts:
        found, rows = _matched(request, splits, problems, progress)
        found = replace(found, cautions=(*found.cautions, *_by_masks(request, lacking, parts=parts)))
    elif request.records:
        raise RefsegError(f"{request.source} has these records already", hint="omit --records")
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
    if is_submission(request.source, splits):
        given = read_submission(request.source, splits, problems)
    else:
        given = read_predictions(request.source, problems, splits=request.splits)
    wanted = [one for split in splits for one in _wanted(split)]
    answered = match(given, wanted, problems, union=request.merge == "union")
    _add_missing(wanted, answered, problems)
    has_masks = all(entry.has_mask for entries in answered.values() for entry in entries)
    if request.masks and not has_masks:
        raise RefsegError(f"{request.source}: has boxes without masks", hint="a report needs masks: omit --report")
    views, counted = plan([PROTOCOLS[name] for name in request.protocols], _told(answered), pixels=has_masks)
    answers: dict[str, Answers] = {}
    all_rows: list[Answer] = []
    first = 0
    for split in splits:
        mine = {n - first: entries for n, entries in answered.items() if n >= first}
        about = _about(request, split, views, masks=has_masks)
        rows = _score_split(request, split, mine, counted, problems, progress)
        rows = rows if has_masks else [replace(row, mask=NO_MASK) for row in rows]
        answers[split.split] = collect(about, rows)
        all_rows += rows
        first += int(split.expression_counts.sum())
    kept = [row.mask for row in all_rows] if request.masks else []
    return Outside(answers, problems, kept, tuple(_resized(request, answered))), all_rows


def _resized(request: OutsideRequest, answered: Mapping[int, Sequence[Given]]) -> Iterator[str]:
    if any(entry.squashed and entry.masks for entries in answered.values() for entry in entries):
        yield (
            f"{request.source}: masks have the size of a network's input: protocols of that size take them as they "
            "are, for all others they are resized to each picture's size by nearest neighbours"
        )


def _told(answered: Mapping[int, Sequence[Given]]) -> frozenset[str]:
    """What the entries give for every instance: boxes, and masks; nothing if none tells instances apart."""
    told = [entry.instances for entries in answered.values() for entry in entries if entry.instances is not None]
    if not told:
        return frozenset()
    masked = all(one.mask is not None for instances in told for one in instances)
    return frozenset({"boxes", "masks"} if masked else {"boxes"})


def _wanted(split: Shards) -> Iterator[Wanted]:
    for record in split.phrases():
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


def _has_parts(request: OutsideRequest, records: Answers, splits: Sequence[Shards]) -> bool:
    """Whether rows are to be joined to one answer, which has none of their counts."""
    if request.merge is None:
        return False
    given = from_records(request.source, records, request.splits, ())
    wanted = [one for split in splits for one in _wanted(split)]
    return any(len(entries) > 1 for entries in match(given, wanted, Problems(), union=True).values())


def _by_masks(request: OutsideRequest, lacking: Sequence[str], *, parts: bool) -> Iterator[str]:
    if parts:
        yield (
            f"{request.source}: several rows are one answer, by --merge union: all figures are from their masks, as of "
            "finished predictions"
        )
    if lacking:
        yield (
            f"{request.source}: has no counts by {', '.join(lacking)}, or only by earlier rules: "
            "all figures are from its masks, as for finished predictions"
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
            elif found := _read((entry,), record, partial(_photo, split, place), request, problems):
                sound[entry.number] = found.mask
    return dict(sorted(sound.items()))


def _score_split(
    request: OutsideRequest,
    split: Shards,
    answered: Mapping[int, Sequence[Given]],
    counted: Sequence[Counted],
    problems: Problems,
    progress: Progress,
) -> list[Answer]:
    """answered: the entries of each expression, by its place in the split.  counted: see `finished.plan`."""
    rows: list[Answer] = []
    n = done = 0
    records = split.annotations()
    while part := list(islice(records, RECORDS_AT_A_TIME)):
        asked = [(record, expression) for record in part for expression in record.expressions]
        given = [answered.get(n + place, ()) for place in range(len(asked))]
        ready = read_together(
            (entry, (record.height, record.width))
            for (record, _), entries in zip(asked, given, strict=True)
            if record.orientation == AS_STORED
            for entry in entries
        )
        photos = {id(record): partial(_photo, split, done + place) for place, record in enumerate(part)}
        for (record, expression), entries in zip(asked, given, strict=True):
            if entries and (found := _read(entries, record, photos[id(record)], request, problems, ready)):
                rows.append(answer(record, expression, _says_target(entries), found, split.split, counted))
        n, done = n + len(asked), done + len(part)
        progress(f"score {split.split}", done, len(split))
    return rows


def _read(
    entries: Sequence[Given],
    record: Record,
    photo: Callable[[], bytes],
    request: OutsideRequest,
    problems: Problems,
    ready: Ready = MappingProxyType({}),
) -> Read | None:
    """None, with a problem added, where one of the masks is none.

    photo: the record's, which is read where sizes differ.
    """
    size = (record.height, record.width)
    found: list[Rle] = []
    told: list[Detection] = []
    for entry in entries:
        try:
            found.append(as_rle(entry, size, record.orientation, ready, source=request.source))
            told += detections(entry.instances or (), size, record.orientation, ready, source=request.source)
        except masks.MaskTooLarge as error:
            problems.add("wrong size", entry.where, f"{error}, {_described(record, photo)}")
            return None
        except ValueError as error:
            problems.add("unreadable", entry.where, str(error))
            return None
    apart = any(entry.instances is not None for entry in entries)
    return Read(masks.union(found, size), tuple(told) if apart else None, lying(entries))


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


def _about(request: OutsideRequest, split: Shards, views: dict[str, int], *, masks: bool) -> About:
    return About(
        data=request.data,
        dataset=split.manifest.dataset,
        split_by=split.manifest.split_by,
        model=request.source,
        views=views,
        finished=True,
        masks=masks,
    )
