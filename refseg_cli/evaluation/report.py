"""`refseg eval --report`: from answers and the data they are about to the page that people look at.

Axes: n answers, in the order of the records.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from refseg_cli.data import masks
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation import report_content
from refseg_cli.evaluation.analysis import Analysis
from refseg_cli.evaluation.answers import Answers, concatenate
from refseg_cli.evaluation.provenance import PublishedRow
from refseg_cli.files import is_special, part_name, unwritable, whole
from refseg_cli.metrics.scores import sample_iou
from refseg_cli.metrics.slices import find_slices
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Record, Rle
from refseg_cli.report.content import PackedMap, Picture, Report, Sample, Slice
from refseg_cli.report.failures import Pairs, failure_types, join, pair_up
from refseg_cli.report.page import render

MARKER = ".refseg-report"  # in the folder beside the page: it is ours, and may be replaced


def build_report(
    data: str,
    splits: Mapping[str, Answers],
    analyses: Mapping[str, Analysis],
    predicted: Sequence[Rle],
    maps: Mapping[int, tuple[PackedMap, ...]],
    *,
    published: Mapping[str, Mapping[str, PublishedRow | None]],
    cautions: Sequence[str] = (),
    progress: Progress = silent,
) -> Report:
    """The page of the answers to some splits.

    Args:
        data: folder or URI of the prepared data that they are about.
        analyses: of each split, with slices and curves.
        predicted: (n) masks of all answers, split after split.
        maps: by the answer's number in the same order.
        published: split -> protocol -> the paper's figures.
        cautions: what a reader of the figures must know.

    Raises:
        RefsegError: the data are no longer there.
    """
    answers = concatenate(next(iter(splits.values())).about, list(splits.values()))
    found = find_slices(answers.text, answers.instance_count, answers.target, answers.categories)
    members: list[list[int]] = [[] for _ in range(len(answers))]
    for place, one in enumerate(found):
        for row in np.flatnonzero(one.rows).tolist():
            members[row].append(place)
    slices = [Slice(one.group, one.name) for one in found]
    shown = gallery(data, answers, predicted, maps, members, progress=progress)
    left_out = len(answers) - len(shown.samples)
    said = [f"{left_out} answers are about expressions that the data no longer have"] if left_out else []
    about = answers.about
    return Report(
        title=f"{about.model} on {about.dataset or about.data}",
        facts=report_content.facts(data, about, list(splits.values())),
        cautions=[*cautions, *said],
        tables=[
            *report_content.score_tables(analyses, published),
            report_content.failure_table(splits, shown.samples),
        ],
        parts=[report_content.part(name, splits[name], analysis, slices) for name, analysis in analyses.items()],
        slices=slices,
        pictures=shown.pictures,
        samples=shown.samples,
    )


@dataclass(frozen=True, slots=True)
class Gallery:
    """What there is to browse."""

    pictures: list[Picture]
    samples: list[Sample]


def gallery(
    data: str,
    answers: Answers,
    predicted: Sequence[Rle],
    maps: Mapping[int, tuple[PackedMap, ...]],
    members: Sequence[Sequence[int]],
    *,
    progress: Progress = silent,
) -> Gallery:
    """Every answer with its truth and the way it fails, the worst first; of equal IoU, that with more wrong pixels.

    Args:
        data, predicted, maps: as for `build_report`.
        members: (n) the slices that each answer belongs to.
    """
    pictures: list[Picture] = []
    matches: list[_Match] = []
    pairs: list[Pairs] = []
    for shards, position, record, rows in _records(data, answers):
        here = list(_matches(record, rows, answers, predicted, picture=len(pictures)))
        given, truths = [m.mask for m in here], [m.truth for m in here]
        pairs.append(pair_up(record, [m.expression for m in here], given, truths, first=len(matches)))
        matches += here
        read = partial(_image, shards, position)
        pictures.append(Picture(record.height, record.width, read, record.orientation, record.clip, record.frame))
        progress("report", len(matches), len(answers))
    kept = np.array([m.row for m in matches], np.int64)
    union = answers.predicted + answers.target - answers.intersection
    failures = failure_types(
        answers.has_target[kept], answers.intersection[kept], union[kept], answers.predicted[kept], join(pairs)
    )
    ious = sample_iou(answers.counts())
    order = np.lexsort((kept, (answers.intersection - union)[kept], ious[kept])).tolist()
    samples = [
        _sample(
            answers,
            matches[n],
            iou=float(ious[matches[n].row]),
            failure=int(failures[n]),
            slices=tuple(members[matches[n].row]),
            maps=maps.get(matches[n].row, ()),
        )
        for n in order
    ]
    return Gallery(pictures, samples)


@dataclass(frozen=True, slots=True)
class _Match:
    """An answer and the expression of the data that it is about.

    row: its number.  expression: position in its record.  picture: position in the gallery.  mask: empty where the
    answer is "no target", whatever the model drew.
    """

    row: int
    expression: int
    picture: int
    truth: Rle
    mask: Rle


def _matches(
    record: Record, rows: Sequence[int], answers: Answers, predicted: Sequence[Rle], *, picture: int
) -> Iterator[_Match]:
    """Those of the answers `rows` whose expression the record has, and whose mask has the picture's size."""
    places = {(e.ref_id, e.sent_id): n for n, e in enumerate(record.expressions)}
    objects, size = [instance.rle for instance in record.instances], (record.height, record.width)
    for row in rows:
        place = places.get((int(answers.ref_id[row]), int(answers.sent_id[row])))
        if place is not None and predicted[row].size == size:
            truth = masks.union([objects[t] for t in record.expressions[place].targets], size)
            mask = predicted[row] if answers.predicted[row] else masks.union([], size)
            yield _Match(row, place, picture, truth, mask)


def _sample(
    answers: Answers,
    match: _Match,
    *,
    iou: float,
    failure: int,
    slices: tuple[int, ...],
    maps: tuple[PackedMap, ...],
) -> Sample:
    row = match.row
    columns = (answers.intersection, answers.predicted, answers.target)
    intersection, predicted, target = (int(column[row]) for column in columns)
    return Sample(
        split=str(answers.split[row]),
        picture=match.picture,
        place=row,
        ref_id=int(answers.ref_id[row]),
        sent_id=int(answers.sent_id[row]),
        text=str(answers.text[row]),
        targets=int(answers.instance_count[row]),
        iou=iou,
        intersection=intersection,
        union=predicted + target - intersection,
        predicted=predicted,
        target=target,
        p_target=None if answers.about.finished or not answers.has_head[row] else float(answers.p_target[row]),
        failure=failure,
        slices=slices,
        truth=match.truth,
        mask=match.mask,
        maps=maps,
    )


def _records(data: str, answers: Answers) -> Iterator[tuple[Shards, int, Record, list[int]]]:
    """Split by split the records that were asked about, with their position in the shards and the answers' numbers."""
    wanted: dict[str, dict[int, list[int]]] = {}
    for row, (split, image) in enumerate(zip(answers.split, answers.image_id.tolist(), strict=True)):
        wanted.setdefault(str(split), {}).setdefault(image, []).append(row)
    for split, images in wanted.items():
        shards = open_shards(data, split)
        for position, image in enumerate(shards.image_ids().tolist()):
            if image in images:
                yield shards, position, shards[position], images[image]


def _image(shards: Shards, position: int) -> bytes:
    return shards[position].image


def check_place(path: Path) -> None:
    """That the page can be written there; before an evaluation of hours, not behind it.

    Raises:
        RefsegError: the path is a folder, or a folder that is not ours stands where the page's pictures would go.
    """
    if path.is_dir():
        raise RefsegError(
            f"{path}: is a folder, and the report is a single file", hint=f"e.g. --report {path / 'report.html'}"
        )
    folder = _folder(path)  # which "." has none of
    if folder.exists() and not (folder / MARKER).exists():
        raise RefsegError(f"{folder}: in the way of the report's pictures", hint="choose another name for the report")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def write_report(report: Report, path: Path) -> None:
    """Write the page, and for a large one the folder beside it, in the place of older ones.

    Raises:
        RefsegError: they cannot be written there.
    """
    check_place(path)
    folder = Path(os.path.realpath(_folder(path)))
    part = folder.with_name(part_name(folder.name))
    try:
        with whole(path) as page:
            for file in render(report, _folder(path).name):
                if not file.name:
                    page.write_bytes(file.data)
                elif is_special(path):
                    raise RefsegError(f"{path}: no place for the report's pictures beside it", hint="name a file")
                else:
                    part.mkdir(exist_ok=True)
                    (part / file.name).write_bytes(file.data)
            if folder.exists():
                if part.exists():
                    shutil.copymode(folder, part)
                shutil.rmtree(folder)
            if part.exists():
                (part / MARKER).touch()
                part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _folder(path: Path) -> Path:
    return path.with_name(f"{path.stem}_files")
