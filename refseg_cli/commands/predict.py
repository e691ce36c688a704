"""`refseg predict`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from refseg_cli import files
from refseg_cli.commands._answering import answer, refuse_useless
from refseg_cli.commands._bulk import DataIn, SplitIn, Threads, Workers, answer_data
from refseg_cli.commands._forms import Listing, verdict
from refseg_cli.commands._given import fitting, is_set, one_of, refuse_all_but, refuse_besides, unread
from refseg_cli.commands._options import (
    BatchImages,
    Compile,
    Device,
    Engine,
    MaxPixels,
    Memory,
    Model,
    Precision,
    Quiet,
    choose_memory,
)
from refseg_cli.commands._output import STDIO, Format, Sink
from refseg_cli.commands._places import Places
from refseg_cli.commands._predict_clips import ClipPlaces, answer_clip, is_clip
from refseg_cli.commands._question import question_of, read_picture
from refseg_cli.console import console
from refseg_cli.errors import FOUND, NO_TARGET, RefsegError

BATCH = "--batch-images"
OF_MODEL = (
    "--model",
    "--device",
    "--threshold",
    "--no-target-threshold",
    "--precision",
    "--memory",
    "--compile",
    "--no-target-ok",
)

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
    typer.Option(
        "--output", "--out", "-o", metavar="OUT", help="File, folder or template to write to; - for standard output."
    ),
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
ClipFlag = Annotated[
    bool, typer.Option("--clip", help="IMAGE is one clip: a folder of frames, an animated picture, or a video.")
]
Every = Annotated[int, typer.Option("--every", metavar="N", min=1, help="Answer only every N-th frame of a clip.")]
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
    clip: ClipFlag = False,
    every: Every = 1,
    requests: Requests = None,
    data: DataIn = None,
    split: SplitIn = "val",
    engine: Engine = "local",
    workers: Workers = 1,
    threads: Threads = 0,
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
    precision: Precision = "fp32",
    memory: Memory = None,
    batch_images: BatchImages = 1,
    compile: Compile = False,
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
    A video is answered frame by frame; the answers are a video, PNG frames in a folder, or a line of text for each
    frame. With --clip, the same holds for a folder of frames and an animated picture.

    \b
    Example:
      refseg predict --demo
      refseg predict photo.jpg "two people on left" -o mask.png
      refseg predict --json photo.jpg "the red car" | jq .no_target
      refseg predict photos/ -p "a dog" -p "a cat" -o 'masks/{stem}-{phrase}.png' --resume
      refseg predict clip.mp4 "the red car" -f overlay -o drawn.mp4
      refseg predict --jsonl - < requests.jsonl > answers.jsonl
      refseg predict --engine ray --workers 64 --data s3://bucket/shards --split test -o s3://bucket/answers
      refseg predict -l -p "kid in blue" photos/ | xargs ls -l
      cat photo.jpg | refseg predict -q - "a dog" && echo "there is a dog"

    \b
    Exit status:
      0  At least one phrase refers to something.
      1  None does.
      2  An error; one line on standard error says which.
    """
    from refseg_cli.segmenters.compiling import Compiling

    chosen = _format(format, json=json, explain=explain)
    mode = _mode({"--demo": demo, "--data": data, "--jsonl": requests, "IMAGE": image})
    if mode == "--demo":
        refuse_all_but(mode, "--output", "--model", "--device")
        return _demo(Path(output or "refseg-demo"), model, device)
    kinds: dict[str, Listing | None] = {
        "--files-with-matches": "with" if files_with else None,
        "--files-without-match": "without" if files_without else None,
        "--count": "count" if count else None,
    }
    listing = one_of(kinds)[1]
    options: dict[str, Any] = {"device": device, "threshold": threshold, "no_target_threshold": no_target_threshold}
    options |= {"precision": precision, "memory": choose_memory(memory)}
    apart = {"--format explain": chosen == "explain", "--engine ray": mode == "--data" and engine == "ray"}
    compiling = Compiling() if _compiled(compile, apart) else None
    if compiling:
        options["compile"] = compiling
    if mode == "--data":
        refuse_all_but(mode, *OF_MODEL, "--split", "--output", "--json", "--engine", "--workers", "--threads", BATCH)
        if engine == "local":
            refuse_besides("--engine local", {"--workers": workers > 1})
        sizes = {"engine": engine, "workers": workers, "threads": threads, "batch_images": batch_images}
        status = answer_data(data or "", split, output, json=json, model=model, options=options | sizes)
    elif mode == "--jsonl":
        refuse_all_but(mode, *OF_MODEL, "--output", "--force", "--max-pixels", "--format", "--json")
        if chosen != "json":
            refuse_besides(mode, {"--format": format})
        status = _serve(requests or "", output, max_pixels, model, options, force=force)
    else:
        of_data = {"--engine": engine != "local", "--workers": workers > 1, "--threads": threads}
        for name in unread({**of_data, "--split": split != "val"}):
            raise RefsegError(f"{name} applies to --data", hint="add --data, or omit it")
        question = question_of(image, phrases or [], phrase or [], phrase_file)
        if clip or any(is_clip(name, output) for name in question.pictures):
            refuse_besides("a clip", {"--recursive": recursive, "--resume": resume, "--coco-ids": coco_ids})
            refuse_besides("a clip", {"--count, -l and -L": listing, BATCH: batch_images > 1})
            if chosen != "polygons":
                refuse_besides("a clip", {"--simplify": simplify})
            status = answer_clip(
                question.only_one(),
                ClipPlaces(chosen, output, question.phrases, force),
                every=every,
                simplify=simplify,
                max_pixels=max_pixels,
                model=model,
                options=options,
            )
        else:
            refuse_besides("a picture", {"--every": every > 1})
            if listing:
                refuse_besides("printing names", {"--output": output, "--format": format, "--json": json})
                refuse_besides("printing names", {"--explain": explain, "--resume": resume, "--force": force})
                places = Places("png", None, question.phrases)
            else:
                kept = one_of({"--resume": resume, "--force": force}, why="--force has no use for --resume")[0]
                places = Places(chosen, output, question.phrases, kept == "--force", kept == "--resume")
            refuse_useless(places.format, coco_ids, simplify, batch_images)
            question = question.expanded(recursive=recursive)
            status = answer(question, places, listing, max_pixels, coco_ids, simplify, model, batch_images, options)
    if compiling and compiling.sizes:
        console.info(compiling.told())
    return FOUND if no_target_ok and status == NO_TARGET else status


def _serve(
    requests: str, output: str | None, max_pixels: int | None, model: str | None, options: Any, *, force: bool
) -> int:
    """Answer requests that come line by line."""
    from refseg_cli.commands._requests import answer_requests
    from refseg_cli.evaluation.parts import sharing
    from refseg_cli.segmenters.choice import open_segmenter

    with sharing() as part:
        if part.n > 1:
            raise RefsegError(f"--jsonl: {part.n} processes cannot share one stream of requests", hint="start one")
    sink = Sink(None if output in (None, STDIO) else Path(output))
    if sink.path:
        files.refuse_input(sink.path, 0 if requests == STDIO else Path(requests))
        if not force:
            files.refuse_existing(sink.path)
    opened = partial(fitting, partial(open_segmenter, model), options)
    return answer_requests(requests, sink, opened, partial(read_picture, max_pixels=max_pixels))


def _mode(modes: Mapping[str, object]) -> str | None:
    """What is asked: the first that is given; a typed one outranks those that are set."""
    given = [name for name, value in modes.items() if value]
    return next((name for name in given if not is_set(name)), next(iter(given), None))


def _compiled(compile: bool, others: Mapping[str, bool]) -> bool:
    """Whether to compile, which none of the others can be."""
    why = "--compile has no use for {}"
    kept = [one_of({"--compile": compile, name: on}, why=why.format(name))[0] for name, on in others.items()]
    return compile and set(kept) == {"--compile"}


def _format(given: Format | None, *, json: bool, explain: bool) -> Format:
    wanted: dict[str, Format | None] = {
        "--json": "json" if json else None,
        "--explain": "explain" if explain else None,
        f"--format {given}": given,
    }
    named = {format for format in wanted.values() if format}
    return named.pop() if len(named) == 1 else one_of(wanted)[1] or "png"


def _demo(out: Path, model: str | None, device: str) -> int:
    """Show what predict does on the bundled pictures; each line names a picture to look at."""
    from refseg_cli.engine.predict import demo

    for one in demo(out, folder=model, device=device):
        console.result(f"{one.found.phrase}: {verdict(one.found)} -> {one.path}")
    return FOUND
