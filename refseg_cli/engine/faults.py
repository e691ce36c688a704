"""What ends a training run: losses that are not finite, noticed on the device without waiting for it, and batches that
are too small to normalise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from refseg_cli import checkpoint
from refseg_cli.errors import RefsegError


class Faults:
    """The first step whose loss was not finite, with its figures; read when the run next looks."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._first = torch.zeros(1)  # its step (0: none), then the figures

    def note(self, step: int, figures: Mapping[str, Tensor]) -> None:
        """figures: the loss first. step: from 1."""
        values = torch.stack([figure.detach().double() for figure in figures.values()])
        now = torch.cat([torch.full_like(values[:1], step), values])
        if not self._names:
            self._names, self._first = tuple(figures), torch.zeros_like(now)
        wrong = (self._first[0] == 0) & ~torch.isfinite(values[0])
        self._first = torch.where(wrong, now, self._first)

    def __bool__(self) -> bool:
        """Whether there was one in this process. Waits for the device."""
        return bool(self._first[0])

    def first(self, accelerator: Accelerator) -> tuple[int, str]:
        """The step, and its figures in words, of all processes' first; where some of them had one."""
        rows = accelerator.gather(self._first[None])
        row = min((row for row in rows.tolist() if row[0]), key=lambda row: row[0])
        return int(row[0]), ", ".join(f"{name}={value:.4g}" for name, value in zip(self._names, row[1:], strict=True))


def not_finite(what: str, epoch: int, step: int, last: Path, more: str = "") -> RefsegError:
    """The end of a run. epoch: from 0.  last: the folder that it saves to."""
    saved = (last / checkpoint.CONFIG).is_file()
    state = f"{last} holds step {checkpoint.read_config(last)[2].get('step')}" if saved else "nothing was saved"
    return RefsegError(
        f"{what} is not finite at epoch {epoch + 1}, step {step}{more}",
        hint=f"{state}; lower train.lr, set train.clip_norm, or use fp32",
    )


@contextmanager
def enough_to_normalise() -> Iterator[None]:
    """What torch says of a batch normalisation that is given a single value, in one line."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel when training" not in str(error):
            raise
        raise RefsegError(
            "a batch of one picture is too small to train on at this size: batch normalisation needs two values",
            hint="larger data.size, or a train.batch_images that leaves no single picture over",
        ) from error
