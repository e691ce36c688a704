"""How the answers of `refseg predict` are written, format by format."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from refseg_cli.commands._output import STDIO, Format, Sink, Text
from refseg_cli.console import console
from refseg_cli.data.remote import is_url

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.data.coco_ids import CocoIds
    from refseg_cli.segmenters.base import Found, Segmenter


Listing = Literal["with", "without", "count"]


@dataclass(frozen=True, eq=False)
class Asked:
    """A picture that phrases are asked of.

    argument: as it was named.  name: what to call it.  pixels: (3, h, w).
    """

    argument: str
    name: str
    pixels: np.ndarray


Write = Callable[[Asked, Iterable["Found"]], None]  # takes the answers about a picture


class Written(ABC):
    """A format of text: what a file of it begins and ends with, and what it says of one picture's answers."""

    @contextmanager
    def into(self, sink: Sink) -> Iterator[Write]:
        """Gives what writes pictures' answers into one file or pipe."""
        with sink.text() as out:
            self.begin(out)
            yield partial(self.add, out, sink)
            self.end(out)

    def begin(self, out: Text) -> None:  # noqa: B027 - most begin with nothing
        """What stands before the first picture's answers."""

    @abstractmethod
    def add(self, out: Text, sink: Sink, asked: Asked, answers: Iterable[Found]) -> None:
        """Write the answers, those of a format with a line for each as soon as they are there."""

    def end(self, out: Text) -> None:  # noqa: B027
        """What stands behind the last picture's."""


class Lines(Written):
    """A line of JSON for each answer.  line: of a picture's name and an answer."""

    def __init__(self, line: Callable[[str, Found], object]) -> None:
        self.line = line

    def add(self, out: Text, sink: Sink, asked: Asked, answers: Iterable[Found]) -> None:
        for found in answers:
            out.json(self.line(asked.name, found))


class Coco(Written):
    """One list of results."""

    def __init__(self, ids: CocoIds) -> None:
        self.ids = ids
        self.mark = ""

    def begin(self, out: Text) -> None:
        self.mark = "["

    def add(self, out: Text, sink: Sink, asked: Asked, answers: Iterable[Found]) -> None:
        from refseg_cli.segmenters.interchange import coco_results

        image_id = self.ids.images[asked.argument]
        for category_id, found in zip(self.ids.categories, answers, strict=True):
            for result in coco_results(asked.name, image_id, category_id, found):
                out.put(self.mark + "\n")
                out.json(result, end="")
                self.mark = ","

    def end(self, out: Text) -> None:
        out.put("[]\n" if self.mark == "[" else "\n]\n")


class Yolo(Written):
    """A line for each object, with the number of its phrase.  tolerance: see `data.polygons`."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def add(self, out: Text, sink: Sink, asked: Asked, answers: Iterable[Found]) -> None:
        from refseg_cli.segmenters.interchange import yolo_lines

        for number, found in enumerate(answers):
            for line in yolo_lines(number, found, tolerance=self.tolerance):
                out.put(line + "\n")


class Labelme(Written):
    """One JSON object.  tolerance: see `data.polygons`."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def add(self, out: Text, sink: Sink, asked: Asked, answers: Iterable[Found]) -> None:
        from refseg_cli.segmenters.interchange import labelme_file

        folder = sink.path.parent if sink.path else Path()
        is_file = asked.argument != STDIO and not is_url(asked.argument)
        path = os.path.relpath(asked.argument, folder) if is_file else asked.name
        out.json(labelme_file(path, asked.pixels.shape[1:], answers, tolerance=self.tolerance))


def written_as(format: Format, segmenter: Segmenter, ids: CocoIds | None, tolerance: float) -> Written:
    """A format of text.  ids: for COCO's.  tolerance: for those with polygons."""
    from refseg_cli.segmenters import base

    if format == "coco" and ids:
        return Coco(ids)
    if format == "labelme":
        return Labelme(tolerance)
    if format == "yolo-seg":
        return Yolo(tolerance)
    record = partial(base.record, segmenter)
    if format == "json":
        return Lines(record)
    if format == "rle":
        return Lines(lambda name, found: record(name, found)["mask"])
    from refseg_cli.segmenters.interchange import boxes_line, count_line, polygons_line

    if format == "polygons":
        return Lines(partial(polygons_line, tolerance=tolerance))
    return Lines({"boxes": boxes_line, "count": count_line}[format])


def list_one(listing: Listing, asked: Asked, answers: Iterable[Found]) -> None:
    """Print the picture's name as `grep -l`, `-L` and `-c` print a file's."""
    if listing == "count":
        console.result(f"{asked.name}:{sum(found.exists for found in answers)}")
    elif any(found.exists for found in answers) == (listing == "with"):
        console.result(asked.name)


def draw(sinks: Sequence[Sink], format: Format, asked: Asked, answers: Iterable[Found]) -> None:
    """Write a PNG for each answer, as soon as it is there. No sinks, no pictures."""
    picture = asked.pixels.transpose(1, 2, 0)
    for number, found in enumerate(answers):
        if sinks:
            sink = sinks[number]
            sink.write(_drawn(found, format, picture))
            where = "" if sink.path is None else f" -> {sink.path}"
            console.info(f"{found.phrase}: {verdict(found)}{where}")


def _drawn(found: Found, format: Format, picture: np.ndarray) -> bytes:
    """The answer as a PNG; picture: (h, w, 3)."""
    from refseg_cli.drawing.maps import explanation_png
    from refseg_cli.drawing.overlay import cutout_png, mask_png, overlay_png, soft_png

    mask, phrase, exists, p_target = found.mask, found.phrase, found.exists, found.p_target
    if format == "explain":
        return explanation_png(picture, mask, phrase, found.maps, exists=exists, p_target=p_target)
    if format == "overlay":
        return overlay_png(picture, mask, phrase, exists=exists, p_target=p_target)
    if format == "soft":
        assert found.soft is not None
        return soft_png(found.soft)
    return cutout_png(picture, mask) if format == "cutout" else mask_png(mask)


def verdict(found: Found) -> str:
    """In words."""
    return f"found {100 * found.p_target:.0f} %, {found.pixels} pixels" if found.exists else "no target"
