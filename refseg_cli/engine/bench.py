"""How long a model takes, and what it needs: latency, throughput, memory and arithmetic over batch sizes.

Timed is the forward pass alone, in eval mode, from tensors on the device to logits on the device: no decoding of
images, no tokenising, no resizing of masks.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from refseg_cli import checkpoint
from refseg_cli.config import Recipe
from refseg_cli.errors import RefsegError
from refseg_cli.models import build_model
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Batch
from refseg_cli.segmenters.choice import is_exported, open_checkpoint, usual_device
from refseg_cli.segmenters.inference import pick_device

Precision = Literal["fp32", "bf16", "fp16"]

# Words of a recipe's vocabulary, where no data was read: BERT's and CLIP's own, and about as many as RefCOCO has.
VOCABULARY = {"words": 10_000, "bert": 30_522, "clip": 49_408}
SAMPLING = 0.002  # seconds between looks at the process's memory
MIB, GIGA = 2**20, 1e9


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure: `model` (a checkpoint, a training run or an exported model), else `recipe` with random weights,
    else the bundled model.

    batch_sizes: images at a time, one row each.  phrases: for each image.  repeat: timed runs of each row, after
    `warmup` others.
    """

    model: str | Path | None = None
    recipe: Recipe | None = None
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    phrases: int = 1
    repeat: int = 20
    warmup: int = 3
    device: str = "auto"
    precision: Precision = "fp32"


@dataclass(frozen=True, slots=True)
class Row:
    """One batch size. peak_memory_mib: see `BenchReport.memory`.  gflops: of one forward pass, None where unknown."""

    images: int
    expressions: int
    latency_p50_ms: float
    latency_p95_ms: float
    images_per_s: float
    expressions_per_s: float
    peak_memory_mib: float
    gflops: float | None


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The rows and what they depend on.

    parameters: all of them, the embeddings included.  gflops_per_image, gflops_per_phrase: floating point operations
    of matrix products and convolutions, a multiply and an add counted as two (GMACs are half of it); an image with K
    phrases takes per_image + K per_phrase. All three are None for an exported graph, which does not say.  memory: what
    the rows' peak is of.
    """

    model: str
    device: str
    precision: str
    threads: int
    torch: str
    size: tuple[int, int]
    max_tokens: int
    parameters: int | None
    gflops_per_image: float | None
    gflops_per_phrase: float | None
    memory: str
    repeat: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {"schema": "refseg.bench/1", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured. vocabulary: token ids there are."""

    model: nn.Module
    recipe: Recipe
    name: str
    vocabulary: int

    def batch(self, images: int, phrases: int) -> Batch:
        """Random input of which every token counts."""
        expressions, length = images * phrases, self.recipe.text.max_tokens
        return Batch(
            images=torch.randn(images, 3, *self.recipe.data.size),
            tokens=torch.randint(self.vocabulary, (expressions, length)),
            attention_mask=torch.ones(expressions, length, dtype=torch.bool),
            image_index=torch.arange(expressions) // phrases,
        )


def bench(request: BenchRequest, *, progress: Progress = silent) -> BenchReport:
    """Measure.

    Raises:
        RefsegError: no such model or device, a batch size below one, or not enough memory for a row.
    """
    _check(request)
    device = pick_device(usual_device(request.model, request.device))
    subject = _subject(request)
    # The counter sees torch's operators, and an exported graph has none.
    flops = None if is_exported(request.model) else count_flops(subject)
    subject.model.to(device)
    rows = []
    for done, images in enumerate(request.batch_sizes):
        progress("bench", done, len(request.batch_sizes), images=str(images))
        of_batch = None if flops is None else images * (flops[0] + request.phrases * flops[1])
        rows.append(_row(subject, request, device, images, of_batch))
    progress("bench", len(request.batch_sizes), len(request.batch_sizes))
    return BenchReport(
        model=subject.name,
        device=_device_name(device),
        precision=request.precision,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        size=subject.recipe.data.size,
        max_tokens=subject.recipe.text.max_tokens,
        parameters=sum(p.numel() for p in subject.model.parameters()) or None,
        gflops_per_image=None if flops is None else flops[0] / GIGA,
        gflops_per_phrase=None if flops is None else flops[1] / GIGA,
        memory="allocated on the device" if device.type == "cuda" else "resident in the process, libraries included",
        repeat=request.repeat,
        rows=tuple(rows),
    )


def _check(request: BenchRequest) -> None:
    if is_exported(request.model) and request.precision != "fp32":
        raise RefsegError(f"{request.model}: an exported model has its own precision", hint="leave --precision away")
    smallest = min((*request.batch_sizes, request.phrases, request.repeat), default=0)
    if not request.batch_sizes or smallest < 1:
        raise RefsegError("batch sizes, phrases and repeat must be at least 1")
    if request.model is not None and request.recipe is not None:
        raise RefsegError("a trained model and a recipe were asked for", hint="give one of them")


def _subject(request: BenchRequest) -> Subject:
    if request.recipe is not None:
        return untrained(request.recipe)
    loaded = open_checkpoint(request.model)
    return Subject(loaded.model, loaded.recipe, loaded.name, loaded.tokenizer.vocab_size)


def untrained(recipe: Recipe) -> Subject:
    """The recipe's model with random weights, which change neither its time nor its arithmetic."""
    recipe = checkpoint.without_downloads(recipe)
    vocabulary = VOCABULARY[recipe.text.tokenizer]
    model = build_model(recipe, vocab_size=vocabulary).eval()
    return Subject(model, recipe, f"{recipe.arch}, random weights", vocabulary)


def count_flops(subject: Subject) -> tuple[int, int]:
    """(operations of an image without language, operations of each phrase), by counting one and two phrases.

    Counted on the CPU, where a GRU is the matrix products that it is; the counter does not know cuDNN's.
    """
    counts = []
    subject.model.requires_grad_(False)  # the counter's hooks fail on views of parameters that want gradients
    for phrases in (1, 2):
        batch = subject.batch(1, phrases)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subject.model(batch)
        counts.append(counter.get_total_flops())
    one, two = counts
    return 2 * one - two, two - one


def _row(subject: Subject, request: BenchRequest, device: torch.device, images: int, flops: int | None) -> Row:
    batch = subject.batch(images, request.phrases).to(device)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[request.precision]

    def run() -> None:
        with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
            subject.model(batch)
        _wait_for(device)

    try:
        for _ in range(request.warmup):
            run()
        seconds = [_timed(run) for _ in range(request.repeat)]
        memory = _peak_memory(run, device)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise RefsegError(
                f"not enough memory for {images} images with {request.phrases} phrases each",
                hint="take smaller --batch-sizes or fewer --phrases",
            ) from error
        raise
    p50, p95 = np.percentile(seconds, [50, 95])
    rate = images * len(seconds) / sum(seconds)
    return Row(
        images=images,
        expressions=len(batch),
        latency_p50_ms=1000 * float(p50),
        latency_p95_ms=1000 * float(p95),
        images_per_s=rate,
        expressions_per_s=rate * request.phrases,
        peak_memory_mib=memory / MIB,
        gflops=None if flops is None else flops / GIGA,
    )


def _timed(run: Callable[[], None]) -> float:
    """Seconds; `run` waits for its device."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_memory(run: Callable[[], None], device: torch.device) -> int:
    """Bytes at the peak of one run that is not timed."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    if _forget_peak():
        run()
        return _resident_peak()
    return _sampled_peak(run)


def _forget_peak() -> bool:
    """Let Linux count this process's peak of resident memory anew; whether it does."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    except OSError:  # another system, or a kernel built without it
        return False
    return True


def _resident_peak() -> int:
    """Bytes of resident memory at the most since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) * 1024


def _sampled_peak(run: Callable[[], None]) -> int:
    """Bytes of resident memory at the most of what was seen, every `SAMPLING` seconds."""
    process, finished = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not finished.wait(SAMPLING):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        finished.set()
        watcher.join()
    return max(seen)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and Path("/proc/cpuinfo").is_file():  # platform.processor() is empty on Linux
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return f"cpu, {names[0]}"
    return f"{device}, {platform.machine()}"
