"""Completion for zsh: a file for $fpath that works at the first TAB."""

from __future__ import annotations

from refseg_cli.commands._spec import Command, Parameter

HEADER = """\
#compdef {program}
# zsh completion for {program}; made by 'python -m {program}_cli._manual', do not edit
"""

LEAF = """
{function}() {{
    _arguments -s -S : \\
{arguments}
}}
"""

GROUP = """
{function}() {{
    local curcontext=$curcontext state line ret=1
    local -A opt_args
    local -a commands
    _arguments -C -s -S : \\
{arguments} && ret=0
    case $state in
        command)
            commands=(
{commands}
            )
            _describe -t commands command commands && ret=0
            ;;
        argument)
            curcontext=${{curcontext%:*:*}}:{context}-$line[1]:
            case $line[1] in
{calls}
            esac
            ;;
    esac
    return ret
}}
"""

# Autoloaded, the file is the function's first body and must call it; sourced, it must say whose function it is.
FOOTER = """
if [[ $funcstack[1] == _{program} ]]; then
    _{program} "$@"
else
    compdef _{program} {program}
fi
"""


def script(root: Command) -> str:
    """The file for `share/zsh/site-functions`."""
    program = root.words[0]
    functions = [_group(command) if command.commands else _leaf(command) for command in root.walk()]
    return HEADER.format(program=program) + "".join(functions) + FOOTER.format(program=program)


def _function(command: Command) -> str:
    return "_" + "_".join(command.words)


def _leaf(command: Command) -> str:
    arguments = [_option(p) for p in command.options]
    arguments += [_argument(p, place) for place, p in enumerate(command.arguments, start=1)]
    return LEAF.format(function=_function(command), arguments=_lines(arguments))


def _group(command: Command) -> str:
    arguments = [*(_option(p) for p in command.options), "'1: :->command'", "'*:: :->argument'"]
    names = [below.words[-1] for below in command.commands]
    described = [quote(f"{_colons(b.words[-1])}:{b.summary}") for b in command.commands]
    calls = [f"{name}) {_function(b)} && ret=0 ;;" for name, b in zip(names, command.commands, strict=True)]
    return GROUP.format(
        function=_function(command),
        context="-".join(command.words),
        arguments=_lines(arguments),
        commands="\n".join(f"                {text}" for text in described),
        calls="\n".join(f"                {text}" for text in calls),
    )


def quote(text: str) -> str:
    """One word of zsh, whatever is in it."""
    return "'" + text.replace("'", "'\\''") + "'"


def _lines(specs: list[str]) -> str:
    return " \\\n".join(f"        {spec}" for spec in specs)


def _colons(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _explanation(text: str) -> str:
    """Text between the brackets of an `_arguments` spec."""
    return _colons(text).replace("[", "\\[").replace("]", "\\]")


def _option(parameter: Parameter) -> str:
    """E.g. ``'(--output -o)'{--output=,-o+}'[Where to write.]:OUT:_files'``."""
    repeat = "*" if parameter.repeatable else ""
    names = [option + _joint(option, parameter) for option in parameter.options]
    tail = quote(f"[{_explanation(parameter.help)}]{_value(parameter)}")
    if len(names) == 1:
        return f"{quote(repeat) if repeat else ''}{names[0]}{tail}"
    exclusive = quote(repeat or f"({' '.join(parameter.options)})")
    return f"{exclusive}{{{','.join(names)}}}{tail}"


def _joint(option: str, parameter: Parameter) -> str:
    """How a value may follow: ``--long=value`` or a word of its own, ``-svalue`` or a word of its own."""
    if parameter.takes == "nothing":
        return ""
    return "=" if option.startswith("--") else "+"


def _value(parameter: Parameter) -> str:
    if parameter.takes == "nothing":
        return ""
    # A lone blank offers nothing and says what is wanted.
    return f":{_colons(parameter.metavar)}:{_colons(_action(parameter)) or ' '}"


def _argument(parameter: Parameter, place: int) -> str:
    position = "*" if parameter.repeatable else str(place)
    # Where the word begins with a dash, an option is wanted.
    action = _action(parameter) or f"_guard '^-*' {parameter.metavar}"
    return quote(f"{position}:{_colons(parameter.metavar)}:{_colons(action)}")


def _action(parameter: Parameter) -> str:
    """What generates the matches; "" for free text."""
    choices = f"({' '.join(parameter.choices)})" if parameter.choices else ""
    paths = {"files": "_files", "folders": "_files -/"}.get(parameter.takes, "")
    if choices and paths:
        # The blank in front keeps _arguments from handing over options of its own.
        return f" _alternative 'names:name:{choices}' 'files:file:{paths}'"
    return choices or paths
