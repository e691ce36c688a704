"""`refseg export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from refseg_cli.commands._options import Json, Model, Quiet
from refseg_cli.console import console


def export(
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="File to write; with --split a folder.")],
    model: Model = None,
    format: Annotated[
        Literal["onnx", "pt2"], typer.Option("--format", "-f", help="ONNX, or torch.export's archive.")
    ] = "onnx",
    split: Annotated[
        bool, typer.Option("--split", help="Two ONNX graphs in a folder: the picture's, and the phrase's.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as one file for other runtimes.

    The graph takes images and tokens. How far its output is from that of the model is measured and printed. With
    --split, image.onnx computes what depends on the picture alone, and phrase.onnx the rest: one encoding serves many
    phrases. Where the cut lies is the architecture's: behind its backbone, or behind the last layer without language.

    \b
    Example:
      refseg export --format onnx --output vlt.onnx
      refseg export --split --output vlt/
      refseg predict --model vlt.onnx photo.jpg "two people on left"
    """
    from refseg_cli.engine.export import ExportRequest, export

    with console.progress() as progress:
        report = export(ExportRequest(model=model, format=format, out=out, split=split), progress=progress)
    if json:
        console.json(report)
    else:
        console.result(
            f"{report.path}: {report.bytes / 1e6:.1f} MB, parity {report.parity:.2g} "
            f"(largest difference from the model, whose outputs reach {report.scale:.3g})"
        )
