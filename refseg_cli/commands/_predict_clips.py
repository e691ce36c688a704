"""`refseg predict` on a clip: a video, an animated picture, or a folder of frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli import files
from refseg_cli.commands._forms import Lines, written_as
from refseg_cli.commands._given import fitting
from refseg_cli.commands._many import ahead
from refseg_cli.commands._output import STDIO, Format, Sink
from refseg_cli.commands._places import Places
from refseg_cli.console import console
from refseg_cli.data.remote import is_url
from refseg_cli.errors import FOUND, NO_TARGET, RefsegError

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.data.videos import Frame, Video
    from refseg_cli.segmenters.base import Found, Segmenter

# Endings of the video files that are known by their name; others are clips with --clip.
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".ogv")
WRITTEN = (".mp4", ".mov", ".mkv")
FORMATS: tuple[Format, ...] = ("png", "overlay", "json", "rle", "polygons", "boxes", "count")
AHEAD = 2  # frames decoded, and frames answered, before they are needed

Write = Callable[["Frame", "Found"], None]


def is_clip(name: str, output: str | None) -> bool:
    """Whether a clip is meant without --clip: a video by its ending, or what is to become one."""
    endings = [Path(name).suffix.lower(), Path(output or "").suffix.lower()]
    return endings[0] in VIDEOS or endings[1] in WRITTEN


class ClipPlaces(Places):
    """Where the answers about a clip go. Text: as for a picture. Drawn: into a video file where the name ends as one
    does, else as PNG frames into a folder; without a name into CLIP.mask.mp4 or CLIP.overlay.mp4. Several phrases give
    numbered files or folders.
    """

    def of(self, picture: str) -> list[Sink]:
        if not self.is_drawn:
            return super().of(picture)
        if self._is_nowhere:
            return []
        if self.output == STDIO:
            raise RefsegError(f"{self.format}: a video does not go down a pipe", hint="give -o FILE, or --format json")
        paths = self._filled(picture) if self._is_template else self._drawn(Path(picture))
        for path in paths:
            if path.suffix and not is_written(path):
                raise RefsegError(
                    f"{path}: a clip is written as {', '.join(WRITTEN)}, or as PNG frames into a folder",
                    hint="-o FOLDER/ is a folder",
                )
            files.refuse_input(path, Path(picture))
        return [Sink(path) for path in paths]

    def check(self, pictures: Sequence[str]) -> None:
        if self.format not in FORMATS:
            raise RefsegError(f"a clip's answers are not written as {self.format}", hint=f"one of {', '.join(FORMATS)}")
        paths = [sink.path for sink in self.of(pictures[0]) if sink.path]
        if len(set(paths)) < len(paths):
            raise RefsegError(
                f"{self.output}: one name for {len(paths)} phrases", hint="{n} or {phrase} sets them apart"
            )
        for path in paths:
            if self.is_drawn and not is_written(path):
                self._check_folder(path)
            elif not self.force:
                files.refuse_existing(path)

    def _drawn(self, clip: Path) -> list[Path]:
        several = range(1, len(self.phrases) + 1) if len(self.phrases) > 1 else ()
        kind = "overlay" if self.format == "overlay" else "mask"
        path = Path(self.output or f"{clip.absolute().stem}.{kind}.mp4")
        if is_written(path):
            return [path.with_stem(f"{path.stem}-{n}") for n in several] or [path]
        return [path / str(n) for n in several] or [path]

    def _check_folder(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise RefsegError(f"{path}: is a file", hint=f"name a folder, or a video: {', '.join(WRITTEN)}")
        if path.is_dir() and any(path.iterdir()) and not self.force:
            raise RefsegError(f"{path}: this folder is not empty", hint="--force replaces frames of the same names")


def is_written(path: Path) -> bool:
    """Whether it is the name of a video that can be written."""
    return path.suffix.lower() in WRITTEN


def answer_clip(
    name: str,
    places: ClipPlaces,
    *,
    every: int,
    simplify: float,
    max_pixels: int | None,
    model: str | None,
    options: Mapping[str, Any],
) -> int:
    """Ask every n-th frame for the phrases, and say by the exit status whether anything is found in any.

    Raises:
        RefsegError: no clip, a damaged one, or a place that is taken; before the model is loaded where it can be told.
    """
    from refseg_cli.data.formats import MAX_PIXELS
    from refseg_cli.data.videos import open_video
    from refseg_cli.segmenters.choice import open_segmenter
    from refseg_cli.segmenters.follow import follow

    if name == STDIO or is_url(name):
        raise RefsegError(f"{name}: a clip is a file or a folder", hint="save it first")
    places.check([name])
    clip, phrases = open_video(Path(name), max_pixels=max_pixels or MAX_PIXELS), places.phrases
    segmenter = fitting(partial(open_segmenter, model), options)
    for caution in segmenter.cautions(name, phrases):
        console.warn(caution)
    found_in, done = dict.fromkeys(range(len(phrases)), 0), 0
    answered = ahead(_answered(follow, segmenter, clip.frames(every), phrases), AHEAD)
    with closing(answered), console.progress() as progress, ExitStack() as stack:
        writers = _writers(places, clip, simplify, segmenter, stack)
        for done, (frame, answers) in enumerate(answered, start=1):
            for number, found in enumerate(answers):
                found_in[number] += found.exists
                if writers:
                    writers[number](frame, found)
            progress("frames", done, -(-clip.count // every))
    for number, phrase in enumerate(phrases):
        console.info(f"{phrase}: found in {found_in[number]} of {done} frames{_where(places, name, number)}")
    return FOUND if any(found_in.values()) else NO_TARGET


def _answered(
    follow: Any, segmenter: Segmenter, frames: Generator[Frame], phrases: Sequence[str]
) -> Generator[tuple[Frame, list[Found]]]:
    """Frames and answers, while frames to come are being decoded."""
    with closing(ahead(frames, AHEAD)) as decoded:
        yield from follow(segmenter, decoded, phrases)


def _where(places: ClipPlaces, name: str, number: int) -> str:
    sinks = places.of(name) if places.is_drawn else []
    return f" -> {sinks[number].path}" if sinks else ""


def _writers(places: ClipPlaces, clip: Video, simplify: float, segmenter: Segmenter, stack: ExitStack) -> list[Write]:
    """What takes the answers to each phrase, open until the stack is closed; nothing where they go nowhere."""
    sinks = places.of(str(clip.path))
    if not places.is_drawn:
        written = written_as(places.format, segmenter, None, simplify)
        assert isinstance(written, Lines)
        line, out = written.line, stack.enter_context(sinks[0].text())

        def write(frame: Frame, found: Found) -> None:
            out.json(_of_frame(frame, line(frame.name, found)))

        return [write] * len(places.phrases)
    drawn = [sink.path for sink in sinks if sink.path]
    return [
        stack.enter_context(_video(path, places.format, clip))
        if is_written(path)
        else _frames(path, places.format, clip)
        for path in drawn
    ]


def _of_frame(frame: Frame, line: Any) -> dict[str, Any]:
    """A line about a picture as one about a frame; an RLE is left as it is."""
    if "schema" not in line:
        return line
    return {"schema": line["schema"], "image": line["image"], "frame": frame.number, "time": frame.time, **line}


@contextmanager
def _video(path: Path, format: Format, clip: Video) -> Iterator[Write]:
    from refseg_cli.data.videos import writing

    ending, sound = path.suffix.lower(), clip.path if format == "overlay" and clip.sounds else None
    with files.whole(path) as part, writing(part, ending, rate=clip.rate, sound=sound) as writer:

        def write(frame: Frame, found: Found) -> None:
            time = float(frame.number / clip.rate) if frame.time is None else frame.time
            writer.add(found.mask if format == "png" else _overlay(frame, found), time)

        yield write
    if writer.muted:
        console.warn(f"{path}: without sound, as {ending} does not hold {writer.muted}; .mkv does")


def _overlay(frame: Frame, found: Found) -> np.ndarray:
    """(h, w, 3)."""
    import numpy as np

    from refseg_cli.drawing.overlay import overlay

    picture = frame.pixels.transpose(1, 2, 0)
    return np.asarray(overlay(picture, found.mask, found.phrase, exists=found.exists, p_target=found.p_target))


def _frames(folder: Path, format: Format, clip: Video) -> Write:
    """PNG files: of a folder's frames under their names, of others by number."""
    from PIL import Image

    from refseg_cli.drawing.overlay import mask_png, png

    def write(frame: Frame, found: Found) -> None:
        stem = Path(frame.name).stem if clip.path.is_dir() else f"{frame.number:05}"
        data = mask_png(found.mask) if format == "png" else png(Image.fromarray(_overlay(frame, found)))
        files.write(folder / f"{stem}.png", data)

    return write
