"""From logits to decisions: devices, masks at original size, target or no target.

Axes: N expressions, h w original picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from refseg_cli.data.transforms import Placement, to_original
from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Prediction, Thresholds
from refseg_cli.segmenters.memory import keep_freed_memory


@dataclass(frozen=True, slots=True)
class Decision:
    """What the model says of one expression.

    mask: (h, w) bool at original size, all False where there is no target.
    raw: the same before the no-target rule emptied it.
    p_target: probability that there is a target; for models without a no-target head the mask's peak probability.
    """

    mask: np.ndarray
    raw: np.ndarray
    exists: bool
    p_target: float


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU; otherwise the device of that name, if it is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RefsegError(
            f"device {name!r} cannot be used: {reason}", hint="one of: auto, cpu, cuda, cuda:N, mps"
        ) from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def postprocess(prediction: Prediction, batch: Batch, thresholds: Thresholds) -> list[Decision]:
    """One decision for each expression of the batch, masks at their picture's original size."""
    assert batch.sizes is not None
    assert batch.content is not None
    input_size = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    sizes, content = batch.sizes.tolist(), batch.content.tolist()
    exists = None if prediction.exists_logit is None else prediction.exists_logit.float().sigmoid().tolist()
    # A probability above t is a logit above log(t / (1 - t)): no sigmoid at full size.
    cut = float(torch.logit(torch.tensor(thresholds.mask, dtype=torch.float64)))
    decisions: list[Decision] = []
    for image, (size, place) in enumerate(zip(sizes, content, strict=True)):
        rows = torch.nonzero(batch.image_index == image)[:, 0]
        logits = to_original(prediction.mask_logits[rows, 0], Placement(*place), input_size, (size[0], size[1]))
        masks = (logits > cut).cpu().numpy()
        scores = logits.amax((1, 2)).sigmoid().tolist() if exists is None else [exists[r] for r in rows.tolist()]
        decisions += _decide(masks, scores, thresholds, has_head=exists is not None)
    return decisions


def _decide(masks: np.ndarray, scores: Sequence[float], thresholds: Thresholds, *, has_head: bool) -> list[Decision]:
    """The no-target rule: the head's word, where there is a head, and enough pixels in any case."""
    pixels = masks.reshape(len(masks), -1).sum(1)
    decisions = []
    for mask, count, score in zip(masks, pixels, scores, strict=True):
        present = int(count) >= thresholds.min_pixels and (not has_head or score >= thresholds.exists)
        decisions.append(Decision(mask if present else np.zeros_like(mask), mask, present, float(score)))
    return decisions
