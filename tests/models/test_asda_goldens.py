"""ASDA with the official state dict's names and shapes, stage by stage against the official code's outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from goldens import compare_all, golden_names, inputs, official_fill, official_layout
from torch import Tensor, nn

from refseg_cli.config import build
from refseg_cli.layers.keymap import rename
from refseg_cli.models.asda import ASDA, ASDAConfig
from refseg_cli.models.asda_official import OFFICIAL_KEYS, official_config

FILE = "asda_416x416"
VOCABULARY, MAX_TOKENS = 49408, 17


def build_official(weights: dict[str, Tensor]) -> ASDA:
    """The model that official weights ask for, on the meta device."""
    table = official_config(weights) | {"pretrained": False, "text_pretrained": False}
    with torch.device("meta"):
        config = build(ASDAConfig, table, "official_config")
        return ASDA(config, vocab_size=VOCABULARY, max_tokens=MAX_TOKENS, size=(416, 416)).eval()


@pytest.mark.usefixtures("shared")
def test_every_official_tensor_has_its_place() -> None:
    weights = official_layout("asda")
    renamed, model = rename(weights, OFFICIAL_KEYS), build_official(weights)
    assert renamed.unknown == []
    assert {key: t.shape for key, t in renamed.weights.items()} == {k: t.shape for k, t in model.state_dict().items()}
    assert all(renamed.dropped.values())  # each with its reason
    unread = [key for key in renamed.dropped if not key.startswith("visu_resblocks.") and "running_" not in key]
    assert len([key for key in unread if "num_batches_tracked" not in key]) == 45


def watch(model: ASDA) -> dict[str, Any]:
    """Fills in what goes by while the model runs, under the goldens' names where it is one of them as it stands."""
    seen: dict[str, Any] = {}

    def out(module: nn.Module, name: str) -> None:
        module.register_forward_hook(lambda *call: seen.update({name: call[-1]}))

    def blocks(modules: Any, name: str) -> None:
        for n, module in enumerate(modules):
            module.register_forward_hook(lambda *call, n=n: seen.setdefault(name, {}).update({n: call[-1]}))

    blocks(model.vision.net.blocks, "vision")
    blocks(model.reader.encoder.blocks, "text_states")
    out(model.vision.net.norm_pre, "embed")
    out(model.reader, "said")
    for scorer, name in zip(model.selection.scorers, ("scores_low", "scores_mid"), strict=True):
        out(scorer, name)
    model.aggregate.register_forward_hook(lambda _, args, coarse: seen.update(fused=args[0], pooled=coarse))
    model.aggregate.register_forward_hook(lambda _, args, __: seen.update(map_low=args[1], map_mid=args[2]))
    for name in ("high", "mid", "low"):
        out(getattr(model.aggregate, name), f"pyramid_{name}")
    out(model.aggregate.out, "pyramid_out")
    model.aggregate.out.register_forward_hook(lambda _, args, __: seen.update(sum_low=args[0]))
    out(model.aggregate.lateral[1], "lateral_mid")
    out(model.aggregate.lateral[0], "lateral_high")
    out(model.aligner.visual, "encoded")
    model.aligner.visual.layers[0].register_forward_pre_hook(
        lambda _, __, kwargs: seen.update(kwargs), with_kwargs=True
    )
    out(model.aligner.words.project, "word_inputs")
    out(model.aligner.words, "attended")
    out(model.aligner.coefficients.map, "coef_map")
    out(model.aligner.coefficients.gather, "coef_linear")
    return seen


def under_golden_names(model: ASDA, seen: dict[str, Any]) -> dict[str, Tensor]:
    said, vision = seen.pop("said"), torch.stack([x.expand(2, -1, -1) for x in seen.pop("vision").values()])
    mid, high = seen.pop("lateral_mid"), seen.pop("lateral_high")
    up = nn.functional.interpolate(high, scale_factor=2.0, mode="nearest")
    rows = {name: seen[name].flatten(2).transpose(1, 2) for name in ("encoded", "attended")}
    return seen | {
        **rows,
        "embed": seen["embed"].expand(2, -1, -1),
        "class_tokens": vision[:, :, 0],
        "patch_tokens": vision[:, :, 1:],
        "map_high": vision[-1, :, 1:].transpose(1, 2).unflatten(2, (26, 26)),
        "text_states": torch.stack(list(seen["text_states"].values())),
        "eos_states": torch.stack(said.ends),
        "class_projected": model.selection.project(vision[:, :, 0]),
        "words": said.words,
        "sentence": said.sentence,
        "sum_mid": mid + up,
        "word_inputs": torch.relu(seen["word_inputs"]),
    }


@pytest.mark.slow
@pytest.mark.usefixtures("shared")
def test_every_stage_equals_the_official_code() -> None:
    weights = official_fill("asda")
    batch, model = inputs(FILE), build_official(weights)
    model.load_state_dict(rename(weights, OFFICIAL_KEYS).weights, assign=True)
    seen = watch(model)
    with torch.no_grad():
        prediction = model(batch)
        tensors = under_golden_names(model, seen)
    for name in ("low", "mid"):  # the official scores have a bias, which selects nothing
        tensors[f"scores_{name}"] = tensors[f"scores_{name}"] + weights[f"feature_selector_{name[0]}.bias"]
    aux = prediction.aux
    tensors |= {"prototypes": aux["response_masks"], "coefficients": aux["coefficients"]}
    tensors |= {"picked_low": aux["low_layer"] - 1, "picked_mid": aux["mid_layer"] - 1}  # ours count from 1
    tensors["logits"] = prediction.mask_logits
    assert set(tensors) == set(golden_names(FILE))
    compare_all(FILE, tensors)
