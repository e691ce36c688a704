"""Convolving before upsampling against upsampling before convolving, which is what it stands for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from refseg_cli.layers import upsampling
from refseg_cli.layers.upsampling import (
    TopDown,
    conv_of_doubled,
    doubled,
    doubled_conv,
    fitted,
    upsample,
    upsampled_conv,
    upsampled_dot,
    upsampled_parts,
)


@pytest.fixture(
    autouse=True, params=[(0, 0), (upsampling.WIDE, 0), (upsampling.WIDE, 48)], ids=["wide", "axes", "narrow"]
)
def _each_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsampling, "WIDE", request.param[0])
    monkeypatch.setattr(upsampling, "NARROW", request.param[1])


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("size", "target"), [((3, 5), (6, 10)), ((4, 4), (8, 8)), ((3, 5), (7, 8)), ((2, 3), (2, 3)), ((1, 2), (2, 4))]
)
def test_upsampled_conv(size: tuple[int, int], target: tuple[int, int], align_corners: bool, outputs: int) -> None:
    """Values and gradients, borders included."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    upsampled = F.interpolate(x, target, mode="bilinear", align_corners=align_corners)
    expected = F.conv2d(upsampled, weight, padding=1)
    found = upsampled_conv(x, weight, target, align_corners=align_corners)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    pull = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, weight), pull), torch.autograd.grad(expected, (x, weight), pull), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("outputs", [1, 8, 9])
@pytest.mark.parametrize("target", [(6, 10), (5, 7), (1, 2)])
def test_upsampled_conv_without_gradients(target: tuple[int, int], outputs: int) -> None:
    """Where few outputs are made for two pixels at a time, and a single one of its nine products."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 3, 5, dtype=torch.float64), torch.randn(outputs, 3, 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, target, mode="bilinear", align_corners=False), weight, padding=1)
    with torch.no_grad():
        found = upsampled_conv(x, weight, target, align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [1, 4])
def test_conv_of_doubled(outputs: int, bias: bool, learning: bool) -> None:
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(3, outputs, 3, padding=1, bias=bias).double(), torch.randn(2, 3, 4, 5).double()
    with torch.set_grad_enabled(learning):
        torch.testing.assert_close(conv_of_doubled(x, conv), conv(doubled(x)), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "enlarge", [doubled, lambda x: fitted(x, (8, 10)), lambda x: fitted(x, (9, 7)), lambda x: upsample(x, (9, 12))]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("maps", [0, 1, 4])
def test_maps_of_one_channel_are_interpolated_like_others(
    maps: int, channels: int, enlarge: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Values and gradients."""
    torch.manual_seed(0)
    x = torch.randn(maps, channels, 4, 5, dtype=torch.float64, requires_grad=True)
    found = enlarge(x)
    aligned = found.shape[-2:] == (9, 12)
    expected = F.interpolate(x, found.shape[-2:], mode="bilinear", align_corners=aligned)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    pull = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, x, pull)[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_products_of_16_bits_are_made_in_32() -> None:
    torch.manual_seed(0)
    x, pixels = torch.randn(3, 2, 4, 4).bfloat16(), torch.randn(2, 2, 8, 8).bfloat16()
    which = torch.tensor([0, 1, 1])
    found = upsampled_dot(x, pixels, which)
    assert torch.equal(found, upsampled_dot(x.float(), pixels.float(), which))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("bias", [True, False])
def test_doubled_conv(bias: bool) -> None:
    """Values and gradients, borders included."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    conv = torch.nn.Conv2d(3, 2, 3, padding=1, bias=bias).double()
    expected, found = conv(F.interpolate(x, scale_factor=2.0)), doubled_conv(x, conv)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    pull, wanted = torch.randn_like(expected), (x, *conv.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(found, wanted, pull), torch.autograd.grad(expected, wanted, pull), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("size", "target"),
    [
        *[((9, 5), (18, 10)), ((3, 5), (7, 8)), ((10, 3), (10, 3)), ((1, 2), (5, 4)), ((20, 3), (9, 4))],
        *[((6, 4), (12, 8)), ((2, 1), (4, 2))],
    ],
)
def test_upsampled_parts(
    size: tuple[int, int], target: tuple[int, int], align_corners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined they are the whole, whether rows are read by several parts, by one, or by none."""
    monkeypatch.setattr(upsampling, "ROWS", 4)
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3, *size, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, target, mode="bilinear", align_corners=align_corners), weight, padding=1)
    with torch.no_grad():
        parts = list(upsampled_parts(x, weight, target, align_corners=align_corners))
    assert upsampling.WIDE or [part.shape[2] for part in parts[:-1]] == [4] * (len(parts) - 1)
    torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("learning", [True, False])
def test_top_down_joins_each_map_with_the_next_finer(learning: bool) -> None:
    torch.manual_seed(0)
    model = TopDown((2, 3, 4, 5), dim=6, bias=True).double().eval()
    maps = [torch.randn(1, c, 16 // s, 24 // s, dtype=torch.float64) for c, s in ((2, 1), (3, 2), (4, 4), (5, 8))]
    y, expected = maps[3], []
    for step, finer in zip(model.steps, (maps[2], maps[1], maps[0]), strict=True):
        y = F.interpolate(y, finer.shape[-2:], mode="bilinear", align_corners=True)
        y = torch.relu(step.norm1(step.conv1(torch.cat([y, finer], 1))))
        y = torch.relu(step.norm2(step.conv2(y)))
        expected.append(y)
    with torch.set_grad_enabled(learning):
        found = model(maps)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_it_saves_three_quarters_where_it_doubles() -> None:
    x, weight = torch.zeros(1, 300, 4, 4, device="meta"), torch.zeros(2, 300, 3, 3, device="meta")
    with FlopCounterMode(display=False) as counter:
        upsampled_conv(x, weight, (8, 8), align_corners=False)
    assert counter.get_total_flops() == 2 * 9 * 300 * 2 * 4 * 4


def test_upsampled_dot() -> None:
    """Values and gradients, images with several maps and with none."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 5, dtype=torch.float64, requires_grad=True)
    pixels = torch.randn(3, 3, 4, 10, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 0, 2, 2])
    expected = (fitted(x, (4, 10)) * pixels[index]).sum(1, keepdim=True)
    found = upsampled_dot(x, pixels, index)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    pull = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, pixels), pull), torch.autograd.grad(expected, (x, pixels), pull), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
