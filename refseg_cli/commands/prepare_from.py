"""`refseg prepare from`: referring data in the forms that others have brought it into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refseg_cli.commands._options import Engine, Json, MaxPixels, Quiet, split_choices
from refseg_cli.commands._prepared import MasksOn, OnError, Out, Overwrite, Workers, output_of, show
from refseg_cli.console import console


def form_choices() -> list[str]:
    """Names of the forms."""
    from refseg_cli.data.sources.forms import FORMS

    return list(FORMS)


def from_(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files of one form, or folders that contain them.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the dataset.")],
    out: Out,
    form: Annotated[
        str | None,
        typer.Option(
            "--form", metavar="NAME", help="Form of the files; detected if not given.", autocompletion=form_choices
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Folder of the photos; if not given, where the files say."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="Split of all references; if not given, taken from the split column or the file's or folder's name.",
            autocompletion=split_choices,
        ),
    ] = None,
    instances: Annotated[
        Path | None,
        typer.Option("--instances", metavar="FILE", help="COCO annotations, for mdetr files, which contain no masks."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks", metavar="DIR", help="Folder of the masks of cris files; masks/ beside anns/ if not given."
        ),
    ] = None,
    workers: Workers = None,
    engine: Engine = "local",
    on_error: OnError = "fail",
    masks_on: MasksOn = "upright",
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare referring data in other forms than REFER's downloads.

    Forms are jxu124, lmms-lab and moondream (Parquet from the Hugging Face hub), mdetr (also mmdet's), seqtr (also
    SimVG's), labelme, reasonseg, phrasecut and cris; docs/data.md describes them.

    \b
    Examples:
      refseg prepare from RefCOCO/data --name refcoco-lmms --out prepared/refcoco-lmms
      refseg prepare from labels/train labels/val --images photos --name mine --out prepared/mine
    """
    from refseg_cli.engine.prepare_from import FromRequest, prepare_from

    output = output_of(out, workers, engine, on_error, masks_on, max_pixels, overwrite)
    request = FromRequest(tuple(inputs), name, output, form, images, split, instances, masks)
    with console.progress() as progress:
        report = prepare_from(request, progress=progress)
    show(report, json)
