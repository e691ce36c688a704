"""`refseg import`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refseg_cli.commands._options import Json, Overrides, Quiet, RecipeName, arch_choices, choose_recipe
from refseg_cli.console import console

if TYPE_CHECKING:
    from refseg_cli.engine.importing import ImportReport


def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Official checkpoint: .pth, .pt, .tar, .safetensors.")],
    arch: Annotated[str, typer.Option("--arch", metavar="NAME", help="Architecture.", autocompletion=arch_choices)],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint folder to write.")],
    recipe: RecipeName = None,
    overrides: Overrides = None,
    vocab: Annotated[
        str | None,
        typer.Option(
            "--vocab", metavar="FILE|NAME", help="Vocabulary: BERT's vocab.txt or a hub model, CLIP's merges file."
        ),
    ] = None,
    lang_weight: Annotated[
        Literal["zero", "stored"] | None,
        typer.Option(
            "--lang-weight",
            help="ReLA only: set the weight to 0, as the official evaluation does (default), or keep the stored one.",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect",
            metavar="NAME",
            help="Refuse the file unless it is this release, named by its recipe in docs/weights.md.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert an official checkpoint to a checkpoint folder.

    Sizes are read from the weights; [data] and [text] come from the recipe. Every tensor of the file is accounted for:
    a missing or unknown one, or one of another shape, stops the import. No code in the file is run.

    \b
    Example:
      refseg import lavt_refcoco.pth --arch lavt -o models/lavt-refcoco
      refseg import refcocom.pth --arch caris --expect caris-combined -o models/caris
      refseg eval --model models/lavt-refcoco --data refcoco --split testA
    """
    from refseg_cli.engine.importing import ImportRequest, import_checkpoint
    from refseg_cli.engine.releases import RELEASES

    recipe = recipe or (expect if expect in RELEASES else None)
    chosen = choose_recipe(arch, recipe, overrides)
    if vocab is not None:
        chosen = replace(chosen, text=replace(chosen.text, vocab=vocab))
    report = import_checkpoint(ImportRequest(source, chosen, out, recipe or "", lang_weight, expect or ""))
    if json:
        console.json(report)
    else:
        _show(report)


def _show(report: ImportReport) -> None:
    title = f"{report.out}: {report.arch}, {report.weights / 1e6:.1f} M weights, mask above {report.thresholds.mask:g}"
    console.table(title, ["part", "tensors", "weights"], [[p.name, p.tensors, p.weights] for p in report.parts])
    by_reason: dict[str, list[str]] = defaultdict(list)
    for key, why in report.dropped.items():
        by_reason[why].append(key)
    if by_reason:
        rows = [[len(keys), keys[0], why] for why, keys in by_reason.items()]
        console.table("not needed", ["tensors", "for example", "because"], rows)
    for note in report.notes:
        console.info(f"note: {note}")
