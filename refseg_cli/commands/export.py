"""`refseg export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refseg_cli.commands._given import is_typed, one_of, refuse_besides
from refseg_cli.commands._options import Json, Model, Quiet, split_choices
from refseg_cli.console import console

if TYPE_CHECKING:
    from refseg_cli.engine.export import ExportReport
    from refseg_cli.engine.precision import Precision


Out = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="File to write; with --split a folder.")]
FormatName = Annotated[Literal["onnx", "pt2"], typer.Option("--format", "-f", help="ONNX, or torch.export's archive.")]
Split = Annotated[bool, typer.Option("--split", help="Two ONNX graphs in a folder: the picture's, and the phrase's.")]
CheckedData = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="DIR", help="Prepared data to check the export on; the demo's pictures if not given."
    ),
]
CheckedSplit = Annotated[
    str, typer.Option("--data-split", metavar="NAME", help="Split of --data.", autocompletion=split_choices)
]
DType = Annotated[
    Literal["fp32", "fp16"], typer.Option("--dtype", help="Precision of the arithmetic; fp16 needs --data.")
]
Int8 = Annotated[
    Literal["dynamic", "static"] | None,
    typer.Option(
        "--int8",
        help="8-bit integers, ranges found at each run, or once on the training split of --data, which it needs.",
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", metavar="N", min=0, help="Images to measure a lower precision on; 0 for all.")
]
MaxLoss = Annotated[
    float, typer.Option("--max-loss", metavar="POINTS", min=0, help="Points of gIoU that a lower precision may cost.")
]


ONE_GRAPH = "--split cuts ONNX graphs, not pt2"


def export(
    out: Out,
    model: Model = None,
    format: FormatName = "onnx",
    split: Split = False,
    data: CheckedData = None,
    data_split: CheckedSplit = "val",
    dtype: DType = "fp32",
    int8: Int8 = None,
    limit: Limit = 0,
    max_loss: MaxLoss = 1.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as one file for other runtimes.

    The graph takes images and tokens. It is run on real pictures: how far its outputs and masks are from the model's,
    and how fast it is, are printed and stored in it, and an export that differs is not written. With --split,
    image.onnx computes what depends on the picture alone, and phrase.onnx the rest: one encoding serves many phrases.
    The architecture decides where the cut is: behind its backbone, or behind the last layer without language.

    For --dtype fp16 and --int8, the gIoU that they cost on --data is measured, printed and stored; an export that costs
    more than --max-loss is not written.

    \b
    Example:
      refseg export --format onnx --output vlt.onnx
      refseg export --split --output vlt/
      refseg export --int8 dynamic --data scenes --output int8.onnx
      refseg predict --model vlt.onnx photo.jpg "two people on left"
    """
    from refseg_cli.engine.export import ExportRequest, export

    precision = _precision(dtype, int8)
    if one_of({"--format pt2": format == "pt2", "--split": split}, why=ONE_GRAPH)[0] == "--format pt2":
        split = False
    elif split:
        format = "onnx"
    if data is None:
        refuse_besides("an export without --data", {"--data-split": data_split != "val"})
    if precision == "fp32":
        refuse_besides("--dtype fp32", {"--limit": limit, "--max-loss": max_loss != 1.0})
    request = ExportRequest(
        model=model,
        format=format,
        out=out,
        split=split,
        data=data,
        data_split=data_split,
        precision=precision,
        limit=limit,
        max_loss=max_loss,
    )
    with console.progress() as progress:
        report = export(request, progress=progress)
    if json:
        console.json(report)
    else:
        console.result(_described(report))


def _precision(dtype: Literal["fp32", "fp16"], int8: Literal["dynamic", "static"] | None) -> Precision:
    """The one that is asked for."""
    names: dict[str, Precision] = {"dynamic": "int8 dynamic", "static": "int8 static"}
    wanted: dict[str, Precision | None] = {"--int8": names[int8] if int8 else None}
    if dtype != "fp32" or is_typed("--dtype"):
        wanted[f"--dtype {dtype}"] = dtype
    return one_of(wanted)[1] or "fp32"


def _described(report: ExportReport) -> str:
    proof, cost = report.proof, report.cost
    lost = (
        []
        if cost is None
        else [
            f"gIoU: {cost.exported:.2f}, the model {cost.model:.2f}, on {cost.phrases} phrases of {cost.split}, "
            f"{cost.data}"
        ]
    )
    return "\n".join(
        [
            f"{report.path}: {report.bytes / 1e6:.1f} MB, {report.precision}",
            f"outputs: at most {proof.difference:.2g} from the model's, which reach {proof.scale:.3g}",
            f"masks: IoU {proof.mask_iou:.4f} with the model's, {proof.phrases} phrases on {proof.pictures} pictures "
            f"of {proof.data}",
            f"speed: {proof.eager_ms / proof.exported_ms:.2f} times the model's "
            f"({proof.exported_ms:.1f} ms a picture, the model {proof.eager_ms:.1f} ms)",
            *lost,
        ]
    )
