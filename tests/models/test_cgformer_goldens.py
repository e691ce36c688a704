"""CGFormer with the official state dict's names and shapes, stage by stage against the official code's outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from goldens import compare_all, float64, golden_names, inputs, load_official, official_fill
from torch import Tensor
from torch.nn import functional

from refseg_cli.config import build
from refseg_cli.models.cgformer import OFFICIAL_KEYS, CGFormer, CGFormerConfig, official_config
from refseg_cli.records import Batch

FILE, SIZE = "cgformer_480x480", (480, 480)
NO_DOWNLOAD = {"pretrained": False, "text_pretrained": False}


def official_model() -> CGFormer:
    weights = official_fill("cgformer")
    with float64():
        config = build(CGFormerConfig, official_config(weights) | NO_DOWNLOAD, "official_config")
        model = CGFormer(config, vocab_size=30522, max_tokens=20, size=SIZE).eval()
    load_official(model, weights, OFFICIAL_KEYS)
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("shared")
def test_every_stage_equals_the_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, model = inputs(FILE), official_model()
    each: dict[str, list[Tensor]] = defaultdict(list)
    with torch.no_grad():
        for row in range(2):  # one by one: the mask head takes 5 GB of memory for each
            one = slice(row, row + 1)
            seen = watch(model, monkeypatch)
            logits = model(
                Batch(batch.images, batch.tokens[one], batch.attention_mask[one], batch.image_index[one])
            ).mask_logits
            seen |= rows_and_count(seen["raw"], logits)
            for name, tensor in seen.items():
                each[name].append(tensor)
    both = {name: torch.cat(pair) for name, pair in each.items()}
    assert set(both) == set(golden_names(FILE))
    compare_all(FILE, both)


def rows_and_count(raw: Tensor, logits: Tensor) -> dict[str, Tensor]:
    return {
        "raw_rows": raw[:, 0, [0, 1, 241, 480, 481]],
        "logits": logits,
        "logits_rows": logits[:, 0, [0, 1, 240, 478, 479]],
        "logits_positive": (logits > 0).sum((1, 2, 3)),
    }


def watch(model: CGFormer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Fills in what goes by under the goldens' names, while the model runs."""
    seen: dict[str, Tensor] = {}
    calls: dict[str, int] = defaultdict(int)

    def on(module: torch.nn.Module, note: Callable[[Any, Any], dict[str, Tensor]]) -> None:
        module.register_forward_hook(lambda _, args, output: seen.update(note(args, output)))

    def numbered(name: str, tensor: Tensor) -> dict[str, Tensor]:
        calls[name] += 1
        return {f"{name}{calls[name]}": tensor}

    def grouped(_: Any, output: Any) -> dict[str, Tensor]:
        tokens, shares = output
        side = round(shares.similarity.shape[-1] ** 0.5)
        return (
            numbered("tokens", tokens)
            | numbered("cos", shares.similarity)
            | numbered("assign", shares.groups.argmax(1).unflatten(1, (side, side)))
        )

    def maps(name: str) -> Callable[[Any, Any], dict[str, Tensor]]:
        return lambda _, output: {f"{name}{k}": x for k, x in enumerate(output, start=1)}

    on(model.text, lambda _, output: {"bert": output})
    for fusion in model.vision.fusions:
        on(fusion, lambda args, _: numbered("swin", args[0]))
    for gate in model.vision.gates:
        on(gate, lambda _, output: numbered("gated", output))
    on(model.vision, maps("c"))
    on(model.pyramid, maps("fuse"))
    for k in (2, 3):
        on(model.tokens.levels[str(k - 1)].load, lambda _, output, k=k: {f"loaded{k}": output})
    for group in model.tokens.groups.values():
        on(group, grouped)
    on(model.head.kernel, lambda _, output: {"kernel": output})
    interpolate = functional.interpolate

    def spy(x: Tensor, *args: Any, **how: Any) -> Tensor:
        if how["align_corners"] and x.shape[1] == 1:  # the logits with their ring
            seen["raw"] = x
        return interpolate(x, *args, **how)

    monkeypatch.setattr(functional, "interpolate", spy)
    return seen
