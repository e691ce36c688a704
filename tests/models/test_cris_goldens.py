"""CRIS with the official state dict's names and shapes, stage by stage against the official code's outputs."""

from __future__ import annotations

import pytest
import torch
from goldens import compare_all, golden_names, inputs, official_fill, official_layout
from torch import Tensor, nn

from refseg_cli.config import build
from refseg_cli.layers.keymap import rename
from refseg_cli.models.cris import CRIS, OFFICIAL_KEYS, CRISConfig, official_config

VOCABULARY, MAX_TOKENS = 49408, 17


def build_official(weights: dict[str, Tensor]) -> CRIS:
    """The model that official weights ask for, on the meta device."""
    table = official_config(weights) | {"pretrained": False, "text_pretrained": False}
    with torch.device("meta"):
        config = build(CRISConfig, table, "official_config")
        return CRIS(config, vocab_size=VOCABULARY, max_tokens=MAX_TOKENS, size=(416, 416)).eval()


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", ["cris_r50", "cris_r101"])
def test_every_official_tensor_has_its_place(name: str) -> None:
    weights = official_layout(name)
    renamed, model = rename(weights, OFFICIAL_KEYS), build_official(weights)
    assert renamed.unknown == []
    assert {key: t.shape for key, t in renamed.weights.items()} == {k: t.shape for k, t in model.state_dict().items()}
    assert set(renamed.dropped) == {"backbone.logit_scale"}


def watch(model: CRIS) -> dict[str, Tensor]:
    """Fills in what goes by under the goldens' names, while the model runs."""
    seen: dict[str, Tensor] = {}

    def note(module: nn.Module, *names: str) -> None:
        def hook(_: nn.Module, __: tuple[Tensor, ...], out: Tensor | list[Tensor]) -> None:
            seen.update(zip(names, [out] if isinstance(out, Tensor) else out, strict=False))

        module.register_forward_hook(hook)

    note(model.backbone, "v3", "v4", "layer4")
    note(model.pool, "v5")
    note(model.reader, "words", "sentence")
    note(model.neck, "fpn")
    note(model.decoder, "decoder")
    return seen


@pytest.mark.slow
@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", ["cris_r50", "cris_r101"])
def test_every_stage_equals_the_official_code(name: str) -> None:
    file = f"{name}_416x416"
    weights = official_fill(name)
    batch, model = inputs(file), build_official(weights)
    model.load_state_dict(rename(weights, OFFICIAL_KEYS).weights, assign=True)
    seen = watch(model)
    with torch.no_grad():
        seen["mask_logits"] = model(batch).mask_logits
    assert set(seen) == set(golden_names(file))
    compare_all(file, seen)
