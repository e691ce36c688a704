"""ReLA with the official state dict's names and shapes, stage by stage against the official code's outputs."""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import patch

import pytest
import torch
from goldens import compare, compare_all, float64, golden_names, inputs, load_official, official_fill
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.config import build
from refseg_cli.layers.region_decoder import region_masks
from refseg_cli.layers.upsampling import resized
from refseg_cli.models.rela import OFFICIAL_KEYS, ReLA, ReLAConfig, official_config
from refseg_cli.records import Batch, Prediction

NO_DOWNLOAD = {"pretrained": False, "text_pretrained": False}


@functools.cache
def weights() -> dict[str, Tensor]:
    return official_fill("rela_swin-b")


def official_model(size: tuple[int, int]) -> ReLA:
    with float64():
        config = build(ReLAConfig, official_config(weights()) | NO_DOWNLOAD, "official_config")
        model = ReLA(config, vocab_size=30522, max_tokens=20, size=size).eval()
    load_official(model, weights(), OFFICIAL_KEYS)
    return model


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("file", ["rela_swin-b_160x224", pytest.param("rela_swin-b_480x480", marks=pytest.mark.slow)])
def test_every_stage_equals_the_official_code(file: str) -> None:
    batch = inputs(file)
    model = official_model((batch.images.shape[-2], batch.images.shape[-1]))
    seen = watch(model)
    with torch.no_grad():
        prediction = model(batch)
        found = seen | outputs(prediction, batch)
        blocking = attention(model, seen)
        unloaded = outputs(without_lang_weight(model, batch, seen), batch)
    found |= {f"{name}_lang_weight_0": unloaded[name] for name in ("mask_logits", "nt_logits")}
    assert set(found) == set(golden_names(file))
    compare_all(file, found)
    for name, counted in blocking.items():
        # The smallest of a million logits, in units of their deviation, differs by less than 1e-9.
        compare(file, name, counted, tolerance=1e-2)
    foreground_wins = found["mask_logits"].argmax(1) == 1
    assert torch.equal(prediction.mask_logits[:, 0] > 0, foreground_wins)
    assert torch.equal(prediction.exists_logit > 0, found["nt_logits"].argmax(1) == 0)


def watch(model: ReLA) -> dict[str, Tensor]:
    """Fills in what goes by under the goldens' names, while the model runs."""
    seen: dict[str, Tensor] = {}

    def note(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda *call: seen.update({name: call[-1]}))

    def pixels(*call: Any) -> None:
        memory = dict(zip(("memory_s32", "memory_s16", "memory_s8"), call[-1].memory, strict=True))
        seen.update(memory | {"mask_features": call[-1].mask_features})

    note(model.text, "text")
    model.encoder.register_forward_hook(
        lambda *call: seen.update({f"res{k}": x for k, x in enumerate(call[-1][0], start=2)})
    )
    model.pixel_decoder.register_forward_hook(pixels)
    layers = model.region_decoder.layers
    note(layers[0].image, "layer0_cross")
    note(layers[0].language.attend, "layer0_language")
    for k, layer in enumerate(layers):
        note(layer, f"queries{k}")
    return seen


def outputs(prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """The official outputs, two channels each, put together from `aux`."""
    filters, features = prediction.aux["region_filters"], prediction.aux["mask_features"]
    minimap, absent = prediction.aux["minimap_channels"], prediction.aux["absent_channels"]
    masks = region_masks(filters, features, None)
    logits = torch.einsum("nqk,nqhw->nkhw", minimap, masks)  # as the official code does it, region by region
    full = F.interpolate(logits, batch.images.shape[-2:], mode="bilinear", align_corners=False)
    return {
        "region_masks": masks,
        "minimap_logits": minimap,
        "nt_logits": absent,
        "mask_logits": logits,
        "mask_prob": full.sigmoid(),
        "nt_prob": absent.sigmoid(),
    }


def without_lang_weight(model: ReLA, batch: Batch, seen: dict[str, Tensor]) -> Prediction:
    """What the official evaluation gives, which never loads `lang_weight`; only the region decoder depends on it."""
    words, maps = seen["text"], [seen[f"res{k}"] for k in range(2, 6)]
    model.region_decoder.layers[0].language.weight.zero_()
    with (
        patch.object(model.text, "forward", lambda *_: words),
        patch.object(model.encoder, "forward", lambda *_: (maps, None)),
    ):
        return model(batch)


def attention(model: ReLA, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """How the region masks block the attention, from the queries before and behind every layer."""
    decoder, levels = model.region_decoder, [seen["memory_s32"], seen["memory_s16"], seen["memory_s8"]]
    queries = [decoder.query_feat.expand(2, -1, -1), *(seen[f"queries{k}"] for k in range(9))]
    blocked, full, margin = [], [], []
    for k, x in enumerate(queries):
        masks = region_masks(decoder.heads.filters(x), seen["mask_features"], None)
        z = resized(masks, levels[k % 3]).flatten(2)
        blocked.append((z < 0).sum())
        full.append((z < 0).all(-1).sum())
        margin.append(z.abs().min() / z.std(correction=0))
    return {
        "attention_blocked": torch.stack(blocked),
        "attention_full_rows": torch.stack(full),
        "attention_margin": torch.stack(margin),
    }
