"""`refseg bench`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from refseg_cli.commands._given import fitting, one_of, unread
from refseg_cli.commands._options import (
    Arch,
    Compile,
    Device,
    Json,
    Model,
    Overrides,
    Precision,
    Quiet,
    RecipeName,
    choose_recipe,
    split_choices,
)
from refseg_cli.console import console
from refseg_cli.errors import FOUND, TOO_SLOW, RefsegError

if TYPE_CHECKING:
    from refseg_cli.engine.baseline import Comparison
    from refseg_cli.engine.bench import BenchReport, BenchRequest

Stage = Annotated[
    Literal["forward", "encode", "decode", "end-to-end", "train", "loader", "startup", "all"] | None,
    typer.Option(
        "--stage",
        help="Forward pass (if not given), the images' and the phrases' shares of it, files to masks, a training step, "
        "batches from --data, a whole predict process, or all of these.",
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        metavar="FILE",
        help="Earlier output of --json: print each row's speed as a share of the speed there.",
    ),
]
FailBelow = Annotated[
    float | None,
    typer.Option("--fail-below", metavar="RATIO", min=0, help="Exit with 1 if a row of --compare is slower than that."),
]


BatchSizes = Annotated[
    str, typer.Option("--batch-sizes", metavar="N,...", help="Images at a time; rows of the table for each.")
]
Phrases = Annotated[str, typer.Option("--phrases", metavar="N,...", help="Phrases for each image; a row for each.")]
Repeat = Annotated[int, typer.Option("--repeat", metavar="N", min=1, help="Timed runs of each row.")]
Warmup = Annotated[int, typer.Option("--warmup", metavar="N", min=0, help="Untimed runs before them.")]
AskedData = Annotated[
    str | None,
    typer.Option("--data", metavar="DIR", help="Prepared data to load and to ask; the demo's images if not given."),
]
AskedSplit = Annotated[
    str, typer.Option("--data-split", metavar="NAME", help="Split to ask.", autocompletion=split_choices)
]
TWO = "a trained model and a recipe were asked for"
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw phrases a second over batch sizes, as SVG.")
]


def bench(
    model: Model = None,
    arch: Arch = None,
    recipe: RecipeName = None,
    overrides: Overrides = None,
    stage: Stage = None,
    batch_sizes: BatchSizes = "1,2,4,8",
    phrases: Phrases = "1",
    repeat: Repeat = 20,
    warmup: Warmup = 3,
    precision: Precision = "fp32",
    compile: Compile = False,
    data: AskedData = None,
    data_split: AskedSplit = "val",
    compare: Baseline = None,
    fail_below: FailBelow = None,
    plot: Plot = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure latency, throughput and memory.

    Times a trained model, an exported one or a zero-shot one, or a recipe with random weights. The forward pass and
    training run on random input, from tensors to logits; end-to-end goes from image files to masks. Also counts
    parameters and floating point operations (a multiply and an add are two).

    \b
    Example:
      refseg bench --batch-sizes 1,4 --phrases 1,5 --plot speed.svg
      refseg bench --recipe vlt-darknet53-refcoco --batch-sizes 1 --repeat 3
      refseg bench --model hf:CIDAS/clipseg-rd64-refined --stage end-to-end
      refseg bench --stage all --data scenes --json > before.json
      refseg bench --stage all --data scenes --compare before.json --fail-below 0.95

    \b
    Exit status:
      0  Measured, and with --fail-below fast enough.
      1  A row is slower than --fail-below allows.
      2  An error; one line on standard error says which.
    """
    from refseg_cli.engine.baseline import read_baseline
    from refseg_cli.engine.bench import BenchRequest

    random = one_of({"--model": model, "--recipe or --arch": recipe or arch}, why=TWO)[0] not in (None, "--model")
    if not random and unread({"--set": overrides}):
        raise RefsegError("--set changes a recipe, and none was given", hint="add --recipe or --arch")
    if compare is None and unread({"--fail-below": fail_below is not None}):
        raise RefsegError("--fail-below needs something to compare with", hint="add --compare FILE")
    earlier = read_baseline(compare) if compare else None
    chosen = choose_recipe(arch, recipe, overrides) if random else None
    options: dict[str, Any] = {
        "batch_sizes": _numbers("--batch-sizes", batch_sizes),
        "phrases": _numbers("--phrases", phrases),
        "data": data,
        "data_split": data_split,
    }
    options |= {"repeat": repeat, "warmup": warmup, "device": device, "precision": precision, "compile": compile}
    request = partial(BenchRequest, None if random else model, chosen, stage)
    call = partial(_measured, request, earlier=earlier, name=str(compare))
    report, found = fitting(call, options)
    try:
        if plot:
            _draw(report, plot)
    finally:  # what was measured is told whether or not it can be drawn
        if json:
            console.json(report.to_json() | ({} if found is None else {"comparison": found}))
        else:
            _show(report, found)
    return FOUND if found is None else _verdict(found, fail_below)


def _measured(
    request: Callable[..., BenchRequest], *, earlier: dict[str, Any] | None, name: str, **options: Any
) -> tuple[BenchReport, Comparison | None]:
    """earlier: the baseline in the file of that `name`, if there is one."""
    from refseg_cli.engine.baseline import compare
    from refseg_cli.engine.bench import bench

    with console.progress() as progress:
        report = bench(request(**options), progress=progress)
    return report, None if earlier is None else compare(report, earlier, name)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise RefsegError(f"{option} {text}: not numbers with commas between them", hint="e.g. 1,2,4") from error


def _show(report: BenchReport, found: Comparison | None) -> None:
    ratios = {} if found is None else {(r.stage, r.images, r.expressions): r.ratio for r in found.ratios}
    rows = [
        (
            row.stage,
            row.images,
            row.expressions,
            row.latency_p50_ms,
            row.latency_p95_ms,
            row.images_per_s,
            row.expressions_per_s,
            f"{row.peak_memory_mib:.0f}",
            row.gflops,
            *([] if found is None else [ratios.get((row.stage, row.images, row.expressions))]),
        )
        for row in report.rows
    ]
    columns = ["stage", "images", "phrases", "p50 ms", "p95 ms", "images/s", "phrases/s", "peak MiB", "GFLOPs"]
    parameters = "" if report.parameters is None else f", {report.parameters / 1e6:.1f} M parameters"
    size = "" if report.size is None else f", {report.size[0]} x {report.size[1]} pixels"
    compiled = ", compiled" if report.compile else ""
    title = (
        f"{report.model} on {report.device}, {report.precision}{compiled}, {report.threads} threads{parameters}{size}"
    )
    console.table(title, columns if found is None else [*columns, "of baseline"], rows)
    for row in report.rows:
        if row.compile_s is not None:
            console.info(
                f"{row.stage}, {row.images} x {row.expressions // row.images}: compiled in {row.compile_s:.1f} s"
            )
        if row.parts_ms:
            shares = ", ".join(f"{name} {value:.1f} ms" for name, value in row.parts_ms.items())
            console.info(f"a step of {row.images} images, {row.expressions} phrases: {shares}")
    for stage, reason in report.left_out.items():
        console.info(f"left out: {stage}: {reason}")


def _verdict(found: Comparison, least: float | None) -> int:
    """Say what is not as in the baseline, and whether that is too slow."""
    for difference in found.other:
        console.warn(f"{found.baseline}: measured with another {difference}")
    if found.missing:
        console.warn(f"{found.baseline}: has no row for {found.missing} of these")
    slow = found.below(least) if least is not None else ()
    for ratio in slow:
        size = f"{ratio.images} images, {ratio.expressions} phrases"
        console.warn(f"{ratio.stage}, {size}: {ratio.ratio:.3f} of the baseline's speed, less than {least:g}")
    return TOO_SLOW if slow else FOUND


def _draw(report: BenchReport, file: Path) -> None:
    from refseg_cli import files
    from refseg_cli.drawing.chart import Panel, chart_svg

    panels = []
    for stage in dict.fromkeys(row.stage for row in report.rows if row.stage != "startup"):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in report.rows:
            if row.stage == stage and row.expressions_per_s:
                many = row.expressions // row.images
                name = f"{many} phrase{'s' if many > 1 else ''}"
                lines.setdefault(name, []).append((row.images, row.expressions_per_s))
        panels.append(
            Panel(stage, "images at a time", "phrases a second", {name: sorted(line) for name, line in lines.items()})
        )
    title = f"{report.model}, {report.precision}, {report.device}"
    files.write(file, chart_svg(title, panels).encode())
