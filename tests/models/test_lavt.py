"""LAVT's own arithmetic, and its size against the official one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from variants.lavt import TINY, VARIANTS

from refseg_cli.config import build
from refseg_cli.layers.keymap import rename
from refseg_cli.models.lavt import (
    LAVT,
    OFFICIAL_KEYS,
    LAVTConfig,
    official_config,
    two_class_dice,
    weighted_cross_entropy,
)
from refseg_cli.records import Batch

BERT = VARIANTS["lavt_one"]
NO_DOWNLOAD = {"pretrained": False, "text_pretrained": False}


def tiny(**changes: object) -> LAVT:
    torch.manual_seed(0)
    config = build(LAVTConfig, {**TINY, **changes}, "test")
    return LAVT(config, vocab_size=20, max_tokens=6, size=(64, 96))


def batch_of() -> Batch:
    torch.manual_seed(1)
    tokens = torch.randint(1, 20, (3, 6))
    masks = (torch.rand(3, 1, 64, 96) > 0.8).float()
    return Batch(torch.randn(2, 3, 64, 96), tokens, tokens > 0, torch.tensor([0, 0, 1]), masks=masks)


def logits_and_target() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(3, 2, 5, 7, dtype=torch.float64), (torch.rand(3, 5, 7) > 0.7).long()


def test_the_binary_loss_is_the_official_two_class_loss() -> None:
    """Value and gradient for both channels, of which ours sees only the difference."""
    classes, target = logits_and_target()
    classes.requires_grad_()
    official = F.cross_entropy(classes, target, weight=torch.tensor([0.9, 1.1], dtype=torch.float64))
    ours = weighted_cross_entropy(classes[:, 1:] - classes[:, :1], target[:, None].double())
    assert ours.item() == pytest.approx(official.item(), abs=1e-12)
    for a, b in zip(torch.autograd.grad(ours, classes), torch.autograd.grad(official, classes), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_two_class_dice_by_hand() -> None:
    """Two pixels, target and background, both with probability 3/4 of being target."""
    logits = torch.full((1, 1, 1, 2), math.log(3))
    target = torch.tensor([[[[1.0, 0.0]]]])
    foreground = 1 - (2 * 0.75 + 1) / (1.5 + 1 + 1)
    background = 1 - (2 * 0.25 + 1) / (0.5 + 1 + 1)
    assert float(two_class_dice(logits, target)) == pytest.approx((foreground + background) / 2, abs=1e-6)


def test_the_sign_is_the_argmax_and_quarter_size_is_before_upsampling() -> None:
    model, batch = tiny().eval(), batch_of()
    quarter = tiny(full_size=False).eval()
    quarter.load_state_dict(model.state_dict())
    with torch.no_grad():
        full, small = model(batch), quarter(batch)
    classes = F.interpolate(full.aux["classes"], (64, 96), mode="bilinear", align_corners=True)
    assert full.mask_logits.shape == (3, 1, 64, 96)
    assert torch.equal(full.mask_logits[:, 0] > 0, classes.argmax(1) == 1)
    difference = small.aux["classes"][:, 1] - small.aux["classes"][:, 0]
    assert torch.equal(small.mask_logits[:, 0], difference)
    assert small.mask_logits.shape == (3, 1, 16, 24)


def test_the_loss_is_the_one_of_the_recipe() -> None:
    batch = batch_of()
    assert batch.masks is not None
    for name, loss in (("cross_entropy", weighted_cross_entropy), ("dice", two_class_dice)):
        model = tiny(loss=name).eval()
        prediction = model(batch)
        terms = model.losses(prediction, batch)
        assert list(terms) == ["mask"]
        assert float(terms["mask"]) == float(loss(prediction.mask_logits, batch.masks))


@pytest.mark.parametrize("dropout", [False, True])
def test_text_is_in_training_mode_only_where_lavt_one_has_it(dropout: bool) -> None:
    model = tiny(**{**BERT, "text_dropout": dropout}).train()
    assert model.decoder.training
    assert {m.training for m in model.text.modules()} == {dropout}
    assert not any(m.training for m in model.eval().modules())


def test_only_the_first_layers_of_bert_learn() -> None:
    model = tiny(**BERT)
    learning = {name for name, p in model.text.named_parameters() if p.requires_grad}
    assert learning
    assert learning == {n for n, _ in model.text.named_parameters() if ".layer.0." in n or ".layer.1." in n}
    assert all(p.requires_grad for name, p in model.named_parameters() if not name.startswith("text."))


def official_names(*, one: bool) -> dict[str, Tensor]:
    """Names as in the files, of tensors that tell nothing; the Swin's sizes are Swin-T's."""
    bert = "text_encoder." if one else ""
    return {
        "backbone.patch_embed.proj.weight": torch.zeros(96, 3, 4, 4),
        "backbone.layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(169, 3),
        **{f"backbone.layers.2.blocks.{k}.norm1.bias": torch.zeros(1) for k in range(6)},
        "classifier.bn1_4.running_mean": torch.zeros(1),
        "classifier.conv2_2.weight": torch.zeros(1),
        "classifier.conv1_1.bias": torch.zeros(1),
        f"{bert}embeddings.word_embeddings.weight": torch.zeros(1),
        f"{bert}embeddings.position_ids": torch.zeros(1),
        f"{bert}encoder.layer.11.output.dense.bias": torch.zeros(1),
    }


@pytest.mark.parametrize("one", [False, True])
def test_both_official_layouts(one: bool) -> None:
    weights = official_names(one=one)
    renamed = rename(weights, OFFICIAL_KEYS)
    assert renamed.unknown == []
    assert [key.split(".")[-1] for key in renamed.dropped] == ["position_ids"]
    assert {
        "decoder.steps.0.norm1.running_mean",
        "decoder.steps.2.conv2.weight",
        "classify.bias",
        "text.bert.embeddings.word_embeddings.weight",
        "text.bert.encoder.layer.11.output.dense.bias",
    } <= set(renamed.weights)
    config = build(LAVTConfig, official_config(weights), "test")
    assert config.backbone == "swin_tiny_patch4_window7_224"
    assert (config.text_dropout, config.loss) == ((True, "dice") if one else (False, "cross_entropy"))


def test_parameters_are_the_official_ones_but_those_without_influence() -> None:
    """118,847,866 and 108,891,648 (BERT), less the last gate and three biases in each pixel-word attention."""
    with torch.device("meta"):
        config = build(LAVTConfig, NO_DOWNLOAD, "test")
        model = LAVT(config, vocab_size=30522, max_tokens=20, size=(480, 480))
    without_influence = 2 * 1024**2 + 3 * (128 + 256 + 512 + 1024)
    assert sum(p.numel() for p in model.parameters()) == 118_847_866 + 108_891_648 - without_influence
