"""What manual, completions and settings need to know of the app, read from signatures and docstrings.

Only what Typer documents is read (registered commands, signatures, Option and Argument markers): its own command
objects belong to a vendored Click that may change with any release.
"""

from __future__ import annotations

import enum
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from types import UnionType
from typing import Any, Literal

import typer
from typer.models import ArgumentInfo, OptionInfo

FILE_METAVARS = {"FILE", "IMAGE", "OUT", "PATH"}
FOLDER_METAVARS = {"DIR", "FOLDER", "RAW", "RUN"}
TYPE_METAVARS = {int: "N", float: "X"}
SAFE_WORD = re.compile(r"[A-Za-z0-9_.+=/-]+")  # means itself in every shell, so that completions need no quoting


@dataclass(frozen=True)
class Parameter:
    """An option or argument.

    name:    of the function's parameter.
    options: its names, as typed; empty for an argument.  metavar: what stands for its value.
    takes:   how a shell completes the value where `choices` do not; "nothing" for a flag.
    kind:    the type of one value.  values: all that it allows, where the type lists them.  limits: the least and the
             greatest, of a number.
    offers:  gives some usual values.
    default: as a person would type it; "" where there is none worth naming.  built_in: as the function has it.
    group:   the heading that it stands below in the help; "" for none.
    """

    name: str
    options: tuple[str, ...]
    metavar: str
    help: str
    takes: Literal["nothing", "files", "folders", "text"]
    kind: Any = bool
    values: tuple[str, ...] = ()
    limits: tuple[float | None, float | None] = (None, None)
    offers: Callable[[], Iterable[str]] | None = None
    required: bool = False
    repeatable: bool = False
    default: str = ""
    built_in: Any = None
    group: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The words to complete a value with: all there are, or the usual ones.

        Raises:
            ValueError: a choice that shells would split or expand.
        """
        words = self.values or tuple(self.offers() if self.offers else ())
        for word in words:
            if not SAFE_WORD.fullmatch(word):
                raise ValueError(f"a shell would not take the choice {word!r} for one word")
        return words


@dataclass(frozen=True)
class Command:
    """A command or group of commands.

    words:      all of its name, e.g. ("refseg", "prepare", "refcoco").
    summary:    the first line of its help, without a final full stop.
    paragraphs: the rest of its prose.
    blocks:     its verbatim blocks by heading, e.g. {"Example": "refseg predict --demo"}.
    """

    words: tuple[str, ...]
    summary: str
    paragraphs: tuple[str, ...]
    blocks: dict[str, str]
    parameters: tuple[Parameter, ...]
    commands: tuple[Command, ...] = ()

    @property
    def options(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if p.options)

    @property
    def arguments(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if not p.options)

    def walk(self) -> Iterator[Command]:
        """This command and all below it, parents first."""
        yield self
        for command in self.commands:
            yield from command.walk()


HELP = Parameter("help", options=("--help", "-h"), metavar="", help="Show this message and exit.", takes="nothing")


def read_app(app: typer.Typer, *words: str, summary: str = "") -> Command:
    """The tree of commands below `app`.

    Args:
        words: the name that calls it.
        summary: the help that the parent app gave it, if the app has none of its own.
    """
    root = app.registered_callback.callback if app.registered_callback else None
    text = _first_text(app.registered_callback and app.registered_callback.help, app.info.help, root, summary)
    commands = [
        _read_command(
            command.callback, text_or_empty(command.help), *words, _command_name(command.name, command.callback)
        )
        for command in app.registered_commands
        if command.callback and not command.hidden
    ]
    groups = [
        read_app(group.typer_instance, *words, str(group.name), summary=text_or_empty(group.help))
        for group in app.registered_groups
        if group.typer_instance and not group.hidden
    ]
    return _command(words, text, _parameters(root) if root else (), tuple(commands + groups))  # the order of --help


def text_or_empty(value: object) -> str:
    """Typer marks what was not given with objects of its own."""
    return value if isinstance(value, str) else ""


def _first_text(*sources: object) -> str:
    """The first source that has words: a string, or a function's docstring."""
    for source in sources:
        text = text_or_empty(source.__doc__ if callable(source) else source)
        if text.strip():
            return text
    return ""


def _command_name(name: str | None, callback: Callable[..., Any]) -> str:
    return name or callback.__name__.replace("_", "-")


def _read_command(callback: Callable[..., Any], help_text: str, *words: str) -> Command:
    return _command(words, _first_text(help_text, callback), _parameters(callback))


def _command(
    words: tuple[str, ...], text: str, parameters: tuple[Parameter, ...], commands: tuple[Command, ...] = ()
) -> Command:
    if not SAFE_WORD.fullmatch(words[-1]):
        raise ValueError(f"a shell would not take {words[-1]!r} for one word")
    summary, *rest = re.split(r"\n\s*\n", inspect.cleandoc(text))
    prose, blocks = [], {}
    for part in rest:
        if part.startswith("\b"):  # Typer's mark for "keep the lines as they are"
            heading, _, body = part.removeprefix("\b").lstrip("\n").partition("\n")
            blocks[heading.strip().rstrip(":")] = inspect.cleandoc("\n" + body)
        else:
            prose.append(" ".join(part.split()))
    return Command(
        words=words,
        summary=" ".join(summary.split()).rstrip("."),
        paragraphs=tuple(prose),
        blocks=blocks,
        parameters=(*parameters, HELP),
        commands=commands,
    )


def _parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(function, include_extras=True)
    return tuple(
        _parameter(name, hints[name], parameter.default, f"{function.__module__}.{function.__name__}")
        for name, parameter in inspect.signature(function).parameters.items()
        if hints[name] is not typer.Context
    )


def _parameter(name: str, hint: Any, default: Any, where: str) -> Parameter:
    """The parameter `name` of the function called `where`.

    Raises:
        TypeError: it is not written as Annotated[type, typer.Option(...)], so that a reader would have to guess.
    """
    kind, *marks = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
    info = next((mark for mark in marks if isinstance(mark, OptionInfo | ArgumentInfo)), None)
    if info is None:
        raise TypeError(f"{where}: {name} needs Annotated[..., typer.Option(...)] or typer.Argument(...)")
    kind, repeatable = _plain_type(kind)
    options = _option_names(name, info, flag=kind is bool)
    values = _values(kind)
    metavar = (
        (info.metavar or "").removesuffix("...")
        or "|".join(values)
        or ("FILE" if _is_path(kind) else TYPE_METAVARS.get(kind, "TEXT"))
    )
    return Parameter(
        name=name,
        options=options,
        metavar="" if options and kind is bool else metavar if options or info.metavar else name.upper(),
        help=" ".join((info.help or "").split()),
        takes="nothing" if kind is bool else _takes(kind, metavar),
        kind=kind,
        values=values,
        limits=(info.min, info.max),
        offers=info.autocompletion,
        required=default is inspect.Parameter.empty,
        repeatable=repeatable,
        default=_shown(default) if info.show_default is True else str(info.show_default or ""),
        built_in=None if default is inspect.Parameter.empty else default,
        group=text_or_empty(info.rich_help_panel),
    )


def _plain_type(kind: Any) -> tuple[Any, bool]:
    """`list[str] | None` as (str, True): the type of one value, and whether there may be many."""
    if typing.get_origin(kind) in (typing.Union, UnionType):
        return _plain_type(next(part for part in typing.get_args(kind) if part is not type(None)))
    if typing.get_origin(kind) is list:
        return _plain_type(typing.get_args(kind)[0])[0], True
    return kind, False


def _option_names(name: str, info: OptionInfo | ArgumentInfo, *, flag: bool) -> tuple[str, ...]:
    """Long names first. In Annotated[..., typer.Option("--format", "-f")] Typer keeps the first one as the default."""
    if isinstance(info, ArgumentInfo):
        return ()
    given = [info.default, *(info.param_decls or ())]
    declared = [text for text in given if isinstance(text, str) and text.startswith("-")]
    long = name.replace("_", "-")
    declared = declared or [f"--{long}/--no-{long}" if flag else f"--{long}"]
    names = [option for text in declared for option in text.split("/")]
    return tuple(sorted(names, key=lambda option: not option.startswith("--")))


def _values(kind: Any) -> tuple[str, ...]:
    """The words that the type allows, if it lists them."""
    if typing.get_origin(kind) is Literal:
        return tuple(str(value) for value in typing.get_args(kind))
    if inspect.isclass(kind) and issubclass(kind, enum.Enum):
        return tuple(str(member.value) for member in kind)
    return ()


def _takes(kind: Any, metavar: str) -> Literal["files", "folders", "text"]:
    words = set(re.findall(r"[A-Z]+", metavar))
    if words & FOLDER_METAVARS:
        return "folders"
    return "files" if words & FILE_METAVARS or _is_path(kind) else "text"


def _is_path(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, PurePath)


def _shown(default: Any) -> str:
    if default is None or default is inspect.Parameter.empty or isinstance(default, bool) or default in ("", (), []):
        return ""
    return str(getattr(default, "value", default))
