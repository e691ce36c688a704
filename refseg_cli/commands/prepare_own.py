"""`refseg prepare coco` and `refseg prepare refer`: one's own annotated photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg_cli.commands._given import refuse_besides
from refseg_cli.commands._options import Engine, Json, MaxPixels, Quiet
from refseg_cli.commands._prepared import MasksOn, OnError, Out, Overwrite, Splits, Workers, names_of, output_of, show
from refseg_cli.console import console
from refseg_cli.errors import nearest_name, unknown_name

if TYPE_CHECKING:
    from refseg_cli.engine.prepare import PrepareReport

GENERATE = "generate"


def phrase_choices() -> list[str]:
    """What --phrases may be other than a file."""
    return [GENERATE]


Photos = Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder of the photos.")]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the dataset; that of --out if not given.")
]
Preview = Annotated[
    int | None,
    typer.Option(
        "--preview",
        metavar="N",
        min=1,
        help="Write OUT/_preview.html, a page that shows N pictures with their phrases and masks.",
    ),
]
ImageSource = Annotated[
    str | None,
    typer.Option(
        "--image-source",
        metavar="NAME",
        help="Collection that the image ids belong to, by which 'prepare check' finds shared pictures: coco for "
        "COCO's; --name if not given.",
    ),
]


def coco(
    annotations: Annotated[
        Path, typer.Option("--annotations", metavar="FILE", help="COCO annotations: images, annotations, categories.")
    ],
    images: Photos,
    phrases: Annotated[
        str,
        typer.Option(
            "--phrases",
            metavar="FILE|generate",
            help="Table of phrases (CSV, JSON or Parquet), or `generate` to make them from the annotations.",
            autocompletion=phrase_choices,
        ),
    ],
    out: Out,
    name: Name = None,
    splits: Annotated[
        str | None,
        typer.Option(
            "--splits",
            metavar="SPLIT=SHARE,...|FILE",
            help="Divide the images by shares, or by a table with the columns image and split. If not given: the "
            "column split of --phrases, or all in train.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", help="Random seed of the splits and of generated phrases."),
    ] = 0,
    image_source: ImageSource = None,
    preview: Preview = None,
    workers: Workers = None,
    engine: Engine = "local",
    on_error: OnError = "fail",
    masks_on: MasksOn = "upright",
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare your own photos: a COCO file and phrases.

    The phrases are in a table, or generated from the annotated objects.

    \b
    A row of the table has an image (file name or id) and a phrase, and says what the phrase means by
      ann_id     ids of annotations, such as 12 or "12 13"
      mask       COCO's RLE or polygons, or a PNG file beside the table
      box        x, y, width, height of an annotated object
      no_target  true: nothing in the picture

    \b
    Example:
      refseg prepare coco --annotations instances.json --images photos --phrases phrases.csv --out prepared/mine
      refseg prepare coco --annotations instances.json --images photos --phrases generate --out prepared/made
    """
    from refseg_cli.engine.prepare_own import CocoRequest, prepare_coco

    output = output_of(out, workers, engine, on_error, masks_on, max_pixels, overwrite)
    table = None if phrases == GENERATE else Path(phrases)
    if table and not table.exists() and nearest_name(phrases, [GENERATE]):
        raise unknown_name("table of phrases", phrases, [GENERATE])
    if table and "=" not in (splits or ""):
        refuse_besides("a table of phrases without shares in --splits", {"--seed": seed != 0})
    request = CocoRequest(annotations, images, table, output, name, splits, seed, image_source)
    with console.progress() as progress:
        report = prepare_coco(request, progress=progress)
    _show(report, json, preview)


def refer(
    refs: Annotated[Path, typer.Option("--refs", metavar="FILE", help="References: a pickle (.p) or JSON.")],
    instances: Annotated[
        Path, typer.Option("--instances", metavar="FILE", help="The instances.json that they refer to.")
    ],
    images: Photos,
    out: Out,
    name: Name = None,
    splits: Splits = "",
    image_source: ImageSource = None,
    preview: Preview = None,
    workers: Workers = None,
    engine: Engine = "local",
    on_error: OnError = "fail",
    masks_on: MasksOn = "upright",
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare another dataset in REFER's layout.

    RRSIS-D and RefSegRS, for example, or your own. Ids may be text, splits have any names, boxes and ids of sentences
    may be missing. REFER's own sets, which have published counts and COCO's image ids, have commands of their own.

    \b
    Example:
      refseg prepare refer --refs "refs(unc).p" --instances instances.json --images JPEGImages --out rrsisd
    """
    from refseg_cli.engine.prepare_own import ReferRequest, prepare_refer

    output = output_of(out, workers, engine, on_error, masks_on, max_pixels, overwrite)
    request = ReferRequest(refs, instances, images, output, name, names_of(splits), image_source)
    with console.progress() as progress:
        report = prepare_refer(request, progress=progress)
    _show(report, json, preview)


def _show(report: PrepareReport, json: bool, preview: int | None) -> None:
    show(report, json)
    if preview:
        from refseg_cli.engine.preview import write_preview

        console.info(f"{write_preview(report.out, report.manifest, pictures=preview)}: open it in a browser")
