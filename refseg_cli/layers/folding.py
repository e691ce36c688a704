"""A model that only answers, without what training alone needs: norms go into convolutions, dropout goes, matrices that
read the same are joined.

Users: whatever asks a model: segmenters/trained.py, evaluation/scoring.py, engine/bench.py.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import chain, pairwise

import torch
from torch import nn

from refseg_cli.layers.attention import Attention
from refseg_cli.layers.language import Bert
from refseg_cli.layers.vision import TimmBackbone, VitLayers


def folded(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A model that answers as the given one does in evaluation, up to rounding; itself where there is nothing to fold.

    It shares the other's tensors, but for the convolutions with a norm behind them: in an `nn.Sequential`, which loses
    the norm, and wherever a module names such pairs (`normed`), where an identity takes the norm's place; and for those
    of `Attention.join` and `_keep_in`. The given model stays as it is, and this one on its device.

    dtype: what autocast will make of matrices in this model's passes, if it will.
    """
    if not any(_pairs(module) or isinstance(module, nn.Dropout | Attention) for module in model.modules()):
        return model
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    found = deepcopy(model, shared).eval()
    for module in list(found.modules()):
        for conv, norm in reversed(_pairs(module)):
            setattr(module, conv, _joined(getattr(module, conv), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.Sequential):
            _close_ranks(module)
        if type(module) is Attention:
            module.join()
        if isinstance(module, Bert | TimmBackbone | VitLayers) and dtype is not None:
            _keep_in(dtype, module)
    for module in found.modules():  # where Python looks first: `nn.Module` finds them after all else
        vars(module).update(module._modules | module._parameters)
    return found


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of a convolution and of the norm that follows it."""
    named = pairwise(module._modules) if isinstance(module, nn.Sequential) else getattr(module, "normed", ())
    return [pair for pair in named if _fit(*(getattr(module, name) for name in pair))]


def _fit(one: nn.Module, two: nn.Module) -> bool:
    return type(one) is nn.Conv2d and type(two) is nn.BatchNorm2d and two.track_running_stats


def _joined(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does what both do, the norm with its stored statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    found = deepcopy(conv)
    with torch.no_grad():
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        before = 0.0 if conv.bias is None else conv.bias
        found.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
        found.bias = nn.Parameter((before - norm.running_mean) * scale + norm.bias, requires_grad=False)
    return found


def _keep_in(dtype: torch.dtype, encoder: nn.Module) -> None:
    """Its matrices as autocast would make them again in every pass, which for a phrase of some twenty words takes half
    as long as multiplying by them."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            for name, parameter in list(module.named_parameters()):
                setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))


def _close_ranks(sequence: nn.Sequential) -> None:
    """Without what norms and dropout left; only an activation reads what the layer before it gives."""
    for i in reversed([i for i, child in enumerate(sequence) if type(child) is nn.Identity]):
        del sequence[i]
    for one, two in pairwise(sequence):
        if isinstance(one, nn.Conv2d | nn.Linear) and isinstance(two, nn.ReLU | nn.LeakyReLU):
            two.inplace = True
