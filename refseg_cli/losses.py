"""Losses with two or more users. Every one takes raw logits and returns a scalar.

Axes: N expressions, h w network output.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_targets(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 1, H, W) in {0, 1} -> (N, 1, h, w) in {0, 1} at the logits' resolution.

    Area average and threshold at one half, so that a thin object survives where a nearest-neighbour pick would miss it.
    """
    if masks.shape[-2:] == size:
        return masks
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
