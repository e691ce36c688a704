"""What a training run saves to go on with, and whether a folder is one that it may go on from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from refseg_cli import checkpoint
from refseg_cli.config import Recipe, to_table
from refseg_cli.engine.optimise import take_moments
from refseg_cli.engine.run_log import flattened
from refseg_cli.errors import RefsegError, Unread, first_line

STATE = "training.pt"
NAMED = 3  # settings that a message spells out
_ANEW = "start another run from its weights, with --init RUN/last and another --out"


@dataclass(slots=True)
class Position:
    """How far a run has come: `step` optimiser steps in all, `offset` micro-batches into `epoch`.

    best: the validation metric of `best`.  due: the epoch before this one has yet to be validated.
    """

    epoch: int = 0
    offset: int = 0
    step: int = 0
    best: float | None = None
    due: bool = False


@dataclass(frozen=True, slots=True)
class Moving:
    """What training changes: the weights, their moving average if there is one, and what moves them."""

    model: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: the moving average if there is one."""
        return self.model if self.average is None else self.average.module

    def gather(self) -> None:
        """Bring `evaluated` up to date, where it is not what is trained."""

    def clip(self, accelerator: Accelerator, norm: float) -> None:
        """Scale the gradients down to this norm, if they have a larger one."""
        accelerator.clip_grad_norm_(self.model.parameters(), norm)

    def optimizer_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load(self, weights: Path, optimizer: dict[str, Any]) -> None:
        """Take over a checkpoint's weights and what moved them."""
        checkpoint.load_weights(self.evaluated, weights)
        take_moments(self.optimizer, optimizer, lambda moment, weight: torch.empty_like(weight).copy_(moment))


def save_state(
    folder: Path, moving: Moving, position: Position, *, optimizer: dict[str, Any], data: str, processes: int
) -> None:
    """Write what a checkpoint folder does not hold of a run.

    Args:
        optimizer: the state of `moving`'s.
        data: fingerprint of the prepared data.
        processes: how many train together.
    """
    state: dict[str, Any] = {
        "position": [position.epoch, position.offset, position.step, position.best, position.due],
        "optimizer": optimizer,
        "data": data,
        "processes": processes,
    }
    if moving.average is not None:
        state["weights"] = moving.model.state_dict()
        state["averaged"] = moving.average.n_averaged
    if moving.scaler is not None:
        state["scaler"] = moving.scaler.state_dict()
    with (folder / STATE).open("wb") as file:  # given a name, torch would not say why it cannot write
        torch.save(state, file)


def restore_state(folder: Path, moving: Moving, *, data: str, earlier: str, processes: int) -> Position:
    """Take over what `save_state` and the checkpoint in the same folder hold.

    earlier: what runs of earlier versions kept in place of `data`.

    Raises:
        RefsegError: damaged or of another model; or the run had other data or another number of processes.
    """
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file, and says how to run what is in it
        reason = error.strerror if isinstance(error, OSError) else "damaged"
        raise RefsegError(f"{folder / STATE}: cannot read: {reason}", hint=_ANEW) from error
    try:
        if state["data"] not in (data, earlier):
            raise RefsegError(
                f"{folder.parent}: the run was started with other data",
                hint="resume with the same prepared shards, or start another run with --out",
            )
        if state["processes"] != processes:
            raise RefsegError(
                f"this run was started with {state['processes']} processes, not {processes}",
                hint="each draws its own dropout and share of a batch: an exact resume needs the same number",
            )
        moving.load(folder / checkpoint.WEIGHTS, state["optimizer"])
        if moving.average is not None:
            moving.model.load_state_dict(state["weights"])
            moving.average.n_averaged.copy_(state["averaged"])
        if moving.scaler is not None and "scaler" in state:
            moving.scaler.load_state_dict(state["scaler"])
        return Position(*state["position"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RefsegError(f"{folder / STATE}: not the state of this run: {first_line(error)}", hint=_ANEW) from error


def resume_folder(out: Path, recipe: Recipe, *, resume: bool) -> Path | None:
    """The checkpoint folder to go on from; None for a new run.

    Raises:
        RefsegError: there is a run and `resume` is off, or there is none, or one of another recipe, and it is on.
    """
    last = out / "last"
    exists = (last / checkpoint.CONFIG).is_file()
    if not resume:
        if exists:
            raise RefsegError(
                f"{out}: holds a training run already", hint="continue it with --resume, or choose another --out"
            )
        return None
    if not exists:
        raise nothing_to_resume(out)
    begun, _, _ = checkpoint.read_config(last)
    if changed := _changed(_trained(begun), _trained(recipe)):
        raise RefsegError(
            f"{out}: the run was started with another recipe: {'; '.join(changed)}",
            hint="--resume without --recipe, --arch and --set continues with its own; or start another run with --out",
        )
    return last


def is_blind(resumed: Path | None, *, asked: bool) -> bool:
    """Whether phrases are shuffled: what a run began with counts, which those of earlier versions do not tell.

    resumed: the checkpoint folder to go on from; None for a new run.

    Raises:
        Unread: it is asked of a run that began without.
    """
    begun = None if resumed is None else checkpoint.read_config(resumed)[2].get(checkpoint.BLIND)
    if resumed is not None and asked and begun is False:
        raise Unread(
            f"{resumed.parent}: the run was started without --shuffle-phrases",
            option="--shuffle-phrases",
            hint="omit it; or start another run with --out",
        )
    return asked if begun is None else bool(begun)


def nothing_to_resume(out: Path) -> RefsegError:
    return RefsegError(f"{out}: no run to resume here", hint="omit --resume to start one")


def _changed(begun: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What two recipes do not share, each as `key was 1, is 2`."""
    keys = [key for key in {**begun, **asked} if begun.get(key) != asked.get(key)]
    named = [f"{key} was {begun.get(key, 'not given')}, is {asked.get(key, 'not given')}" for key in keys[:NAMED]]
    return named + ([f"and {len(keys) - NAMED} more"] if len(keys) > NAMED else [])


def _trained(recipe: Recipe) -> dict[str, Any]:
    """The recipe as far as it decides the figures. How often a run saves, who loads its data, whether its processes
    share the model, and whether layers compute twice does not.

    As a file would hold it, where there are no tuples, with keys like `train.lr`.
    """
    data = replace(recipe.data, workers=0)
    train = replace(recipe.train, save_every_steps=1, shard_model=False, gradient_checkpointing=False)
    kept = replace(recipe, data=data, train=train)
    return flattened(json.loads(json.dumps(to_table(kept))))
