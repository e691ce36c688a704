"""`refseg predict --data URI --output URI`: prepared shards in, answers out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import typer

from refseg_cli.commands._given import fitting
from refseg_cli.console import console
from refseg_cli.errors import ERROR, FOUND, NO_TARGET, RefsegError

DataIn = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="URI",
        help="Answer the phrases of prepared data, a folder or URI; -o is then a folder or URI for a file of answers a "
        "shard. Shards that have one are kept.",
    ),
]
SplitIn = Annotated[str, typer.Option("--split", metavar="NAME", help="With --data: the split to answer.")]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", metavar="N", min=1, help="With --engine ray: processes at most, each with its own model."
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", metavar="N", min=0, help="With --data: threads of each process; 0: the default.")
]


def answer_data(
    data: str, split: str, output: str | None, *, json: bool, model: str | None, options: Mapping[str, Any]
) -> int:
    """Have every phrase of a split answered; the exit status says whether anything was found.

    options: the rest of a `BulkRequest`.
    """
    from refseg_cli.engine.bulk import BulkRequest, answer_shards

    if output is None:
        raise RefsegError("--data needs a place for the answers", hint="give -o, a folder or URI")
    with console.progress() as progress:
        request = partial(BulkRequest, data, split, output, model)
        report = fitting(lambda **fit: answer_shards(request(**fit), progress=progress), options)
    for name, why in report.failed.items():
        console.error(RefsegError(f"{name}: {why}"))
    answered = report.answered
    if json:
        console.json(report)
    else:
        console.result(
            f"{report.out}: {report.written} shards answered, {report.kept} kept; {answered.phrases} phrases of "
            f"{answered.pictures} pictures, {answered.found} found"
        )
    if answered.broken:
        console.warn(f"{answered.broken} of {answered.pictures} pictures could not be read; their lines say why")
    if report.failed or answered.broken:
        return ERROR
    return FOUND if answered.found or not answered.phrases else NO_TARGET
