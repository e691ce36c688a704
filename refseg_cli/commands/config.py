"""`refseg config`: what options are set to where a command line does not say, and who says so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg_cli.commands._help import Commands
from refseg_cli.commands._options import Json, Quiet
from refseg_cli.console import console
from refseg_cli.errors import unknown_name

if TYPE_CHECKING:
    from refseg_cli.commands._settings import Settings
    from refseg_cli.commands._spec import Command

SCHEMA = "refseg.config/1"

app = Commands(help="Show the defaults of options.")


@app.command("show")
def show(
    context: typer.Context,
    commands: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="Show all options of this command, e.g. predict or prepare coco."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the defaults that are set, and where each comes from.

    An option that is not given takes its value from the environment (REFSEG_DEVICE, for one command
    REFSEG_PREDICT_DEVICE), else from refseg.toml in this folder or the nearest one above it, else from
    ~/.config/refseg/refseg.toml, else it is built in. Keys of the files are options without the dashes; those of one
    command stand below its name, as [predict] or [prepare.coco].

    \b
    Example:
      refseg config show
      refseg config show predict
      refseg config show --json predict | jq .settings
    """
    from refseg_cli.commands import _sources
    from refseg_cli.commands._settings import read

    settings, words = read(_sources.variables(os.environ), _sources.files(os.environ)), tuple(commands or ())
    tree = context.obj()
    chosen = [command for command in tree.walk() if command.words[1:] == words or not words]
    if not chosen:
        names = (" ".join(command.words[1:]) for command in tree.walk())  # refseg's own is empty
        raise unknown_name("command", " ".join(words), filter(None, names))
    rows = _rows(settings, chosen, everything=bool(words))
    files = {str(path): path.exists() for path in _sources.places(os.environ)}
    if json:
        console.json({"schema": SCHEMA, "files": files, "settings": rows})
        return
    console.quiet = False  # it is what was asked for, whatever a file says of --quiet
    for path, there in files.items():
        console.info(f"{path}: {'read' if there else 'not there'}")
    if rows:
        console.table("", ["command", "option", "value", "from"], [list(map(_text, row.values())) for row in rows])
    else:
        console.result("no defaults are set; name a command to see those that are built in")


def _rows(settings: Settings, commands: Sequence[Command], *, everything: bool) -> list[dict[str, Any]]:
    """everything: what is built in too."""
    from refseg_cli.commands._settings import BUILT_IN, settable

    found = []
    for command in commands:
        for parameter in settable(command):
            setting = settings.of(command, parameter)
            if setting or everything:
                value, where = (setting.value, setting.where) if setting else (parameter.built_in, BUILT_IN)
                name = " ".join(command.words[1:]) or command.words[0]
                found.append({"command": name, "option": parameter.options[0], "value": value, "from": where})
    return found


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-" if value in (None, "") else str(value)
