"""Help pages that fit the terminal: no line is too wide, no word is broken, and nothing ends in dots.

Typer's own pages are made for 80 columns: on a narrower terminal they leave options ten columns for what they do.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from refseg_cli.commands._given import noted

WIDEST = 78  # columns of a page: longer lines are hard to read
WIDEST_NAME = 30  # columns of the names of options
LEAST_TEXT = 24  # columns beside the names; where there are fewer, the text stands below its name

# A line may end within a word, too: <png|overlay|json> after a bar, train=4000,val=300 after a comma.
WORD = re.compile(r"\S+?(?:\||,(?=[a-z])|(?!\S))\s*")
SHELL_WORD = re.compile(r"""(?:(?:"[^"]*"|'[^']*'|[^\s"'|])+\|?|\|)\s*""")  # what quotes hold together is one
NO_BRACES, NO_BRACKETS = str.maketrans("", "", "{}"), str.maketrans("", "", "{}[]")


class _Fitting:
    """Options stand below the `rich_help_panel` that they name, arguments and commands below headings of their own."""

    def get_help(self: Any, context: Any) -> str:
        width = min(shutil.get_terminal_size().columns - 1, WIDEST)
        usage = f"{context.command_path} {' '.join(self.collect_usage_pieces(context))}".translate(NO_BRACES)
        parts = [_filled(usage, width, "Usage: ", " " * len("Usage: "))]
        parts += [_paragraph(text, width) for text in re.split(r"\n\s*\n", inspect.cleandoc(self.help or ""))]
        lists: dict[str, list[tuple[str, str]]] = {}
        for title, row in self.rows(context):
            lists.setdefault(title, []).append(row)
        return "\n\n".join([*parts, *(_list(title, rows, width) for title, rows in lists.items())])

    def rows(self: Any, context: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        """(heading, (names, what it does)) of each argument and option."""
        for parameter in self.get_params(context):
            if row := parameter.get_help_record(context):
                names, text = row
                if parameter.param_type_name == "argument":  # without Typer's word for its type, "<list[str]>"
                    yield "Arguments", ("".join(parameter.get_usage_pieces(context)).translate(NO_BRACKETS), text)
                else:
                    yield getattr(parameter, "rich_help_panel", None) or "Options", (names, text)


class _Command(_Fitting, TyperCommand):
    """A command with our help page, which knows where its options come from."""

    def invoke(self, context: Any) -> Any:
        with noted(context):
            return super().invoke(context)


class _Group(_Fitting, TyperGroup):
    """Commands with our help page."""

    def rows(self, context: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        yield from super().rows(context)
        for name in self.list_commands(context):
            command = self.get_command(context, name)
            if command and not command.hidden:
                yield "Commands", (name, command.get_short_help_str(limit=sys.maxsize))


class Commands(typer.Typer):
    """A group of commands, to which `command` and `add_typer` add."""

    def __init__(self, **settings: Any) -> None:
        # Plain help, because Typer's coloured one writes escape codes into pipes on CI machines.
        super().__init__(cls=_Group, rich_markup_mode=None, no_args_is_help=True, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Any:
        return super().command(name, cls=_Command, **settings)


def _paragraph(text: str, width: int) -> str:
    if not text.startswith("\b"):  # Typer's mark for "keep the lines as they are"
        return _filled(" ".join(text.split()), width, "  ", "  ")
    heading, *lines = text.removeprefix("\b").strip("\n").splitlines()
    return "\n".join([_filled(heading, width, "  ", "  "), *(_verbatim(line, width) for line in lines)])


def _verbatim(line: str, width: int) -> str:
    """A command goes on after a backslash, as shells read it; a row of a table ("0  Found.") below its text."""
    indent = "  " + line[: len(line) - len(line.lstrip())]
    if term := re.match(r"\s*\S+ {2,}", line):
        return _filled(line[term.end() :], width, f"  {term[0]}", " " * (2 + term.end()))
    return _filled(line.strip(), width, indent, indent + "    ", words=SHELL_WORD, end=" \\")


def _list(title: str, rows: Sequence[tuple[str, str]], width: int) -> str:
    """Names on the left and what they do on the right, or below where that would be a narrow column."""
    column = min(max(len(names) for names, _ in rows), WIDEST_NAME)
    beside = width - column - len("    ") >= LEAST_TEXT
    hang = " " * (column + len("    ") if beside else 6)
    lines = [f"{title}:"]
    for names, text in rows:
        if beside and len(names) <= column:
            lines.append(_filled(text, width, f"  {names:{column}}  ", hang))
        else:
            lines += [_filled(names, width, "  ", " " * 6), _filled(text, width, hang, hang)]
    return "\n".join(lines)


def _filled(text: str, width: int, first: str, others: str, *, words: re.Pattern[str] = WORD, end: str = "") -> str:
    """`text` in lines of `width` letters, or wider where a word is.

    first, others: what the first line begins with, and the others.
    end: what a line that goes on ends with.
    """
    if len(first + text) <= width:
        return first + text
    lines = [first]
    for word in words.findall(text):
        if len((lines[-1] + word).rstrip()) + len(end) > width and lines[-1] not in (first, others):
            lines[-1] = lines[-1].rstrip() + end
            lines.append(others)
        lines[-1] += word
    return "\n".join(lines)
