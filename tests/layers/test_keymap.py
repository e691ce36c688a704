"""Rules from official names to ours, applied to a handful of tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refseg_cli.layers.attention import Attention, EncoderLayer
from refseg_cli.layers.keymap import Rule, attention_rules, layer_rules, rename


def test_the_first_rule_that_matches_the_whole_name_decides() -> None:
    rules = (
        Rule(r"block\.(\d)\.old", None, why="nobody reads it"),
        Rule(r"block\.(\d)\.(.*)", r"layers.\1.\2"),
        Rule(r"table", "rows", convert=lambda t: t.T),
    )
    weights = {
        "block.3.w": torch.ones(2),
        "block.3.old": torch.ones(2),
        "table": torch.ones(2, 3),
        "tables": torch.ones(1),
    }
    renamed = rename(weights, rules)
    assert {name: tuple(t.shape) for name, t in renamed.weights.items()} == {"layers.3.w": (2,), "rows": (3, 2)}
    assert renamed.sources == {"layers.3.w": "block.3.w", "rows": "table"}
    assert renamed.dropped == {"block.3.old": "nobody reads it"}
    assert renamed.unknown == ["tables"]


def test_several_names_share_a_tensor_out() -> None:
    rule = Rule(r"(\w)\.fused", (r"\1.first", r"\1.second"), convert=lambda t: -t)
    renamed = rename({"a.fused": torch.arange(4.0)}, (rule,))
    assert {name: t.tolist() for name, t in renamed.weights.items()} == {"a.first": [-0.0, -1], "a.second": [-2, -3]}
    assert set(renamed.sources.values()) == {"a.fused"}
    with pytest.raises(ValueError, match="zip"):
        rename({"a.fused": torch.ones(1)}, (rule,))  # one row cannot be two


def test_two_tensors_of_one_name_are_a_fault_of_the_rules() -> None:
    with pytest.raises(ValueError, match="both become x"):
        rename({"a": torch.ones(1), "b": torch.ones(1)}, (Rule("[ab]", "x"),))


def test_torchs_attention_becomes_ours() -> None:
    torch.manual_seed(0)
    theirs, ours = nn.MultiheadAttention(8, 2, batch_first=True), Attention(8, heads=2)
    nn.init.normal_(theirs.in_proj_bias)
    weights = {f"layers.4.attn.{name}": tensor for name, tensor in theirs.state_dict().items()}
    renamed = rename(weights, attention_rules(r"layers\.(\d+)\.attn", r"blocks.\1"))
    assert renamed.unknown == []
    ours.load_state_dict({name.removeprefix("blocks.4."): tensor for name, tensor in renamed.weights.items()})
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(x, memory, memory), theirs(x, memory, memory)[0], atol=1e-6, rtol=0)


def test_torchs_layer_becomes_ours() -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    ours = EncoderLayer(8, heads=2, hidden=12)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    renamed = rename({f"a.{name}": t for name, t in theirs.state_dict().items()}, layer_rules("a", "b"))
    assert renamed.unknown == []
    ours.load_state_dict({name.removeprefix("b."): tensor for name, tensor in renamed.weights.items()})
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
