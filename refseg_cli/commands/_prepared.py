"""What the commands that prepare data share: options, what these ask for, and what is said of the outcome."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refseg_cli.commands._options import split_choices
from refseg_cli.console import console

if TYPE_CHECKING:
    from refseg_cli.engine.prepare import Output, PrepareReport

Out = Annotated[
    str, typer.Option("--out", "-o", metavar="DIR", help="Folder or URI (s3://...) to write the shards to.")
]
Splits = Annotated[
    str,
    typer.Option(
        "--splits",
        metavar="NAMES",
        help="Splits to prepare, comma-separated; all if not given.",
        autocompletion=split_choices,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="Worker processes; if not given, one per core, up to 8."),
]
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(
        "--on-error", help="What to do with broken inputs: `fail`, or `skip` them and list them in OUT/_problems.jsonl."
    ),
]
MasksOn = Annotated[
    Literal["upright", "stored"],
    typer.Option(
        "--masks-on",
        help="Frame of the masks of photos that EXIF rotates, where the size does not tell: the upright photo, or its "
        "stored pixels.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace data in --out that was prepared from other inputs or with other options."
    ),
]


def output_of(
    out: str,
    workers: int | None,
    engine: Literal["local", "ray"],
    on_error: Literal["fail", "skip"],
    masks_on: Literal["upright", "stored"],
    max_pixels: int | None,
    overwrite: bool,
) -> Output:
    """What the options that every dataset has ask for."""
    from refseg_cli.data.formats import MAX_PIXELS
    from refseg_cli.data.sources.photos import Rules
    from refseg_cli.engine.prepare import Output

    rules = Rules(masks_on, max_pixels or MAX_PIXELS)
    return Output(out, workers or cores(), on_error, overwrite, rules=rules, engine=engine)


def names_of(splits: str) -> tuple[str, ...]:
    """The splits that --splits names."""
    return tuple(name.strip() for name in splits.split(",") if name.strip())


def show(report: PrepareReport, json: bool) -> None:
    """Say what was prepared, and what was not."""
    manifest = report.manifest
    if report.differences:
        told = "; ".join(str(difference) for difference in report.differences)
        console.warn(f"{manifest.dataset} ({manifest.split_by}): counts differ from the published ones: {told}")
    if report.is_release():
        console.info(f"{manifest.dataset} ({manifest.split_by}): the released set, which is smaller than the paper's")
    for sentence in report.repeated:
        console.warn(sentence)
    losses = [problem for problem in report.problems if not problem.caution]
    cautions = [problem for problem in report.problems if problem.caution]
    for problems, told in (losses, "broken inputs skipped"), (cautions, "cautions; no expression is lost"):
        if problems:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(Counter(p.reason for p in problems).items()))
            console.warn(f"{len(problems)} {told} ({reasons}), all in {report.out}/_problems.jsonl")
        for problem in problems[:3]:
            console.warn(str(problem))
    if json:
        console.json(report)
        return
    columns = ["images", "refs", "expressions", "single", "multi", "no_target"]
    if any(split.clips for split in manifest.splits.values()):
        columns.insert(0, "clips")
    rows = [(name, *(getattr(split, column) for column in columns)) for name, split in manifest.splits.items()]
    title = f"{report.out}: {report.written} shards written, {report.kept} kept"
    console.table(
        title, ["split", *columns[:-1], "no target", "published"], [(*row, report.published(row[0])) for row in rows]
    )
    for name, split in manifest.splits.items():
        if not split.masks:
            console.info(
                f"{name} has no masks: `refseg eval --submission` writes answers for the server that scores it"
            )


def cores() -> int:
    """The cores that this process may use, at most 8: beyond that the disk is what it waits for."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8)
