"""`refseg prepare`: a sub-command for each dataset, for the embedded one, and for a check of what was prepared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from refseg_cli.commands._given import unread
from refseg_cli.commands._help import Commands
from refseg_cli.commands._options import Engine, Json, MaxPixels, Quiet
from refseg_cli.commands._prepared import (
    MasksOn,
    OnError,
    Out,
    Overwrite,
    Splits,
    Workers,
    cores,
    names_of,
    output_of,
    show,
)
from refseg_cli.console import console
from refseg_cli.errors import ERROR, FOUND, RefsegError

LEAKING = 1  # exit status of `check`: a gate that failed

app = Commands(help="Turn raw annotations and photos into Parquet shards.")

Root = Annotated[
    Path,
    typer.Option("--root", metavar="DIR", help="Folder that contains refcoco/, grefcoco/ and so on, as downloaded."),
]
Images = Annotated[
    Path | None,
    typer.Option("--images", metavar="DIR", help="Folder of the photos; ROOT/images or ROOT if not given."),
]


def _refer(dataset: str, authors: tuple[str, ...], told: str) -> None:
    """Add the command for a data set in REFER's layout.

    authors: of its splits, the usual one first.  told: the command's help.
    """

    def command(
        root: Root,
        out: Out,
        images: Images = None,
        split_by: str = authors[0],
        splits: Splits = "",
        workers: Workers = None,
        engine: Engine = "local",
        on_error: OnError = "fail",
        masks_on: MasksOn = "upright",
        max_pixels: MaxPixels = None,
        overwrite: Overwrite = False,
        json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        from refseg_cli.engine.prepare import PrepareRequest, prepare

        output = output_of(out, workers, engine, on_error, masks_on, max_pixels, overwrite)
        request = PrepareRequest(dataset, root, output, images, split_by, names_of(splits))
        with console.progress() as progress:
            report = prepare(request, progress=progress)
        show(report, json)

    author = typer.Option("--split-by", help="Author of the splits.")
    command.__annotations__["split_by"] = Annotated[Literal[authors], author]
    command.__doc__ = told
    app.command(dataset)(command)


_refer(
    "refcoco",
    ("unc", "google"),
    """Prepare RefCOCO: ROOT/refcoco/refs(unc).p and instances.json.

    \b
    Example, with the downloads in ./refer and the photos of COCO train2014 in ./train2014:
      refseg prepare refcoco --root refer --images train2014 --out prepared/refcoco
    """,
)
_refer(
    "refcoco+",
    ("unc",),
    """Prepare RefCOCO+: ROOT/refcoco+/refs(unc).p and instances.json.

    \b
    Example, with the downloads in ./refer and the photos of COCO train2014 in ./train2014:
      refseg prepare refcoco+ --root refer --images train2014 --out prepared/refcoco+
    """,
)
_refer(
    "refcocog",
    ("umd", "google"),
    """Prepare RefCOCOg: ROOT/refcocog/refs(umd).p and instances.json.

    The google splits share photos between train and val; the umd splits do not.

    \b
    Example, with the downloads in ./refer and the photos of COCO train2014 in ./train2014:
      refseg prepare refcocog --root refer --images train2014 --split-by umd --out prepared/refcocog
    """,
)
_refer(
    "refclef",
    ("unc", "berkeley"),
    """Prepare RefClef (ReferIt): refs(unc).p and instances.json.

    \b
    Example, with the downloads in ./refer and the photos of SAIAPR TC-12 in ./saiapr_tc-12:
      refseg prepare refclef --root refer --images saiapr_tc-12 --split-by berkeley --out prepared/refclef
    """,
)
_refer(
    "grefcoco",
    ("unc",),
    """Prepare gRefCOCO: grefs(unc).json and instances.json.

    \b
    Example, with scenes, which come in the same layout:
      refseg prepare scenes --images 8 --raw raw --out scenes
      refseg prepare grefcoco --root raw --out prepared/grefcoco
    """,
)


@app.command("scenes")
def scenes(
    out: Out,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="N|SPLIT=N,...",
            help="Number of pictures, or of clips, in total or for train, val, testA and testB. If not given, "
            "train=4000,val=300,testA=300,testB=300, and of clips train=200,val=40.",
        ),
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Make clips in which things move, and phrases about how they move.")
    ] = False,
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", min=2, max=999, help="Frames of each clip; 8 if not given.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Random seed of the scenes.")] = 0,
    raw: Annotated[
        Path | None,
        typer.Option(
            "--raw", metavar="DIR", help="Folder to keep the raw files in: pictures and gRefCOCO's, or MeViS', JSON."
        ),
    ] = None,
    workers: Workers = None,
    engine: Engine = "local",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate and prepare scenes, the dataset that comes with refseg.

    \b
    Examples:
      refseg prepare scenes --out scenes --images train=40,val=8
      refseg prepare scenes --video --out clips --images train=8,val=4
    """
    from refseg_cli.data.scenes import DEFAULT_CLIPS, DEFAULT_IMAGES, FRAMES
    from refseg_cli.engine.prepare import prepare_scenes
    from refseg_cli.engine.prepare_video import prepare_moving_scenes

    if not video and unread({"--frames": frames}):
        raise RefsegError("--frames is for clips", hint="add --video")
    wanted = _scene_counts(images, DEFAULT_CLIPS if video else DEFAULT_IMAGES)
    with console.progress() as progress:
        make = partial(prepare_moving_scenes, clips=wanted, frames=frames or FRAMES)
        report = (make if video else partial(prepare_scenes, images=wanted))(
            out,
            seed=seed,
            raw=raw,
            workers=workers or cores(),
            engine=engine,
            overwrite=overwrite,
            progress=progress,
        )
    show(report, json)


@app.command("check")
def check(
    outs: Annotated[list[str], typer.Argument(metavar="DIR", help="Folders of prepared data.")],
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Verify prepared data and find pictures that splits share.

    Checks hashes and counts against the manifests, and compares every train split with every other split of all the
    data given, by image id.

    \b
    Example:
      refseg prepare scenes --out scenes --images 8
      refseg prepare check scenes

    \b
    Exit status:
      0  All files are intact, and no pictures are shared.
      1  Shared pictures.
      2  Damaged or missing files.
    """
    from refseg_cli.data.check import check

    with console.progress() as progress:
        report = check(outs, progress=progress)
    if json:
        console.json({"damage": report.damage, "leaks": report.leaks})
    for damage in report.damage:
        console.error(f"{damage.file}: {damage.reason}")
    if report.damage:
        return ERROR
    if not json:
        if report.leaks:
            rows = [
                (leak.train, leak.held_out, leak.images, ", ".join(map(str, leak.examples))) for leak in report.leaks
            ]
            console.table("Pictures shared between splits", ["train", "held out", "images", "examples"], rows)
        else:
            splits = sum(len(checked.manifest.splits) for checked in report.checked)
            console.result(f"{splits} splits intact; no picture of a held-out split is in a train split")
    return LEAKING if report.leaks else FOUND


def _scene_counts(text: str | None, usual: Mapping[str, int]) -> dict[str, int]:
    """``train=400,val=40``, or one number for all, which is shared out as usual; None for the usual ones."""
    from refseg_cli.engine.prepare import share_scenes

    if text is None:
        return dict(usual)
    try:
        if "=" not in text:
            return share_scenes(int(text), usual)
        pairs = [(name.strip(), int(number)) for name, number in (part.split("=") for part in text.split(","))]
    except ValueError as error:
        raise RefsegError(f"--images {text}: neither a number nor SPLIT=N,...", hint="e.g. train=400,val=40") from error
    if len(dict(pairs)) < len(pairs):
        raise RefsegError(f"--images {text}: names a split twice", hint="give one number for each split")
    return dict(pairs)
