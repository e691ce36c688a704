"""Evaluation: every image through the network once, counts for every protocol from the same logits.

What is kept of an expression is an `Answer` (evaluation/answers.py): its counts and, where asked for, its mask as RLE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from refseg_cli.checkpoint import BLIND
from refseg_cli.data import masks, shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import (
    NO_MASK,
    About,
    Answer,
    Answers,
    collect,
    concatenate,
    plan_views,
)
from refseg_cli.evaluation.instances import count_boxes, of_mask
from refseg_cli.evaluation.parts import ALL, Kept, Part, sharing, writing_shared
from refseg_cli.metrics.counts import Counts, count_pixels
from refseg_cli.metrics.curves import MASK_THRESHOLDS
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.rules import ORIGINAL, Matching, View
from refseg_cli.metrics.scores import Scores, scores
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Sample

if TYPE_CHECKING:
    import torch

    from refseg_cli.checkpoint import Checkpoint
    from refseg_cli.config import Published, Recipe
    from refseg_cli.data.loader import Step
    from refseg_cli.data.shards import Shards
    from refseg_cli.data.text import Tokenizer
    from refseg_cli.evaluation.disturb import Disturbance
    from refseg_cli.records import Batch, Prediction, Thresholds
    from refseg_cli.segmenters.compiling import Compiling
    from refseg_cli.segmenters.decisions import Decision
    from refseg_cli.segmenters.precision import Precision, Wanted

BATCH_IMAGES = 8  # if nothing else is asked for
Keep = Callable[[Sequence[Answer]], None]
# Sees each batch after it is answered: the batch on the CPU, the prediction with its `aux` on the device, the answers;
# of a segmenter that gives finished masks the answers alone.
Watch = Callable[["Batch | None", "Prediction | None", Sequence[Answer]], None]


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """What to evaluate.

    data:         folder or URI of prepared shards.
    splits:       their names, in the order of the report.
    model:        checkpoint folder, exported model, or a name that `zero_shot` knows; None for the bundled model.
    batch_images: images per forward pass, each with all its expressions.
    limit:        images per split, from its beginning; 0 for all.
    workers:      processes that decode images; None for as many as the recipe has.
    records:      Parquet file to write the answers to; None to keep only the counts.
    protocols:    names of `PROTOCOLS` to count for.
    curve:        also count at other mask thresholds.
    disturb:      what is done to phrases or pictures before they are asked.
    memory:       bytes that a pass through the network may take; None for half of what is free.
    precision:    of the arithmetic, see segmenters/precision.py.
    compile:      let torch.compile make passes faster, and note there what that cost; None for not.
    overrides:    changes of the model's recipe for this evaluation, as `key=value`; see `checkpoint.adjusted`.
    """

    data: str
    splits: tuple[str, ...]
    model: str | None = None
    device: str = "auto"
    batch_images: int = BATCH_IMAGES
    limit: int = 0
    workers: int | None = None
    records: str | None = None
    protocols: tuple[str, ...] = ("refseg",)
    curve: bool = False
    disturb: Disturbance | None = None
    memory: int | None = None
    precision: Wanted = "fp32"
    compile: Compiling | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One pass over a split.

    images: images that were asked about.  image_encodings: those that went through the network; the same if each went
    once, more where not all phrases of one fit into memory together.  seconds: wall time from the first batch's loading
    to the last count.
    """

    answers: Answers
    images: int
    image_encodings: int
    seconds: float

    @property
    def counts(self) -> Counts:
        return self.answers.counts()

    @property
    def scores(self) -> Scores:
        return scores(self.counts)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def expressions_per_second(self) -> float:
        return len(self.answers) / self.seconds


@dataclass(frozen=True, slots=True)
class EvalReport:
    """The outcome of `evaluate`, by split, and what it depends on (N-acc moves with the thresholds).

    records: the Parquet file with the answers, if one was asked for.  published: what the recipe that the model was
    trained by says of its paper.  changed: settings of that recipe that were others here, as `key=value`.
    """

    about: About
    evaluations: dict[str, Evaluation]
    published: Published
    records: str | None = None
    changed: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return self.about.model

    @property
    def thresholds(self) -> Thresholds:
        return self.about.thresholds

    @property
    def scores(self) -> dict[str, Scores]:
        return {name: evaluation.scores for name, evaluation in self.evaluations.items()}


def evaluate(request: EvalRequest, *, watch: Watch | None = None, progress: Progress = silent) -> EvalReport:
    """Score a checkpoint on prepared shards. Where a launcher started several processes, they share the images.

    watch: sees every batch with its prediction and answers, masks included.

    Raises:
        RefsegError: no such data, split, model or device, damaged shards, overrides that the model cannot take, or
            records that cannot be written there. All of it but a full disk is found before the first image.
    """
    from refseg_cli.evaluation.asked import check, evaluate_segmenter
    from refseg_cli.segmenters.choice import open_checkpoint, usual_device
    from refseg_cli.segmenters.inference import pick_device
    from refseg_cli.segmenters.precision import choose
    from refseg_cli.segmenters.zero_shot import is_zero_shot, open_zero_shot

    if request.batch_images < 1:
        raise RefsegError(f"cannot evaluate {request.batch_images} images at a time", hint="at least 1")
    if not request.splits:
        raise RefsegError("no split to evaluate", hint="name at least one, for example val")
    check(request)
    if request.model is not None and is_zero_shot(request.model):
        segmenter = open_zero_shot(request.model, device=request.device)
        with sharing() as part:
            _check_watch(watch, part)
            return evaluate_segmenter(request, segmenter, watch=watch, part=part, progress=progress)
    splits = {name: shards.open_shards(request.data, name) for name in request.splits}
    device = pick_device(usual_device(request.model, request.device))
    loaded = open_checkpoint(request.model, device, overrides=request.overrides)
    precision = choose(request.precision, device, loaded.info, loaded.thresholds)
    about = describe(request, loaded, precision)
    evaluations = {}
    with sharing() as part, writing_shared(request.records, about, part) as keep:
        _check_watch(watch, part)
        for split in splits.values():
            split.verify()
        for name, split in splits.items():
            own = evaluate_model(
                loaded.model,
                loaded.tokenizer,
                loaded.recipe,
                loaded.thresholds,
                split,
                device=device,
                batch_images=request.batch_images,
                limit=request.limit,
                workers=request.workers,
                about=about,
                disturb=request.disturb,
                keep=keep.take if keep else None,
                watch=watch,
                part=part,
                memory=request.memory,
                precision=precision,
                compile=request.compile,
                progress=progress,
                stage=f"eval {name}",
            )
            evaluations[name] = joined(own, part, keep)
    return EvalReport(about, evaluations, loaded.recipe.published, request.records, loaded.changed)


def joined(own: Evaluation, part: Part, keep: Kept | None) -> Evaluation:
    """Every process's evaluation of a split as one, in the order of the images."""
    if keep:
        keep.pass_on()
    if part.n == 1:
        return own
    parts = part.gathered(own)
    return Evaluation(
        answers=concatenate(own.answers.about, [one.answers for one in parts]),
        images=sum(one.images for one in parts),
        image_encodings=sum(one.image_encodings for one in parts),
        seconds=max(one.seconds for one in parts),
    )


def _check_watch(watch: Watch | None, part: Part) -> None:
    if watch is not None and part.n > 1:
        raise RefsegError(
            "a report, a submission and figures of clips are made by one process",
            hint="keep the answers with --records FILE, then refseg eval --from FILE",
        )


def describe(request: EvalRequest, loaded: Checkpoint, precision: Precision = "fp32") -> About:
    """What the answers of a request depend on."""
    protocols = [PROTOCOLS[name] for name in request.protocols]
    manifest = shards.read_manifest(request.data)
    disturbed = () if request.disturb is None else (str(request.disturb),)
    lowered = () if precision == "fp32" else (f"precision={precision}",)
    return About(
        data=request.data,
        dataset=manifest.dataset,
        split_by=manifest.split_by,
        model=loaded.name,
        arch=loaded.recipe.arch,
        trained_on=loaded.info.get("data"),
        blind=bool(loaded.info.get(BLIND)),
        thresholds=loaded.thresholds,
        changed=", ".join(loaded.changed + lowered + disturbed),
        mask_thresholds=MASK_THRESHOLDS if request.curve else (),
        views=plan_views(protocols, loaded.thresholds)[0],
        without_raw=loaded.recipe.text.field == "raw" and not manifest.has_raw_sentences,
    )


def evaluate_model(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    recipe: Recipe,
    thresholds: Thresholds,
    split: Shards,
    *,
    device: torch.device | str,
    batch_images: int = 8,
    limit: int = 0,
    workers: int | None = None,
    about: About | None = None,
    disturb: Disturbance | None = None,
    keep: Keep | None = None,
    watch: Watch | None = None,
    part: Part = ALL,
    memory: int | None = None,
    precision: Precision = "fp32",
    compile: Compiling | None = None,
    progress: Progress = silent,
    stage: str = "eval",
) -> Evaluation:
    """One pass of `model` over a split; training calls it for validation.

    The model is put in eval mode and left in the mode it came in. Masks live for one batch.

    Args:
        limit: images, from the beginning of the split; 0 for all.
        workers: processes that decode images; None for `recipe.data.workers`.
        about: what to count besides the original size; None for nothing else.
        keep: takes the answers of each batch; without it and `watch` no mask is encoded.
        part: the images that are asked about here, where several processes share them.
        memory: bytes that a pass may take, see `Passes`.
        precision: of the arithmetic.
        compile: see `EvalRequest`.
        stage: what progress calls this.
    """
    import torch

    from refseg_cli.data.loader import StepDataset, iterate
    from refseg_cli.segmenters.compiling import Compiled
    from refseg_cli.segmenters.inference import postprocess
    from refseg_cli.segmenters.passes import Passes
    from refseg_cli.segmenters.precision import asked_at

    dataset = StepDataset(split, tokenizer, recipe.data, field=recipe.text.field)
    steps = _steps(split, recipe, limit, part, batch_images)
    images = np.unique([pick.image for step in steps for pick in step]).astype(np.int64)
    batches = iterate(dataset, steps, workers=recipe.data.workers if workers is None else workers)
    about = replace(about or About(), thresholds=thresholds)
    views = _views(about)
    change = None if disturb is None else disturb.prepare(model, dataset, images, device)
    total, done, encodings, parts = sum(len(pick.expressions) for step in steps for pick in step), 0, 0, []
    start = time.perf_counter()
    with _eval_mode(model), torch.inference_mode():
        asked_of = model if compile is None else Compiled(model, device, compile)
        passes = Passes(asked_at(asked_of, device, precision), device, budget=memory, measured=compile is None)
        for asked, prediction in (one for b in batches for one in passes(b if change is None else change(b))):
            decisions = postprocess(prediction, asked, thresholds)
            answers = _answers(prediction, asked, decisions, about, views, encode=bool(keep or watch))
            parts.append(collect(about, answers))
            if keep:
                keep(answers)
            if watch:
                watch(asked, prediction, answers)
            done, encodings = done + len(asked), encodings + len(asked.images)
            progress(stage, done, total, **{"expr/s": done / (time.perf_counter() - start)})
    return Evaluation(
        answers=concatenate(about, parts),
        images=len(images),
        image_encodings=encodings,
        seconds=time.perf_counter() - start,
    )


def _steps(split: Shards, recipe: Recipe, limit: int, part: Part, batch_images: int) -> list[Step]:
    """Every image with all its expressions, or windows of whole clips; a limit's last clip is whole, too."""
    from refseg_cli.data.clips import Clips
    from refseg_cli.data.loader import sequential_steps
    from refseg_cli.data.windows import whole_windows

    per_image = np.array(split.expression_counts)
    if limit:
        per_image[np.flatnonzero(per_image)[limit:]] = 0
    if recipe.data.clip_frames:
        clips = {clip.rows[0]: clip for clip in Clips(split) if per_image[clip.rows[0]]}
        own = [clips[first] for first in part.of(np.array(list(clips), np.int64)).tolist()]
        return whole_windows(own, frames=recipe.data.clip_window)
    per_image[np.setdiff1d(np.arange(len(per_image)), part.of(np.flatnonzero(per_image)))] = 0
    return sequential_steps(per_image, batch_images=batch_images)


def _views(about: About) -> list[View | Matching]:
    """What the protocols count at their places, then one for each mask threshold of the curve."""
    places = {place: PROTOCOLS[name].view(about.thresholds.mask) for name, place in about.views.items()}
    return [places[i] for i in range(len(places))] + [View(ORIGINAL, t) for t in about.mask_thresholds]


def _answers(
    prediction: Prediction,
    batch: Batch,
    decisions: Sequence[Decision],
    about: About,
    views: Sequence[View | Matching],
    *,
    encode: bool,
) -> list[Answer]:
    """N decisions against the N samples they answer; `encode` keeps their masks."""
    from refseg_cli.evaluation.grids import count_views, true_masks

    truths = true_masks(batch.samples)
    seen = np.zeros((len(batch), len(views), 3), dtype=np.int64)
    grids = {place: view for place, view in enumerate(views) if isinstance(view, View)}
    if grids:
        seen[:, list(grids)] = count_views(prediction, batch, list(grids.values()), truths)
    for place, view in enumerate(views):
        if isinstance(view, Matching):
            seen[:, place] = [_count_box(*pair, view) for pair in zip(decisions, batch.samples, strict=True)]
    of_protocols = len(views) - len(about.mask_thresholds)
    has_head = prediction.exists_logit is not None
    return [
        _answer(
            sample,
            decision,
            truth,
            has_head=has_head,
            views=tuple(counted[:of_protocols].ravel().tolist()),
            curve=tuple(counted[of_protocols:, :2].ravel().tolist()),
            encode=encode,
        )
        for sample, decision, truth, counted in zip(batch.samples, decisions, truths, seen, strict=True)
    ]


def _count_box(decision: Decision, sample: Sample, matching: Matching) -> list[int]:
    """Of the decided mask's box."""
    return count_boxes(of_mask(masks.encode(decision.mask)), sample.boxes, matching)


def _answer(
    sample: Sample,
    decision: Decision,
    truth: np.ndarray,
    *,
    has_head: bool,
    views: tuple[int, ...],
    curve: tuple[int, ...],
    encode: bool,
) -> Answer:
    raw = count_pixels(decision.raw, truth)
    intersection, predicted = (raw.intersection, raw.predicted) if decision.exists else (0, 0)
    return Answer(
        image_id=sample.image_id,
        ref_id=sample.ref_id,
        sent_id=sample.sent_id,
        split=sample.split,
        text=sample.text,
        instance_count=sample.instance_count,
        has_target=sample.instance_count > 0,
        says_target=decision.exists,
        p_target=decision.p_target,
        intersection=intersection,
        union=predicted + raw.target - intersection,
        predicted=predicted,
        target=raw.target,
        mask=masks.encode(decision.mask) if encode else NO_MASK,
        has_head=has_head,
        categories=sample.categories,
        raw_intersection=raw.intersection,
        raw_predicted=raw.predicted,
        curve=curve,
        views=views,
    )


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode, and back in its own: a frozen one may have been there before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
