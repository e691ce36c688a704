"""What the processes of one run do together: sums, decisions, batch statistics; and what one says when another is gone.

Started by `torchrun --nproc-per-node N -m refseg_cli train ...`; a process alone is the case N = 1 of everything here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from refseg_cli.config import TrainConfig
from refseg_cli.errors import RefsegError
from refseg_cli.layers.norm import synchronised
from refseg_cli.segmenters.inference import pick_device

# What torch's collectives say when a process at the other end has ended; they raise RuntimeError for everything.
SEVERED = ("connection closed", "connection reset", "broken pipe", "connection refused", "timed out", "nccl")


def accelerator_of(config: TrainConfig, *, device: str, tracker: str | None, logs: Path) -> Accelerator:
    """What moves a run on its device, with the others of it where a launcher started several.

    Raises:
        RefsegError: no such device, a precision that it has not, or no such tracker.
    """
    chosen = pick_device(device)
    if config.precision == "fp16" and chosen.type != "cuda":
        raise RefsegError(f"train.precision=fp16 needs CUDA, not {chosen.type}", hint="bf16 or fp32 run everywhere")
    if tracker == "tensorboard":
        _need_tensorboard()
    if not torch.distributed.is_initialized():  # an earlier run of this process binds none after it
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        log_with=tracker,
        project_dir=str(logs),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def _need_tensorboard() -> None:
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        raise RefsegError("--tracker tensorboard needs TensorBoard", hint="pip install 'refseg[tensorboard]'")


def synchronise_norms(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The model with batch statistics of all processes' pictures, so that only their number in all matters."""
    if accelerator.num_processes == 1:
        return model
    if accelerator.device.type == "cpu":
        return synchronised(model)
    from timm.layers import convert_sync_batchnorm  # torch's fused one, and timm's with an activation in it

    return convert_sync_batchnorm(model)


def added(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum over processes, the same in all of them."""
    return values if accelerator.num_processes == 1 else accelerator.reduce(values, reduction="sum")


def agreed(accelerator: Accelerator, *said: bool) -> tuple[bool, ...]:
    """Whether any process says so, for each of several things: all of them go the same way."""
    if accelerator.num_processes == 1:
        return said
    counts = added(torch.tensor(said, dtype=torch.float32, device=accelerator.device), accelerator)
    return tuple(count > 0 for count in counts.tolist())


@contextmanager
def together(accelerator: Accelerator) -> Iterator[None]:
    """A block that all processes work through.

    Raises:
        RefsegError: another one ended before it was through.
    """
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes > 1 and any(word in str(error).lower() for word in SEVERED):
            raise RefsegError(
                f"another of the {accelerator.num_processes} processes of this run ended",
                hint="its own message above says why; --resume continues from what was saved",
            ) from error
        raise
