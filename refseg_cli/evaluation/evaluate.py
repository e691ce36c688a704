"""`refseg eval` of a model: what it is asked for, the splits that processes share, and the report of their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from refseg_cli.checkpoint import BLIND
from refseg_cli.data import shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import (
    About,
    concatenate,
    plan_views,
)
from refseg_cli.evaluation.parts import Kept, Part, sharing, writing_shared
from refseg_cli.evaluation.scoring import BATCH_IMAGES, Evaluation, Watch, evaluate_model
from refseg_cli.metrics.curves import MASK_THRESHOLDS
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import Scores
from refseg_cli.progress import Progress, silent

if TYPE_CHECKING:
    from refseg_cli.checkpoint import Checkpoint
    from refseg_cli.config import Published
    from refseg_cli.evaluation.disturb import Disturbance
    from refseg_cli.records import Thresholds
    from refseg_cli.segmenters.compiling import Compiling
    from refseg_cli.segmenters.precision import Precision, Wanted


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
    memory:       bytes that a pass through the network may take; None for the usual budget of passes.py.
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
