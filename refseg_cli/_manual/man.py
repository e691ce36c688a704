"""roff: one man(7) page for each command."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from refseg_cli.commands._spec import Command, Parameter

EXIT_STATUS = {  # of every command, as far as its own help does not say otherwise
    "0": "The command did its work.",
    "2": "An error, wrong usage included; one line on standard error says which.",
    "130": "Interrupted.",
    "141": "The reader of standard output went away.",
}
ENVIRONMENT = {
    "REFSEG_OPTION": "The default of --OPTION in every command, REFSEG_COMMAND_OPTION in one: refseg-config-show(1).",
    "REFSEG_CONFIG": "A file of defaults in place of the project's and the user's refseg.toml; /dev/null for none.",
    "NO_COLOR": "No colours, whatever the terminal can do; --color outranks it.",
    "REFSEG_DEBUG": "If set, an error comes with its traceback.",
}


def page(command: Command, *, version: str, date: str, parent: Command | None) -> str:
    """The page of one command.

    Args:
        date: YYYY-MM-DD, of the release; never today's, so that two runs are equal.
        parent: the group that the command is in, for SEE ALSO.
    """
    name = page_name(command)
    program = command.words[0]
    lines = [f'.TH {name.upper()} 1 {date} "{program} {version}" "{program} manual"']
    lines += [".SH NAME", f"{literal(name)} \\- {prose(_lower_first(command.summary))}"]
    lines += [".SH SYNOPSIS", *_synopsis(command)]
    lines += [".SH DESCRIPTION", *_description(command)]
    lines += _section("ARGUMENTS", (_entry(_argument_tag(p), p) for p in command.arguments))
    lines += _section("COMMANDS", (_tagged(bold(c.words[-1]), prose(f"{c.summary}.")) for c in command.commands))
    lines += _section("OPTIONS", _options(command))
    lines += _section("EXAMPLES", _examples(command))
    lines += _section("EXIT STATUS", _exit_status(command.blocks.get("Exit status", "")))
    lines += _section("ENVIRONMENT", (_tagged(bold(name), prose(text)) for name, text in ENVIRONMENT.items()))
    lines += _see_also(command, parent)
    return "\n".join(lines) + "\n"


def page_name(command: Command) -> str:
    """``refseg-prepare-refcoco``; its file has `.1` behind it."""
    return "-".join(command.words)


def prose(text: str) -> str:
    """Text in which nothing is a roff escape or request."""
    return _not_a_request(_ascii(text.replace("\\", "\\e")))


def literal(text: str) -> str:
    """As `prose`, for what people copy: hyphens and quotes stay the ones that a shell understands."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return _not_a_request(_ascii(plain))


def bold(text: str) -> str:
    return f"\\fB{literal(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{literal(text)}\\fR"


def _ascii(text: str) -> str:
    return "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)


def _not_a_request(line: str) -> str:
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _lower_first(summary: str) -> str:
    """As man pages name themselves; an abbreviation ("COCO ...") keeps its capitals."""
    return summary if summary[1:2].isupper() else summary[:1].lower() + summary[1:]


def _synopsis(command: Command) -> list[str]:
    parts = [bold(" ".join(command.words)), f"[{italic('options')}]"]
    for argument in command.arguments:
        text = italic(argument.metavar) + (" ..." if argument.repeatable else "")
        parts.append(text if argument.required else f"[{text}]")
    if command.commands:
        parts += [italic("command"), "..."]
    return [" ".join(parts)]


def _description(command: Command) -> list[str]:
    lines = [prose(f"{command.summary}.")]
    for paragraph in command.paragraphs:
        lines += [".PP", prose(paragraph)]
    for heading, body in command.blocks.items():
        if heading != "Exit status" and not heading.startswith("Example"):
            lines += [".PP", prose(f"{heading}:"), *_verbatim(body)]
    return lines


def _examples(command: Command) -> Iterable[list[str]]:
    """The block under "Example:"; a longer heading ("Example, with ...:") says what it takes for granted."""
    for heading, body in command.blocks.items():
        if heading == "Example":
            yield _verbatim(body)[1:]
        elif heading.startswith("Example"):
            given = heading.removeprefix("Example").lstrip(", ")
            yield [prose(f"{given[:1].upper()}{given[1:]}:"), *_verbatim(body)]


def _verbatim(body: str) -> list[str]:
    return [".PP", ".EX", *map(literal, body.splitlines()), ".EE"]


def _section(title: str, entries: Iterable[Sequence[str]]) -> list[str]:
    lines = [line for entry in entries for line in entry]
    return [f".SH {title}", *lines] if lines else []


def _options(command: Command) -> Iterable[list[str]]:
    """Those without a heading of their own first, then each heading's."""
    for group in dict.fromkeys(("", *(p.group for p in command.options))):
        if group:
            yield [f".SS {prose(group)}"]
        yield from (_entry(_option_tag(p), p) for p in command.options if p.group == group)


def _tagged(tag: str, text: str) -> list[str]:
    return [".TP", tag, text]


def _entry(tag: str, parameter: Parameter) -> list[str]:
    text = parameter.help
    if parameter.metavar != "|".join(parameter.choices) and any(word not in text for word in parameter.choices):
        text += f" Known: {', '.join(parameter.choices)}."
    if parameter.default:
        text += f" Default: {parameter.default}."
    return _tagged(tag, prose(text))


def _argument_tag(parameter: Parameter) -> str:
    return italic(parameter.metavar)


def _option_tag(parameter: Parameter) -> str:
    names = ", ".join(bold(option) for option in parameter.options)
    return f"{names} {italic(parameter.metavar)}" if parameter.metavar else names


def _exit_status(block: str) -> Iterable[list[str]]:
    """block: lines of a status and its meaning."""
    stated = dict(re.split(r"\s+", line.strip(), maxsplit=1) for line in block.splitlines())
    for status, meaning in sorted((EXIT_STATUS | stated).items(), key=lambda item: int(item[0])):
        yield _tagged(bold(status), prose(meaning))


def _see_also(command: Command, parent: Command | None) -> list[str]:
    siblings = [c for c in parent.commands if c is not command] if parent else []
    pages = [page_name(c) for c in ([parent] if parent else []) + siblings + list(command.commands)]
    return [".SH SEE ALSO", ",\n".join(f"{bold(name)}(1)" for name in pages)] if pages else []
