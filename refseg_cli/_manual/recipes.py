"""docs/recipes.md: every recipe, what it reproduces, and the command that does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from refseg_cli.engine.catalogue import Entry

HEADER = """\
<!-- made by 'python -m refseg_cli._manual', do not edit -->

# Recipes

A recipe holds everything that a training depends on besides the data. Most stand for one row of one table of a paper,
and hold the figure that was published; those without a paper are ours. `refseg recipes list` finds one. `refseg recipes
show NAME` prints it whole; the comment at its head has the commands that prepare its data and, where it has several
stages, train the earlier ones. Then

```sh
refseg train --recipe NAME --data DIR --out runs/NAME
refseg eval --model runs/NAME --data DIR --split val,testA,testB
```

train and score it; DIR is a folder that `refseg prepare` wrote. Recipes with CLIP's text encoder look for the
vocabulary of its release, `bpe_simple_vocab_16e6.txt.gz`, in the current folder; `--set text.vocab=FILE` names another
place.

"published" is the first of the paper's metrics, as the paper reports it; no figure here is ours.
[metrics.md](metrics.md) says what each paper's metric means.
"""


def page(entries: Sequence[Entry]) -> str:
    """Markdown: a section for each architecture, a table row for each recipe."""
    sections = (_section(arch, list(group)) for arch, group in groupby(entries, lambda entry: entry.arch))
    return "\n".join([HEADER, *sections])


def _section(arch: str, entries: Sequence[Entry]) -> str:
    lines = [f"## {arch}", "", "| paper | table | row | published | command |", "|---|---|---|---|---|"]
    lines += [_row([e.paper, e.table, e.row, e.main_figures, f"`{e.command}`"]) for e in entries]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") or "–" for cell in cells) + " |"
