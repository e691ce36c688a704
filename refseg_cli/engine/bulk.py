"""`refseg predict --data`: the phrases of prepared shards answered, a file of answers for each shard.

Shards and answers are folders or URIs. A shard's answers appear whole or not at all, so that a stopped run goes on with
the shards that have none. Here or on a Ray cluster, where each process holds one model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from operator import add
from typing import TYPE_CHECKING, Any, Literal

from refseg_cli.data import storage
from refseg_cli.data.pictures import read_pixels
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.errors import RefsegError
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Record
from refseg_cli.segmenters.base import SCHEMA, Found, Segmenter, record
from refseg_cli.segmenters.choice import open_segmenter
from refseg_cli.segmenters.several import several, together

if TYPE_CHECKING:
    from refseg_cli.segmenters.compiling import Compiling
    from refseg_cli.segmenters.precision import Wanted

Engine = Literal["local", "ray"]
ABOUT = "_answers.json"  # what the answers in a folder are of


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """What to answer.

    data: folder or URI of prepared shards.  split: its name.  out: folder or URI of the answers.
    model, device, threshold, no_target_threshold, precision, memory, compile: as in `open_segmenter`.
    batch_images: pictures that go through the network together.
    engine: this process alone, or a Ray cluster.  workers: processes of it at most.  threads: of each; 0 for one of
        Ray's, here as many as the library takes.
    """

    data: str
    split: str
    out: str
    model: str | None = None
    device: str = "auto"
    threshold: float | None = None
    no_target_threshold: float | None = None
    precision: Wanted = "fp32"
    memory: int | None = None
    compile: Compiling | None = None
    batch_images: int = 1
    engine: Engine = "local"
    workers: int = 1
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to one shard. found: phrases that have a target.  broken: pictures that could not be read."""

    pictures: int = 0
    phrases: int = 0
    found: int = 0
    broken: int = 0

    def plus(self, other: Answered) -> Answered:
        return Answered(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class BulkReport:
    """written, kept: shards answered now, and before.  failed: why a shard has no answers, by its name."""

    out: str
    written: int
    kept: int
    answered: Answered
    failed: dict[str, str]


def answer_shards(request: BulkRequest, *, progress: Progress = silent) -> BulkReport:
    """Answer every phrase of the shards that have no answers yet.

    Raises:
        RefsegError: no such data or model, answers of something else in `out`, no Ray or a cluster that failed.
    """
    shards, folder = open_shards(request.data, request.split), storage.locate(request.out)
    _agree(folder, request, shards)
    there = set(folder.names())
    files = [file.name for file in shards.manifest.splits[request.split].files]
    todo = [number for number, name in enumerate(files) if answers_of(name) not in there]
    answered, failed = Answered(), dict[str, str]()
    for done, (number, made) in enumerate(_made(request, todo), start=1):
        if isinstance(made, RefsegError):
            failed[files[number]] = str(made)
        else:
            answered = answered.plus(made)
        progress("shards", done, len(todo))
    return BulkReport(request.out, len(todo) - len(failed), len(files) - len(todo), answered, failed)


def answers_of(shard: str) -> str:
    """The name of the file with the answers to a shard."""
    return shard.removesuffix(".parquet") + ".jsonl"


def _agree(folder: storage.Place, request: BulkRequest, shards: Shards) -> None:
    """Note what the answers are of; refuse a folder with answers of something else."""
    options: dict[str, Any] = {"threshold": request.threshold, "no_target_threshold": request.no_target_threshold}
    data = {"data": shards.manifest.fingerprint, "split": request.split}
    options |= {} if request.precision == "fp32" else {"precision": request.precision}
    about = (json.dumps({"model": request.model, **options, **data}, indent=1) + "\n").encode()
    place = folder / ABOUT
    if not place.exists():
        storage.write(place, about)
    elif place.read() != about:
        raise RefsegError(f"{place.uri}: answers to other questions are here", hint="choose another --output")


def _made(request: BulkRequest, todo: list[int]) -> Iterator[tuple[int, Answered | RefsegError]]:
    begin = partial(_opened, request)
    if request.engine == "ray":
        from refseg_cli.engine import cluster

        yield from cluster.spread(begin, todo, workers=request.workers, threads=max(1, request.threads))
        return
    answer = begin() if todo else None
    for number in todo:
        assert answer is not None
        try:
            yield number, answer(number)
        except RefsegError as error:
            yield number, error


def _opened(request: BulkRequest) -> Callable[[int], Answered]:
    """What answers a shard of that number, with the model loaded."""
    segmenter = open_segmenter(
        request.model,
        device=request.device,
        threshold=request.threshold,
        no_target_threshold=request.no_target_threshold,
        precision=request.precision,
        memory=request.memory,
        compile=request.compile,
        threads=max(1, request.threads) if request.engine == "ray" else request.threads,
    )
    several(segmenter, request.batch_images)  # refused now, of a model that takes one at a time
    return partial(_answer, request, segmenter, open_shards(request.data, request.split))


def _answer(request: BulkRequest, segmenter: Segmenter, shards: Shards, number: int) -> Answered:
    files = shards.manifest.splits[request.split].files
    first = sum(file.images for file in files[:number])
    end, size = first + files[number].images, request.batch_images
    answered = Answered()
    with storage.writing(storage.locate(request.out) / answers_of(files[number].name)) as out:
        for start in range(first, end, size):
            pictures = [shards[place] for place in range(start, min(start + size, end))]
            for picture, answers in zip(pictures, _answers(segmenter, pictures), strict=True):
                found = list(_lines(segmenter, picture, answers, request.split))
                for line in found:
                    out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                hits = sum(line.get("no_target") is False for line in found)
                answered = answered.plus(Answered(1, len(found), hits, any(line["error"] for line in found)))
    return answered


def _answers(segmenter: Segmenter, pictures: Sequence[Record]) -> Iterator[list[Found] | RefsegError]:
    """The answers about each picture, or why there are none."""
    phrases = [[e.text for e in picture.expressions] for picture in pictures]
    if len(pictures) > 1:
        with suppress(RefsegError):  # of one of them: each is asked by itself, then
            asked = [
                (read_pixels(one.image, one.file_name), texts) for one, texts in zip(pictures, phrases, strict=True)
            ]
            yield from [list(found) for found in together(segmenter)(asked)]
            return
    for picture, texts in zip(pictures, phrases, strict=True):
        try:
            pixels = read_pixels(picture.image, picture.file_name)
            yield list(segmenter.predict(pixels, texts)) if texts else []
        except RefsegError as error:
            yield error


def _lines(
    segmenter: Segmenter, picture: Record, answers: list[Found] | RefsegError, split: str
) -> Iterator[dict[str, Any]]:
    """A line for each phrase of a picture, which `eval --from` knows by its ids."""
    expressions = picture.expressions
    ids = [
        {"image_id": picture.image_id, "ref_id": e.ref_id, "sent_id": e.sent_id, "split": split} for e in expressions
    ]
    if isinstance(answers, RefsegError):
        for own, e in zip(ids, expressions, strict=True):
            yield {"schema": SCHEMA, "image": picture.file_name, "phrase": e.text, **own, "error": str(answers)}
        return
    for own, found in zip(ids, answers, strict=True):
        yield {**record(segmenter, picture.file_name, found), **own}
