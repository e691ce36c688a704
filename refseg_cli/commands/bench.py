"""`refseg bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refseg_cli.commands._options import Arch, Device, Json, Model, Overrides, Quiet, RecipeName, choose_recipe
from refseg_cli.console import console
from refseg_cli.errors import RefsegError

if TYPE_CHECKING:
    from refseg_cli.engine.bench import BenchReport


def bench(
    model: Model = None,
    arch: Arch = None,
    recipe: RecipeName = None,
    overrides: Overrides = None,
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", metavar="N,...", help="Images at a time; a row of the table for each.")
    ] = "1,2,4,8",
    phrases: Annotated[int, typer.Option("--phrases", metavar="N", min=1, help="Phrases for each image.")] = 1,
    repeat: Annotated[int, typer.Option("--repeat", metavar="N", min=1, help="Timed runs of each batch size.")] = 20,
    warmup: Annotated[int, typer.Option("--warmup", metavar="N", min=0, help="Untimed runs before them.")] = 3,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option("--precision", help="Of the arithmetic.")
    ] = "fp32",
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency, throughput and memory.

    Times the forward pass of a trained model, or of a recipe with random weights, on random input. Also counts
    parameters and floating point operations (a multiply and an add are two).

    \b
    Example:
      refseg bench --batch-sizes 1,4 --phrases 5
      refseg bench --recipe vlt-darknet53-refcoco --batch-sizes 1 --repeat 3
    """
    from refseg_cli.engine.bench import BenchRequest, bench

    if overrides and not (arch or recipe):
        raise RefsegError("--set changes a recipe, and none was given", hint="add --recipe or --arch")
    chosen = choose_recipe(arch, recipe, overrides) if arch or recipe else None
    request = BenchRequest(model, chosen, _numbers(batch_sizes), phrases, repeat, warmup, device, precision)
    with console.progress() as progress:
        report = bench(request, progress=progress)
    if json:
        console.json(report.to_json())
    else:
        _show(report)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise RefsegError(f"--batch-sizes {text}: not numbers with commas between them", hint="e.g. 1,2,4") from error


def _show(report: BenchReport) -> None:
    rows = [
        (
            row.images,
            row.expressions,
            row.latency_p50_ms,
            row.latency_p95_ms,
            row.images_per_s,
            row.expressions_per_s,
            f"{row.peak_memory_mib:.0f}",
            row.gflops,
        )
        for row in report.rows
    ]
    columns = ["images", "phrases", "p50 ms", "p95 ms", "images/s", "phrases/s", "peak MiB", "GFLOPs"]
    parameters = "" if report.parameters is None else f"{report.parameters / 1e6:.1f} M parameters, "
    title = (
        f"{report.model} on {report.device}, {report.precision}, {report.threads} threads: "
        f"{parameters}{report.size[0]} x {report.size[1]} pixels"
    )
    console.table(title, columns, rows)
