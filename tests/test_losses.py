"""Losses: closed forms and what they must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.records import Batch, Prediction


def test_resized_target_is_the_majority_of_each_cell() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1  # a whole cell
    mask[..., 2, 2:] = 1  # half a cell
    mask[..., 3, 0] = 1  # a quarter
    assert losses.resize_targets(mask, (2, 2)).squeeze().tolist() == [[1, 0], [0, 1]]
    assert losses.resize_targets(mask, (4, 4)) is mask


@pytest.mark.parametrize("size", [(6, 8), (4, 8), (5, 7), (12, 4), (24, 16)])
def test_resized_targets_are_area_averages(size: tuple[int, int]) -> None:
    """Of sizes that divide the mask's, and of others."""
    masks = (torch.rand(5, 1, 12, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    found = losses.resize_targets(masks, size)
    assert torch.equal(found, (F.adaptive_avg_pool2d(masks, size) >= 0.5).float())


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


# --- sets of masks ----------------------------------------------------------------------------------------------------

COSTS = {"refers": 2.0, "mask": 5.0, "dice": 5.0}


def half_masks() -> torch.Tensor:
    """(4, 8, 8): left, right, upper and lower half."""
    masks = torch.zeros(4, 8, 8)
    masks[0, :, :4] = masks[1, :, 4:] = masks[2, :4] = masks[3, 4:] = 1
    return masks


def of_sets(
    masks: torch.Tensor, classes: torch.Tensor, targets: torch.Tensor, owners: list[int], **changes: object
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    settings = {"enlarge": lambda some: some, "class_weights": (1.0, 0.1), "costs": COSTS, "points": 400, **changes}
    return losses.set_losses(masks, classes, targets, torch.tensor(owners, dtype=torch.int64), **settings)  # type: ignore[arg-type]


def test_every_target_gets_the_query_that_is_it_best() -> None:
    masks, queries = half_masks(), torch.tensor([[1, 3, 0], [2, 0, 1]])
    logits = 6 * masks[queries] - 3  # (2, 3, 8, 8)
    logits[0, 2] = 6 * masks[0] - 2  # a good left half, and a better one behind
    targets, owners = masks[[0, 1, 2]], torch.tensor([0, 0, 1])
    rows, found, wanted = losses.match(
        logits, torch.zeros(2, 3, 2), targets, owners, enlarge=lambda some: some, costs=COSTS, points=400
    )
    assert list(zip(rows.tolist(), found.tolist(), wanted.tolist(), strict=True)) == [(0, 0, 1), (0, 2, 0), (1, 0, 2)]


@pytest.mark.parametrize("name", COSTS)
def test_each_cost_can_decide_the_matching(name: str) -> None:
    """Two queries that differ in one respect alone."""
    target = half_masks()[:1]
    masks, classes = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 2)
    if name == "refers":
        classes[0, 1] = torch.tensor([2.0, -2.0])
    else:
        masks[0] = torch.stack([4 - 8 * target[0], 8 * target[0] - 4])
    costs = {**dict.fromkeys(COSTS, 0.0), name: 1.0}
    settings = {"enlarge": lambda some: some, "costs": costs, "points": 300}
    assert losses.match(masks, classes, target, torch.tensor([0]), **settings)[1].tolist() == [1]  # type: ignore[arg-type]


def test_set_losses_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant masks: one target, two queries, and a phrase without any. Away from the edges, where all is the same."""
    monkeypatch.setattr(losses, "uncertain_points", lambda some, points: 0.25 + 0.5 * torch.rand(len(some), points, 2))
    masks = torch.tensor([2.0, -1.0, 0.0, 0.0]).view(2, 2, 1, 1).expand(-1, -1, 8, 8)
    classes = torch.tensor([[[1.0, 0.0], [0.0, 0.5]], [[0.0, 2.0], [0.0, 0.0]]])
    found, p = of_sets(masks, classes, torch.ones(1, 8, 8), [0]), torch.sigmoid(torch.tensor(2.0)).item()
    assert found["mask"].item() == pytest.approx(-math.log(p), rel=1e-5)
    assert found["dice"].item() == pytest.approx(1 - (2 * 400 * p + 1) / (400 * p + 400 + 1), rel=1e-5)
    log = classes.log_softmax(-1)
    wrong = -(1.0 * log[0, 0, 0] + 0.1 * (log[0, 1, 1] + log[1, 0, 1] + log[1, 1, 1])) / 1.3
    assert found["refers"].item() == pytest.approx(wrong.item(), rel=1e-6)


def test_mask_losses_are_divided_by_the_number_of_targets() -> None:
    masks, target = torch.zeros(2, 1, 8, 8), torch.ones(1, 8, 8)
    one = of_sets(masks[:1], torch.zeros(1, 1, 2), target, [0])
    two = of_sets(masks, torch.zeros(2, 1, 2), target.expand(2, -1, -1), [0, 1])
    assert one["mask"].item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-5)
    assert two["mask"].item() == pytest.approx(one["mask"].item(), rel=1e-5)


def test_without_targets_all_queries_are_others() -> None:
    masks = torch.zeros(2, 3, 8, 8, requires_grad=True)
    found = of_sets(masks, torch.zeros(2, 3, 2), torch.zeros(0, 8, 8), [])
    assert found["refers"].item() == pytest.approx(torch.log(torch.tensor(2.0)).item())
    assert (found["mask"].item(), found["dice"].item()) == (0, 0)
    sum(found.values()).backward()
    assert masks.grad is not None


def test_more_targets_than_queries_leave_some_out() -> None:
    found = of_sets(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 2), half_masks()[:3], [0, 0, 0])
    assert all(torch.isfinite(term) for term in found.values())


def test_most_points_are_where_the_mask_is_least_sure() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-8, 8, 33).expand(2, 33, 33)
    where = losses.uncertain_points(ramp, 1000)
    assert where.shape == (2, 1000, 2)
    near = (where[..., 0] - 0.5).abs() < 0.13  # a quarter of all places
    assert (near.float().mean(1) > 0.75).all()
    assert 0.15 < near[:, 750:].float().mean() < 0.35  # the rest are anywhere


def test_points_are_read_between_pixels() -> None:
    """Edges at 0 and 1: the centre of the first of two pixels lies at a quarter."""
    found = losses.sample(
        torch.tensor([[[0.0, 4.0], [0.0, 4.0]]]), torch.tensor([[[0.25, 0.5], [0.5, 0.5], [0.75, 0.3]]])
    )
    torch.testing.assert_close(found, torch.tensor([[0.0, 2.0, 4.0]]))


def test_masks_are_enlarged_before_they_are_looked_at() -> None:
    small = torch.zeros(1, 1, 2, 2)
    seen: list[tuple[int, ...]] = []

    def enlarge(some: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(some.shape))
        return torch.nn.functional.interpolate(some[None], (8, 8))[0]

    of_sets(small, torch.zeros(1, 1, 2), torch.ones(1, 8, 8), [0], enlarge=enlarge)
    assert seen == [(1, 2, 2), (1, 2, 2)]


def test_a_single_mask_and_its_existence_by_name_and_weight() -> None:
    torch.manual_seed(0)
    logits, exists = torch.randn(2, 1, 4, 6), torch.tensor([0.7, -0.2])
    target = F.interpolate((torch.rand(2, 1, 4, 6) > 0.5).float(), scale_factor=2)
    tokens = torch.ones(2, 3, dtype=torch.int64)
    batch = Batch(torch.zeros(2, 3, 8, 12), tokens, tokens > 0, torch.arange(2), masks=target)
    batch = replace(batch, has_target=torch.tensor([True, False]))
    found = losses.mask_and_existence(Prediction(logits, exists), batch, dice_weight=0.25, exists_weight=3.0)
    small = target[..., ::2, ::2]
    expected = {
        "mask": losses.mask_bce(logits, small),
        "dice": 0.25 * losses.dice(logits, small),
        "exists": 3.0 * F.binary_cross_entropy_with_logits(exists, torch.tensor([1.0, 0.0])),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert list(losses.mask_and_existence(Prediction(logits), batch, dice_weight=0.0, exists_weight=1.0)) == ["mask"]
