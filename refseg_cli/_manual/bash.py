"""Completion for bash 4.1 and later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from refseg_cli.commands._spec import Command, Parameter

TEMPLATE = """\
# bash completion for {program}; made by 'python -m {program}_cli._manual', do not edit

_{program}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} option=${{COMP_WORDS[COMP_CWORD - 1]}}
    local command={program} dashes= i
    COMPREPLY=()
    # bash splits --option=value at the sign
    if [[ $current == "=" ]]; then
        current=
    elif [[ $option == "=" ]]; then
        option=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${{COMP_WORDS[i]}} == -- ]]; then
            dashes=1
            break
        fi
        case "$command ${{COMP_WORDS[i]}}" in
            {paths}) command+=" ${{COMP_WORDS[i]}}" ;;
        esac
    done
    if [[ -z $dashes ]]; then
        case "$command $option" in
{values}
        esac
        if [[ $current == -* ]]; then
            case $command in
{options}
            esac
            return
        fi
    fi
    case $command in
{arguments}
    esac
}}

_{program}_words() {{
    mapfile -t COMPREPLY < <(compgen -W "$*" -- "$current")
}}

complete -F _{program} {program}
"""


def script(root: Command) -> str:
    """The file for `share/bash-completion/completions`.

    Words need no quoting: `spec` refuses any that bash would split or expand.
    """
    program = root.words[0]
    commands = list(root.walk())
    return TEMPLATE.format(
        program=program,
        paths=" | ".join(_path(command) for command in commands[1:]),
        values=_indent(12, (line for command in commands for line in _value_cases(program, command))),
        options=_indent(16, (_option_case(program, command) for command in commands)),
        arguments=_indent(8, (_argument_case(program, command) for command in commands)),
    )


def _path(command: Command) -> str:
    return f'"{" ".join(command.words)}"'


def _indent(width: int, lines: Iterable[str]) -> str:
    return "\n".join(" " * width + line for line in lines)


def _value_cases(program: str, command: Command) -> Iterable[str]:
    """One case for each option with a value: how the word behind it is completed."""
    for parameter in command.options:
        if parameter.takes != "nothing":
            patterns = " | ".join(f'"{" ".join(command.words)} {option}"' for option in parameter.options)
            yield f"{patterns}) {_completion(program, [parameter])}return ;;"


def _option_case(program: str, command: Command) -> str:
    names = " ".join(option for parameter in command.options for option in parameter.options)
    return f"{_path(command)}) _{program}_words {names} ;;"


def _argument_case(program: str, command: Command) -> str:
    if command.commands:
        names = " ".join(below.words[-1] for below in command.commands)
        return f"{_path(command)}) _{program}_words {names} ;;"
    return f"{_path(command)}) {_completion(program, command.arguments)};;"


def _completion(program: str, parameters: Sequence[Parameter]) -> str:
    """Statements that offer the choices, and files or folders where no choice fits; "" if nothing is known."""
    kinds = {parameter.takes for parameter in parameters}
    choices = " ".join(choice for parameter in parameters for choice in parameter.choices)
    fallback = "compopt -o default; " if "files" in kinds else "compopt -o dirnames; " if "folders" in kinds else ""
    return fallback + (f"_{program}_words {choices}; " if choices else "")
