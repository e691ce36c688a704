"""Evaluation of whatever answers phrases: its finished masks are counted as those of a file are (outside.py).

Our own checkpoints go through scoring.py instead, which has their logits, and so the protocols' grids to the last bit.

Axes: h w original picture.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from refseg_cli.config import Published
from refseg_cli.data import masks, shards
from refseg_cli.data.pictures import decode_image
from refseg_cli.data.shards import Shards
from refseg_cli.errors import RefsegError, Unread
from refseg_cli.evaluation.answers import About, Answer, collect, concatenate
from refseg_cli.evaluation.evaluate import EvalReport, EvalRequest, joined
from refseg_cli.evaluation.finished import Counted, Read, answer, plan
from refseg_cli.evaluation.parts import ALL, Part, writing_shared
from refseg_cli.evaluation.scoring import BATCH_IMAGES, Evaluation, Keep, Watch
from refseg_cli.metrics.counts import Counts, count_pixels
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Expression, Record
from refseg_cli.segmenters.base import Found, Segmenter
from refseg_cli.segmenters.choice import (
    is_exported,
    refuse_of_exported,
    refuse_of_zero_shot,
    unchangeable,
    usual_device,
)
from refseg_cli.segmenters.zero_shot import is_zero_shot

Asked = tuple[Record, list[tuple[Expression, Found]]]


def evaluate_segmenter(
    request: EvalRequest,
    segmenter: Segmenter,
    *,
    watch: Watch | None = None,
    part: Part = ALL,
    progress: Progress = silent,
) -> EvalReport:
    """Score a segmenter on prepared shards; `request.model` and how it was opened are the caller's business.

    watch: sees the answers to each picture, masks included.  part: the images that are asked about here.

    Raises:
        RefsegError: no such data or split, damaged shards, records that cannot be written there, or a request that
            only a model with logits or a recipe can fulfil.
    """
    _check_asked(request, segmenter.name)
    splits = {name: shards.open_shards(request.data, name) for name in request.splits}
    about = _about(request, segmenter)
    evaluations = {}
    with writing_shared(request.records, about, part) as keep:
        for split in splits.values():
            split.verify()
        for name, split in splits.items():
            own = _evaluate_split(request, segmenter, split, about, keep.take if keep else None, watch, part, progress)
            evaluations[name] = joined(own, part, keep)
    return EvalReport(about, evaluations, Published(), request.records)


def check(request: EvalRequest) -> None:
    """That the model has a use for everything in the request.

    Raises:
        Unread: an option that it has none for.
        RefsegError: questions that it cannot be asked.
    """
    compile = request.compile is not None
    if request.model is not None and is_zero_shot(request.model):
        refuse_of_zero_shot(request.model, memory=request.memory, precision=request.precision, compile=compile)
        _check_asked(request, request.model)
    else:
        refuse_of_exported(request.model, precision=request.precision, compile=compile)
        usual_device(request.model, request.device)
        if request.overrides and is_exported(request.model):
            raise unchangeable(request.model)


def _check_asked(request: EvalRequest, name: str) -> None:
    hint = "omit it, or name a refseg checkpoint"
    if request.overrides:
        raise Unread(f"{name}: has no recipe to change", option="--set", hint=hint)
    if request.batch_images != BATCH_IMAGES:
        raise Unread(f"{name}: this model takes one picture at a time", option="--batch-images")
    if request.disturb:
        raise RefsegError(f"{name}: cannot be asked disturbed questions", hint=hint)


def counts_of(request: EvalRequest, segmenter: Segmenter, split: Shards, *, progress: Progress = silent) -> Counts:
    """What is counted of a segmenter's masks, with its probabilities of a target: what a threshold is chosen from."""
    rows, p_target = [], []
    for record, answers in _ask(request, segmenter, split, progress):
        for expression, found in answers:
            truth = masks.decode(masks.targets(record, expression)).astype(bool)
            rows.append((*count_pixels(found.mask, truth), bool(expression.targets), found.exists))
            p_target.append(found.p_target)
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(5)]
    intersection, predicted, target, has_target, says_target = map(np.array, columns)
    return Counts(intersection, predicted, target, has_target, says_target, np.array(p_target))


def _about(request: EvalRequest, segmenter: Segmenter) -> About:
    manifest = shards.read_manifest(request.data)
    return About(
        data=request.data,
        dataset=manifest.dataset,
        split_by=manifest.split_by,
        model=segmenter.name,
        thresholds=segmenter.thresholds,
        views=_plan(request)[0],
        finished=True,
    )


def _plan(request: EvalRequest) -> tuple[dict[str, int], list[Counted]]:
    """Protocols that need every instance are left out: not every segmenter tells them apart."""
    return plan([PROTOCOLS[name] for name in request.protocols], (), pixels=True)


def _evaluate_split(
    request: EvalRequest,
    segmenter: Segmenter,
    split: Shards,
    about: About,
    keep: Keep | None,
    watch: Watch | None,
    part: Part,
    progress: Progress,
) -> Evaluation:
    counted, parts = _plan(request)[1], []
    start = time.perf_counter()
    for record, answers in _ask(request, segmenter, split, progress, part):
        given: list[Answer] = [
            answer(record, e, found.exists, Read(masks.encode(found.mask), found.instances), split.split, counted)
            for e, found in answers
        ]
        if keep:
            keep(given)
        if watch:
            watch(None, None, given)
        parts.append(collect(about, given))
    return Evaluation(concatenate(about, parts), len(parts), len(parts), time.perf_counter() - start)


def _ask(
    request: EvalRequest, segmenter: Segmenter, split: Shards, progress: Progress, part: Part = ALL
) -> Iterator[Asked]:
    """Each picture that has phrases, with its answers; as many pictures as the request wants."""
    counts = np.array(split.expression_counts)
    places = np.flatnonzero(counts)
    places = part.of(places[: request.limit] if request.limit else places)
    total, done, start = int(counts[places].sum()), 0, time.perf_counter()
    for place in places:
        record = split[int(place)]
        size = (record.height, record.width)
        pixels = decode_image(record.image, record.file_name, orientation=record.orientation, size=size)
        # A segmenter refuses a phrase without a word, which data may have; nothing is what answers to it.
        found = segmenter.predict(pixels, [e.text for e in record.expressions if e.text.strip()])
        nothing = Found("", np.zeros(size, dtype=bool), False, 0.0, 0)
        yield record, [(e, next(found) if e.text.strip() else nothing) for e in record.expressions]
        done += len(record.expressions)
        progress(f"eval {split.split}", done, total, **{"expr/s": done / (time.perf_counter() - start)})
