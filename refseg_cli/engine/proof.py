"""The proof that an exported graph computes what its model computes: on random pictures and on real ones, in batches of
other sizes than the traced one.

Axes: I pictures, N phrases, h w pixels of a picture.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from refseg_cli.checkpoint import Checkpoint
from refseg_cli.data.loader import batch_for
from refseg_cli.data.pictures import as_tensor
from refseg_cli.engine.questions import Question
from refseg_cli.engine.tracing import example
from refseg_cli.metrics.counts import count_pixels
from refseg_cli.records import Batch, Prediction
from refseg_cli.segmenters.inference import postprocess
from refseg_cli.segmenters.passes import joined

Run = Callable[[Sequence[Tensor]], list[Tensor]]

PROVEN = ((1, 1), (1, 4), (2, 5), (3, 3))  # random images, expressions; other sizes than the traced one
# Largest difference from the model, as a share of its largest logit (at least 1). The same float32 sums in another
# order differ by 1e-7 to 1e-5 of that; an operator that means something else differs by far more than 1e-4.
TOLERANCE = 1e-4
LEAST_IOU = 0.99  # of masks; where logits agree so well, pixels at the threshold alone can differ
TIMED = 3  # runs of each, in turn


@dataclass(frozen=True, slots=True)
class Proof:
    """How near an export is to its model.

    difference: largest absolute difference of any output, over all batches; NaN if there is one in an output.
    scale: the model's largest absolute output there, which `difference` is to be seen against.
    batches: (pictures, phrases) of each.
    data: where the real pictures are from: `demo`, or the data's folder or URI.  pictures, phrases: how many.
    mask_iou: of the real pictures' masks at original size, the model's and the export's, in [0, 1]: the intersections
        of all phrases over their unions; 1 where all are empty.  mask_pixels: in the model's.
    eager_ms, exported_ms: median times for one of the real pictures with its phrases, on this machine.
    """

    difference: float
    scale: float
    batches: tuple[tuple[int, int], ...]
    data: str
    pictures: int
    phrases: int
    mask_iou: float
    mask_pixels: int
    eager_ms: float
    exported_ms: float

    @property
    def finite(self) -> bool:
        """Whether every output is a number."""
        return math.isfinite(self.difference)

    @property
    def holds(self) -> bool:
        """Whether the export computes the same, up to the order of sums."""
        return self.difference <= TOLERANCE * max(1.0, self.scale) and self.mask_iou >= LEAST_IOU


def prove(run: Run, graph: nn.Module, loaded: Checkpoint, questions: Sequence[Question], data: str | None) -> Proof:
    """Run both on the same batches; `questions` are the real pictures, of `data` or of the demo.

    Raises:
        ValueError: an output of another shape.
    """
    real = list(real_batches(questions, loaded))
    random = [example(loaded, *sizes, seed=seed) for seed, sizes in enumerate(PROVEN, start=1)]
    difference = scale = 0.0
    intersection = union = pixels = 0
    for inputs, batch in [*((given, None) for given in random), *((_inputs(batch), batch) for batch in real)]:
        with torch.inference_mode():
            expected, found = list(graph(*inputs)), run(inputs)
        for ours, theirs in zip(found, expected, strict=True):
            difference = _worse(difference, _difference(ours, theirs))
            scale = max(scale, float(theirs.abs().max()))
        if batch is not None:
            for one, other in zip(*(_masks(outputs, batch, loaded) for outputs in (expected, found)), strict=True):
                counted = count_pixels(one, other)
                intersection += counted.intersection
                union += counted.predicted + counted.target - counted.intersection
                pixels += counted.predicted
    eager_ms, exported_ms = _milliseconds(run, graph, _inputs(real[1]))
    return Proof(
        difference=difference,
        scale=scale,
        batches=tuple((len(images), len(tokens)) for images, tokens, *_ in [*random, *map(_inputs, real)]),
        data=data or "demo",
        pictures=len(questions),
        phrases=sum(len(question.phrases) for question in questions),
        mask_iou=intersection / union if union else 1.0,
        mask_pixels=pixels,
        eager_ms=eager_ms,
        exported_ms=exported_ms,
    )


def real_batches(questions: Sequence[Question], loaded: Checkpoint) -> Iterator[Batch]:
    """The first picture with one phrase, with all of its phrases, and all pictures with all of theirs."""
    config = loaded.recipe.data
    each = [batch_for(as_tensor(asked.image), asked.phrases, loaded.tokenizer, config).to("cpu") for asked in questions]
    first = each[0]
    yield replace(
        first,
        tokens=first.tokens[:1],
        attention_mask=first.attention_mask[:1],
        image_index=first.image_index[:1],
    )
    yield first
    yield joined(each)


def _inputs(batch: Batch) -> tuple[Tensor, ...]:
    more = () if batch.small is None else (batch.small,)
    return batch.images, batch.tokens, batch.attention_mask, batch.image_index, *more


def _masks(outputs: Sequence[Tensor], batch: Batch, loaded: Checkpoint) -> list[np.ndarray]:
    """N masks (h, w) bool of the pictures' own sizes."""
    logits, *exists = outputs
    prediction = Prediction(logits, exists[0] if exists else None)
    return [decision.mask for decision in postprocess(prediction, batch, loaded.thresholds)]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"outputs of shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
    return float((ours - theirs).abs().max())


def _worse(one: float, other: float) -> float:
    """The larger one; NaN if either is."""
    return other if other != other else one if one != one else max(one, other)


def _milliseconds(run: Run, graph: nn.Module, inputs: Sequence[Tensor]) -> tuple[float, float]:
    """Medians of the model and of its export, which take turns; both have run before."""
    eager, exported = [], []
    for _ in range(TIMED):
        start = time.perf_counter()
        with torch.inference_mode():
            graph(*inputs)
        middle = time.perf_counter()
        run(inputs)
        eager.append(middle - start)
        exported.append(time.perf_counter() - middle)
    return 1000 * median(eager), 1000 * median(exported)
