"""How long a model takes, and what it needs: latency, throughput, memory and arithmetic, stage by stage (stages.py),
over numbers of pictures and phrases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from refseg_cli import checkpoint
from refseg_cli.config import Recipe
from refseg_cli.engine import stages
from refseg_cli.engine.measuring import device_name, environment, peak_memory, timed
from refseg_cli.engine.questions import Question, real_questions
from refseg_cli.engine.recomputing import recompute_layers
from refseg_cli.engine.stages import BETWEEN_TENSORS, STAGES, Call, Stage, Subject, count_flops
from refseg_cli.errors import RefsegError, Unread
from refseg_cli.layers.folding import folded
from refseg_cli.models import build_model
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Thresholds
from refseg_cli.segmenters import compiling
from refseg_cli.segmenters.base import Segmenter
from refseg_cli.segmenters.choice import (
    USUAL,
    is_exported,
    open_checkpoint,
    open_segmenter,
    refuse_of_exported,
    usual_device,
)
from refseg_cli.segmenters.inference import pick_device
from refseg_cli.segmenters.precision import DTYPES, Precision, Wanted, choose
from refseg_cli.segmenters.zero_shot import is_zero_shot

SCHEMA = "refseg.bench/1"
ALL: Literal["all"] = "all"
# Words of a recipe's vocabulary, where no data was read: BERT's and CLIP's own, and about as many as RefCOCO has.
VOCABULARY = {"words": 10_000, "bert": 30_522, "clip": 49_408, "beit3": 64_010}
MIB, GIGA = 2**20, 1e9
PASSES: tuple[Stage, ...] = (*BETWEEN_TENSORS, "end-to-end")
# Settings of a request that some stages do not read -> those that do.
OF_PASSES = "--precision and --compile are of the passes of refseg's own models"
READERS: dict[str, tuple[Stage, ...]] = {
    "data": ("end-to-end", "loader"),
    "data_split": ("end-to-end",),
    "batch_sizes": (*PASSES, "loader"),
    "phrases": (*PASSES, "loader"),
    "warmup": (*PASSES, "loader"),
}


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure: `model` (whatever `--model` names), else `recipe` with random weights, else the bundled model.

    stage: one of them, or all that the model has; None for forward, of a zero-shot model end-to-end.
    batch_sizes: images at a time.  phrases: for each image; a row for each of both.  repeat: timed runs of each row,
    after `warmup` others.
    data: prepared data, which the loader reads, and whose pictures are asked end to end in place of the demo's.
    """

    model: str | Path | None = None
    recipe: Recipe | None = None
    stage: Stage | Literal["all"] | None = None
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    phrases: tuple[int, ...] = (1,)
    repeat: int = 20
    warmup: int = 3
    device: str = "auto"
    precision: Wanted = "fp32"
    compile: bool = False
    data: str | None = None
    data_split: str = "val"


@dataclass(frozen=True, slots=True)
class Row:
    """One stage at one size. Times are of the whole batch; rates None where encode or decode is lost in noise.

    peak_memory_mib: see `BenchReport.memory`; of encode and decode together.  gflops: None where unknown.
    compile_s: of a compiled model its first pass at this size: compiling, or reading what an earlier process compiled.
    parts_ms: of a step of training, the median of each of its parts, in steps that are not in the row's own times.
    """

    stage: Stage
    images: int
    expressions: int
    latency_p50_ms: float
    latency_p95_ms: float
    images_per_s: float | None
    expressions_per_s: float | None
    peak_memory_mib: float
    gflops: float | None
    compile_s: float | None = None
    parts_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The rows and what they depend on.

    size, max_tokens: None for a zero-shot model.  parameters: all of them, the embeddings included.
    gflops_per_image, gflops_per_phrase: floating point operations of matrix products and convolutions, a multiply and
    an add counted as two (GMACs are half of it); an image with K phrases takes per_image + K per_phrase. All three are
    None for an exported graph, which does not say, and for a zero-shot model.
    memory: what the rows' peak is of.  left_out: stages that were not measured, and why.
    environment: versions and the machine, see `measuring.environment`.
    """

    model: str
    device: str
    precision: str
    compile: bool
    threads: int
    torch: str
    size: tuple[int, int] | None
    max_tokens: int | None
    parameters: int | None
    gflops_per_image: float | None
    gflops_per_phrase: float | None
    memory: str
    repeat: int
    rows: tuple[Row, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {"schema": SCHEMA, **asdict(self)}


def bench(request: BenchRequest, *, progress: Progress = silent) -> BenchReport:
    """Measure.

    Raises:
        RefsegError: no such model, device or data, a stage that the model does not have, a size below one, a setting
            that no stage reads, or not enough memory for a row.
    """
    _check(request)
    wanted, left_out = _stages(request)
    _refuse_unread(request, wanted)
    device = pick_device(usual_device(request.model, request.device))
    bed = _Bed.of(request, wanted, device)
    sizes = list(product(request.batch_sizes, request.phrases))
    rows: list[Row] = []
    total = len(wanted) * len(sizes)
    for stage in wanted:
        for images, phrases in sizes if stage != "startup" else [(1, 1)]:
            progress(f"bench {stage}", len(rows), total, images=str(images), phrases=str(phrases))
            rows.append(bed.row(stage, images, phrases))
    progress("bench", total, total)
    subject, flops = bed.subject, bed.flops
    return BenchReport(
        model=bed.name,
        device=device_name(device),
        precision=bed.precision,
        compile=request.compile,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        size=None if subject is None else subject.recipe.data.size,
        max_tokens=None if subject is None else subject.recipe.text.max_tokens,
        parameters=None if subject is None else sum(p.numel() for p in subject.model.parameters()) or None,
        gflops_per_image=None if flops is None else flops[0] / GIGA,
        gflops_per_phrase=None if flops is None else flops[1] / GIGA,
        memory="allocated on the device" if device.type == "cuda" else "resident in the process, libraries included",
        repeat=request.repeat,
        rows=tuple(rows),
        left_out=left_out,
        environment=environment(),
    )


def _check(request: BenchRequest) -> None:
    refuse_of_exported(request.model, precision=request.precision, compile=request.compile)
    smallest = min((*request.batch_sizes, *request.phrases, request.repeat), default=0)
    if not request.batch_sizes or not request.phrases or smallest < 1:
        raise RefsegError("batch sizes, phrases and repeat must be at least 1")
    if request.model is not None and request.recipe is not None:
        raise RefsegError("a trained model and a recipe were asked for", hint="give one of them")


def _stages(request: BenchRequest) -> tuple[list[Stage], dict[str, str]]:
    """What is measured, and what `all` leaves out, with the reason.

    Raises:
        RefsegError: the one stage that was asked for is none of this model's.
    """
    zero_shot = request.recipe is None and request.model is not None and is_zero_shot(str(request.model))
    if request.stage == ALL:
        reasons = {stage: _refusal(request, stage, zero_shot=zero_shot) for stage in STAGES}
        wanted = [stage for stage in STAGES if reasons[stage] is None]
        return wanted, {stage: reason for stage, reason in reasons.items() if reason is not None}
    chosen: Stage = request.stage or ("end-to-end" if zero_shot else "forward")
    reason = _refusal(request, chosen, zero_shot=zero_shot)
    if reason is not None:
        said, hint = f"--stage {chosen}: {reason}", "--stage all measures every stage that there is"
        if reason == OF_PASSES:
            raise Unread(said, option="--compile" if request.compile else "--precision", hint=hint)
        raise RefsegError(said, hint=hint)
    return [chosen], {}


def _refuse_unread(request: BenchRequest, wanted: Sequence[Stage]) -> None:
    """That no setting differs from what is usual which none of the stages reads."""
    usual = BenchRequest()
    for name, readers in READERS.items():
        if getattr(request, name) != getattr(usual, name) and not set(readers) & set(wanted):
            option = f"--{name.replace('_', '-')}"
            said = f"--stage {wanted[0]} has no use for {option}"
            raise Unread(said, option=option, hint=f"it is for {', '.join(readers)}")
    if request.data is None and request.data_split != usual.data_split:
        said = "--data-split names a split of --data"
        raise Unread(said, option="--data-split", hint="add --data DIR, or omit it")


def _refusal(request: BenchRequest, stage: Stage, *, zero_shot: bool) -> str | None:
    """Why there is no such stage, if there is none."""
    plain = request.precision in USUAL and not request.compile
    if zero_shot and stage in ("forward", "train", "loader"):
        return "a model of transformers is asked end to end"
    if not plain and (zero_shot or stage not in BETWEEN_TENSORS):
        return OF_PASSES
    if is_exported(request.model) and (stage == "train" or request.compile):
        return "an exported graph is neither trained nor compiled"
    if request.recipe is not None and stage in ("end-to-end", "startup"):
        return "a recipe with random weights has no answers"
    if stage == "loader" and request.data is None:
        return "needs prepared data, --data DIR"
    return None


@dataclass(frozen=True)
class _Bed:
    """What is measured, opened, and how. Of a zero-shot model there is the segmenter alone."""

    request: BenchRequest
    device: torch.device
    name: str
    subject: Subject | None
    flops: tuple[int, int] | None
    segmenter: Segmenter | None
    questions: Sequence[Question]
    precision: Precision = "fp32"

    @classmethod
    def of(cls, request: BenchRequest, wanted: Sequence[Stage], device: torch.device) -> _Bed:
        zero_shot = request.recipe is None and request.model is not None and is_zero_shot(str(request.model))
        segmenter, questions, flops = None, list[Question](), None
        if zero_shot or "end-to-end" in wanted:
            segmenter = open_segmenter(request.model, device=request.device)
            questions = real_questions(request.data, request.data_split)
        subject = None if zero_shot else _subject(request)
        known = subject.loaded if subject else None
        precision = choose(
            request.precision, device, known.info if known else {}, known.thresholds if known else Thresholds()
        )
        if subject is not None:
            # The counter sees torch's operators, and an exported graph has none.
            flops = None if is_exported(request.model) else count_flops(subject)
            subject.model.to(device)
            if not is_exported(request.model):
                subject = replace(subject, answering=folded(subject.model, DTYPES[precision]))
            if request.compile:
                compiling.prepare(device)
                for model in filter(None, (subject.model, subject.answering)):
                    model.compile(dynamic=False)
        name = subject.name if subject else segmenter.name if segmenter else ""
        return cls(request, device, name, subject, flops, segmenter, questions, precision)

    def row(self, stage: Stage, images: int, phrases: int) -> Row:
        """Measure one stage at one size.

        Raises:
            RefsegError: not enough memory, a batch that cannot be trained on, or a compiler that fails.
        """
        with _explained(self.request, images, phrases):
            if stage == "loader":
                return self._loader(images, phrases)
            if stage == "startup":
                return self._startup()
            if stage in ("encode", "decode"):
                return self._share(stage, images, phrases)
            run = self._call(stage, images, phrases)
            first = timed(run) if self.request.compile else None
            for _ in range(self.request.warmup):
                run()
            seconds = [timed(run) for _ in range(self.request.repeat)]
            row = self._made(stage, images, phrases, seconds, peak_memory(run, self.device))
            row = replace(row, compile_s=first)
            return row if stage != "train" else replace(row, parts_ms=self._parts(images, phrases))

    def _parts(self, images: int, phrases: int) -> dict[str, float]:
        """Milliseconds of each part of a step of training."""
        assert self.subject is not None
        parts = stages.train_parts(self.subject, self.device, self.precision, images, phrases)
        for part in parts.values():
            part()
        steps = [{name: timed(part) for name, part in parts.items()} for _ in range(self.request.repeat)]
        return {name: 1000 * float(np.median([step[name] for step in steps])) for name in parts}

    def _call(self, stage: Stage, images: int, phrases: int) -> Call:
        if self.subject is None or stage == "end-to-end":
            assert self.segmenter is not None
            return stages.end_to_end(self.segmenter, self.device, self.questions, images, phrases)
        make = stages.train if stage == "train" else stages.forward
        return make(self.subject, self.device, self.precision, images, phrases)

    def _share(self, stage: Stage, images: int, phrases: int) -> Row:
        """The pictures' or the phrases', by asking twice as many phrases, in turn with as many."""
        once, twice = (self._call("forward", images, n * phrases) for n in (1, 2))
        for _ in range(self.request.warmup):
            once()
            twice()
        pairs = [(timed(once), timed(twice)) for _ in range(self.request.repeat)]
        decode = [max(0.0, both - one) for one, both in pairs]
        shares = {
            "decode": decode,
            "encode": [max(0.0, one - more) for (one, _), more in zip(pairs, decode, strict=True)],
        }
        return self._made(stage, images, phrases, shares[stage], peak_memory(once, self.device))

    def _loader(self, images: int, phrases: int) -> Row:
        """Between one batch and the next; a batch has fewer phrases where its pictures have."""
        request, subject = self.request, self.subject
        assert subject is not None
        assert request.data is not None
        batches = stages.load_batches(subject, self.device, request.data, images, phrases)
        for _ in range(request.warmup):
            next(batches)
        sizes = list[tuple[int, int]]()  # batches themselves would fill the device

        def load() -> None:
            batch = next(batches)
            sizes.append((len(batch.images), len(batch)))

        seconds = [timed(load) for _ in range(request.repeat)]
        memory = peak_memory(lambda: next(batches), torch.device("cpu"))
        batches.close()
        row = self._made("loader", images, phrases, seconds, memory)
        return replace(
            row,
            images_per_s=sum(pictures for pictures, _ in sizes) / sum(seconds),
            expressions_per_s=sum(expressions for _, expressions in sizes) / sum(seconds),
        )

    def _startup(self) -> Row:
        run = partial(stages.a_process, self.request.model)
        memory = stages.process_memory(self.request.model)  # which also fills the disk's cache
        return self._made("startup", 1, 1, [timed(run) for _ in range(self.request.repeat)], memory)

    def _made(self, stage: Stage, images: int, phrases: int, seconds: Sequence[float], memory: int) -> Row:
        p50, p95 = np.percentile(seconds, [50, 95])
        rate = images * len(seconds) / sum(seconds) if p50 else None
        return Row(
            stage=stage,
            images=images,
            expressions=images * phrases,
            latency_p50_ms=1000 * float(p50),
            latency_p95_ms=1000 * float(p95),
            images_per_s=rate,
            expressions_per_s=None if rate is None else rate * phrases,
            peak_memory_mib=memory / MIB,
            gflops=self._gflops(stage, images, phrases),
        )

    def _gflops(self, stage: Stage, images: int, phrases: int) -> float | None:
        if self.flops is None or stage not in ("forward", "encode", "decode"):
            return None
        picture, phrase = self.flops
        of = {"encode": images * picture, "decode": images * phrases * phrase}
        return of.get(stage, sum(of.values())) / GIGA


def _subject(request: BenchRequest) -> Subject:
    if request.recipe is None:
        loaded = open_checkpoint(request.model)
        subject = Subject(loaded.model, loaded.recipe, loaded.name, loaded.tokenizer.vocab_size, loaded)
    else:
        subject = untrained(request.recipe)
    if subject.recipe.train.gradient_checkpointing:
        recompute_layers(subject.model)
    return subject


def untrained(recipe: Recipe) -> Subject:
    """The recipe's model with random weights, which change neither its time nor its arithmetic."""
    recipe = checkpoint.without_downloads(recipe)
    vocabulary = VOCABULARY[recipe.text.tokenizer]
    model = build_model(recipe, vocab_size=vocabulary).to(memory_format=torch.channels_last).eval()  # as a loaded one
    return Subject(model, recipe, f"{recipe.arch}, random weights", vocabulary)


@contextmanager
def _explained(request: BenchRequest, images: int, phrases: int) -> Iterator[None]:
    """What torch says when a batch is too large or too small, or its compiler finds no C++, in one line."""
    try:
        yield
    except RefsegError:
        raise
    except (MemoryError, ValueError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
            raise RefsegError(
                f"not enough memory for {images} images with {phrases} phrases each",
                hint="take smaller --batch-sizes or fewer --phrases",
            ) from error
        if "more than 1 value per channel when training" in text:
            raise RefsegError(
                f"{images} images with {phrases} phrases each are too few to train on: batch normalisation needs two",
                hint="take larger --batch-sizes",
            ) from error
        if request.compile:
            raise compiling.compiler_failed(error) from error
        raise
