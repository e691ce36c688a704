"""CRIS's own arithmetic against plain readings of the official code, and its sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.models.cris import CRIS, CRISConfig, Decoder, DecoderLayer, Join, own_kernel_conv, with_coordinates
from refseg_cli.records import Batch, Prediction


@pytest.mark.parametrize(
    ("settings", "official", "unread"),
    [
        ({}, 146_849_122, 1 + 2048),  # logit_scale, and the pooled place's position
        ({"backbone": "resnet101_clip.openai", "text_projection": 512}, 161_251_682, 1 + 2048),
    ],
)
def test_full_size(settings: dict[str, object], official: int, unread: int) -> None:
    with torch.device("meta"):
        config = CRISConfig(pretrained=False, text_pretrained=False, **settings)
        model = CRIS(config, vocab_size=49408, max_tokens=17, size=(416, 416))
    assert sum(p.numel() for p in model.parameters()) == official - unread


def test_each_sample_has_a_kernel_of_its_own() -> None:
    torch.manual_seed(0)
    pixels, kernels = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 9)
    ours = own_kernel_conv(pixels, kernels)
    for n in range(3):
        expected = F.conv2d(pixels[n : n + 1], kernels[n].view(1, 4, 3, 3), padding=1)
        torch.testing.assert_close(ours[n : n + 1], expected, atol=1e-5, rtol=0)


def test_a_join_is_a_convolution_over_both() -> None:
    torch.manual_seed(0)
    join = Join(3, 4, 5).eval()
    nn.init.normal_(join.norm.running_mean)
    vision, fused, image_index = torch.randn(2, 3, 4, 6), torch.randn(3, 4, 4, 6), torch.tensor([0, 0, 1])
    expected = torch.relu(join.norm(join.conv(torch.cat([vision[image_index], fused], 1))))
    torch.testing.assert_close(join(vision, fused, image_index), expected, atol=1e-6, rtol=0)


def test_coordinates_are_x_then_y_from_edge_to_edge() -> None:
    x = torch.randn(2, 3, 3, 5)
    seen = with_coordinates(x)
    assert torch.equal(seen[:, :3], x)
    assert seen[1, 3, 2].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert seen[1, 4, :, 4].tolist() == [-1, 0, 1]


def torch_attention(ours: nn.Module) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


def read_layer(layer: DecoderLayer, x: Tensor, places: Tensor, words: Tensor, order: Tensor, keep: Tensor) -> Tensor:
    """The official layer in words: norm, attention with positions in queries and keys, norm, residual; twice; MLP."""
    y = layer.norm1(x)
    x = x + layer.self_norm(torch_attention(layer.self_attention)(y + places, y + places, y)[0])
    y = layer.norm2(x)
    cross = torch_attention(layer.cross_attention)(y + places, words + order, words, key_padding_mask=~keep)[0]
    x = x + layer.cross_norm(cross)
    hidden = torch.relu(layer.mlp[0](layer.norm3(x)))
    return x + layer.mlp[4](layer.mlp[3](hidden))


def positions(count: int) -> Tensor:
    """(count, 4): sine and cosine of p and of p / 100."""
    p = torch.arange(float(count))
    return torch.stack([p.sin(), p.cos(), (p / 100).sin(), (p / 100).cos()], 1)


def test_the_decoder_reads_like_the_official_one() -> None:
    torch.manual_seed(0)
    decoder = Decoder(8, heads=2, hidden=12, layers=2, dropout=0.5).eval()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    fused, words = torch.randn(2, 8, 3, 4), torch.randn(2, 5, 8)
    keep = torch.arange(5) < torch.tensor([[5], [2]])
    places = torch.cat([positions(4).repeat(3, 1), positions(3).repeat_interleave(4, 0)], 1)  # x, then y
    p = torch.arange(5.0)[:, None] / 10 ** torch.arange(4.0)  # frequencies 10000^(-2i/8)
    order = torch.stack([p.sin(), p.cos()], -1).flatten(1)
    x = fused.flatten(2).transpose(1, 2)
    for layer in decoder.layers:
        x = read_layer(layer, x, places, words, order, keep)
    expected = decoder.norm(x).transpose(1, 2).view(2, 8, 3, 4)
    torch.testing.assert_close(decoder(fused, words, keep), expected, atol=1e-5, rtol=0)


def test_the_loss_is_cross_entropy_at_the_masks_nearest_pixels() -> None:
    tiny = {"backbone_channels": (4, 4, 4, 4, 4), "backbone": "convnet", "pretrained": False, "text": "transformer"}
    model = CRIS(CRISConfig(**tiny, dim=8, heads=2, hidden=8), vocab_size=9, max_tokens=4, size=(32, 32))
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., ::4, 4] = 1  # seen from the upper left corners of 4 x 4 cells, this fills the right half
    masks[..., 1, 1] = 1  # and this is not seen
    logits = torch.tensor([[[[2.0, -1.0], [0.5, 3.0]]]])
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    batch = Batch(torch.zeros(1, 3, 8, 8), nothing, nothing == 0, nothing[0], masks=masks)
    terms = model.losses(Prediction(logits), batch)
    expected = F.softplus(torch.tensor([2.0, 1.0, 0.5, -3.0])).mean()  # -log(1 - p) is softplus(z), -log p softplus(-z)
    assert set(terms) == {"mask"}
    torch.testing.assert_close(terms["mask"], expected)
