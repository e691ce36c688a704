"""Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): an encoder's layer keeps for the backward pass only what
it was given, and computes the rest again.

PyTorch's own; the random numbers are the same the second time, and running statistics move once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from refseg_cli.errors import RefsegError


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of the pretrained encoders: residual blocks, a transformer's layers."""
    return [layer for encoder in model.pretrained_modules() for layer in _layers(encoder)]  # type: ignore[operator]


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """What stands in lists and is made of parts; lists within lists are looked into, layers are not."""
    for child in module.children():
        in_list = isinstance(module, nn.ModuleList | nn.Sequential) and any(True for _ in child.children())
        if in_list and not isinstance(child, nn.ModuleList | nn.Sequential):
            yield child
        else:
            yield from _layers(child)


def recompute_layers(model: nn.Module) -> None:
    """Let the encoders' layers compute again in the backward pass what they do not keep, from now on.

    Raises:
        RefsegError: there is none that learns.
    """
    layers = encoder_layers(model)
    if not any(parameter.requires_grad for layer in layers for parameter in layer.parameters()):
        raise RefsegError(
            "train.gradient_checkpointing=true: this model's encoders have no layers that learn",
            hint="what is frozen keeps nothing for the backward pass; leave it out",
        )
    for layer in layers:
        norms = [part for part in layer.modules() if isinstance(part, _BatchNorm)]
        # A bound method in a partial, so that a copy of the model calls its own.
        layer.forward = partial(_recomputed, layer.forward, norms)


def _recomputed(forward: Callable[..., Any], norms: Sequence[_BatchNorm], *given: Any, **named: Any) -> Any:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _on_copies(norms)

    return checkpoint(forward, *given, use_reentrant=False, context_fn=contexts, **named)


@contextmanager
def _on_copies(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Running statistics move on copies, which are forgotten."""
    running = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in running:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in running:
            setattr(norm, name, buffer)
