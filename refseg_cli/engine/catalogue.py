"""The recipes that come with the package: what each reproduces, and its whole text with its bases worked in."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refseg_cli.config import ARCHITECTURES, load_recipe, recipe_names, recipe_table, recipe_text
from refseg_cli.errors import RefsegError, nearest_name, unknown_name


@dataclass(frozen=True, slots=True)
class Entry:
    """A recipe in the catalogue.

    paper, table, row, metric, figures: its [published] table; "" and {} where nothing was published.
    command: trains it; imports it where it cannot be trained from what `refseg prepare` writes; scores what its base
        trained where it differs in evaluation alone. The header has those before and after it.
    """

    name: str
    arch: str
    paper: str
    table: str
    row: str
    metric: str
    figures: dict[str, dict[str, float]]
    command: str

    @property
    def main_figures(self) -> str:
        """The first metric of every split: ``refcoco IoU 67.52 val, 70.47 testA, 65.24 testB``."""
        groups: dict[str, list[str]] = {}
        for place, scores in self.figures.items():
            data, _, split = place.partition("/")
            if scores:
                metric, value = next(iter(scores.items()))
                groups.setdefault(f"{data} {metric}", []).append(f"{value:.2f} {split}".rstrip())
        return "; ".join(f"{head} {', '.join(values)}" for head, values in groups.items())


def catalogue(*, arch: str | None = None, paper: str = "", table: str = "") -> list[Entry]:
    """The recipes by architecture, paper, table, row and name.

    Args:
        arch: only this architecture's.
        paper: only those whose citation of the paper has these words in it, whatever their case.
        table: only those of this table, e.g. ``4.7``.

    Raises:
        RefsegError: no such architecture, or nothing fits.
    """
    if arch is not None and arch not in ARCHITECTURES:
        raise unknown_name("architecture", arch, ARCHITECTURES)
    of_arch = [entry for name in recipe_names() if arch in (None, (entry := _entry(name)).arch)]
    of_paper = [entry for entry in of_arch if paper.casefold() in entry.paper.casefold()]
    if not of_paper:
        raise _no_paper(paper, sorted({entry.paper for entry in of_arch if entry.paper}))
    kept = [entry for entry in of_paper if not table or table in _tables(entry)]
    if not kept:
        tables = sorted({name for entry in of_paper for name in _tables(entry) if name}, key=_in_order)
        near = nearest_name(table, tables)
        hint = f"did you mean {near!r}?" if near else f"tables: {', '.join(tables)}" if tables else "omit --table"
        raise RefsegError(f"no recipe of table {table!r}", hint=hint)
    return sorted(kept, key=lambda e: (e.arch, e.paper, _in_order(e.table), _in_order(e.row), e.name))


def _no_paper(words: str, papers: Sequence[str]) -> RefsegError:
    """papers: as recipes cite them. People remember an author or a venue, so single words of them count, too."""
    parts = {part for paper in papers for part in (paper, *re.findall(r"\w{3,}", paper))}
    near = nearest_name(words, parts)
    hint = f"did you mean {near!r}?" if near else f"papers: {'; '.join(papers)}" if papers else "omit --paper"
    return RefsegError(f"no recipe whose paper is cited with {words!r}", hint=hint)


def _tables(entry: Entry) -> list[str]:
    """The tables that a recipe has rows in."""
    return re.split(r"[,;]\s*", entry.table)


def _entry(name: str) -> Entry:
    recipe = load_recipe(name)
    published = recipe.published
    return Entry(
        name=name,
        arch=recipe.arch,
        paper=published.paper,
        table=published.table,
        row=published.row,
        metric=published.metric,
        figures=published.figures,
        command=_command(name),
    )


def _command(name: str) -> str:
    """The last command under "Reproduce" in the recipe's header that names it; the last one, if none does."""
    text = re.sub(r" \\\n#\s*", " ", _header(recipe_text(name)))
    commands: list[str] = re.findall(r"^#(?: Reproduce:)?  +(refseg .*)$", text, re.MULTILINE)
    return ([command for command in commands if f"--recipe {name} " in command] or commands)[-1]


def _header(text: str) -> str:
    """The comment at the head of a recipe."""
    header = re.match(r"(?:#.*\n)*", text)
    assert header is not None
    return header[0]


def _in_order(text: str) -> list[tuple[int, str]]:
    """4.10 after 4.9."""
    return [(int(part or 0), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def whole_text(name_or_path: str) -> str:
    """A recipe as TOML that stands alone: as it is written, or its own header and then its values over its bases'.

    Raises:
        RefsegError: no such recipe.
    """
    table, text = recipe_table(name_or_path), recipe_text(name_or_path)
    if "base" not in tomllib.loads(text):
        return text
    return _header(text) + _toml(table)


def _toml(table: Mapping[str, Any]) -> str:
    """TOML of a recipe's values: tables one and two levels deep, lists, and what JSON and TOML write alike."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            nested = {key: value for key, value in inner.items() if isinstance(value, Mapping)}
            lines += ["", f"[{_key(name)}]"]
            lines += [f"{_key(key)} = {_value(value)}" for key, value in inner.items() if key not in nested]
            for key, value in nested.items():
                lines += ["", f"[{_key(name)}.{_key(key)}]"]
                lines += [f"{_key(place)} = {_value(scores)}" for place, scores in value.items()]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
