"""ReLA's sizes, and the names of official files, against numbers and lists that were written down without our rules."""

from __future__ import annotations

import pytest
import torch

from refseg_cli.config import build
from refseg_cli.errors import RefsegError
from refseg_cli.layers.keymap import rename
from refseg_cli.models.rela import OFFICIAL_KEYS, ReLA, ReLAConfig, official_config


def full_size(**changes: object) -> ReLA:
    config = build(ReLAConfig, {"pretrained": False, "text_pretrained": False} | changes, "test")
    with torch.device("meta"):
        return ReLA(config, vocab_size=30522, max_tokens=20, size=(480, 480))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_the_official_ones() -> None:
    model = full_size()
    without_influence = 3 * (128 + 256 + 512 + 1024)  # biases of PWAM's query, key and output, see layers/pwam.py
    assert count(model) == 225_521_469 - without_influence
    assert count(model.encoder) == 96_099_704 - without_influence
    assert count(model.pixel_decoder) == 5_544_384
    assert count(model.region_decoder) == 14_985_733
    assert count(model.text) == 108_891_648


def official_r50() -> dict[str, tuple[int, ...]]:
    """detectron2's names and shapes of a ResNet-50 with frozen normalisation."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inputs: int, side: int) -> None:
        shapes[f"{name}.weight"] = (out, inputs, side, side)
        shapes.update({f"{name}.norm.{kind}": (out,) for kind in ("weight", "bias", "running_mean", "running_var")})

    conv("backbone.stem.conv1", 64, 3, 7)
    inputs = 64
    for stage, blocks in zip(range(2, 6), (3, 4, 6, 3), strict=True):
        out = 64 * 2**stage
        for k in range(blocks):
            name = f"backbone.res{stage}.{k}"
            if k == 0:
                conv(f"{name}.shortcut", out, inputs, 1)
            conv(f"{name}.conv1", out // 4, inputs, 1)
            conv(f"{name}.conv2", out // 4, out // 4, 3)
            conv(f"{name}.conv3", out, out // 4, 1)
            inputs = out
    return shapes


def official_head(model: ReLA) -> dict[str, tuple[int, ...]]:
    """The official names and shapes of everything behind the backbone, written down without the rules."""
    c, shapes = 256, dict[str, tuple[int, ...]]()

    def linear(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def attention(name: str, inner: str) -> None:
        shapes.update({f"{name}.{inner}.in_proj_weight": (3 * c, c), f"{name}.{inner}.in_proj_bias": (3 * c,)})
        linear(f"{name}.{inner}.out_proj", c, c)
        linear(f"{name}.norm", c)

    pixel, predictor = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    for k, channels in enumerate(reversed(model.encoder.channels[1:])):
        linear(f"{pixel}.input_proj.{k}.0", c, channels, 1, 1)
        linear(f"{pixel}.input_proj.{k}.1", c)
    shapes[f"{pixel}.transformer.level_embed"] = (3, c)
    for k in range(6):
        layer = f"{pixel}.transformer.encoder.layers.{k}"
        linear(f"{layer}.self_attn.sampling_offsets", 192, c)
        linear(f"{layer}.self_attn.attention_weights", 96, c)
        linear(f"{layer}.self_attn.value_proj", c, c)
        linear(f"{layer}.self_attn.output_proj", c, c)
        linear(f"{layer}.linear1", 1024, c)
        linear(f"{layer}.linear2", c, 1024)
        linear(f"{layer}.norm1", c)
        linear(f"{layer}.norm2", c)
    shapes[f"{pixel}.adapter_1.weight"] = (c, model.encoder.channels[0], 1, 1)
    shapes[f"{pixel}.layer_1.weight"] = (c, c, 3, 3)
    linear(f"{pixel}.adapter_1.norm", c)
    linear(f"{pixel}.layer_1.norm", c)
    linear(f"{pixel}.mask_features", c, c, 1, 1)
    for k in range(9):
        attention(f"{predictor}.RIA_layers.{k}", "multihead_attn")
        attention(f"{predictor}.RLA_vision.{k}", "self_attn")
        linear(f"{predictor}.transformer_ffn_layers.{k}.linear1", 2048, c)
        linear(f"{predictor}.transformer_ffn_layers.{k}.linear2", c, 2048)
        linear(f"{predictor}.transformer_ffn_layers.{k}.norm", c)
    attention(f"{predictor}.RLA_lang_att", "multihead_attn")
    shapes |= {f"{predictor}.lang_proj.weight": (c, 768), f"{predictor}.lang_weight": ()}
    shapes |= {f"{predictor}.{name}.weight": (100, c) for name in ("static_query", "query_embed")}
    shapes[f"{predictor}.level_embed.weight"] = (3, c)
    linear(f"{predictor}.decoder_norm", c)
    linear(f"{predictor}.minimap_embed", 2, c)
    linear(f"{predictor}.nt_embed.layers.0", c, c)
    linear(f"{predictor}.nt_embed.layers.1", 2, c)
    for k in range(3):
        linear(f"{predictor}.mask_embed.layers.{k}", c, c)
    text = {f"text_encoder.{k.removeprefix('bert.')}": tuple(v.shape) for k, v in model.text.state_dict().items()}
    return shapes | text | {"text_encoder.embeddings.position_ids": (1, 512)}


def test_a_resnet_50_file_has_every_tensor_and_no_other() -> None:
    model = full_size(backbone="resnet50", encoder="plain", drop_path=0.0)
    shapes = official_r50() | official_head(model)
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    assert official_config(weights) == {
        "backbone": "resnet50",
        "encoder": "plain",
        "drop_path": 0.0,
        "regions": 10,
        "layers": 9,
    }
    renamed = rename(weights, OFFICIAL_KEYS)
    assert renamed.unknown == []
    assert list(renamed.dropped) == ["text_encoder.embeddings.position_ids"]
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # frozen layers count no steps
    assert {name: tensor.shape for name, tensor in renamed.weights.items()} == {
        name: shape for name, shape in expected.items() if name not in counters
    }


def test_the_branch_original_is_refused_by_name() -> None:
    key = "sem_seg_head.predictor.RIA_cross_attention.0.norm.weight"
    with pytest.raises(RefsegError, match="branch `original`"):
        official_config({key: torch.zeros(256)})
