"""The pictures of `refseg predict` read, asked and answered, by one process or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli.commands._forms import Asked, Listing, Write, Written, draw, list_one, written_as
from refseg_cli.commands._given import fitting, refuse_besides
from refseg_cli.commands._many import each
from refseg_cli.commands._output import Format
from refseg_cli.commands._places import Places
from refseg_cli.commands._question import Question, read_picture
from refseg_cli.console import console
from refseg_cli.errors import FOUND, RefsegError

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.data.coco_ids import CocoIds
    from refseg_cli.segmenters.base import Found, Segmenter
    from refseg_cli.segmenters.several import Several


def refuse_useless(format: Format, coco_ids: Path | None, simplify: float, batch_images: int) -> None:
    """That no option is given which this way of answering has no use for."""
    useless: dict[str, object] = {}
    if format != "coco":
        useless["--coco-ids"] = coco_ids
    if format not in ("polygons", "labelme", "yolo-seg"):
        useless["--simplify"] = simplify
    if format == "explain":
        useless["--batch-images"] = batch_images > 1
    refuse_besides(f"--format {format}", useless)


def answer(
    question: Question,
    places: Places,
    listing: Listing | None,
    max_pixels: int | None,
    coco_ids: Path | None,
    simplify: float,
    model: str | None,
    batch_images: int,
    options: Mapping[str, Any],
) -> int:
    """Have the question answered by all processes of a launcher; the exit status says whether anything is found."""
    from refseg_cli.evaluation.parts import sharing

    with sharing() as part, ExitStack() as stack:
        pictures, phrases, format = question.pictures, question.phrases, places.format
        if listing is None:  # refused before a model is loaded
            part.decided(partial(places.check, pictures))
        ids = _coco_ids(coco_ids, pictures, phrases) if format == "coco" else None
        if places.resume:
            pictures = part.decided(partial(places.missing, pictures))
            console.info(f"{len(pictures)} of {len(question.pictures)} pictures are missing")
            if not pictures:
                return FOUND
        read = partial(read_picture, max_pixels=max_pixels)
        if not question.many:
            found = read(pictures[0])
            read = partial(_again, found)
        once = len(pictures) == 1
        answering = _Answering.open(phrases, format, model, batch_images, once=once, options=options)
        write: Write
        if listing:
            write = partial(list_one, listing)
        elif places.is_drawn:
            write = partial(_draw, places)
        else:
            written = written_as(format, answering.segmenter, ids, simplify)
            if places.is_shared:
                [sink] = places.of(pictures[0])
                write = stack.enter_context(written.into(sink)) if part.k == 0 else _write_nothing
            else:
                write = partial(_write_file, places, written)
        until_found = listing in ("with", "without")
        if part.n == 1:
            return each(pictures, read, answering.ask, write, until_found=until_found, batch_images=batch_images)
        from refseg_cli.commands._shared import each_shared

        apart = listing is None and not places.is_shared
        return each_shared(
            pictures,
            read,
            answering.ask,
            write,
            part,
            apart=apart,
            until_found=until_found,
            batch_images=batch_images,
        )


def _write_nothing(asked: Asked, answers: Iterable[Found]) -> None:
    """The first process writes what is of all."""


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
    answer: Several
    phrases: Sequence[str]
    explains: bool
    warned: set[str] = field(default_factory=set)

    @classmethod
    def open(
        cls,
        phrases: Sequence[str],
        format: Format,
        model: str | None,
        batch_images: int,
        *,
        once: bool,
        options: Mapping[str, Any],
    ) -> _Answering:
        from refseg_cli.segmenters import several
        from refseg_cli.segmenters.choice import open_explaining, open_segmenter

        if format == "explain":
            explaining = fitting(partial(open_explaining, model), options)
            answer = several.one_by_one(getattr(explaining, "explain", explaining.predict))
            return cls(explaining, answer, phrases, True)
        segmenter = fitting(partial(open_segmenter, model, once=once), options)
        together = partial(several.together, segmenter)
        many = fitting(lambda batch_images=1: together() if batch_images > 1 else None, {"batch_images": batch_images})
        if many is not None:
            return cls(segmenter, partial(many, soft=format == "soft"), phrases, False)
        method = segmenter.predict if format != "soft" else getattr(segmenter, "soften", None)
        if method is None:
            raise RefsegError(
                f"{segmenter.name}: decides object by object, and has no probabilities of pixels",
                hint="choose another --format",
            )
        return cls(segmenter, several.one_by_one(method), phrases, False)

    def ask(self, pictures: Sequence[Asked]) -> Iterator[Iterator[Found]]:
        """Of each picture the answers as they come."""
        each = self.answer([(asked.pixels, self.phrases) for asked in pictures])
        return map(self._told, pictures, each)

    def _told(self, asked: Asked, answers: Iterator[Found]) -> Iterator[Found]:
        """The answers; before the first picture's, what a user should know before relying on them."""
        if not self.warned:
            self.warned.add(asked.name)
            for caution in self.segmenter.cautions(asked.name, self.phrases):
                console.warn(caution)
        for number, found in enumerate(answers):
            if self.explains and number == 0 and not found.maps:
                console.warn(f"{self.segmenter.name} has no maps to show: only its answer is drawn")
            yield found
