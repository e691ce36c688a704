"""Attention against torch's own module, positions against their formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from refseg_cli.layers.attention import (
    Attention,
    DecoderLayer,
    EncoderLayer,
    as_map,
    as_places,
    attend,
    kept,
    sine_axes,
    sine_positions_2d,
    sine_waves,
    take,
)


def torch_attention(ours: Attention, dim: int) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(dim, ours.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


@pytest.mark.parametrize("count", [1, 2])
def test_places_become_a_map_whose_channels_stay_side_by_side(count: int) -> None:
    """PyTorch sees that they do, of one map too, and so interpolates them as they lie."""
    places = torch.randn(count, 3 * 5, 4)
    found = as_map(places, (3, 5))
    assert torch.equal(found, places.transpose(1, 2).reshape(count, 4, 3, 5))
    assert torch.equal(as_places(found), places)
    twice = nn.functional.interpolate(found, scale_factor=2.0, mode="bilinear")
    assert twice.is_contiguous(memory_format=torch.channels_last)


def test_an_expression_that_reads_all_there_is_reads_no_copy() -> None:
    x = torch.randn(2, 3)
    assert take(x, None) is x
    assert torch.equal(take(x, torch.tensor([1, 0, 1])), x[[1, 0, 1]])
    assert torch.equal(take(x, torch.tensor([1])), x[1:])
    assert torch.equal(take(x[:1], torch.tensor([0, 0])), x[[0, 0]])
    one = x[:1]
    assert take(one, torch.tensor([0])) is one


def test_attention_equals_torch() -> None:
    torch.manual_seed(0)
    ours = Attention(12, heads=3)
    theirs = torch_attention(ours, 12)
    query, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    keep = torch.arange(7) < torch.tensor([[7], [4]])
    expected, _ = theirs(query, memory, memory, key_padding_mask=~keep)
    torch.testing.assert_close(ours(query, memory, memory, keep), expected, atol=1e-6, rtol=0)
    expected, _ = theirs(query, memory, memory)
    torch.testing.assert_close(ours(query, memory, memory), expected, atol=1e-6, rtol=0)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="no multiple of heads 5"):
        Attention(12, heads=5)
    with pytest.raises(ValueError, match="no multiple of heads -1"):
        Attention(12, heads=-1)


def test_encoder_layer_equals_torch() -> None:
    torch.manual_seed(0)
    ours = EncoderLayer(12, heads=3, hidden=20).eval()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, batch_first=True).eval()
    theirs.self_attn = torch_attention(ours.attention, 12)
    theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
    theirs.linear2.load_state_dict(ours.mlp[3].state_dict())
    x = torch.randn(2, 6, 12)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)


def test_decoder_layer_equals_torch() -> None:
    torch.manual_seed(0)
    ours = DecoderLayer(12, heads=3, hidden=20).eval()
    theirs = nn.TransformerDecoderLayer(12, 3, 20, dropout=0.0, batch_first=True).eval()
    theirs.self_attn = torch_attention(ours.self_attention, 12)
    theirs.multihead_attn = torch_attention(ours.cross_attention, 12)
    theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
    theirs.linear2.load_state_dict(ours.mlp[3].state_dict())
    queries, memory = torch.randn(2, 3, 12), torch.randn(2, 6, 12)
    torch.testing.assert_close(ours(queries, memory), theirs(queries, memory), atol=1e-5, rtol=0)


def test_sine_positions_follow_the_formula() -> None:
    """Of 8 channels the first 4 tell y and the others x: sines of two frequencies, then cosines."""
    positions = sine_positions_2d(3, 5, 8, device=torch.device("cpu"), dtype=torch.float32).view(3, 5, 8)
    for row, column in ((0, 0), (2, 1), (1, 4)):
        y, x = (row + 1) / 3 * 2 * math.pi, (column + 1) / 5 * 2 * math.pi
        slow = 10000 ** (-2 / 4)
        expected = [f(a * s) for a in (y, x) for f in (math.sin, math.cos) for s in (1, slow)]
        torch.testing.assert_close(positions[row, column], torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dim", [6, 8, 10, 96])
def test_sine_positions_fit_any_width(dim: int) -> None:
    positions = sine_positions_2d(2, 3, dim, device=torch.device("cpu"), dtype=torch.float32)
    assert positions.shape == (6, dim)
    assert len({tuple(row.tolist()) for row in positions}) == 6


def test_sine_waves_are_vaswanis() -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i / dim)), PE(pos, 2i + 1) the cosine (Vaswani et al. 2017, 3.5)."""
    waves = sine_waves(5, 6, like=torch.zeros((), dtype=torch.float64), first=2)
    for row, position in enumerate(range(2, 7)):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert float(waves[row, 2 * i]) == pytest.approx(math.sin(angle), abs=1e-12)
            assert float(waves[row, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-12)
    with pytest.raises(ValueError, match="must come in pairs"):
        sine_waves(5, 7, like=torch.zeros(()))


def test_sine_axes_tell_row_and_column() -> None:
    like = torch.zeros(1, 8, 2, 3)
    rows, columns = sine_axes(like, first=1)
    for place, (y, x) in enumerate([(y, x) for y in range(2) for x in range(3)]):
        assert torch.equal(rows[place], sine_waves(2, 4, like=like, first=1)[y])
        assert torch.equal(columns[place], sine_waves(3, 4, like=like, first=1)[x])


def test_causal_attention_to_other_channels_is_torchs() -> None:
    torch.manual_seed(0)
    ours = Attention(8, heads=2, causal=True)
    theirs = torch_attention(ours, 8)
    x = torch.randn(3, 5, 8)
    hidden = torch.ones(5, 5).triu(1).bool()
    torch.testing.assert_close(ours(x, x, x), theirs(x, x, x, attn_mask=hidden)[0], atol=1e-6, rtol=0)
    assert Attention(8, heads=2, outputs=3)(x, x, x).shape == (3, 5, 3)


def test_positions_are_made_once_and_outlive_the_mode_they_were_asked_for_in() -> None:
    made: list[int] = []

    @kept
    def positions(count: int) -> torch.Tensor:
        made.append(count)
        return torch.arange(count).float()

    weight = torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        first = positions(3)
    (positions(3) * weight).sum().backward()  # which refuses tensors of inference mode
    assert positions(3) is first
    assert positions(4).tolist() == [0, 1, 2, 3]
    assert made == [3, 4]


@pytest.mark.parametrize("mask", [None, "keep", "scores"])
def test_where_a_cpu_learns_in_16_bits_attention_is_in_float32(mask: str | None) -> None:
    """As float32 of the same numbers, and so are the gradients; where nothing is learnt, PyTorch's own in 16 bits."""
    torch.manual_seed(0)
    made = [torch.randn(2, 3, tokens, 8, dtype=torch.bfloat16) for tokens in (5, 7, 7)]
    short, exact = ([x.clone().to(dtype).requires_grad_() for x in made] for dtype in (torch.bfloat16, torch.float32))
    seen = {"keep": torch.rand(2, 1, 1, 7) < 0.7, "scores": torch.randn(1, 3, 5, 7)}.get(mask or "")
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*short, seen)
    wanted = nn.functional.scaled_dot_product_attention(*exact, attn_mask=seen)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())
    found.sum().backward()
    wanted.sum().backward()
    for ours, theirs in zip(short, exact, strict=True):
        assert torch.equal(ours.grad, theirs.grad.bfloat16())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(*short), nn.functional.scaled_dot_product_attention(*short))
