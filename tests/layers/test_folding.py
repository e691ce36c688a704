"""A folded model against the one that it was made of, whose norms have statistics as training leaves them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refseg_cli.layers.attention import Attention, EncoderLayer
from refseg_cli.layers.convnet import ConvNet
from refseg_cli.layers.folding import folded
from refseg_cli.layers.language import Bert
from refseg_cli.layers.upsampling import TopDown
from refseg_cli.layers.vision import conv_bn_leaky
from refseg_cli.models.cgformer import MaskHead


def trained(model: nn.Module) -> nn.Module:
    """In double precision, with weights and statistics of its norms that change what they read."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    return model.double().eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (ConvNet((4, 5, 6, 7, 8), maps=4), torch.randn(2, 3, 64, 32)),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), conv_bn_leaky(4, 5)), torch.randn(2, 3, 4, 5)),
    ],
    ids=["backbone", "with a bias, and one in the other"],
)
def test_it_answers_alike(model: nn.Module, given: torch.Tensor) -> None:
    model, given = trained(model), given.double()
    found = folded(model)
    assert norms(found) == 0
    for ours, theirs in zip(found(given), model(given), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_named_pairs() -> None:
    model = trained(TopDown((3, 4, 5), dim=6, bias=True))
    maps = [torch.randn(2, c, 8 // s, 12 // s, dtype=torch.float64) for c, s in ((3, 1), (4, 2), (5, 4))]
    found = folded(model)
    assert norms(found) == 0
    for ours, theirs in zip(found(maps), model(maps), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_a_head_that_convolves_upsampled_maps() -> None:
    model = trained(MaskHead(4, dims=(5, 3)))
    given = (torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64), (12, 20))
    found = folded(model)
    assert norms(found) == 0
    for learning in (True, False):
        with torch.set_grad_enabled(learning):
            torch.testing.assert_close(found(*given), model(*given), atol=1e-10, rtol=0)


def test_the_model_stays_as_it_is_and_shares_what_is_not_folded() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1))).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = folded(model)
    found(torch.randn(2, 3, 4, 5, dtype=torch.float64))
    after = model.state_dict()
    assert model.training
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert found[-1].weight is model[-1].weight  # type: ignore[index]


def test_a_norm_without_statistics_of_its_own_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert norms(folded(model)) == 1


def test_dropout_goes() -> None:
    model = trained(EncoderLayer(8, heads=2, hidden=16, dropout=0.5))
    found, x, positions = folded(model), torch.randn(2, 3, 8).double(), torch.randn(3, 8).double()
    assert not any(isinstance(module, nn.Dropout) for module in found.modules())
    torch.testing.assert_close(found(x, positions=positions), model(x, positions=positions), atol=0, rtol=0)


def test_queries_keys_and_values_of_one_input_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(Attention(8, heads=2))
    found, x, memory = folded(model), torch.randn(2, 3, 8).double(), torch.randn(2, 4, 8).double()
    products, linear = [], F.linear
    with monkeypatch.context() as patch:
        patch.setattr(F, "linear", lambda *given: products.append(len(given[1])) or linear(*given))
        ours, others = found(x, x, x), found(x, memory, memory)
    assert products == [24, 8, 8, 8, 8, 8]
    torch.testing.assert_close(ours, model(x, x, x), atol=1e-12, rtol=0)
    torch.testing.assert_close(others, model(x, memory, memory), atol=0, rtol=0)


def test_python_finds_weights_and_parts_where_it_looks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = folded(trained(nn.Sequential(conv_bn_leaky(3, 4), nn.Dropout())))
    monkeypatch.setattr(nn.Module, "__getattr__", None)
    found(torch.randn(1, 3, 4, 5).double())


def test_without_a_norm_it_is_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    assert folded(model) is model


def test_bert_keeps_its_matrices_as_autocast_makes_them() -> None:
    model = Bert("", vocab_size=20, dim=64, layers=1, pretrained=False).eval()
    tokens, keep = torch.randint(1, 20, (2, 5)), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = folded(model, torch.bfloat16)
        assert torch.equal(found(tokens, keep), model(tokens, keep))
    kept = {p.dtype: sum(q.numel() for q in found.parameters() if q.dtype == p.dtype) for p in found.parameters()}
    matrices = 4 * (64 * 64 + 64) + 2 * 4 * 64 * 64 + 5 * 64
    assert kept[torch.bfloat16] == matrices
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.dtype == torch.float32 for p in folded(model).parameters())
