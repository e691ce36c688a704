"""From logits to decisions: devices, masks at original size, target or no target.

Axes: N expressions, h w original picture.
"""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from refseg_cli.data.placement import Placement
from refseg_cli.data.transforms import to_original
from refseg_cli.errors import RefsegError, first_line, unknown_name
from refseg_cli.records import Batch, Prediction, Thresholds
from refseg_cli.segmenters.decisions import Decision, decide, logit
from refseg_cli.segmenters.memory import keep_freed_memory

DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU; otherwise the device of that name, if it is there.

    Of several processes that a launcher started on a machine, `auto` gives each a GPU of its own (LOCAL_RANK).
    """
    if name == "auto":
        cuda = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        name = cuda if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        if "device type at start of device string" in reason:  # torch lists twenty that hardly anybody has
            raise unknown_name("device", name, DEVICES) from error
        raise RefsegError(f"device {name!r} cannot be used: {reason}", hint=f"one of: {', '.join(DEVICES)}") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def postprocess(prediction: Prediction, batch: Batch, thresholds: Thresholds, *, soft: bool = False) -> list[Decision]:
    """One decision for each expression of the batch, masks at their picture's original size.

    soft: with the probability of each pixel.
    """
    assert batch.sizes is not None
    assert batch.content is not None
    input_size = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    sizes, content = batch.sizes.tolist(), batch.content.tolist()
    exists = None if prediction.exists_logit is None else prediction.exists_logit.float().sigmoid().tolist()
    cut = logit(thresholds.mask)
    decisions: list[Decision] = []
    for image, (size, place) in enumerate(zip(sizes, content, strict=True)):
        rows = torch.nonzero(batch.image_index == image)[:, 0]
        logits = to_original(prediction.mask_logits[rows, 0], Placement(*place), input_size, (size[0], size[1]))
        masks = (logits > cut).cpu().numpy()
        scores = logits.amax((1, 2)).sigmoid().tolist() if exists is None else [exists[r] for r in rows.tolist()]
        found = decide(masks, scores, thresholds, has_head=exists is not None)
        if soft:
            maps = logits.sigmoid().cpu().numpy()
            found = [replace(one, soft=each) for one, each in zip(found, maps, strict=True)]
        decisions += found
    return decisions
