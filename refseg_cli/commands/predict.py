"""`refseg predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg_cli import files
from refseg_cli.commands._forms import Asked, Listing, Write, Written, draw, list_one, verdict, written_as
from refseg_cli.commands._many import each, expand, read_phrases
from refseg_cli.commands._options import Device, MaxPixels, Model, Quiet
from refseg_cli.commands._output import STDIO, Format, Sink
from refseg_cli.commands._places import Places, name_of
from refseg_cli.console import console
from refseg_cli.errors import FOUND, NO_TARGET, RefsegError, quoted

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.data.coco_ids import CocoIds
    from refseg_cli.segmenters.base import Found, Segmenter

# Endings that no phrase has.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".jxl")

FormatName = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        help="Drawn, a file a phrase: png (the mask), overlay, cutout, soft (16-bit probabilities), explain (the "
        "model's maps). Text, a line a phrase: json, rle, polygons, boxes, count. Text, a file an image: labelme, "
        "yolo-seg. One list: coco.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="P", min=0, max=1, help="Pixels above this probability are in the mask."),
]
NoTargetThreshold = Annotated[
    float | None,
    typer.Option("--no-target-threshold", metavar="P", min=0, max=1, help="Report a target from this probability on."),
]


Image = Annotated[str | None, typer.Argument(metavar="IMAGE", help="An image file or URL, or - for standard input.")]
Phrases = Annotated[
    list[str] | None,
    typer.Argument(metavar="PHRASE", help="What to find; put -- before a phrase that begins with a dash."),
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="OUT", help="File, folder or template to write to; - for standard output."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue a run that was stopped: skip images that have answers.")
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
CocoIdsFile = Annotated[
    Path | None,
    typer.Option(
        "--coco-ids", metavar="FILE", help="COCO dataset whose ids --format coco uses; phrases are its categories."
    ),
]
Simplify = Annotated[
    float,
    typer.Option(
        "--simplify",
        metavar="PIXELS",
        min=0,
        help="Pixels that the outlines of polygons, labelme and yolo-seg may be moved to have fewer corners.",
    ),
]
Requests = Annotated[
    str | None,
    typer.Option(
        "--jsonl",
        metavar="FILE",
        help="Answer requests, a JSON object on each line with image, phrase or phrases, and id; - reads them from "
        "standard input.",
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Search folders for images at any depth.")]
ListWith = Annotated[
    bool, typer.Option("--files-with-matches", "-l", help="Print the names of images in which a phrase is found.")
]
ListWithout = Annotated[
    bool, typer.Option("--files-without-match", "-L", help="Print the names of images in which none is found.")
]
Count = Annotated[
    bool, typer.Option("--count", "-c", help="Print how many of the phrases are found in each image, as NAME:N.")
]


def predict(
    image: Image = None,
    phrases: Phrases = None,
    phrase: Phrase = None,
    phrase_file: PhraseFile = None,
    recursive: Recursive = False,
    requests: Requests = None,
    output: Output = None,
    force: Force = False,
    resume: Resume = False,
    format: FormatName = None,
    coco_ids: CocoIdsFile = None,
    simplify: Simplify = 0,
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

    The mask is a black and white PNG of the image's size, written to standard output if that is a pipe or file, else
    to IMAGE.mask.png in the current folder. A phrase that refers to nothing gives a black mask. Several phrases give
    numbered files (IMAGE.mask-1.png and so on), or in text formats a line each as soon as it is known.
    With --phrase, all arguments are images or folders of them. Existing files are kept unless --force is given.
    -o may be a template, as in 'out/{stem}-{phrase}.png'; its fields are {stem}, {name} and {folder} of the image,
    {phrase}, and the phrase's number {n}.

    \b
    Example:
      refseg predict --demo
      refseg predict photo.jpg "two people on left" -o mask.png
      refseg predict --json photo.jpg "the red car" | jq .no_target
      refseg predict photos/ -p "a dog" -p "a cat" -o 'masks/{stem}-{phrase}.png' --resume
      refseg predict --jsonl - < requests.jsonl > answers.jsonl
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
    options = {"device": device, "threshold": threshold, "no_target_threshold": no_target_threshold}
    if requests:
        asked = {"IMAGE": image, "--phrase": phrase or phrase_file, "--recursive": recursive, "--resume": resume}
        other = {
            "--format": chosen != "json" and (format or explain),
            "--coco-ids": coco_ids,
            "--simplify": simplify,
            "--count": listing,
        }
        _refuse_besides("--jsonl", {**asked, **other})
        status = _serve(requests, output, max_pixels, model, options, force=force)
    else:
        if listing:
            _refuse_besides("printing names", {"--output": output, "--format": chosen != "png", "--resume": resume})
        outlined = chosen in ("polygons", "labelme", "yolo-seg")
        useless = {"--coco-ids": chosen != "coco" and coco_ids, "--simplify": simplify and not outlined}
        _refuse_besides(f"--format {chosen}", useless)
        _refuse_besides("--force", {"--resume": force and resume})
        question = _question(image, phrases or [], phrase or [], phrase_file, recursive=recursive)
        places = Places(chosen, output, question.phrases, force, resume)
        status = _answer(question, places, listing, max_pixels, coco_ids, simplify, model, options)
    return FOUND if no_target_ok and status == NO_TARGET else status


def _refuse_besides(option: str, others: Mapping[str, object]) -> None:
    """That none of the others is given, for which the option has no use.  others: by name, whether they are."""
    for name, value in others.items():
        if value:
            raise RefsegError(f"{option} has no use for {name}", hint="leave one of them away")


def _serve(
    requests: str, output: str | None, max_pixels: int | None, model: str | None, options: Any, *, force: bool
) -> int:
    """Answer requests that come line by line."""
    from refseg_cli.commands._requests import answer_requests
    from refseg_cli.segmenters.choice import open_segmenter

    sink = Sink(None if output in (None, STDIO) else Path(output))
    if sink.path:
        files.refuse_input(sink.path, 0 if requests == STDIO else Path(requests))
        if not force:
            files.refuse_existing(sink.path)
    return answer_requests(
        requests, sink, partial(open_segmenter, model, **options), partial(_read, max_pixels=max_pixels)
    )


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
    if Path(image).is_dir():
        raise RefsegError(f"{image}: a folder", hint="name phrases with -p PHRASE, and folders may stand for images")
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
    places: Places,
    listing: Listing | None,
    max_pixels: int | None,
    coco_ids: Path | None,
    simplify: float,
    model: str | None,
    options: Mapping[str, Any],
) -> int:
    """Have the question answered, and say by the exit status whether anything is found."""
    pictures, phrases, format = question.pictures, question.phrases, places.format
    if listing is None:  # refused before a model is loaded
        places.check(pictures)
    ids = _coco_ids(coco_ids, pictures, phrases) if format == "coco" else None
    if places.resume:
        pictures = places.missing(pictures)
        console.info(f"{len(pictures)} of {len(question.pictures)} pictures are missing")
        if not pictures:
            return FOUND
    read = partial(_read, max_pixels=max_pixels)
    if not question.many:
        found = read(pictures[0])
        read = partial(_again, found)
    answering = _Answering.open(phrases, format, model, once=len(pictures) == 1, options=options)
    with ExitStack() as stack:
        write: Write
        if listing:
            write = partial(list_one, listing)
        elif places.is_drawn:
            write = partial(_draw, places)
        else:
            written = written_as(format, answering.segmenter, ids, simplify)
            if places.is_shared:
                [sink] = places.of(pictures[0])
                write = stack.enter_context(written.into(sink))
            else:
                write = partial(_write_file, places, written)
        return each(pictures, read, answering.ask, write, until_found=listing in ("with", "without"))


def _draw(places: Places, asked: Asked, answers: Iterable[Found]) -> None:
    draw(places.of(asked.argument), places.format, asked, answers)


def _write_file(places: Places, written: Written, asked: Asked, answers: Iterable[Found]) -> None:
    [sink] = places.of(asked.argument)
    with written.into(sink) as write:
        write(asked, answers)


def _coco_ids(file: Path | None, pictures: Sequence[str], phrases: Sequence[str]) -> CocoIds:
    from refseg_cli.data.coco_ids import numbered, read_ids

    return read_ids(file, pictures, phrases) if file else numbered(pictures, phrases)


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
        answer = segmenter.predict if format != "soft" else getattr(segmenter, "soften", None)
        if answer is None:
            raise RefsegError(
                f"{segmenter.name}: decides object by object, and has no probabilities of pixels",
                hint="choose another --format",
            )
        return cls(segmenter, answer, phrases, False)

    def ask(self, asked: Asked) -> Iterator[Found]:
        """The answers as they come; before the first picture's, what a user should know before relying on them."""
        answers = self.answer(asked.pixels, self.phrases)
        if not self.warned:
            self.warned.add(asked.name)
            for caution in self.segmenter.cautions(asked.name, self.phrases):
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
                f"{quoted(phrase)}: a file, not a phrase",
                hint="name images before -p PHRASE; a phrase that does read like this may end with a space",
            )


def _read(image: str, *, max_pixels: int | None) -> tuple[str, np.ndarray]:
    """What to call the image, and its pixels (3, h, w)."""
    from refseg_cli.data.formats import MAX_PIXELS
    from refseg_cli.data.pictures import read_pixels
    from refseg_cli.data.remote import is_url, read_url

    limit = max_pixels or MAX_PIXELS
    source: Path | bytes
    if image == STDIO:
        source = _stdin()
    else:
        source = read_url(image, max_pixels=limit) if is_url(image) else Path(image)
    return name_of(image), read_pixels(source, name_of(image), max_pixels=limit)


def _stdin() -> bytes:
    """The image that comes down the pipe; nobody types one."""
    if sys.stdin is None:
        raise RefsegError("- reads an image from standard input, which is closed", hint="refseg predict - ... < IMAGE")
    if sys.stdin.isatty():
        raise RefsegError(
            "- reads an image from standard input, which is a terminal", hint="refseg predict - ... < IMAGE"
        )
    return sys.stdin.buffer.read()


def _demo(out: Path, model: str | None, device: str) -> int:
    """Show what predict does on the bundled pictures; each line names a picture to look at."""
    from refseg_cli.engine.predict import demo

    for one in demo(out, folder=model, device=device):
        console.result(f"{one.found.phrase}: {verdict(one.found)} -> {one.path}")
    return FOUND
