"""What becomes of an option that has no use: one rule for all commands.

Typed on the command line, it is refused, as nobody types what is to be ignored. Set in `refseg.toml` or the
environment, it is meant for the cases that have a use for it; in others it is as if it were not there, and so it is
beside a typed option that excludes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import typer

from refseg_cli.errors import RefsegError, Unread

T = TypeVar("T")
TYPED, SET = "COMMANDLINE", "DEFAULT_MAP"  # names of Click's sources

# The running command's parameters: names, and where the value comes from. Empty where Python called a function.
_sources: ContextVar[Sequence[tuple[Sequence[str], str]]] = ContextVar("sources", default=())


@contextmanager
def noted(context: typer.Context) -> Iterator[None]:
    """While it is open, the functions below know where the command's options come from."""
    sources = [(p.opts, context.get_parameter_source(p.name or "")) for p in context.command.params]
    token = _sources.set([(names, source.name if source else "") for names, source in sources])
    try:
        yield
    finally:
        _sources.reset(token)


def is_typed(*options: str) -> bool:
    """Whether the command line gives one of them, whatever its value."""
    return any(source == TYPED and not set(options).isdisjoint(names) for names, source in _sources.get())


def is_set(*options: str) -> bool:
    """Whether one of them has its value from a file or the environment."""
    return any(source == SET and not set(options).isdisjoint(names) for names, source in _sources.get())


def unread(options: Mapping[str, object]) -> list[str]:
    """Those that are given for nothing. options: by name, whether they differ from what they are if not given."""
    return [name for name, value in options.items() if is_typed(*_names(name)) or (value and not is_set(*_names(name)))]


def refuse_besides(option: str, others: Mapping[str, object]) -> None:
    """That none of the others is given, for which the option has no use.  others: as of `unread`."""
    for name in unread(others):
        raise RefsegError(f"{option} has no use for {name}", hint="omit one of them")


def refuse_all_but(option: str, *read: str) -> None:
    """That nothing is typed that the option has no use for.  read: what it has."""
    for names, source in _sources.get():
        if source == TYPED and set(names).isdisjoint((option, "--quiet", *read)):
            name = names[0] if names[0].startswith("-") else names[0].upper()
            raise RefsegError(f"{option} has no use for {name}", hint="omit one of them")


def one_of(options: Mapping[str, T], *, why: str = "") -> tuple[str, T] | tuple[None, None]:
    """The one that is given of options that exclude each other, and its value; a typed one outranks those that are set.

    why: they do.

    Raises:
        RefsegError: several are typed, or none of several.
    """
    wanted = {name: value for name, value in options.items() if value}
    wanted = {name: value for name, value in wanted.items() if _outranks(*_names(name))} or wanted
    if len(wanted) > 1:
        raise RefsegError(why or f"{' and '.join(wanted)} exclude each other", hint="give one of them")
    return next(iter(wanted.items()), (None, None))


def fitting(call: Callable[..., T], options: Mapping[str, Any]) -> T:
    """What `call` returns for the options; without those that are set, not typed, and that it has no use for.

    Raises:
        Unread: one has no use that is not set.
    """
    left = dict(options)
    while True:
        try:
            return call(**left)
        except Unread as refused:
            name = refused.option.removeprefix("--").replace("-", "_")
            if name not in left or not is_set(refused.option):
                raise
            del left[name]


def _outranks(*options: str) -> bool:
    return is_typed(*options) or not is_set(*options)


def _names(shown: str) -> list[str]:
    """The options in "--count, -l and -L"."""
    return re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", shown)
