"""`refseg compare`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from refseg_cli.commands._clips import compared_by_clip
from refseg_cli.commands._options import (
    Json,
    Latex,
    Markdown,
    Protocols,
    Quiet,
    Resamples,
    choose_protocols,
)
from refseg_cli.commands._tables import Form, chosen_form, show
from refseg_cli.console import console

if TYPE_CHECKING:
    from refseg_cli.metrics.intervals import Difference


def compare(
    a: Annotated[
        str, typer.Argument(metavar="FILE", help="Records of the first model, from 'refseg eval --records FILE'.")
    ],
    b: Annotated[str, typer.Argument(metavar="FILE", help="Records of the second model, on the same data and splits.")],
    protocol: Protocols = "refseg",
    resamples: Resamples = 10_000,
    json: Json = False,
    markdown: Markdown = False,
    latex: Latex = False,
    quiet: Quiet = False,
) -> None:
    """Test whether two models differ on the same phrases.

    Prints each metric of both, the difference (second minus first) with its 95 % interval, and a two-sided p-value: how
    often the difference would be as large if it were chance which of the two models gave which image's answers. Both
    are seen on the same images, so what is hard for both does not blur the difference.

    \b
    Example:
      refseg eval --data scenes --model runs/first --records first.parquet
      refseg eval --data scenes --records bundled.parquet
      refseg compare bundled.parquet first.parquet

    \b
    Clips, by J&F, J, F and steadiness, with the data where they were when they were evaluated:
      refseg compare --protocol video a.parquet b.parquet
    """
    from refseg_cli.commands._scores import subject
    from refseg_cli.evaluation.analysis import compare_by_split, unfit
    from refseg_cli.evaluation.answers import read_answers
    from refseg_cli.metrics.protocols import PROTOCOLS, VIDEO
    from refseg_cli.segmenters.cautions import blind

    form = chosen_form(json=json, markdown=markdown, latex=latex)
    one, other = read_answers(a), read_answers(b)
    names = choose_protocols(protocol)
    left_out = {}
    if len(names) == len(PROTOCOLS):  # all, as far as both know them
        reasons = {name: unfit(one, PROTOCOLS[name]) or unfit(other, PROTOCOLS[name]) for name in names}
        left_out = {name: reason for name, reason in reasons.items() if reason}
    for name, reason in left_out.items():
        console.warn(f"{name}: {reason}")
    counted = [name for name in names if name not in left_out and name != VIDEO.name]
    found = compare_by_split(one, other, counted, swaps=resamples)
    if VIDEO.name in names:
        found |= compared_by_clip((a, one), (b, other), resamples)
    where = one.about.dataset or one.about.data
    titles = {(split, name): f"B against A on {where}, {split}: {name}" for split, name in found}
    controls = [
        blind(f"{side} {answers.about.model}") for side, answers in (("A", one), ("B", other)) if answers.about.blind
    ]
    show_differences(
        found, (a, b), (f"A {subject(one.about)}", f"B {subject(other.about)}"), titles, form, said=controls
    )


def show_differences(
    found: Mapping[tuple[str, str], Mapping[str, Difference]],
    sources: tuple[str, str],
    names: tuple[str, str],
    titles: Mapping[tuple[str, str], str],
    form: Form,
    said: Sequence[str] = (),
) -> None:
    """Print how two sets of answers differ, and why some differences have no interval.

    found, titles: by split and protocol.  sources, names: of A and B, for programs and for people.
    said: further sentences that a reader must know.
    """
    from refseg_cli.commands._scores import COMPARE_SCHEMA, difference_json, difference_table, few_images

    cautions = [
        *said,
        *(
            sentence
            for (split, name), differences in found.items()
            if not all(math.isnan(d.p) for d in differences.values())  # as with --resamples 0
            for sentence in few_images(f"{split}, {name}", differences)
        ),
    ]
    for sentence in cautions:
        console.warn(sentence)
    if form == "json":
        table = {f"{split}/{name}": difference_json(d) for (split, name), d in found.items()}
        console.json(
            {
                "schema": COMPARE_SCHEMA,
                "a": sources[0],
                "b": sources[1],
                "differences": table,
                "cautions": cautions,
            }
        )
        return
    show([difference_table(titles[key], names, d) for key, d in found.items()], form)
