"""A model in pieces: of every weight, its gradient and the optimiser's moments each process keeps one share.

PyTorch's `fully_shard` (FSDP2). A unit's weights are gathered when its forward or backward needs them. Checkpoints are
those of any run: whole tensors, gathered when they are written.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import SUPPORTED_NODES

from refseg_cli import checkpoint
from refseg_cli.config import TrainConfig
from refseg_cli.engine.optimise import take_moments
from refseg_cli.engine.recomputing import encoder_layers
from refseg_cli.engine.run_state import Moving
from refseg_cli.errors import RefsegError
from refseg_cli.records import Prediction

UNIT = 1 << 20  # weights from which on a layer of an encoder is gathered on its own


def pieces_of(
    model: nn.Module, device: torch.device, processes: int, config: TrainConfig
) -> tuple[nn.Module, nn.Module]:
    """The model in pieces on the device, and a whole copy of it on the CPU.

    Raises:
        RefsegError: settings that do not go with a model in pieces.
    """
    if processes == 1:
        raise RefsegError("train.shard_model=true: one process has nobody to share with", hint="start it by torchrun")
    if config.ema:
        raise RefsegError("train.shard_model=true keeps no moving average", hint="--set train.ema=0")
    if config.precision == "fp16":
        raise RefsegError("train.shard_model=true with train.precision=fp16", hint="bf16 needs no scaling of the loss")
    plain = deepcopy(model)
    shard(model.to(device), init_device_mesh(device.type, (processes,)))
    return model, plain


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut every weight along its first axis, a piece for each process; on any device, `meta` too.

    The layers of pretrained encoders are gathered one by one, what is left at once. Scalars, which nobody can cut, stay
    whole in every process, and their gradients are averaged here.
    """
    if Prediction not in SUPPORTED_NODES:  # FSDP looks for the tensors that a backward begins at
        torch.export.register_dataclass(Prediction)
    scalars = {parameter for parameter in model.parameters() if not parameter.ndim}
    for layer in encoder_layers(model):
        if _size(layer) >= UNIT:
            fully_shard(layer, mesh=mesh, ignored_params=scalars)
    fully_shard(model, mesh=mesh, ignored_params=scalars)
    for parameter in scalars:
        parameter.register_post_accumulate_grad_hook(_average)


def _average(parameter: Tensor) -> None:
    """Its gradient over all processes; gloo has no mean of its own."""
    assert parameter.grad is not None
    distributed.all_reduce(parameter.grad)
    parameter.grad /= distributed.get_world_size()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True, slots=True)
class ShardedMoving(Moving):
    """plain: the same model whole, on the CPU; what counts once `gather` has brought it up to date."""

    plain: nn.Module

    @property
    def evaluated(self) -> nn.Module:
        return self.plain

    def gather(self) -> None:
        """Bring `plain` up to date. All processes have to."""
        found = {name: _whole(value) for name, value in self.model.state_dict().items()}
        self.plain.to("cpu").load_state_dict(found)  # validation had it on the device

    def optimizer_state(self) -> dict[str, Any]:
        """As of a model that is whole. All processes have to ask for it."""
        state = self.optimizer.state_dict()
        moments = {n: {k: _whole(v) for k, v in each.items()} for n, each in state["state"].items()}
        return {**state, "state": moments}

    def clip(self, accelerator: Accelerator, norm: float) -> None:
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        own = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]
        squares = torch.zeros(2, device=accelerator.device)  # of pieces, and of what all have
        for grad, mine in zip(grads, own, strict=True):
            squares[0 if isinstance(grad, DTensor) else 1] += mine.square().sum()
        distributed.all_reduce(squares[:1])
        factor = (norm / (squares.sum().sqrt() + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        for mine in own:
            mine.mul_(factor)

    def load(self, weights: Path, optimizer: dict[str, Any]) -> None:
        checkpoint.load_weights(self.plain, weights)
        whole = self.plain.state_dict()
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(_cut_like(whole[name], value))
        take_moments(self.optimizer, optimizer, _cut_like)


def _whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _cut_like(value: Tensor, other: Tensor) -> Tensor:
    """This process's piece of a whole tensor, where the other is in pieces."""
    if not isinstance(other, DTensor):
        return value.to(other.device)
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
