"""`refseg recipes`: what comes with the package, and what each one says."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer

from refseg_cli.commands._help import Commands
from refseg_cli.commands._options import Arch, Json, Quiet, recipe_choices
from refseg_cli.console import console

app = Commands(help="Find the recipe of a published figure.")


@app.command("list")
def list_(
    arch: Arch = None,
    paper: Annotated[
        str,
        typer.Option("--paper", metavar="WORDS", help="Only papers whose citation contains this, e.g. 'CVPR 2022'."),
    ] = "",
    table: Annotated[
        str, typer.Option("--table", metavar="NUMBER", help="Only this table of the paper, e.g. 4.7.")
    ] = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the recipes and what they reproduce.

    Most stand for one row of one table of a paper. The first metric of the published figures is shown; --json has all.

    \b
    Example:
      refseg recipes list --arch vlt --table 4.7
    """
    from refseg_cli.engine.catalogue import catalogue

    entries = catalogue(arch=arch, paper=paper, table=table)
    if json:
        console.json(entries)
        return
    if console.on_terminal():  # where lines are short
        for (of, title), group in groupby(entries, lambda entry: (entry.arch, entry.paper)):
            rows = [[e.name, e.table or None, e.row, e.main_figures or None] for e in group]
            console.result(f"{of}: {title or 'ours'}")
            console.table("", ["recipe", "table", "row", "published"], rows, whole=["recipe"])
        return
    rows = [[e.name, e.arch, e.paper or None, e.table or None, e.row, e.main_figures or None] for e in entries]
    console.table("", ["recipe", "arch", "paper", "table", "row", "published"], rows)


@app.command("show")
def show(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="Name of a recipe that comes with refseg, or a TOML file.",
            autocompletion=recipe_choices,
            show_default=False,
        ),
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a whole recipe, including the values inherited from its bases.

    The output is a recipe itself, to save and edit.

    \b
    Example:
      refseg recipes show vlt-darknet53-refcoco > mine.toml
    """
    from refseg_cli.config import recipe_table
    from refseg_cli.engine.catalogue import whole_text

    if json:
        console.json(recipe_table(recipe))
    else:
        console.result(whole_text(recipe).rstrip("\n"))
