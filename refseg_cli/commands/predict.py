"""`refseg predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg_cli.commands._many import Listing, Places, each, expand, list_one, read_phrases
from refseg_cli.commands._options import Device, MaxPixels, Model, Quiet
from refseg_cli.commands._output import LINES, STDIO, Format, Sink
from refseg_cli.console import console
from refseg_cli.errors import FOUND, NO_TARGET, RefsegError

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.segmenters.base import Found, Segmenter

# Endings that no phrase has.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".jxl")

FormatName = Annotated[
    Format | None,
    typer.Option(
        "--format", "-f", help="Mask, mask over the image, what it covers, model's maps, COCO RLE, or JSON lines."
    ),
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


Image = Annotated[str | None, typer.Argument(metavar="IMAGE", help="An image file, or - for standard input.")]
Phrases = Annotated[
    list[str] | None,
    typer.Argument(metavar="PHRASE", help="What to find; put -- before a phrase that begins with a dash."),
]
Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="OUT", help="File or folder to write to; - for a pipe.")
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Draw what the model looked at; the same as --format explain.")
]
Phrase = Annotated[
    list[str] | None,
    typer.Option("--phrase", "-p", metavar="PHRASE", help="What to find; all arguments are then images. Repeatable."),
]
PhraseFile = Annotated[
    Path | None, typer.Option("--phrases", metavar="FILE", help="Phrases to find, one on each line; like --phrase.")
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Of a folder, take the images in its folders too.")]
ListWith = Annotated[
    bool, typer.Option("--files-with-matches", "-l", help="Print the names of images in which a phrase is found.")
]
ListWithout = Annotated[
    bool, typer.Option("--files-without-match", "-L", help="Print the names of images in which none is found.")
]
Count = Annotated[
    bool, typer.Option("--count", "-c", help="Print of each image how many of the phrases are found, as NAME:N.")
]


def predict(
    image: Image = None,
    phrases: Phrases = None,
    phrase: Phrase = None,
    phrase_file: PhraseFile = None,
    recursive: Recursive = False,
    output: Output = None,
    format: FormatName = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    explain: Explain = False,
    files_with: ListWith = False,
    files_without: ListWithout = False,
    count: Count = False,
    model: Model = None,
    threshold: Threshold = None,
    no_target_threshold: NoTargetThreshold = None,
    max_pixels: MaxPixels = None,
    no_target_ok: Annotated[bool, typer.Option("--no-target-ok", help="Exit with 0 even if nothing is found.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Show what it does, on bundled pictures.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> int:
    """Turn images and phrases into masks.

    The mask is a black and white PNG of the image's size. It goes down the pipe if there is one, else to
    IMAGE.mask.png in the current folder. A phrase that refers to nothing gives a black mask. Several phrases
    give numbered files (IMAGE.mask-1.png and so on), or one line each with --format rle or json, written as they come.
    With --phrase, all arguments are images, or folders of them.

    \b
    Example:
      refseg predict --demo
      refseg predict photo.jpg "two people on left" -o mask.png
      refseg predict --json photo.jpg "the red car" "the dog" | jq .no_target
      refseg predict --explain photo.jpg "the red car" -o why.png
      refseg predict -l -p "kid in blue" photos/ | xargs ls -l
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
    listing = _listing({"--files-with-matches": files_with, "--files-without-match": files_without, "--count": count})
    if listing and (output or chosen != "png"):
        raise RefsegError("names of images are printed, and no masks", hint="leave --output and --format away")
    question = _question(image, phrases or [], phrase or [], phrase_file, recursive=recursive)
    options = {"device": device, "threshold": threshold, "no_target_threshold": no_target_threshold}
    status = _answer(question, chosen, output, listing, max_pixels, model, options)
    return FOUND if no_target_ok and status == NO_TARGET else status


@dataclass(frozen=True)
class _Question:
    """many: whether pictures were named as such, so that a broken one does not stop the others."""

    pictures: list[str]
    phrases: list[str]
    many: bool


def _question(
    image: str | None, rest: Sequence[str], phrases: Sequence[str], file: Path | None, *, recursive: bool
) -> _Question:
    """What is asked of what: by --phrase and --phrases of all arguments, else by the others of the first."""
    asked = [*phrases, *(read_phrases(file) if file else [])]
    if image is None or not (asked or rest):
        raise RefsegError("predict needs an image and a phrase", hint="refseg predict IMAGE PHRASE..., or --demo")
    if asked:
        _check(asked)
        return _Question(expand([image, *rest], PICTURES, recursive=recursive), asked, True)
    _check(rest)
    if recursive:
        raise RefsegError("--recursive is about folders of images", hint="name phrases with --phrase")
    return _Question([image], list(rest), False)


def _listing(flags: Mapping[str, bool]) -> Listing | None:
    kinds: tuple[Listing, ...] = ("with", "without", "count")
    given = [(name, kind) for (name, wanted), kind in zip(flags.items(), kinds, strict=True) if wanted]
    if len(given) > 1:
        raise RefsegError(f"{' and '.join(name for name, _ in given)} exclude each other", hint="give one of them")
    return given[0][1] if given else None


def _answer(
    question: _Question,
    format: Format,
    output: str | None,
    listing: Listing | None,
    max_pixels: int | None,
    model: str | None,
    options: Mapping[str, Any],
) -> int:
    """Have the question answered, and say by the exit status whether anything is found."""
    pictures, phrases = question.pictures, question.phrases
    places = Places(format, output, len(phrases))
    if listing is None:
        places.check(pictures)
    lines = places.of(pictures[0])[0] if format in LINES else None  # refused before a model is loaded
    read = partial(_read, max_pixels=max_pixels)
    if not question.many:
        places.of(pictures[0])
        found = read(pictures[0])
        read = partial(_again, found)
    answering = _Answering.open(phrases, format, model, once=len(pictures) == 1, options=options)
    with lines.lines() if lines else nullcontext() as write:

        def take(picture: str, name: str, pixels: np.ndarray) -> bool:
            answers = answering.ask(name, pixels)
            if listing:
                return list_one(listing, name, answers)
            if write:
                return _write_lines(write, answers, format, answering.segmenter, name)
            return _write_pictures(places.of(picture), answers, format, pixels)

        return each(pictures, read, take)


def _again(found: tuple[str, np.ndarray], picture: str) -> tuple[str, np.ndarray]:
    """A picture that was read before the model was loaded, so that its faults are told at once."""
    return found


@dataclass(frozen=True)
class _Answering:
    """A model, what it is asked, and which of its methods answers."""

    segmenter: Segmenter
    answer: Callable[[np.ndarray, Sequence[str]], Iterator[Found]]
    phrases: Sequence[str]
    explains: bool
    warned: set[str] = field(default_factory=set)

    @classmethod
    def open(
        cls, phrases: Sequence[str], format: Format, model: str | None, *, once: bool, options: Mapping[str, Any]
    ) -> _Answering:
        from refseg_cli.segmenters.choice import open_explaining, open_segmenter

        if format == "explain":
            explaining = open_explaining(model, **options)
            return cls(explaining, getattr(explaining, "explain", explaining.predict), phrases, True)
        segmenter = open_segmenter(model, once=once, **options)
        return cls(segmenter, segmenter.predict, phrases, False)

    def ask(self, name: str, pixels: np.ndarray) -> Iterator[Found]:
        """The answers as they come; before the first picture's, what a user should know before relying on them."""
        answers = self.answer(pixels, self.phrases)
        if not self.warned:
            self.warned.add(name)
            for caution in self.segmenter.cautions(name, self.phrases):
                console.warn(caution)
        for number, found in enumerate(answers):
            if self.explains and number == 0 and not found.maps:
                console.warn(f"{self.segmenter.name} has no maps to show: this is its answer alone")
            yield found


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
                hint="name images before -p PHRASE; a phrase that does read like this may end with a space",
            )


def _read(image: str, *, max_pixels: int | None) -> tuple[str, np.ndarray]:
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


def _write_lines(
    write: Callable[[object], None], answers: Iterable[Found], format: Format, segmenter: Segmenter, name: str
) -> bool:
    """A line for each answer, as soon as it is there; whether any has a target."""
    from refseg_cli.segmenters.base import record

    exists = False
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
    from refseg_cli.drawing.overlay import cutout_png, mask_png, overlay_png

    mask, phrase, exists, p_target = found.mask, found.phrase, found.exists, found.p_target
    if format == "explain":
        return explanation_png(picture, mask, phrase, found.maps, exists=exists, p_target=p_target)
    if format == "overlay":
        return overlay_png(picture, mask, phrase, exists=exists, p_target=p_target)
    return cutout_png(picture, mask) if format == "cutout" else mask_png(mask)


def _verdict(found: Found) -> str:
    return f"found {100 * found.p_target:.0f} %, {found.pixels} pixels" if found.exists else "no target"


def _demo(out: Path, model: str | None, device: str) -> int:
    """Show what predict does on the bundled pictures; each row of the table names a picture to look at."""
    from refseg_cli.engine.predict import demo

    shown = demo(out, folder=model, device=device)
    rows = [[one.found.phrase, _verdict(one.found), one.path] for one in shown]
    console.table(
        f"What was found in the pictures, drawn into {out}", ["phrase", "answer", "picture"], rows, whole=["picture"]
    )
    return FOUND
