"""`refseg predict --jsonl`: requests in, a JSON object a line, and a line out for each as soon as it is answered."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from refseg_cli.commands._output import STDIO, Sink
from refseg_cli.console import console
from refseg_cli.errors import ERROR, FOUND, NO_TARGET, RefsegError, unknown_name
from refseg_cli.files import parse_json

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.segmenters.base import Segmenter

SCHEMA = "refseg.answer/1"
KEYS = ("image", "phrase", "phrases", "id")
LONGEST = 1 << 24  # bytes of a line


@dataclass(frozen=True)
class Request:
    image: str
    phrases: list[str]


def answer_requests(
    source: str, sink: Sink, open_model: Callable[[], Segmenter], read: Callable[[str], tuple[str, np.ndarray]]
) -> int:
    """Answer every line until there are no more, and give the exit status.

    Args:
        source: a file of requests; - for standard input.
        read: gives what to call a picture, and its pixels (3, h, w).

    Raises:
        RefsegError: the requests cannot be read at all, or the model cannot be opened.
    """
    exists, broken, number = False, 0, 0
    with _opened(source) as lines:
        segmenter = open_model()
        with sink.text() as out:
            for number, line in enumerate(_lines(lines), start=1):  # noqa: B007 - the last one counts them
                answer = _answered(line, segmenter, read)
                out.json(answer)
                broken += answer["error"] is not None
                exists |= any(not result["no_target"] for result in answer["results"])
    if broken:
        console.error(f"{broken} of {number} requests could not be answered")
        return ERROR
    return FOUND if exists else NO_TARGET


def _answered(line: bytes, segmenter: Segmenter, read: Callable[[str], tuple[str, np.ndarray]]) -> dict[str, Any]:
    """A `refseg.answer/1` object: the records of all phrases, or why there are none."""
    from refseg_cli.segmenters.base import check_phrases, record

    answer: dict[str, Any] = {"schema": SCHEMA, "id": None, "image": None, "results": [], "cautions": [], "error": None}
    try:
        table = _table(line)
        answer["id"] = _id(table.get("id"))
        request = _request(table)
        answer["image"] = request.image
        check_phrases(request.phrases)
        name, pixels = read(request.image)
        found = segmenter.predict(pixels, request.phrases)
        answer["cautions"] = segmenter.cautions(name, request.phrases)
        answer["results"] = [record(segmenter, name, one) for one in found]
    except RefsegError as error:
        answer["error"] = str(error)
    return answer


def _table(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST:
        raise RefsegError(f"a request of more than {LONGEST >> 20} MiB", hint="name the picture by its path")
    try:
        table = parse_json(line)
    except ValueError as error:
        raise RefsegError(f"not JSON: {error}", hint="one object on each line") from error
    if not isinstance(table, dict):
        raise RefsegError("not a JSON object", hint='{"image": "photo.jpg", "phrase": "a dog"}')
    return table


def _request(table: dict[str, Any]) -> Request:
    for key in table:
        if key not in KEYS:
            raise unknown_name("key", key, KEYS)
    image = table.get("image")
    if not isinstance(image, str) or not image or image == STDIO:
        raise RefsegError("image is not a path", hint='{"image": "photo.jpg", "phrase": "a dog"}')
    if ("phrase" in table) == ("phrases" in table):
        raise RefsegError("either phrase or phrases is needed", hint="phrases is a list of them")
    phrases = [table["phrase"]] if "phrase" in table else table["phrases"]
    if not isinstance(phrases, list) or not phrases or not all(isinstance(phrase, str) for phrase in phrases):
        raise RefsegError("a phrase is not text", hint='"phrase": "a dog", or "phrases": ["a dog", "a cat"]')
    return Request(image, phrases)


def _id(value: Any) -> Any:
    """Given back as it is."""
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise RefsegError("id is neither text nor a number")


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source != STDIO:
        try:
            with Path(source).open("rb") as file:
                yield file
        except OSError as error:
            raise RefsegError(f"{source}: cannot read requests: {error.strerror}") from error
        return
    if sys.stdin is None:
        raise RefsegError("--jsonl - reads standard input, which is closed", hint="refseg predict --jsonl - < FILE")
    if sys.stdin.isatty():
        console.info("requests are read from the terminal, one JSON object a line; Ctrl-D ends them")
    yield sys.stdin.buffer


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Each line when it is there, blank ones left out; of one that is too long its beginning."""
    while line := source.readline(LONGEST + 1):
        rest = line
        while len(rest) > LONGEST and not rest.endswith(b"\n"):
            rest = source.readline(LONGEST + 1)
        if line.strip():
            yield line
