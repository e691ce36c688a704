"""The precision of a model's arithmetic, and when `auto` may lower it.

| precision | arithmetic |
|---|---|
| fp32 | as in training on a CPU |
| bf16, fp16 | autocast: matrix products and convolutions in 16 bits, sums that need it in 32 |
| auto | bf16 where the hardware has it and the checkpoint passed `refseg calibrate --check-precision bf16`, else fp32 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any, Literal

import torch

from refseg_cli.records import Batch, Prediction, Thresholds

Precision = Literal["fp32", "bf16", "fp16"]
Wanted = Literal["fp32", "bf16", "fp16", "auto"]
CHECKED = "precisions"  # of config.json: what was found of each precision
# What autocast makes of matrices
DTYPES: dict[Precision, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Arithmetic of that precision."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def asked_at(
    model: Callable[[Batch], Prediction], device: torch.device | str, precision: Precision
) -> Callable[[Batch], Prediction]:
    """The model with its arithmetic in that precision; what decides comes out in float32."""
    if precision == "fp32":
        return model

    def ask(batch: Batch) -> Prediction:
        with autocast(torch.device(device), precision):
            found = model(batch)
        exists = found.exists_logit
        return replace(
            found, mask_logits=found.mask_logits.float(), exists_logit=None if exists is None else exists.float()
        )

    return ask


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16, so that it is not imitated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose(wanted: Wanted, device: torch.device, info: Mapping[str, Any], thresholds: Thresholds) -> Precision:
    """What `wanted` is of a checkpoint on a device.

    info: what its config.json says.  thresholds: its own; a check is of the thresholds that it was made with.
    """
    if wanted != "auto":
        return wanted
    check = info.get(CHECKED, {}).get("bf16", {})
    passed = check.get("passed") is True and check.get("thresholds") == asdict(thresholds)
    return "bf16" if passed and has_bf16(device) else "fp32"
