"""`refseg predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg_cli.commands._options import Device, MaxPixels, Model, Quiet
from refseg_cli.commands._output import LINES, STDIO, Format, Sink, sinks_for
from refseg_cli.console import console
from refseg_cli.errors import FOUND, NO_TARGET, RefsegError

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.segmenters.base import Found, Segmenter

# Endings that no phrase has.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".jxl")

FormatName = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="Mask, mask over the image, model's maps, COCO RLE, or JSON lines."),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="P", min=0, max=1, help="Probability that puts a pixel into the mask."),
]
NoTargetThreshold = Annotated[
    float | None,
    typer.Option(
        "--no-target-threshold", metavar="P", min=0, max=1, help="Probability that a target is there, to report it."
    ),
]


def predict(
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="An image file, or - for standard input.")
    ] = None,
    phrases: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHRASE", help="What to find; put -- before a phrase that begins with a dash."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="File or folder to write to; - for a pipe.")
    ] = None,
    format: FormatName = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Draw what the model looked at; the same as --format explain.")
    ] = False,
    model: Model = None,
    threshold: Threshold = None,
    no_target_threshold: NoTargetThreshold = None,
    max_pixels: MaxPixels = None,
    no_target_ok: Annotated[bool, typer.Option("--no-target-ok", help="Exit with 0 even if nothing is found.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Show what it does, on bundled scenes.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> int:
    """Turn an image and phrases into masks.

    The mask is a black and white PNG of the image's size. It goes down the pipe if there is one, else to
    IMAGE.mask.png in the current folder. A phrase that refers to nothing gives a black mask. Several phrases
    give numbered files (IMAGE.mask-1.png and so on), or one line each with --format rle or json, written as they come.

    \b
    Example:
      refseg predict --demo
      refseg predict photo.jpg "two people on left" -o mask.png
      refseg predict --json photo.jpg "the red car" "the dog" | jq .no_target
      refseg predict --explain photo.jpg "the red car" -o why.png
      cat photo.jpg | refseg predict -q - "a dog" && echo "there is a dog"

    \b
    Exit status:
      0  At least one phrase refers to something.
      1  None does.
      2  An error; one line on standard error says which.
    """
    chosen = _format(format, json=json, explain=explain)
    if demo:
        return _demo(Path(output or "refseg-demo"), model, device)
    if image is None or not phrases:
        raise RefsegError("predict needs an image and a phrase", hint="refseg predict IMAGE PHRASE..., or --demo")
    _check(phrases)
    sinks = sinks_for(image, len(phrases), chosen, output)
    name, pixels = _read(image, max_pixels)

    from refseg_cli.segmenters.choice import open_explaining, open_segmenter

    options: dict[str, Any] = {"device": device, "threshold": threshold, "no_target_threshold": no_target_threshold}
    if chosen == "explain":
        explaining = open_explaining(model, **options)
        answers = _explained(explaining, explaining.explain(pixels, phrases))
        segmenter: Segmenter = explaining
    else:
        segmenter = open_segmenter(model, once=True, **options)
        answers = segmenter.predict(pixels, phrases)
    for caution in segmenter.cautions(name, phrases):
        console.warn(caution)
    if chosen in LINES:
        exists = _write_lines(sinks[0], answers, chosen, segmenter, name)
    else:
        exists = _write_pictures(sinks, answers, chosen, pixels)
    return FOUND if exists or no_target_ok else NO_TARGET


def _format(given: Format | None, *, json: bool, explain: bool) -> Format:
    wanted: dict[str, Format | None] = {
        "--json": "json" if json else None,
        "--explain": "explain" if explain else None,
        f"--format {given}": given,
    }
    named = {option: format for option, format in wanted.items() if format}
    if len(set(named.values())) > 1:
        raise RefsegError(f"{' and '.join(named)} exclude each other", hint="give one of them")
    return next(iter(named.values()), "png")


def _check(phrases: Sequence[str]) -> None:
    """That each is a phrase: what names a picture would be answered as one, and nobody would notice."""
    from refseg_cli.segmenters.base import check_phrases

    check_phrases(phrases)
    for phrase in phrases:
        if os.path.isfile(phrase) or Path(phrase).suffix.lower() in PICTURES:  # noqa: PTH113 - never raises
            raise RefsegError(
                f"{phrase!r}: a file, not a phrase",
                hint="predict takes one image, then phrases; one that does read like this may end with a space",
            )


def _read(image: str, max_pixels: int | None) -> tuple[str, np.ndarray]:
    """What to call the image, and its pixels (3, h, w)."""
    from refseg_cli.data.formats import MAX_PIXELS
    from refseg_cli.data.pictures import read_pixels

    source, name = (_stdin(), "stdin") if image == STDIO else (Path(image), image)
    return name, read_pixels(source, name, max_pixels=max_pixels or MAX_PIXELS)


def _stdin() -> bytes:
    """The image that comes down the pipe; nobody types one."""
    if sys.stdin is None:
        raise RefsegError("- reads an image from standard input, which is closed", hint="refseg predict - ... < IMAGE")
    if sys.stdin.isatty():
        raise RefsegError(
            "- reads an image from standard input, which is a terminal", hint="refseg predict - ... < IMAGE"
        )
    return sys.stdin.buffer.read()


def _explained(segmenter: Segmenter, answers: Iterable[Found]) -> Iterator[Found]:
    """The answers as they come; with a word about it where there is nothing to show."""
    for number, found in enumerate(answers):
        if number == 0 and not found.maps:
            console.warn(f"{segmenter.name} has no maps to show: this is its answer alone")
        yield found


def _write_lines(sink: Sink, answers: Iterable[Found], format: Format, segmenter: Segmenter, name: str) -> bool:
    """A line for each answer, as soon as it is there; whether any has a target."""
    from refseg_cli.segmenters.base import record

    exists = False
    with sink.lines() as write:
        for found in answers:
            line = record(segmenter, name, found)
            write(line if format == "json" else line["mask"])
            exists |= found.exists
    return exists


def _write_pictures(sinks: Sequence[Sink], answers: Iterable[Found], format: Format, pixels: np.ndarray) -> bool:
    """A PNG for each answer, as soon as it is there; whether any has a target. No sinks, no pictures.

    pixels: (3, h, w).
    """
    picture = pixels.transpose(1, 2, 0)
    exists = False
    for number, found in enumerate(answers):
        exists |= found.exists
        if sinks:
            sink = sinks[number]
            sink.write(_drawn(found, format, picture))
            where = "" if sink.path is None else f" -> {sink.path}"
            console.info(f"{found.phrase}: {_verdict(found)}{where}")
    return exists


def _drawn(found: Found, format: Format, picture: np.ndarray) -> bytes:
    """The answer as a PNG; picture: (h, w, 3)."""
    from refseg_cli.drawing.maps import explanation_png
    from refseg_cli.drawing.overlay import mask_png, overlay_png

    mask, phrase, exists, p_target = found.mask, found.phrase, found.exists, found.p_target
    if format == "explain":
        return explanation_png(picture, mask, phrase, found.maps, exists=exists, p_target=p_target)
    if format == "overlay":
        return overlay_png(picture, mask, phrase, exists=exists, p_target=p_target)
    return mask_png(mask)


def _verdict(found: Found) -> str:
    return f"found {100 * found.p_target:.0f} %, {found.pixels} pixels" if found.exists else "no target"


def _demo(out: Path, model: str | None, device: str) -> int:
    """Show what predict does on the bundled scenes; each row of the table names a picture to look at."""
    from refseg_cli.engine.predict import demo

    shown = demo(out, folder=model, device=device)
    rows = [[one.found.phrase, _verdict(one.found), one.path] for one in shown]
    console.table(
        f"Scenes and what was found in them, drawn into {out}", ["phrase", "answer", "picture"], rows, whole=["picture"]
    )
    return FOUND
