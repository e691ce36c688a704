"""One pass of a model over a split: every image through the network once, counts for every protocol from its logits.

What is kept of an expression is an `Answer` (evaluation/answers.py): its counts and, where asked for, its mask as RLE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from refseg_cli.data import masks
from refseg_cli.evaluation.answers import NO_MASK, About, Answer, Answers, collect, concatenate
from refseg_cli.evaluation.instances import count_boxes, of_mask
from refseg_cli.evaluation.parts import ALL, Part
from refseg_cli.metrics.counts import Counts, count_pixels
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.rules import ORIGINAL, Matching, View
from refseg_cli.metrics.scores import Scores, scores
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Sample

if TYPE_CHECKING:
    import torch

    from refseg_cli.config import Recipe
    from refseg_cli.data.loader import Step
    from refseg_cli.data.shards import Shards
    from refseg_cli.data.text import Tokenizer
    from refseg_cli.evaluation.disturb import Disturbance
    from refseg_cli.records import Batch, Prediction, Thresholds
    from refseg_cli.segmenters.compiling import Compiling
    from refseg_cli.segmenters.decisions import Decision
    from refseg_cli.segmenters.precision import Precision

BATCH_IMAGES = 8  # if nothing else is asked for
Keep = Callable[[Sequence[Answer]], None]
# Sees each batch after it is answered: the batch on the CPU, the prediction with its `aux` on the device, the answers;
# of a segmenter that gives finished masks the answers alone.
Watch = Callable[["Batch | None", "Prediction | None", Sequence[Answer]], None]


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
    def expressions_per_second(self) -> float:
        return len(self.answers) / self.seconds


def evaluate_model(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    recipe: Recipe,
    thresholds: Thresholds,
    split: Shards,
    *,
    device: torch.device | str,
    batch_images: int = BATCH_IMAGES,
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
    from refseg_cli.layers.folding import folded
    from refseg_cli.segmenters.compiling import Compiled
    from refseg_cli.segmenters.explain import explained
    from refseg_cli.segmenters.inference import postprocess
    from refseg_cli.segmenters.passes import Passes
    from refseg_cli.segmenters.precision import DTYPES, asked_at

    dataset = StepDataset(split, tokenizer, recipe.data, field=recipe.text.field)
    steps = _steps(split, recipe, limit, part, batch_images)
    images = np.unique([pick.image for step in steps for pick in step]).astype(np.int64)
    batches: Iterable[Batch] = iterate(dataset, steps, workers=recipe.data.workers if workers is None else workers)
    if disturb is not None:
        batches = map(disturb.prepare(model, dataset, images, device), batches)
    about = replace(about or About(), thresholds=thresholds)
    views = _views(about)
    total, done, encodings, parts = sum(len(pick.expressions) for step in steps for pick in step), 0, 0, []
    start = time.perf_counter()
    with _eval_mode(model), torch.inference_mode():
        answering = folded(model, DTYPES[precision])
        asks = answering if compile is None else Compiled(answering, device, compile)
        asked_of = asked_at(partial(explained, asks) if watch else asks, device, precision)
        passes = Passes(asked_of, device, budget=memory, measured=compile is None)
        for asked, prediction in chain.from_iterable(map(passes, batches)):
            decisions = postprocess(prediction, asked, thresholds)
            answers = _answers(prediction, asked, decisions, about, views, encode=bool(keep or watch))
            parts.append(collect(about, answers))
            if keep:
                keep(answers)
            if watch:
                watch(asked, prediction, answers)
            done, encodings = done + len(asked), encodings + len(asked.images)
            progress(stage, done, total, **{"expr/s": done / (time.perf_counter() - start)})
    return Evaluation(concatenate(about, parts), len(images), encodings, time.perf_counter() - start)


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
