"""DeRIS with the official state dict's names and shapes, stage by stage against the official code's outputs.

deris_goldens.json has of each tensor the mean, deviation and largest value, and 24 of its values. They are of the
official modules (github Dmmm1997/DeRIS 2406687, torchscale 0.3.0) made smaller: Swin-T, BEiT-3 of two layers and 16
patches, 5 queries; on the CPU, in evaluation, each phrase a batch of its own, with every constant and cast in float64
where the official code has float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deris_official import SMALL, layout
from goldens import _images, filled, load_official
from torch import Tensor

from refseg_cli.config import build
from refseg_cli.models.deris import DeRIS, DeRISConfig
from refseg_cli.models.deris_official import OFFICIAL_KEYS, official_config
from refseg_cli.records import Batch

SIZE, MINI, PAD = (96, 128), (64, 64), 1
GOLDENS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("deris_goldens.json").read_text())

# Largest difference over the deviation: float64 as it is; the official code itself, in float32, is up to 3e-5 from it.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}


def official_model(dtype: torch.dtype) -> DeRIS:
    weights = filled("deris", layout(SMALL))
    config = build(DeRISConfig, official_config(weights) | {"pretrained": False}, "official_config")
    model = DeRIS(config, vocab_size=100, max_tokens=8, size=SIZE).eval().to(dtype)
    load_official(model, weights, OFFICIAL_KEYS)
    return model


def a_batch(dtype: torch.dtype) -> Batch:
    """Two pictures with a phrase each, the first of six tokens."""
    tokens = torch.tensor([[0, 17, 5, 88, 42, 2, PAD, PAD], [0, 9, 33, 7, 61, 12, 3, 2]])
    large, small = (_images(2, *size, plain=False).to(dtype) for size in (SIZE, MINI))
    return Batch(large, tokens, tokens != PAD, torch.arange(2), small=small)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_stage_equals_the_official_code(dtype: torch.dtype) -> None:
    model, batch = official_model(dtype), a_batch(dtype)
    seen = dict(tensors(model, batch))
    assert list(seen) == list(GOLDENS)
    for name, tensor in seen.items():
        golden, flat = GOLDENS[name], tensor.double().flatten()
        assert list(tensor.shape) == golden["shape"], name
        at = [(k * 7919 + 13) % len(flat) for k in range(24)]
        found = [*flat[at].tolist(), flat.mean().item(), flat.std(correction=0).item(), flat.abs().max().item()]
        expected = [*golden["sampled"], golden["mean"], golden["std"], golden["largest"]]
        scale = max(golden["std"], abs(golden["mean"]))  # the two existence logits lie close together
        error = max(abs(a - b) for a, b in zip(found, expected, strict=True)) / scale
        assert error <= TOLERANCES[dtype], f"{name} is off by {error:.2g} of its spread"


def tensors(model: DeRIS, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """What the model computes under the goldens' names, in order."""
    noted: dict[str, Any] = {}
    for name in ("seen", "said", "queries", "vision", "pixel_decoder"):
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: noted.update({name: call[-1]}))
    with torch.no_grad():
        prediction = model(batch)
        stages, features, _ = model._decoded(batch)
    yield "seen", noted["seen"].movedim(-1, 1)
    yield "said", noted["said"]
    yield "start", noted["queries"].expand(2, -1, -1)
    yield from ((f"c{k}", x) for k, x in enumerate(noted["vision"], start=1))
    yield from ((f"memory{k}", x) for k, x in enumerate(noted["pixel_decoder"].memory))
    yield "mask_features", noted["pixel_decoder"].mask_features
    yield "features", features
    for k, stage in enumerate(stages):
        yield f"masks{k}", stage.masks
        yield f"queries{k}", stage.queries
        yield f"referred{k}", stage.referred
    yield "masks", torch.nn.functional.interpolate(stages[-1].masks, SIZE, mode="bilinear", align_corners=True)
    yield "existence", prediction.aux["existence"]
