"""docs/recipes.md: every recipe, what it reproduces, and the command that does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from refseg_cli.engine.catalogue import Entry

HEADER = """\
<!-- made by 'python -m refseg_cli._manual', do not edit -->

# Recipes

A recipe stands for one row of one table of a paper: everything that the run depends on besides the data, and the figure
that was published. `refseg recipes list` finds one, `refseg recipes show NAME` prints it whole, and

```sh
refseg train --recipe NAME --data DIR --out runs/NAME
refseg eval --model runs/NAME --data DIR --split val,testA,testB
```

trains and scores it; DIR is what `refseg prepare` wrote for the data set that the last column names. Recipes that read
with CLIP look for the merges file of its release, `bpe_simple_vocab_16e6.txt.gz`, in the current folder;
`--set text.vocab=FILE` names another place. Of several published metrics the first is shown, as the paper reports it;
what each paper's metric means stands in [metrics.md](metrics.md). The figures are the papers', not ours.
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
