"""`refseg compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from refseg_cli.commands._options import (
    Json,
    Latex,
    Markdown,
    Protocols,
    Quiet,
    Resamples,
    choose_protocols,
)
from refseg_cli.commands._tables import chosen_form, show
from refseg_cli.console import console


def compare(
    a: Annotated[str, typer.Argument(metavar="FILE", help="Records of one model: 'refseg eval --records FILE'.")],
    b: Annotated[str, typer.Argument(metavar="FILE", help="Records of another, on the same data and splits.")],
    protocol: Protocols = "refseg",
    resamples: Resamples = 10_000,
    json: Json = False,
    markdown: Markdown = False,
    latex: Latex = False,
    quiet: Quiet = False,
) -> None:
    """Tell whether two models differ, from their answers to the same phrases.

    Prints each metric of both, the difference (second minus first) with its 95 % interval, and a two-sided p-value,
    from a paired bootstrap over images: both models are scored on the same resampled images, so that what is hard
    for both does not blur the difference.

    \b
    Example:
      refseg eval --data scenes --model runs/first --records first.parquet
      refseg eval --data scenes --records bundled.parquet
      refseg compare bundled.parquet first.parquet
    """
    from refseg_cli.commands._scores import COMPARE_SCHEMA, difference_json, difference_table, subject
    from refseg_cli.evaluation.analysis import compare_by_split
    from refseg_cli.evaluation.answers import read_answers

    form = chosen_form(json=json, markdown=markdown, latex=latex)
    one, other = read_answers(a), read_answers(b)
    found = compare_by_split(one, other, choose_protocols(protocol), resamples=resamples)
    if form == "json":
        table = {f"{split}/{name}": difference_json(differences) for (split, name), differences in found.items()}
        console.json({"schema": COMPARE_SCHEMA, "a": a, "b": b, "differences": table})
        return
    names = (f"A {subject(one.about)}", f"B {subject(other.about)}")
    where = one.about.dataset or one.about.data
    show([difference_table(f"B against A on {where}, {s}: {n}", names, d) for (s, n), d in found.items()], form)
