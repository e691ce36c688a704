"""LAVT with the official state dict's names and shapes, stage by stage against the official code's outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from goldens import FILLS, Fill, compare, compare_all, float64, golden_names, inputs, load_official, official_fill
from torch import Tensor

from refseg_cli.config import build
from refseg_cli.models.lavt import LAVT, OFFICIAL_KEYS, LAVTConfig, official_config, upsample

NO_DOWNLOAD = {"pretrained": False, "text_pretrained": False}


def official_model(name: str, size: tuple[int, int]) -> LAVT:
    weights = official_fill(name)
    with float64():
        config = build(LAVTConfig, official_config(weights) | NO_DOWNLOAD, "official_config")
        model = LAVT(config, vocab_size=30522, max_tokens=20, size=size).eval()
    load_official(model, weights, OFFICIAL_KEYS)
    return model


@pytest.mark.usefixtures("shared")
def test_comparing_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    file = "lavt_swin-t_160x224"
    batch = inputs(file)
    with pytest.raises(AssertionError, match=r"image is off by 1\.\de-05 of its deviation"):
        compare(file, "image", batch.images + 1e-5)
    between = batch.images.clone()
    between[0, 1] += 1e-3  # where the strides take nothing
    with pytest.raises(AssertionError, match="image: mean, deviation, largest"):
        compare(file, "image", between)
    with pytest.raises(AssertionError, match="token_ids: 1 of 40 integers differ"):
        compare(file, "token_ids", batch.tokens.flatten().index_fill(0, torch.tensor([0]), 7).view(2, 20))
    with pytest.raises(AssertionError, match=r"c1: shape \[1\]"):
        compare_all(file, {"c1": torch.zeros(1)})
    monkeypatch.setitem(FILLS, "lavt", Fill(0.6))
    with pytest.raises(AssertionError, match=r"patch_embed\.proj\.weight: filled"):
        official_fill("lavt_swin-t")


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    "file",
    [
        "lavt_swin-t_160x224",
        pytest.param("lavt_swin-t_480x480", marks=pytest.mark.slow),
        pytest.param("lavt_swin-b_160x224", marks=pytest.mark.slow),
        pytest.param("lavt_swin-b_480x480", marks=pytest.mark.slow),
    ],
)
def test_every_stage_equals_the_official_code(file: str) -> None:
    batch = inputs(file)
    size = (batch.images.shape[-2], batch.images.shape[-1])
    model = official_model("_".join(file.split("_")[:-1]), size)
    seen = watch(model)
    with torch.no_grad():
        prediction = model(batch)
    classes = prediction.aux["classes"]
    seen |= {"logits_quarter": classes, "logits": upsample(classes, batch.images.shape[-2:])}
    assert set(seen) == set(golden_names(file))
    compare_all(file, seen)
    foreground_wins = seen["logits"].argmax(1, keepdim=True) == 1
    assert torch.equal(prediction.mask_logits > 0, foreground_wins)


def watch(model: LAVT) -> dict[str, Tensor]:
    """Fills in what goes by under the goldens' names, while the model runs."""
    seen: dict[str, Tensor] = {}

    def note(stage: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], fused: Tensor) -> None:
            seen[f"blocks{stage}"], seen[f"fused{stage}"] = args[0], fused

        return hook

    for stage, fusion in enumerate(model.vision.fusions, start=1):
        fusion.register_forward_hook(note(stage))
    model.text.register_forward_hook(lambda *call: seen.update(text=call[-1]))
    model.vision.register_forward_hook(lambda *call: seen.update({f"c{k}": x for k, x in enumerate(call[-1], start=1)}))
    return seen
