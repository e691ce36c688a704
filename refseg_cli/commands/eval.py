"""`refseg eval`."""

from __future__ import annotations

from typing import Annotated

import typer

from refseg_cli.commands._options import BatchImages, Data, Device, Json, Model, Quiet, split_choices
from refseg_cli.console import console
from refseg_cli.errors import RefsegError


def eval_(
    data: Data,
    model: Model = None,
    split: Annotated[
        str,
        typer.Option(
            "--split", metavar="NAMES", help="Splits, with commas between them.", autocompletion=split_choices
        ),
    ] = "val",
    records: Annotated[
        str | None,
        typer.Option("--records", metavar="FILE", help="Also write every answer there (Parquet), to score it again."),
    ] = None,
    batch_images: BatchImages = 8,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Images of each split; 0 for all.")] = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on prepared data.

    Prints cIoU, mIoU, gIoU, Pr@0.5 to Pr@0.9, N-acc and T-acc of each split in percent, counted at the images'
    original size. Where nothing defines a score, as N-acc without no-target phrases, there is a dash (null in JSON).

    \b
    Example:
      refseg prepare scenes --out scenes --images val=40
      refseg eval --data scenes --split val
    """
    from refseg_cli.engine.evaluate import EvalRequest, evaluate

    splits = tuple(name.strip() for name in split.split(",") if name.strip())
    if not splits:
        raise RefsegError(f"--split {split}: names no split", hint="e.g. --split val,testA")
    request = EvalRequest(data, splits, model, device, batch_images=batch_images, limit=limit, records=records)
    with console.progress() as progress:
        report = evaluate(request, progress=progress)
    at = report.thresholds
    console.info(
        f"threshold {at.mask:g}, no-target threshold {at.exists:g}, at least {at.min_pixels} pixels; "
        + "; ".join(
            f"{name}: {len(e.counts)} expressions, {e.images} images, {e.expressions_per_second:.0f} expr/s"
            for name, e in report.evaluations.items()
        )
    )
    tables = {name: scores.table() for name, scores in report.scores.items()}
    if json:
        console.json(tables)
    else:
        columns = ["split", *next(iter(tables.values()), {})]
        console.table(f"{report.model} on {data}", columns, [[name, *table.values()] for name, table in tables.items()])
