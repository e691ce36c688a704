"""Batch normalisation over several processes on a CPU: PyTorch's own wants CUDA.

Axes: i images of this process, c channels; further axes are positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def _of_all(values: Tensor) -> Tensor:
    """(n) of each process -> (processes, n). Gathered, since gloo takes half as long again to add up so few."""
    gathered = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, values)
    return torch.stack(gathered)


class _Normalised(torch.autograd.Function):
    """(i, c, ...) by the statistics of all processes' images -> the same shape, and their mean (c) and variance (c).

    The processes wait for each other once on each way: a small message takes gloo half a millisecond.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        none = weight.new_zeros(channels)  # gives the statistics the weights' type, where x has 16 bits
        mean, variance = torch.batch_norm_update_stats(x, none, none.clone(), momentum=0.0)
        count = mean.new_full((1,), x.numel() / channels)
        everywhere = _of_all(torch.cat([count, mean, variance]).double())
        counts, means, variances = everywhere.split([1, channels, channels], 1)
        total = counts.sum()
        # Variances about each process's own mean, and of these means: a difference of two sums would lose small ones.
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        unbiased = (variance * total / (total - 1).clamp(min=1)).to(weight.dtype)
        mean, variance = mean.to(weight.dtype), variance.to(weight.dtype)
        context.save_for_backward(x, weight, mean, variance, total)
        context.eps = eps
        context.mark_non_differentiable(mean, unbiased)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance, total = context.saved_tensors
        to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, context.eps, [True, True, True]
        )
        # The statistics' own share, which all processes' losses ask of every image, is a batch norm of x as well.
        asked = _of_all(torch.cat([to_weight, to_bias])).sum(0)
        scale = weight * torch.rsqrt(variance + context.eps) / total.to(weight.dtype)
        slope, offset = (-scale * asked.view(2, -1)).unbind()
        return to_x.add_(F.batch_norm(x, mean, variance, slope, offset, eps=context.eps)), to_weight, to_bias, None


class SyncedBatchNorm(_BatchNorm):
    """A batch norm whose statistics in training are those of all processes' images; in evaluation it is the same one.

    It shares the other's parameters and buffers, and does what timm's do behind the norm (`drop`, `act`).
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.drop, self.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
        self.training = norm.training

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of positions."""

    def forward(self, input: Tensor) -> Tensor:
        """(i, c, ...) -> the same shape."""
        normed = self._synced(input) if self.training else super().forward(input)
        return self.act(self.drop(normed))

    def _synced(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight is None:
            dtype = torch.promote_types(x.dtype, torch.float32)
            weight, bias = x.new_ones(x.shape[1], dtype=dtype), x.new_zeros(x.shape[1], dtype=dtype)
        normed, mean, variance = _Normalised.apply(x, weight, bias, self.eps)
        self._remember(mean, variance)
        return normed

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics. variance: unbiased."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronised(model: nn.Module) -> nn.Module:
    """The model with every batch norm in it synchronised, in place; names of its tensors stay."""
    for name, child in model.named_children():
        setattr(model, name, SyncedBatchNorm(child) if isinstance(child, _BatchNorm) else synchronised(child))
    return model
