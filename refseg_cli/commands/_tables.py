"""Tables as a terminal, Markdown or LaTeX has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from refseg_cli.commands._given import one_of
from refseg_cli.console import cell, console, is_number

Form = Literal["text", "json", "markdown", "latex"]
LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}
LATEX |= {"–": "--", "≥": r"$\geq$", "±": r"$\pm$", "→": r"$\rightarrow$", "−": "$-$"}


@dataclass(frozen=True, slots=True)
class Table:
    """A float is shown with two decimals and None as "-"; strings as they are."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


def chosen_form(*, json: bool, markdown: bool, latex: bool) -> Form:
    """The one that was asked for.

    Raises:
        RefsegError: more than one was.
    """
    forms: dict[str, Form | None] = {
        "--json": "json" if json else None,
        "--markdown": "markdown" if markdown else None,
        "--latex": "latex" if latex else None,
    }
    return one_of(forms)[1] or "text"


def show(tables: Sequence[Table], form: Form) -> None:
    """Print them on stdout, with an empty line between two."""
    for number, table in enumerate(tables):
        if number:
            console.result("")
        if form == "text":
            console.table(table.title, table.columns, table.rows)
        else:
            console.result(as_markdown(table) if form == "markdown" else as_latex(table))


def as_markdown(table: Table) -> str:
    """A pipe table below its title."""
    right = _right(table)
    lines = [table.columns, *([cell(value) for value in row] for row in table.rows)]
    text = ["| " + " | ".join(str(value).replace("|", r"\|") for value in line) + " |" for line in lines]
    rule = "|" + "|".join("---:" if numeric else "---" for numeric in right) + "|"
    return "\n".join([f"**{table.title}**", "", text[0], rule, *text[1:]])


def as_latex(table: Table) -> str:
    r"""A `tabular` with booktabs' rules, its title as the caption of a `table`."""
    alignment = "".join("r" if numeric else "l" for numeric in _right(table))
    lines = [table.columns, *([cell(value) for value in row] for row in table.rows)]
    text = [" & ".join(_escaped(str(value)) for value in line) + r" \\" for line in lines]
    body = [r"\toprule", text[0], r"\midrule", *text[1:], r"\bottomrule"]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(table.title)}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            *body,
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _right(table: Table) -> list[bool]:
    """Which columns stand on the right: those of numbers."""
    return [all(is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
