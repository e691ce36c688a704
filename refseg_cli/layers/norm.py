"""Batch normalisation over several processes, on any device: PyTorch's own wants CUDA.

Axes: i images of this process, c channels; further axes are positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Added(torch.autograd.Function):
    """The sum over processes. What each process's loss asks of it is added up too on the way back."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _added(values: Tensor) -> Tensor:
    return _Added.apply(values)


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
        others = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        count = _added(x.new_tensor(x.numel() / x.shape[1]))
        mean = _added(x.sum(others)) / count
        centred = x - mean.view(shape)
        # In a second pass, as PyTorch's: the difference of two large sums would lose what small variances are made of.
        variance = _added(centred.square().sum(others)) / count
        with torch.no_grad():
            self._remember(mean, variance * count / (count - 1).clamp(min=1))
        normed = centred * torch.rsqrt(variance + self.eps).view(shape)
        return normed if self.weight is None else normed * self.weight.view(shape) + self.bias.view(shape)

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
