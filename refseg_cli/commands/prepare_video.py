"""`refseg prepare ref-youtube-vos`, `mevis` and `ref-davis17`: videos with expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from refseg_cli.commands._options import Engine, Json, MaxPixels, Quiet
from refseg_cli.commands._prepared import OnError, Out, Overwrite, Splits, Workers, names_of, output_of, show
from refseg_cli.console import console

Root = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="Folder of the data set, as downloaded and unpacked.")
]


def ref_youtube_vos(
    root: Root,
    out: Out,
    splits: Splits = "",
    workers: Workers = None,
    engine: Engine = "local",
    on_error: OnError = "fail",
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare Ref-YouTube-VOS: ROOT/meta_expressions/, train/ and valid/, with JPEGImages/ and Annotations/.

    One row a frame; a clip's frames stay together, in order. The valid split has no masks.

    \b
    Example:
      refseg prepare ref-youtube-vos --root ref-youtube-vos --out prepared/ref-youtube-vos
    """
    _prepare("ref-youtube-vos", root, out, splits, workers, engine, on_error, max_pixels, overwrite, json)


def mevis(
    root: Root,
    out: Out,
    splits: Splits = "",
    workers: Workers = None,
    engine: Engine = "local",
    on_error: OnError = "fail",
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare MeViS: ROOT/train/, valid_u/ and valid/, with meta_expressions.json and mask_dict.json.

    One row a frame; a clip's frames stay together, in order. The valid split has no masks.

    \b
    Example, with moving scenes, which come in the same layout:
      refseg prepare scenes --video --images 4 --raw raw --out clips
      refseg prepare mevis --root raw --out prepared/mevis
    """
    _prepare("mevis", root, out, splits, workers, engine, on_error, max_pixels, overwrite, json)


def ref_davis17(
    root: Root,
    out: Out,
    splits: Splits = "",
    workers: Workers = None,
    engine: Engine = "local",
    on_error: OnError = "fail",
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare Ref-DAVIS17: ROOT/DAVIS/ and davis_text_annotations/, or a copy in Ref-YouTube-VOS' layout.

    Each object has four expressions: of two annotators, for the first frame and for the whole video.

    \b
    Example:
      refseg prepare ref-davis17 --root ref-davis --out prepared/ref-davis17
    """
    _prepare("ref-davis17", root, out, splits, workers, engine, on_error, max_pixels, overwrite, json)


def _prepare(
    dataset: str,
    root: Path,
    out: str,
    splits: str,
    workers: int | None,
    engine: Literal["local", "ray"],
    on_error: Literal["fail", "skip"],
    max_pixels: int | None,
    overwrite: bool,
    json: bool,
) -> None:
    from refseg_cli.engine.prepare_video import VideoRequest, prepare_video

    output = output_of(out, workers, engine, on_error, "upright", max_pixels, overwrite)
    with console.progress() as progress:
        report = prepare_video(VideoRequest(dataset, root, output, names_of(splits)), progress=progress)
    show(report, json)
