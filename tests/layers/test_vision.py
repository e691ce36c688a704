"""Backbones: what comes out, and Swin's windows against a reading without windows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from refseg_cli.errors import RefsegError
from refseg_cli.layers.convnet import shifted
from refseg_cli.layers.encoders import EncoderConfig, build_vision
from refseg_cli.layers.vision import Backbone

SWIN = "swin_tiny_patch4_window7_224"


def backbone_of(name: str, size: tuple[int, int] = (64, 96), *, maps: int = 3, **settings: Any) -> Backbone:
    return build_vision(EncoderConfig(backbone=name, pretrained=False, **settings), size=size, maps=maps)


@pytest.mark.parametrize(
    ("name", "channels"), [("convnet", (4, 6, 8, 10, 12)), ("resnet10t", ()), (SWIN, ()), ("darknet53", ())]
)
@pytest.mark.parametrize("maps", [3, 4])
def test_the_coarsest_maps_channels_first(name: str, channels: tuple[int, ...], maps: int) -> None:
    backbone = backbone_of(name, backbone_channels=channels, maps=maps).eval()
    assert backbone.strides == (4, 8, 16, 32)[-maps:]
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


def test_the_shift_moves_channels_between_neighbours() -> None:
    """Two clips of three frames: of four channels the first comes from before, the second from behind; an end has its
    own."""
    clips = torch.arange(24.0).view(6, 4, 1, 1)  # frame i, channel c: 4 i + c
    expected = [[0, 5, 2, 3], [0, 9, 6, 7], [4, 9, 10, 11], [12, 17, 14, 15], [12, 21, 18, 19], [16, 21, 22, 23]]
    assert shifted(clips, 3, 1)[:, :, 0, 0].tolist() == expected


def test_a_shifted_backbone_sees_pictures_as_before_and_neighbours_in_clips() -> None:
    torch.manual_seed(0)
    backbone = backbone_of("convnet", backbone_channels=(4, 6, 8, 10, 12), maps=4).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = backbone(images)
        backbone.shift(4)
        for found in (backbone(images), backbone.of_clips(images, 1)):
            torch.testing.assert_close(found, before, rtol=0, atol=0)
        still = backbone.of_clips(images[:1].expand(5, -1, -1, -1), 5)
        torch.testing.assert_close(still, [m[:1].expand(5, -1, -1, -1) for m in before])
        moving = backbone.of_clips(images, 3)
    assert all((one - other).abs().amax((1, 2, 3)).min() > 1e-3 for one, other in zip(moving, before, strict=True))


def test_only_a_backbone_that_can_shifts() -> None:
    with pytest.raises(RefsegError, match="no temporal shift"):
        backbone_of("resnet10t").shift(8)


def test_swin_takes_other_sizes_than_it_was_built_for() -> None:
    backbone = backbone_of(SWIN).eval()
    with torch.no_grad():
        assert [m.shape[-2:] for m in backbone(torch.randn(1, 3, 96, 64))] == [(12, 8), (6, 4), (3, 2)]


def test_swin_pads_a_picture_to_whole_patches() -> None:
    """With zeros to the right and below, as the official code does."""
    backbone = backbone_of(SWIN, size=(61, 90), maps=4).eval()
    image = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        found, expected = backbone(image), backbone(torch.nn.functional.pad(image, (0, 2, 0, 3)))
    assert [m.shape[-2:] for m in found] == [(16, 23), (8, 12), (4, 6), (2, 3)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_frozen_stays_frozen() -> None:
    backbone = backbone_of("convnet", backbone_channels=(4, 4, 4, 4, 4), frozen=True)
    parent = torch.nn.ModuleList([backbone]).train()
    assert parent.training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        ("resnet1", (), r"cannot build 'resnet1': .*did you mean 'resnet18'"),
        ("convnet", (4, 4), "expected 5 numbers"),
    ],
)
def test_a_wrong_name_or_width_is_one_line(name: str, channels: tuple[int, ...], message: str) -> None:
    with pytest.raises(RefsegError, match=message) as caught:
        backbone_of(name, backbone_channels=channels)
    assert "\n" not in str(caught.value)


def blocks(size: tuple[int, int], shifted: bool) -> tuple[torch.nn.Module, Tensor]:
    """The first stage's plain or shifted block (grid size / 4) with lively position biases, and an input for it."""
    torch.manual_seed(0)
    net = backbone_of(SWIN, size).eval().net
    block = [m for m in net.modules() if type(m).__name__ == "PadFirstBlock"][int(shifted)]
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    return block, torch.randn(1, size[0] // 4, size[1] // 4, 96)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(56, 84), (64, 84), (40, 52), (24, 100)])
def test_swin_pads_then_rolls(size: tuple[int, int], shifted: bool, learning: bool) -> None:
    """Every position of the padded map attends to those of its window in rolled coordinates, but not the seam."""
    block, x = blocks(size, shifted)
    with torch.set_grad_enabled(learning):
        torch.testing.assert_close(block._attn(x), without_windows(block, x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(56, 84), (64, 84), (24, 100)])
def test_swin_without_learning_equals_learning(size: tuple[int, int], shifted: bool) -> None:
    """Of several images, in double precision."""
    block, x = blocks(size, shifted)
    block, x = block.double(), torch.randn(3, *x.shape[1:], dtype=torch.float64)
    learning = block._attn(x)
    with torch.inference_mode():
        torch.testing.assert_close(block._attn(x), learning.detach(), atol=1e-12, rtol=0)


def test_swin_without_learning_reads_the_weights_of_the_moment() -> None:
    """Nothing that follows from them is kept."""
    block, x = blocks((64, 84), True)
    with torch.no_grad():
        before = block._attn(x)
        block.attn.relative_position_bias_table.data.neg_()
        assert not torch.allclose(block._attn(x), before, atol=1e-3)


def test_swin_without_learning_takes_half_precision() -> None:
    block, x = blocks((64, 84), True)
    with torch.inference_mode():
        expected = block._attn(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = block._attn(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("shifted", [False, True])
def test_swin_equals_timm_where_nothing_is_padded(shifted: bool) -> None:
    from timm.models.swin_transformer import SwinTransformerBlock

    block, x = blocks((56, 84), shifted)
    with torch.no_grad():
        torch.testing.assert_close(block._attn(x), SwinTransformerBlock._attn(block, x), atol=1e-6, rtol=0)


def without_windows(block: torch.nn.Module, x: Tensor) -> Tensor:
    """Shifted-window attention (Liu et al. 2021, section 3.2) as one dense attention with a mask."""
    window, shift = block.window_size[0], block.shift_size[0]
    _, height, width, c = x.shape
    rows, columns = (math.ceil(n / window) * window for n in (height, width))
    padded = torch.zeros(rows, columns, c)
    padded[:height, :width] = x[0]
    heads, size = block.attn.num_heads, c // block.attn.num_heads
    q, k, v = block.attn.qkv(padded.flatten(0, 1)).view(rows * columns, 3, heads, size).unbind(1)
    y, x_ = (t.flatten() for t in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    y, x_ = (y - shift) % rows, (x_ - shift) % columns  # where the roll takes each position

    def same(of: Tensor) -> Tensor:
        return of[:, None] == of[None]

    allowed = same(y // window) & same(x_ // window)
    if shift:  # the last `shift` rolled rows and columns came from the other side
        allowed &= same(y >= rows - shift) & same(x_ >= columns - shift)
    dy = (y % window)[:, None] - (y % window)[None] + window - 1
    dx = (x_ % window)[:, None] - (x_ % window)[None] + window - 1
    table = block.attn.relative_position_bias_table
    bias = table[(dy * (2 * window - 1) + dx).clamp(0, len(table) - 1)]  # (p, p, heads); rubbish where not allowed
    scores = torch.einsum("phd,qhd->hpq", q, k) / math.sqrt(size) + bias.permute(2, 0, 1)
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    attended = torch.einsum("hpq,qhd->phd", weights, v).reshape(rows, columns, c)
    return block.attn.proj(attended)[None, :height, :width]
