"""Typer's complaints about a command line in refseg's words: with the nearest name, or where to read on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from refseg_cli.errors import RefsegError, nearest_name, unknown_name

if TYPE_CHECKING:
    from refseg_cli.commands._spec import Command


def explain_usage(message: str, path: Sequence[str], commands: Callable[[], Command]) -> RefsegError:
    """What is wrong, and what was probably meant.

    Args:
        message: Typer's.
        path: words of the command that it is about, e.g. ("refseg", "prepare").
        commands: gives all of them; called only for a name that is unknown.
    """
    message = message.strip().rstrip(".").replace("Value error, ", "")
    read_on = f"see '{' '.join(path)} --help'"
    if unknown := re.match(r"No such command '(.*?)'(?:\.|$)", message, re.DOTALL):
        return _unknown_command(unknown[1], _at(commands(), path))
    if unknown := re.match(r"No such option: (\S+)", message):
        names = [option for parameter in _at(commands(), path).options for option in parameter.options]
        near = nearest_name(unknown[1], names) if unknown[1].startswith("--") else None
        return RefsegError(f"unknown option {unknown[1]}", hint=f"did you mean {near}?" if near else read_on)
    if refused := re.match(r"Invalid value for '(--?[\w-]+)'[^:]*: '(.*?)' is not one of (.*)", message, re.DOTALL):
        option, value, choices = refused.groups()
        error = unknown_name("value", value, re.findall(r"'([^']*)'", choices))
        return RefsegError(f"{option}: {error.message}", hint=error.hint)
    return RefsegError(message, hint=read_on)


def _at(command: Command, path: Sequence[str]) -> Command:
    return next(below for below in command.walk() if below.words == tuple(path))


def _unknown_command(name: str, group: Command) -> RefsegError:
    """A command deeper down counts as near if its own name is the one that was typed."""
    deeper = [" ".join(below.words[1:]) for below in group.walk() if below.words[-1] == name]
    if deeper:
        return RefsegError(f"unknown command {name!r}", hint=f"did you mean {' or '.join(map(repr, deeper))}?")
    return unknown_name("command", name, [below.words[-1] for below in group.commands])
