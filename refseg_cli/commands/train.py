"""`refseg train`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refseg_cli.commands._given import fitting, refuse_besides, unread
from refseg_cli.commands._options import Arch, DataSets, Device, Json, Overrides, Quiet, RecipeName, choose_recipe
from refseg_cli.console import console
from refseg_cli.errors import FOUND, INTERRUPTED, RefsegError

if TYPE_CHECKING:
    from refseg_cli.config import Recipe
    from refseg_cli.engine.train import TrainRequest, TrainResult
    from refseg_cli.progress import Progress


def train(
    data: DataSets,
    arch: Arch = None,
    recipe: RecipeName = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN", help="Folder for the run; runs/RECIPE if not given.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="RUN",
            help="Start from the vocabulary and the matching weights of another run or a bundled model.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")] = False,
    tracker: Annotated[
        Literal["none", "tensorboard"], typer.Option("--tracker", help="Experiment tracker, besides metrics.jsonl.")
    ] = "none",
    shuffle_phrases: Annotated[
        bool,
        typer.Option("--shuffle-phrases", help="Assign phrases to wrong targets: a control that cannot use language."),
    ] = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Train a model on prepared data.

    The folder of the run holds the best and the last checkpoint, which every other command takes as --model, and
    metrics.jsonl. Ctrl-C saves and stops; --resume continues with the same batches.

    \b
    Example:
      refseg prepare scenes --out scenes --images train=400,val=40
      refseg train --recipe vlt-tiny --data scenes --set train.epochs=1 --out runs/first
      refseg train --resume --data scenes --out runs/first
    """
    from refseg_cli.engine.train import TrainRequest

    if resume:
        refuse_besides("--resume", {"--init": init})
        init = None
        if not (out or arch or recipe):
            raise RefsegError("--resume needs the folder of the run", hint="add --out RUN")
    begun = out if resume and not unread({"--arch": arch, "--recipe": recipe, "--set": overrides}) else None
    chosen = _recipe_of_run(begun) if begun else choose_recipe(arch, recipe, overrides)
    out = out or Path("runs") / Path(recipe or chosen.arch).stem
    request = TrainRequest(recipe=chosen, data=data, out=out, init=init, resume=resume, device=device, tracker=tracker)
    with console.progress() as progress:
        call = partial(_train, request, progress=progress)
        result = fitting(call, {"shuffle_phrases": shuffle_phrases})
    if json:
        console.json(result)
    else:
        best = "not validated" if result.best is None else f"best {chosen.train.best_metric} {result.best:.2f}"
        console.result(f"{result.out}: {result.steps} steps, {result.epochs} epochs, {best}")
    if result.stopped == "finished":
        return FOUND
    sets = " ".join(f"--data {uri}" for uri in data)
    same = f"{sets} --out {out}{_not_in_the_recipe(request)}"
    console.info(f"{result.stopped}: state saved; continue with: refseg train --resume {same}")
    return INTERRUPTED


def _train(request: TrainRequest, *, shuffle_phrases: bool = False, progress: Progress) -> TrainResult:
    from refseg_cli.engine.train import train

    return train(replace(request, shuffle_phrases=shuffle_phrases), progress=progress)


def _not_in_the_recipe(request: TrainRequest) -> str:
    """The options that the run does not keep, as they have to be given again."""
    tracked = "" if request.tracker == "none" else f" --tracker {request.tracker}"
    return tracked + ("" if request.device == "auto" else f" --device {request.device}")


def _recipe_of_run(out: Path) -> Recipe:
    """The recipe that the run in `out` began with.

    Raises:
        RefsegError: there is no run.
    """
    from refseg_cli import checkpoint
    from refseg_cli.engine.run_state import nothing_to_resume

    try:
        last = checkpoint.resolve(out / "last")
    except RefsegError as error:
        raise nothing_to_resume(out) from error
    return checkpoint.read_config(last)[0]
