"""CARIS with the official state dict's names and shapes, stage by stage against the official code's outputs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from goldens import compare_all, float64, golden_names, inputs, load_official, official_fill
from torch import Tensor

from refseg_cli.config import build
from refseg_cli.models.caris import CARIS, OFFICIAL_KEYS, CARISConfig, official_config, upsample

NO_DOWNLOAD = {"pretrained": False, "text_pretrained": False}
WORDS = 20


@functools.cache
def weights() -> dict[str, Tensor]:
    return official_fill("caris")


def official_model(size: tuple[int, int]) -> CARIS:
    with float64():
        config = build(CARISConfig, official_config(weights()) | NO_DOWNLOAD, "official_config")
        model = CARIS(config, vocab_size=30522, max_tokens=WORDS, size=size).eval()
    load_official(model, weights(), OFFICIAL_KEYS)
    return model


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("file", ["caris_160x224", pytest.param("caris_448x448", marks=pytest.mark.slow)])
def test_every_stage_equals_the_official_code(file: str) -> None:
    batch = inputs(file)
    size = (batch.images.shape[-2], batch.images.shape[-1])
    model = official_model(size)
    seen = watch(model)
    with torch.no_grad():
        prediction = model(batch)
        classes = prediction.aux["classes"]
        # The model never forms the mask's features: their convolution is folded into the classes.
        seen["mask_features"] = model.head.features(seen["mask_features"])
    seen |= {"logits_quarter": classes, "logits": upsample(classes, size)}
    assert set(seen) == set(golden_names(file))
    compare_all(file, seen)
    foreground_wins = seen["logits"].argmax(1, keepdim=True) == 1
    assert torch.equal(prediction.mask_logits > 0, foreground_wins)


def watch(model: CARIS) -> dict[str, Tensor]:
    """Fills in what goes by under the goldens' names, while the model runs."""
    seen: dict[str, Tensor] = {}

    def note(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda *call: seen.update({name: call[-1]}))

    def maps(*call: Any) -> None:
        seen.update({f"blocks{k}": x.flatten(2).transpose(1, 2) for k, x in enumerate(call[-1], start=1)})

    def begins(_: Any, args: tuple[Any, ...]) -> None:
        scene = args[3]
        seen["positions"] = scene.positions.expand(len(scene.places), -1, -1)

    def stage(k: int) -> Any:
        def hook(_: Any, __: Any, out: Any) -> None:
            words, prompts = out.tokens.split([WORDS, out.tokens.shape[1] - WORDS], 1)
            seen.update({f"words{k}": words, f"visprompts{k}": prompts, f"pixels{k}": out.pixels})

        return hook

    model.vision.backbone.register_forward_hook(maps)
    model.vision.register_forward_hook(lambda *call: seen.update({f"c{k}": x for k, x in enumerate(call[-1], start=1)}))
    note(model.text_prompts, "prompts")
    encoder = model.text.bert.encoder
    encoder.register_forward_pre_hook(lambda _, args: seen.update(text_in=args[0]))
    encoder.register_forward_hook(lambda *call: seen.update(text=call[-1].last_hidden_state))
    note(model.words, "words")
    for project, stride in zip(model.decoder.project, (32, 16, 8), strict=True):
        note(project, f"project_s{stride}")
    first = model.decoder.layers[0]
    first.register_forward_pre_hook(begins)
    names = {"v2l": "read", "words": "talk", "mlp": "token", "l2v": "heed", "deform": "look"}
    for theirs, ours in names.items():
        note(first.get_submodule(f"{ours}_norm"), f"layer0_{theirs}")
    for k, layer in enumerate(model.decoder.layers):
        layer.register_forward_hook(stage(k))
    note(model.decoder.lateral, "lateral")
    model.head.pixels.register_forward_pre_hook(lambda _, args: seen.update(fpn=args[0]))
    note(model.head.pixels, "mask_features")  # before the last convolution
    note(model.head.tokens, "class_embed")
    return seen
