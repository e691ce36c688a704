"""Defaults that people set for options in the environment and in files; `_sources` finds those.

A flag on the command line outranks a variable, that one the project's file, that one the user's, and that one what is
built in. Within each, what is set for one command outranks what is set for the group that it is in, and that one what
is set for all: `REFSEG_PREPARE_COCO_WORKERS`, `REFSEG_PREPARE_WORKERS`, `REFSEG_WORKERS`, and in a file `workers` under
`[prepare.coco]`, `[prepare]` or no heading.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli.commands._sources import PREFIX
from refseg_cli.errors import RefsegError, nearest_name, unknown_name

if TYPE_CHECKING:
    from refseg_cli.commands._spec import Command, Parameter

NO_SETTINGS = ("--version", "--help")
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class Setting:
    """An option's default. where: FILE:LINE, the variable's name, or `BUILT_IN`."""

    value: Any
    where: str


@dataclass(frozen=True)
class File:
    """A file of settings. name: as errors show it."""

    name: str
    folder: Path
    text: str
    table: Mapping[str, Any]

    def where(self, keys: Sequence[str]) -> str:
        """`refseg.toml:3` for ["predict", "format"]: the line of the key, or of the nearest table around it."""
        line, best, heading = 1, 0, []
        for number, text in enumerate(self.text.splitlines(), start=1):
            if opened := re.match(r"\s*\[([^\[\]]+)\]", text):
                heading = found = _dotted(opened[1])
            elif assigned := re.match(r"""\s*((?:[\w+-]+|"[^"]*"|'[^']*'|\s*\.\s*)+?)\s*=""", text):
                found = heading + _dotted(assigned[1])
            else:
                continue
            if best < len(found) and found == list(keys[: len(found)]):
                line, best = number, len(found)
        return f"{self.name}:{line}"


@dataclass
class Settings:
    """What variables and files set.

    variables: REFSEG_* that are not empty.  files: the project's before the user's.
    used:      (option, setting) of the running command, as far as its command line says nothing else.
    """

    variables: Mapping[str, str]
    files: Sequence[File]
    used: list[tuple[str, Setting]] = field(default_factory=list)

    def of(self, command: Command, parameter: Parameter) -> Setting | None:
        """What is set for an option of the command; None where nothing is.

        Raises:
            RefsegError: a value that the option cannot take.
        """
        key, levels = _key(parameter), _levels(command)
        for level in levels:
            name = _variable(level, key)
            if name in self.variables:
                return Setting(_fitting(parameter, self.variables[name], name, words=True), name)
        for file in self.files:
            for level in levels:
                table: Any = file.table
                for word in level:
                    table = table.get(word) if isinstance(table, Mapping) else None
                if isinstance(table, Mapping) and not isinstance(table.get(key, {}), Mapping):
                    where = file.where([*level, key])
                    value = _from_folder(table[key], file.folder)
                    return Setting(_fitting(parameter, value, f"{where}: {key}"), where)
        return None

    def check(self, commands: Command, whole: Callable[[], Command]) -> list[str]:
        """Refuse keys that set nothing; sentences on variables that look like a slip of the pen.

        commands: those that are loaded.  whole: gives all, and is called only for names that those do not know.

        Raises:
            RefsegError: an unknown key.
        """
        if not (self._unknown_keys(commands) or self._unknown_variables(commands)):
            return []
        commands = whole()
        for file, keys, choices in self._unknown_keys(commands):
            if keys[-1] in choices:
                is_table = isinstance(reduce(getitem, keys, file.table), Mapping)
                wanted = "a value, not a table" if is_table else f"a table of options: [{'.'.join(keys)}]"
                raise RefsegError(f"{file.where(keys)}: {keys[-1]}: expected {wanted}")
            inside = f" in [{'.'.join(keys[:-1])}]" if keys[:-1] else ""
            error = unknown_name("key", keys[-1], choices)
            raise RefsegError(f"{file.where(keys)}: {error.message}{inside}", hint=error.hint)
        known = [name.removeprefix(PREFIX) for name in _known_variables(commands)]
        near = {n: nearest_name(n.removeprefix(PREFIX), known) for n in self._unknown_variables(commands)}
        return [f"{name} sets nothing; did you mean {PREFIX}{meant}?" for name, meant in near.items() if meant]

    def _unknown_keys(self, commands: Command) -> list[tuple[File, list[str], list[str]]]:
        """Each with its file and with the keys that there are in its place."""
        return [(file, keys, known) for file in self.files for keys, known in _strange(file.table, commands, [])]

    def _unknown_variables(self, commands: Command) -> list[str]:
        return sorted(set(self.variables) - _known_variables(commands)) if self.variables else []

    def origin(self, message: str) -> str:
        """Where an option comes from that an error speaks of, by its name or its value; "" if from the command line."""
        for option, setting in self.used:
            values = setting.value if isinstance(setting.value, list) else [setting.value]
            texts = [part for value in values if isinstance(value, str) for part in value.split(",") if part]
            if any(re.search(rf"(?<![\w-]){re.escape(text)}(?![\w-])", message) for text in (option, *texts)):
                return f"{option} is set in {setting.where}"
        return ""


class Defaults(dict[str, Any]):
    """What Typer asks for defaults: a command's name gives those of the command, a parameter's name its value."""

    def __init__(self, settings: Settings, command: Command) -> None:
        super().__init__()
        self.settings, self._command = settings, command

    @cached_property
    def _options(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in settable(self._command)}

    def get(self, name: str, default: Any = None) -> Any:
        for below in self._command.commands:
            if below.words[-1] == name:
                return Defaults(self.settings, below)
        parameter = self._options.get(name)
        setting = self.settings.of(self._command, parameter) if parameter else None
        if parameter is None or setting is None:
            return default
        self.settings.used.append((parameter.options[0], setting))
        return setting.value


def read(variables: Mapping[str, str], files: Sequence[Path]) -> Settings:
    """What they set; see `_sources`.

    Raises:
        RefsegError: a file that is not TOML.
    """
    return Settings(variables, [_read(path) for path in files])


def settable(command: Command) -> list[Parameter]:
    """The options of a command that may be set."""
    return [parameter for parameter in command.options if parameter.options[0] not in NO_SETTINGS]


def _read(path: Path) -> File:
    import tomllib

    name = os.path.relpath(path)
    name = str(path) if name.startswith(os.path.join("..", "..")) else name  # noqa: PTH118
    try:
        text = path.read_text("utf-8-sig")
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefsegError(f"{name}: not valid TOML: {error}") from error
    return File(name, path.absolute().parent, text, table)


def _key(parameter: Parameter) -> str:
    return parameter.options[0].removeprefix("--")


def _levels(command: Command) -> list[tuple[str, ...]]:
    """("prepare", "coco"), ("prepare",) and ()."""
    words = command.words[1:]
    return [words[:end] for end in range(len(words), -1, -1)]


def _variable(level: Sequence[str], key: str) -> str:
    return PREFIX + "_".join([*level, key]).upper().replace("-", "_").replace("+", "PLUS")


def _known_variables(commands: Command) -> set[str]:
    return {
        _variable(level, _key(parameter))
        for command in commands.walk()
        for parameter in settable(command)
        for level in _levels(command)
    }


def _strange(table: Mapping[str, Any], command: Command, above: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Keys that neither set an option at or below the command nor head a command's table, and what there is."""
    commands = {below.words[-1]: below for below in command.commands}
    options = {_key(parameter) for below in command.walk() for parameter in settable(below)}
    for key, value in table.items():
        if key in commands and isinstance(value, Mapping):
            yield from _strange(value, commands[key], [*above, key])
        elif key not in options or isinstance(value, Mapping):
            yield [*above, key], [*options, *commands]


def _dotted(text: str) -> list[str]:
    """TOML's keys with dots between them."""
    return [part.strip("\"'") for part in re.findall(r"""[\w+-]+|"[^"]*"|'[^']*'""", text)]


def _from_folder(value: Any, folder: Path) -> Any:
    """A path that begins with a dot means one beside the file, wherever the command runs."""
    if isinstance(value, list):
        return [_from_folder(one, folder) for one in value]
    if isinstance(value, str) and value.startswith(("./", "../")):
        beside = "" if folder == Path.cwd() else folder
        return os.path.join(beside, value.removeprefix("./")) or "."  # noqa: PTH118 - keeps the slash at the end
    return value


def _fitting(parameter: Parameter, value: Any, where: str, *, words: bool = False) -> Any:
    """The value as the option takes it. words: it is text, a list's values have blanks between them.

    Raises:
        RefsegError: it is none for this option.
    """
    if parameter.repeatable:
        values = _split(value, where) if words else value if isinstance(value, list) else [value]
        return [_one(parameter, one, where, words=words) for one in values]
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return _one(parameter, value, where, words=words)


def _split(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise RefsegError(f"{where}: {text!r}: {str(error).lower()}", hint="quote it as in a shell") from error


def _one(parameter: Parameter, value: Any, where: str, *, words: bool) -> Any:
    if parameter.kind is bool:
        if words and value.lower() in (*TRUE, *FALSE):
            return value.lower() in TRUE
        _require(isinstance(value, bool), "true or false", value, where)
        return value
    if parameter.kind in (int, float):
        return _number(parameter, value, where, words=words)
    _require(isinstance(value, str | int | float) and not isinstance(value, bool), "text", value, where)
    if parameter.values and value not in parameter.values:
        error = unknown_name("value", str(value), parameter.values)
        raise RefsegError(f"{where}: {error.message}", hint=error.hint)
    return str(value)


def _number(parameter: Parameter, value: Any, where: str, *, words: bool) -> Any:
    wanted = "a whole number" if parameter.kind is int else "a number"
    if words:
        try:
            value = parameter.kind(value)
        except ValueError:
            _require(False, wanted, value, where)
    _require(type(value) in (int, parameter.kind), wanted, value, where)
    least, greatest = parameter.limits
    if least is not None:
        _require(value >= least, f"{wanted} of at least {least:g}", value, where)
    if greatest is not None:
        _require(value <= greatest, f"{wanted} of at most {greatest:g}", value, where)
    return value


def _require(holds: bool, wanted: str, value: Any, where: str) -> None:
    if not holds:
        raise RefsegError(f"{where}: expected {wanted}, not {value!r}")
