"""Pixel-word attention against a loop over pixels and words, and the walk through a backbone's stages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from refseg_cli.errors import RefsegError
from refseg_cli.layers.encoders import EncoderConfig, build_vision
from refseg_cli.layers.keymap import rename
from refseg_cli.layers.pwam import (
    SWINS,
    FusedBackbone,
    LanguageGate,
    PixelWordAttention,
    Tanh,
    instance_norm,
    official_backbone,
    official_swin,
)
from refseg_cli.layers.vision import Backbone

CHANNELS = (4, 6, 8, 10, 12)
C, D, PIXELS, WORDS = 4, 3, 5, 4


def backbone_of(name: str, size: tuple[int, int] = (64, 96)) -> Backbone:
    return build_vision(
        EncoderConfig(backbone=name, backbone_channels=CHANNELS, pretrained=False), size=size, maps=4
    ).eval()


def official_state(rng: torch.Generator) -> dict[str, Tensor]:
    """One stage's PWAM as official files have it: convolutions over one position, a bias everywhere."""
    inputs = {"vis_project": C, "project_mm": C, "image_lang_att.f_query": C, "image_lang_att.W": C}
    inputs |= {"image_lang_att.f_key": D, "image_lang_att.f_value": D}
    state = {}
    for name, width in inputs.items():
        state[f"{name}.0.weight"] = torch.randn(C, width, 1, generator=rng, dtype=torch.float64)
        state[f"{name}.0.bias"] = torch.randn(C, generator=rng, dtype=torch.float64)
    return state


def official_pwam(state: dict[str, Tensor], x: Tensor, words: Tensor, keep: list[bool], heads: int) -> Tensor:
    """One expression, x (p, c), words (l, d): the official order of things, written out."""

    def conv(name: str, rows: Tensor) -> Tensor:
        return rows @ state[f"{name}.0.weight"][..., 0].T + state[f"{name}.0.bias"]

    def over_pixels(rows: Tensor) -> Tensor:
        return (rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt()

    def gelu(rows: Tensor) -> Tensor:
        return rows * 0.5 * (1 + torch.erf(rows / math.sqrt(2)))

    mask = torch.tensor(keep, dtype=torch.float64)[:, None]
    query = over_pixels(conv("image_lang_att.f_query", x))
    key, value = (conv(f"image_lang_att.{name}", words) * mask for name in ("f_key", "f_value"))
    gathered, width = torch.zeros(PIXELS, C, dtype=torch.float64), C // heads
    for p in range(PIXELS):
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            logits = [
                float(query[p, part] @ key[word, part]) * C**-0.5 + 1e4 * keep[word] - 1e4 for word in range(WORDS)
            ]
            top = [math.exp(z - max(logits)) for z in logits]
            for word in range(WORDS):
                gathered[p, part] += top[word] / sum(top) * value[word, part]
    joined = gelu(conv("vis_project", x)) * over_pixels(conv("image_lang_att.W", gathered))
    return gelu(conv("project_mm", joined))


def test_a_single_word_leaves_no_rounding_to_magnify() -> None:
    """It says the same at every pixel, of which the norm leaves nothing, and would make of 1e-7 three hundred times it.

    What is left is then the same in both precisions, to the last bit: the join of nothing.
    """
    torch.manual_seed(0)
    attention = PixelWordAttention(16, word_dim=8)
    x, words, keep = torch.randn(1, 400, 16), 10 * torch.randn(1, 3, 8), torch.tensor([[True, False, False]])
    with torch.no_grad():
        single = attention(x, words, keep)
        nothing = torch.nn.functional.gelu(attention.join.bias)
    assert torch.equal(single, nothing.expand_as(single))


@pytest.mark.parametrize("heads", [1, 2])
def test_pixel_word_attention_is_the_official_one(heads: int) -> None:
    """Also that the biases and the zeroed padding, which ours does not have, make no difference."""
    rng = torch.Generator().manual_seed(1)
    state = official_state(rng)
    named = {f"backbone.layers.0.fusion.{key}": tensor for key, tensor in state.items()}
    renamed = rename(named, official_backbone("m", fusion="fusion", gate="res_gate"))
    assert renamed.unknown == []
    block = PixelWordAttention(C, word_dim=D, heads=heads).double()
    block.load_state_dict({k.removeprefix("m.fusions.0."): v for k, v in renamed.weights.items()})
    x, words = (torch.randn(2, n, k, generator=rng, dtype=torch.float64) for n, k in ((PIXELS, C), (WORDS, D)))
    keep = torch.tensor([[True, True, False, False], [True, True, True, True]])
    expected = [official_pwam(state, x[n], words[n], keep[n].tolist(), heads) for n in range(2)]
    torch.testing.assert_close(block(x, words, keep), torch.stack(expected), atol=1e-10, rtol=0)


def test_pixels_of_an_image_are_gathered_for_its_expressions() -> None:
    torch.manual_seed(0)
    block = PixelWordAttention(C, word_dim=D)
    x, words, keep = torch.randn(2, PIXELS, C), torch.randn(3, WORDS, D), torch.ones(3, WORDS, dtype=torch.bool)
    index = torch.tensor([1, 0, 0])
    torch.testing.assert_close(block(x, words, keep, index), block(x[index], words, keep))


def test_language_gate() -> None:
    """x + tanh(B relu(A F)) F, entry by entry."""
    torch.manual_seed(0)
    block, x, fused = LanguageGate(2).double(), *torch.randn(2, 1, 3, 2, dtype=torch.float64).unbind(0)
    a, b = block.gate[0].weight.tolist(), block.gate[2].weight.tolist()
    with torch.no_grad():
        out = block(x[None], fused[None])[0, 0]
    for p in range(3):
        f = fused[0, p].tolist()
        hidden = [max(0.0, a[k][0] * f[0] + a[k][1] * f[1]) for k in range(2)]
        for k in range(2):
            gate = math.tanh(b[k][0] * hidden[0] + b[k][1] * hidden[1])
            assert float(out[p, k]) == pytest.approx(float(x[0, p, k]) + gate * f[k], abs=1e-12)


def test_the_gates_tanh_of_an_answer_is_torchs() -> None:
    x = torch.linspace(-100, 100, 10001)
    with torch.no_grad():
        torch.testing.assert_close(Tanh()(x), torch.tanh(x), atol=3e-7, rtol=0)
        torch.testing.assert_close(Tanh()(x.bfloat16()), torch.tanh(x.bfloat16()), atol=0.004, rtol=0)


@pytest.mark.parametrize("name", ["convnet", "resnet10t", "darknet53", "swin_tiny_patch4_window7_224"])
def test_stages_one_by_one_are_the_backbone(name: str) -> None:
    backbone, images = backbone_of(name), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        x = images
        for k, expected in enumerate(backbone(images)):
            x = backbone.stage(k, x)
            assert torch.equal(x, expected)


def test_a_backbone_without_stages_is_refused() -> None:
    class Whole(Backbone):
        channels, strides = (4, 4, 4, 4), (4, 8, 16, 32)

    with pytest.raises(RefsegError, match="no stages"):
        FusedBackbone(Whole(), word_dim=D, heads=(1, 1, 1, 1))
    with pytest.raises(RefsegError, match="does not come in stages"):
        Whole().stage(0, torch.zeros(1))


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(RefsegError, match="4 heads do not divide the 6 channels"):
        FusedBackbone(backbone_of("convnet"), word_dim=D, heads=(4, 1, 1, 1))


def fused(name: str) -> FusedBackbone:
    torch.manual_seed(0)
    return FusedBackbone(backbone_of(name), word_dim=D, heads=(1, 2, 1, 2)).eval()


@pytest.mark.parametrize("name", ["convnet", "swin_tiny_patch4_window7_224"])
def test_stage_1_runs_once_per_image_and_the_maps_are_of_expressions(name: str) -> None:
    model, rows = fused(name), []
    model.fusions[0].vision.register_forward_hook(lambda *call: rows.append(call[-1].shape[0]))
    model.fusions[1].vision.register_forward_hook(lambda *call: rows.append(call[-1].shape[0]))
    words, keep = torch.randn(5, WORDS, D), torch.ones(5, WORDS, dtype=torch.bool)
    index = torch.tensor([0, 0, 0, 1, 1])
    with torch.no_grad():
        maps = model(torch.randn(2, 3, 64, 96), words, keep, index)
    assert rows == [2, 5]
    sizes = [(5, c, 64 // s, 96 // s) for c, s in zip(model.channels, model.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == sizes
    for m in maps:  # LayerNorm comes last
        torch.testing.assert_close(m.mean(1), torch.zeros_like(m[:, 0]), atol=1e-5, rtol=0)


def test_gated_maps_go_on_and_the_normalised_ones_come_out() -> None:
    """A closed gate (zero weights) leaves the later stages blind to language: their input is the backbone's own."""
    model = fused("convnet")
    for gate in model.gates:
        torch.nn.init.zeros_(gate.gate[2].weight)
    seen: list[Tensor] = []
    for fusion in model.fusions:
        fusion.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images, keep = torch.randn(1, 3, 64, 96), torch.ones(1, WORDS, dtype=torch.bool)
    with torch.no_grad():
        model(images, torch.randn(1, WORDS, D), keep, torch.tensor([0]))
        for x, expected in zip(seen, model.backbone(images), strict=True):
            torch.testing.assert_close(x, expected.flatten(2).transpose(1, 2))


def test_official_names_of_the_backbone() -> None:
    """Where each goes; merging patches belongs to the next stage in timm, and what has no influence is dropped."""
    rules = official_backbone("vision", fusion="pwam_fusion", gate="pwam_gate")
    swin = "vision.backbone.net"
    table: dict[str, Any] = {
        "backbone.patch_embed.norm.bias": f"{swin}.patch_embed.norm.bias",
        "backbone.layers.2.blocks.17.attn.qkv.weight": f"{swin}.layers_2.blocks.17.attn.qkv.weight",
        "backbone.layers.0.downsample.reduction.weight": f"{swin}.layers_1.downsample.reduction.weight",
        "backbone.layers.2.downsample.norm.bias": f"{swin}.layers_3.downsample.norm.bias",
        "backbone.layers.1.pwam_fusion.project_mm.0.bias": "vision.fusions.1.join.bias",
        "backbone.layers.1.pwam_gate.2.weight": "vision.gates.1.gate.2.weight",
        "backbone.norm3.weight": "vision.norms.3.weight",
    }
    dropped = [
        "backbone.layers.0.blocks.0.attn.relative_position_index",
        "backbone.layers.3.pwam_gate.0.weight",
        "backbone.layers.0.pwam_fusion.image_lang_att.f_key.0.bias",
    ]
    renamed = rename({key: torch.zeros(2) for key in [*table, *dropped]}, rules)
    assert {theirs: ours for ours, theirs in renamed.sources.items()} == table
    assert sorted(renamed.dropped) == sorted(dropped)
    assert all(renamed.dropped.values())


@pytest.mark.parametrize(("width", "depth", "window"), SWINS)
def test_official_swin_is_told_from_its_tensors(width: int, depth: int, window: int) -> None:
    weights = {f"backbone.layers.2.blocks.{k}.norm1.bias": torch.zeros(1) for k in range(depth)}
    weights["backbone.patch_embed.proj.weight"] = torch.zeros(width, 3, 4, 4)
    weights["backbone.layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros((2 * window - 1) ** 2, 4)
    assert official_swin(weights) == SWINS[width, depth, window]
    with pytest.raises(RefsegError, match=f"{width} channels, {depth + 1} blocks in stage 3 and windows of {window}"):
        official_swin(weights | {f"backbone.layers.2.blocks.{depth}.norm1.bias": torch.zeros(1)})


def test_a_file_without_swin_is_named() -> None:
    with pytest.raises(RefsegError, match="no Swin backbone"):
        official_swin({})


def test_instance_norm() -> None:
    """Values and gradients against PyTorch's."""
    torch.manual_seed(0)
    x = (3 * torch.randn(2, 15, 4, dtype=torch.float64) + 5).requires_grad_()
    expected = torch.nn.functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    found, pull = instance_norm(x), torch.randn(2, 15, 4, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(instance_norm(x), expected, atol=1e-12, rtol=0)
        lower = instance_norm(x.bfloat16())
        assert lower.dtype == torch.bfloat16
        torch.testing.assert_close(lower.double(), expected, atol=0.05, rtol=0)
    (ours,), (theirs,) = (torch.autograd.grad(y, x, pull) for y in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        instance_norm(x[:, :1])
