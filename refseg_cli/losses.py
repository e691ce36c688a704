"""Losses with two or more users: of raw logits, a scalar each, or several by name.

Axes: N expressions, h w network output. Of set losses: n expressions, q queries, t targets, p points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.records import Batch, Prediction


def resize_targets(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 1, H, W) in {0, 1} -> (N, 1, h, w) in {0, 1} at the logits' resolution.

    Area average and threshold at one half, so that a thin object survives where a nearest-neighbour pick would miss it.
    """
    (height, width), (h, w) = masks.shape[-2:], size
    if (height, width) == (h, w):
        return masks
    if height % h == width % w == 0:  # sums down and across: a CPU takes half of the time
        area = masks.unflatten(2, (h, -1)).sum(3).unflatten(3, (w, -1)).sum(4)
        return (area >= height * width / (h * w) / 2).to(masks.dtype)
    return (F.adaptive_avg_pool2d(masks, size) >= 0.5).to(masks.dtype)


def mask_bce(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy averaged over pixels and expressions. logits, masks: (N, 1, h, w)."""
    return F.binary_cross_entropy_with_logits(logits.float(), masks)


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice loss (Milletari et al., V-Net, 3DV 2016) averaged over expressions; +1 keeps empty targets finite."""
    p, g = logits.float().sigmoid().flatten(1), masks.flatten(1)
    overlap = 2 * (p * g).sum(1) + 1
    return (1 - overlap / (p.sum(1) + g.sum(1) + 1)).mean()


def exists_bce(logits: Tensor, has_target: Tensor) -> Tensor:
    """Binary cross-entropy of the no-target head. logits: (N,), positive for present; has_target: (N,) bool."""
    return F.binary_cross_entropy_with_logits(logits.float(), has_target.to(torch.float32))


def weighted_bce(logits: Tensor, target: Tensor, weights: tuple[float, float]) -> Tensor:
    """Cross-entropy of two classes, averaged by weight, as PyTorch's over two logits.

    Args:
        logits: of the second class less that of the first, any shape.
        target: how far it is the second, in [0, 1]; the same shape.
        weights: of the first and the second class.
    """
    weight = weights[0] + (weights[1] - weights[0]) * target
    return F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum") / weight.sum()


def mask_and_existence(
    prediction: Prediction, batch: Batch, *, dice_weight: float, exists_weight: float
) -> dict[str, Tensor]:
    """Weighted terms of a model with one mask: cross-entropy and Dice at the logits' resolution, existence with a head.

    A weight of 0 leaves Dice out.
    """
    assert batch.masks is not None
    assert batch.has_target is not None
    h, w = prediction.mask_logits.shape[-2:]
    target = resize_targets(batch.masks, (h, w))
    terms = {"mask": mask_bce(prediction.mask_logits, target)}
    if dice_weight:
        terms["dice"] = dice_weight * dice(prediction.mask_logits, target)
    if prediction.exists_logit is not None:
        terms["exists"] = exists_weight * exists_bce(prediction.exists_logit, batch.has_target)
    return terms


# --- sets of masks (Mask2Former, Cheng et al., CVPR 2022, 3.3; points: PointRend, Kirillov et al., CVPR 2020) ---------

OVERSAMPLED = 3  # points drawn for each that is kept
UNCERTAIN = 0.75  # of those kept, the share taken where the mask is least sure


def set_losses(
    masks: Tensor,
    classes: Tensor,
    targets: Tensor,
    owners: Tensor,
    *,
    enlarge: Callable[[Tensor], Tensor],
    class_weights: tuple[float, float],
    costs: Mapping[str, float],
    points: int,
) -> dict[str, Tensor]:
    """Losses of queries that are each one target of their expression, or none: `refers`, `mask` and `dice`.

    Every target gets the query that is it best (Hungarian matching); `refers` is the cross-entropy of all queries'
    classes, averaged by weight; `mask` (cross-entropy) and `dice` are of the matched masks at random points, summed and
    divided by the number of targets.

    Args:
        masks: (n, q, h, w) logits.
        classes: (n, q, 2) logits: a target, or none.
        targets: (t, H, W) in {0, 1}.
        owners: (t,) int64, the expression of each.
        enlarge: (m, h, w) logits to those that are looked at, of any size.
        class_weights: of the two classes in `refers`.
        costs: weights of the three in the matching.
        points: of a mask that are looked at.
    """
    masks, classes = masks.float(), classes.float()
    rows, queries, wanted = match(masks, classes, targets, owners, enlarge=enlarge, costs=costs, points=points)
    labels = torch.ones(classes.shape[:2], dtype=torch.int64, device=classes.device)
    labels[rows, queries] = 0
    refers = F.cross_entropy(classes.transpose(1, 2), labels, classes.new_tensor(class_weights))
    if not len(rows):
        return {"refers": refers, "mask": masks.sum() * 0, "dice": masks.sum() * 0}
    found, truth = enlarge(masks[rows, queries]), targets[wanted].to(masks.dtype)
    with torch.no_grad():
        where = uncertain_points(found, points)
        labels_at = sample(truth, where)
    at = sample(found, where)
    dices = 1 - (2 * (at.sigmoid() * labels_at).sum(1) + 1) / (at.sigmoid().sum(1) + labels_at.sum(1) + 1)
    entropies = F.binary_cross_entropy_with_logits(at, labels_at, reduction="none").mean(1)
    return {"refers": refers, "mask": entropies.sum() / len(targets), "dice": dices.sum() / len(targets)}


@torch.no_grad()
def match(
    masks: Tensor,
    classes: Tensor,
    targets: Tensor,
    owners: Tensor,
    *,
    enlarge: Callable[[Tensor], Tensor],
    costs: Mapping[str, float],
    points: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(m,) each, int64: expressions, their queries, and the targets that these are; arguments as in `set_losses`.

    The pairs whose costs have the smallest sum: minus the probability of a target, cross-entropy and Dice of the masks
    at random points, the same for all of an expression.
    """
    from scipy.optimize import linear_sum_assignment

    pairs: list[tuple[int, int, int]] = []
    for n in owners.unique().tolist():
        own = (owners == n).nonzero()[:, 0]
        where = torch.rand(1, points, 2, device=masks.device, dtype=masks.dtype)
        at = sample(enlarge(masks[n]), where.expand(masks.shape[1], -1, -1))
        truth = sample(targets[own].to(masks.dtype), where.expand(len(own), -1, -1))
        # -log p - (log(1 - p) - log p) t, summed over points: softplus(x) - x t
        entropy = (F.softplus(at).sum(1)[:, None] - at @ truth.T) / points
        p = at.sigmoid()
        dice = 1 - (2 * p @ truth.T + 1) / (p.sum(1)[:, None] + truth.sum(1) + 1)
        cost = costs["mask"] * entropy + costs["dice"] * dice - costs["refers"] * classes[n].softmax(-1)[:, :1]
        queries, chosen = linear_sum_assignment(cost.cpu().numpy())
        pairs += zip([n] * len(queries), queries.tolist(), own[torch.as_tensor(chosen)].tolist(), strict=True)
    rows, found, wanted = torch.tensor(pairs, dtype=torch.int64, device=masks.device).view(-1, 3).unbind(1)
    return rows, found, wanted


def uncertain_points(masks: Tensor, points: int) -> Tensor:
    """(m, h, w) logits -> (m, p, 2): most of them where a mask is near 0, the others anywhere."""
    drawn = torch.rand(len(masks), OVERSAMPLED * points, 2, device=masks.device, dtype=masks.dtype)
    kept = int(UNCERTAIN * points)
    least = sample(masks, drawn).abs().topk(kept, dim=1, largest=False).indices
    chosen = drawn.gather(1, least[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, torch.rand(len(masks), points - kept, 2, device=masks.device, dtype=masks.dtype)], 1)


def sample(masks: Tensor, where: Tensor) -> Tensor:
    """(m, h, w), (m, p, 2) x and y in [0, 1] -> (m, p), bilinear, edges at 0 and 1; nothing beyond the map."""
    return F.grid_sample(masks[:, None], 2 * where[:, :, None] - 1, align_corners=False)[:, 0, :, 0]
