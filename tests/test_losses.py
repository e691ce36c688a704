"""Losses: closed forms and what they must not depend on."""

from __future__ import annotations

import math

import pytest
import torch

from refseg_cli import losses


def test_resized_target_is_the_majority_of_each_cell() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1  # a whole cell
    mask[..., 2, 2:] = 1  # half a cell
    mask[..., 3, 0] = 1  # a quarter
    assert losses.resize_targets(mask, (2, 2)).squeeze().tolist() == [[1, 0], [0, 1]]
    assert losses.resize_targets(mask, (4, 4)) is mask


def test_cross_entropy_of_no_knowledge_is_log_two() -> None:
    value = losses.mask_bce(torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3))
    assert value.item() == pytest.approx(math.log(2))


def test_dice_of_right_wrong_and_empty() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    sure = (mask * 2 - 1) * 50
    assert losses.dice(sure, mask).item() == pytest.approx(0, abs=1e-6)
    assert losses.dice(-sure, mask).item() == pytest.approx(1 - 1 / 17)
    assert losses.dice(torch.full_like(mask, -50), torch.zeros_like(mask)).item() == pytest.approx(0, abs=1e-6)


def test_dice_weighs_expressions_alike_whatever_their_size() -> None:
    small, large = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    small[..., :1, :2], large[..., :6, :] = 1, 1
    logits = torch.cat([(small * 2 - 1) * 50, (1 - large) * 50 - 25])
    both = losses.dice(logits, torch.cat([small, large]))
    alone = (losses.dice(logits[:1], small) + losses.dice(logits[1:], large)) / 2
    assert both.item() == pytest.approx(alone.item())


def test_exists_loss_falls_as_the_head_is_right() -> None:
    present = torch.tensor([True, False])
    right, wrong = torch.tensor([4.0, -4.0]), torch.tensor([-4.0, 4.0])
    assert losses.exists_bce(right, present) < 0.05 < losses.exists_bce(wrong, present)


def test_weighted_cross_entropy_of_one_logit_is_that_of_two_classes() -> None:
    torch.manual_seed(0)
    classes, target = torch.randn(2, 2, 3, 4, dtype=torch.float64), (torch.rand(2, 3, 4) > 0.7).long()
    weights = (0.9, 1.1)
    expected = torch.nn.functional.cross_entropy(classes, target, weight=torch.tensor(weights, dtype=torch.float64))
    found = losses.weighted_bce(classes[:, 1] - classes[:, 0], target.double(), weights)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
