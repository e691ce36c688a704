"""`refseg prepare from`: referring data in the forms that others have brought it into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refseg_cli.commands._options import Json, MaxPixels, Quiet, split_choices
from refseg_cli.commands.prepare import MasksOn, OnError, Out, Overwrite, Workers, output_of, show
from refseg_cli.console import console


def form_choices() -> list[str]:
    """Names of the forms."""
    from refseg_cli.data.sources.forms import FORMS

    return list(FORMS)


def from_(
    inputs: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files of one form, or folders of them.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call the dataset.")],
    out: Out,
    form: Annotated[
        str | None,
        typer.Option("--form", metavar="NAME", help="The form; found out if not given.", autocompletion=form_choices),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Folder of the photos; those of the files if not given."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="Split of all references; if not given, that of the split column, the file's name or its folder.",
            autocompletion=split_choices,
        ),
    ] = None,
    instances: Annotated[
        Path | None,
        typer.Option("--instances", metavar="FILE", help="COCO's annotations, for mdetr files, which have no masks."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option("--masks", metavar="DIR", help="Folder of cris's masks; masks/ beside anns/ if not given."),
    ] = None,
    workers: Workers = None,
    on_error: OnError = "fail",
    masks_on: MasksOn = "upright",
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare referring data in another form than the REFER downloads.

    Forms are jxu124, lmms-lab and moondream (Parquet from the Hugging Face hub), mdetr (also mmdet's), seqtr (also
    SimVG's), labelme, reasonseg, phrasecut and cris; docs/data.md describes them.

    \b
    Examples:
      refseg prepare from RefCOCO/data --name refcoco-lmms --out prepared/refcoco-lmms
      refseg prepare from labels/train labels/val --images photos --name mine --out prepared/mine
    """
    from refseg_cli.engine.prepare_from import FromRequest, prepare_from

    output = output_of(out, workers, on_error, masks_on, max_pixels, overwrite)
    request = FromRequest(tuple(inputs), name, output, form, images, split, instances, masks)
    with console.progress() as progress:
        report = prepare_from(request, progress=progress)
    show(report, json)
