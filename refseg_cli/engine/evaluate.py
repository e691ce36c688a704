"""Evaluation: every image through the network once, masks at original size, integer counts, scores.

What is kept of an expression is an `Answer`: its counts and its mask as RLE. Written to Parquet, the answers give the
same scores again without a model (`scores_from_records`), and give others the masks to score by their own rules.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from refseg_cli import metrics
from refseg_cli.data import masks, shards, tables
from refseg_cli.engine import Progress, silent
from refseg_cli.errors import RefsegError
from refseg_cli.metrics import Counts, Pixels, Scores
from refseg_cli.records import Rle, Sample

if TYPE_CHECKING:
    import torch

    from refseg_cli.checkpoint import Thresholds
    from refseg_cli.config import Recipe
    from refseg_cli.data.shards import Shards
    from refseg_cli.data.text import Tokenizer
    from refseg_cli.engine.inference import Decision

RECORDS_FORMAT = "refseg.records/1"  # columns may be added within /1, never renamed or given another meaning


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """What to evaluate.

    data:         folder or URI of prepared shards.
    splits:       their names, in the order of the report.
    model:        checkpoint folder; None for the bundled model.
    batch_images: images per forward pass, each with all its expressions.
    limit:        images per split, from its beginning; 0 for all.
    workers:      processes that decode images; None for as many as the recipe has.
    records:      Parquet file to write the answers to; None to keep only the scores.
    """

    data: str
    splits: tuple[str, ...]
    model: str | None = None
    device: str = "auto"
    batch_images: int = 8
    limit: int = 0
    workers: int | None = None
    records: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One expression and how it was answered; pixels are counted at the image's original size.

    instance_count: annotated targets.  has_target, says_target, intersection, union, predicted, target: as in `Counts`.
    p_target: probability of a target, 1.0 from models without a no-target head.  mask: the predicted one, empty where
    the model says no target.
    """

    image_id: int
    ref_id: int
    sent_id: int
    split: str
    text: str
    instance_count: int
    has_target: bool
    says_target: bool
    p_target: float
    intersection: int
    union: int
    predicted: int
    target: int
    mask: Rle


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One pass over a split.

    image_encodings: images that went through the network; `images` if each went once.
    seconds: wall time from the first batch's loading to the last count.
    """

    counts: Counts
    images: int
    image_encodings: int
    seconds: float

    @property
    def scores(self) -> Scores:
        return metrics.scores(self.counts)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def expressions_per_second(self) -> float:
        return len(self.counts) / self.seconds


@dataclass(frozen=True, slots=True)
class EvalReport:
    """The outcome of `evaluate`, by split, and what it depends on (N-acc moves with the thresholds).

    model: the checkpoint's name.  records: the Parquet file with the answers, if one was asked for.
    """

    data: str
    model: str
    thresholds: Thresholds
    evaluations: dict[str, Evaluation]
    records: str | None

    @property
    def scores(self) -> dict[str, Scores]:
        return {name: evaluation.scores for name, evaluation in self.evaluations.items()}


def evaluate(request: EvalRequest, *, progress: Progress = silent) -> EvalReport:
    """Score a checkpoint on prepared shards.

    Raises:
        RefsegError: no such data, split, model or device, or records that cannot be written there. All of it but a full
            disk is found before the first image.
    """
    from refseg_cli import checkpoint
    from refseg_cli.engine.inference import pick_device

    if request.batch_images < 1:
        raise RefsegError(f"cannot evaluate {request.batch_images} images at a time", hint="at least 1")
    if not request.splits:
        raise RefsegError("no split to evaluate", hint="name at least one, for example val")
    splits = {name: shards.open_shards(request.data, name) for name in request.splits}
    device = pick_device(request.device)
    loaded = checkpoint.load(request.model, device)
    about = {"data": request.data, "model": loaded.name, "thresholds": asdict(loaded.thresholds)}
    with writing_records(request.records, about) if request.records else nullcontext() as keep:
        evaluations = {
            name: evaluate_model(
                loaded.model,
                loaded.tokenizer,
                loaded.recipe,
                loaded.thresholds,
                split,
                device=device,
                batch_images=request.batch_images,
                limit=request.limit,
                workers=request.workers,
                keep=keep,
                progress=progress,
                stage=f"eval {name}",
            )
            for name, split in splits.items()
        }
    return EvalReport(
        data=request.data,
        model=loaded.name,
        thresholds=loaded.thresholds,
        evaluations=evaluations,
        records=request.records,
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
    keep: Callable[[Sequence[Answer]], None] | None = None,
    progress: Progress = silent,
    stage: str = "eval",
) -> Evaluation:
    """One pass of `model` over a split; training calls it for validation.

    The model is put in eval mode and left in the mode it came in. Masks live for one batch.

    Args:
        limit: images, from the beginning of the split; 0 for all.
        workers: processes that decode images; None for `recipe.data.workers`.
        keep: takes the answers of each batch; None spares the encoding of the masks.
        stage: what progress calls this.
    """
    import torch

    from refseg_cli.data.loader import StepDataset, iterate, sequential_steps
    from refseg_cli.engine.inference import postprocess

    per_image = np.array(split.expression_counts)
    if limit:
        per_image[np.flatnonzero(per_image)[limit:]] = 0
    steps = sequential_steps(per_image, batch_images=batch_images)
    batches = iterate(
        StepDataset(split, tokenizer, recipe.data),
        steps,
        workers=recipe.data.workers if workers is None else workers,
    )
    total, done, encodings, parts = int(per_image.sum()), 0, 0, []
    start = time.perf_counter()
    with _eval_mode(model), torch.inference_mode():
        for batch in batches:
            decisions = postprocess(model(batch.to(device)), batch, thresholds)
            parts.append(count(decisions, batch.samples))
            if keep:
                keep(_answers(parts[-1], decisions, batch.samples))
            done, encodings = done + len(batch), encodings + len(batch.images)
            progress(stage, done, total, **{"expr/s": done / (time.perf_counter() - start)})
    return Evaluation(
        counts=metrics.concatenate(parts),
        images=int(np.count_nonzero(per_image)),
        image_encodings=encodings,
        seconds=time.perf_counter() - start,
    )


def count(decisions: Sequence[Decision], samples: Sequence[Sample]) -> Counts:
    """The counts of N decisions against the N samples they answer, at the images' original sizes."""
    pairs = zip(decisions, samples, strict=True)
    pixels = [metrics.count_pixels(d.mask, masks.decode(s.target).astype(bool)) for d, s in pairs]
    intersection, union, predicted, target = np.array(pixels, dtype=np.int64).reshape(-1, len(Pixels._fields)).T
    return Counts(
        intersection=intersection,
        union=union,
        predicted=predicted,
        target=target,
        has_target=np.array([s.instance_count > 0 for s in samples]),
        says_target=np.array([d.exists for d in decisions]),
    )


def _answers(counts: Counts, decisions: Sequence[Decision], samples: Sequence[Sample]) -> list[Answer]:
    columns = {f.name: getattr(counts, f.name).tolist() for f in fields(Counts)}
    return [
        Answer(
            image_id=sample.image_id,
            ref_id=sample.ref_id,
            sent_id=sample.sent_id,
            split=sample.split,
            text=sample.text,
            instance_count=sample.instance_count,
            p_target=decision.p_target,
            mask=masks.encode(decision.mask),
            **{name: column[n] for name, column in columns.items()},
        )
        for n, (decision, sample) in enumerate(zip(decisions, samples, strict=True))
    ]


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


@contextmanager
def writing_records(uri: str, about: Mapping[str, object]) -> Iterator[Callable[[Sequence[Answer]], None]]:
    """Gives a function that appends answers to a Parquet file, which appears when the block ends, whole or not at all.

    A column for each field of `Answer`; `mask` is COCO's {size: [height, width], counts: string}.

    Args:
        about: what the answers depend on (model, thresholds, data), kept as JSON in the file's metadata.

    Raises:
        RefsegError: the file cannot be written.
    """
    metadata = {"format": RECORDS_FORMAT, "about": json.dumps(about)}
    with tables.writing_rows(uri, Answer, metadata=metadata) as append:
        yield append


def counts_from_records(uri: str) -> dict[str, Counts]:
    """The counts of written answers, by split in the order of the file.

    Raises:
        RefsegError: no such file, not a file of records, or counts that no masks have.
    """
    names = [f.name for f in fields(Counts)]
    columns, metadata = tables.read_columns(uri, ["split", *names])
    if metadata.get("format") != RECORDS_FORMAT:
        raise RefsegError(f"{uri}: not a file of records", hint="`refseg eval --records FILE` writes one")
    split = columns["split"]
    try:
        return {
            str(name): Counts(**{column: columns[column][split == name] for column in names})
            for name in dict.fromkeys(split)
        }
    except (TypeError, ValueError) as error:
        raise RefsegError(f"{uri}: damaged records: {error}") from error


def scores_from_records(uri: str) -> dict[str, Scores]:
    """The scores of written answers, by split: those that the evaluation had, to the last bit, without its model."""
    return {name: metrics.scores(counts) for name, counts in counts_from_records(uri).items()}
