"""Completion for fish 3 and later."""

from __future__ import annotations

from refseg_cli.commands._spec import Command, Parameter

HEADER = """\
# fish completion for {program}; made by 'python -m {program}_cli._manual', do not edit

function __{program}_at --description 'Whether the words so far lead to this subcommand'
    set -l at {program}
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
            case {paths}
                set at "$at $word"
        end
    end
    test "$at" = "$argv"
end

complete -c {program} -f
"""


def script(root: Command) -> str:
    """The file for `share/fish/vendor_completions.d`."""
    program = root.words[0]
    commands = list(root.walk())
    paths = " ".join(quote(" ".join(command.words)) for command in commands[1:])
    lines = [line for command in commands for line in _command(command)]
    return HEADER.format(program=program, paths=paths) + "\n".join(lines) + "\n"


def quote(text: str) -> str:
    """One word of fish, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _command(command: Command) -> list[str]:
    program, path = command.words[0], " ".join(command.words)
    start = f"complete -c {program} -n {quote(f'__{program}_at {quote(path)}')}"
    below = [f"{start} -a {quote(b.words[-1])} -d {quote(b.summary)}" for b in command.commands]
    arguments = [f"{start} {text}" for p in command.arguments if (text := _argument(p))]
    return below + arguments + [f"{start} {_option(p)}" for p in command.options]


def _option(parameter: Parameter) -> str:
    names = " ".join(f"-l {o[2:]}" if o.startswith("--") else f"-s {o[1:]}" for o in parameter.options)
    parts = [names, _value(parameter), f"-d {quote(parameter.help)}" if parameter.help else ""]
    return " ".join(part for part in parts if part)


def _value(parameter: Parameter) -> str:
    """-r: a value follows.  -f: it is no file.  -F: it is one."""
    if parameter.takes == "nothing":
        return ""
    offers = _offers(parameter)
    return f"-r {'-F' if parameter.takes == 'files' else '-f'}" + (f" -a {quote(offers)}" if offers else "")


def _argument(parameter: Parameter) -> str:
    offers = _offers(parameter)
    parts = ["-F" if parameter.takes == "files" else "", f"-a {quote(offers)}" if offers else ""]
    return " ".join(part for part in parts if part)


def _offers(parameter: Parameter) -> str:
    folders = ["(__fish_complete_directories)"] if parameter.takes == "folders" else []
    return " ".join([*parameter.choices, *folders])
