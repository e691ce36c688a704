"""Clips to frames, and frames to video files: the only door to PyAV, which the extra `refseg[video]` brings.

A clip is a video file, an animated picture (GIF, WebP, PNG) or a folder of pictures in the order of their names, in
which 10 comes after 9. Frames come one by one, so that memory does not grow with a clip's length.

Axes: h w pixels of a frame, upright.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from refseg_cli.data import formats
from refseg_cli.data.formats import MAX_PIXELS, UnreadablePicture
from refseg_cli.data.pictures import read_pixels
from refseg_cli.errors import RefsegError

ANIMATED = (".gif", ".webp", ".png", ".apng", ".avif")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
FOLDER_RATE = Fraction(6)  # frames a second of a folder, which does not say: YouTube-VOS and MeViS keep every fifth
SHORTEST = 0.02  # seconds that a GIF may show a frame; what says less is shown for `USUAL`, as browsers do
USUAL = 0.1
MISSING = 0.5  # seconds that a file may end before its header says so
TICKS = 30_000  # of the clock of a video that is written, a second: frames at 24, 25, 30 and 29.97 Hz fall on one
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # what is written
CODECS = ("libx264", "mpeg4")  # the first that this build of FFmpeg has
CRF = "17"  # of x264: no difference to see


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One picture of a clip.

    number: from 0, in the whole clip.  time: seconds from the clip's start; None in a folder.
    name: of its file in a folder, else the clip's.  pixels: (3, h, w) uint8 RGB.
    """

    number: int
    time: float | None
    name: str
    pixels: np.ndarray


@dataclass(frozen=True, slots=True)
class Video:
    """A clip whose header was read. count: of its frames, 0 if it does not say.  rate: frames a second.

    sounds: whether it is a video file, which may have sound.
    """

    path: Path
    count: int
    rate: Fraction
    sounds: bool
    read: Callable[[], Generator[Frame]]

    def frames(self, every: int = 1) -> Generator[Frame]:
        """Each, or every n-th from the first on.

        Raises:
            RefsegError: the clip is damaged or cut short, said when it comes to that.
        """
        return (frame for frame in self.read() if frame.number % every == 0)


def open_video(path: Path, *, max_pixels: int = MAX_PIXELS) -> Video:
    """A clip, its header read and no frame decoded.

    max_pixels: of one frame.

    Raises:
        RefsegError: no such clip, none that is read, without pictures, too large, or PyAV is missing.
    """
    if path.is_dir():
        return _folder(path, max_pixels)
    if path.suffix.lower() in ANIMATED:
        return _animation(path, max_pixels)
    return _video(path, max_pixels)


def _folder(path: Path, max_pixels: int) -> Video:
    files = sorted((p for p in path.iterdir() if p.suffix.lower() in PICTURES and p.is_file()), key=_natural)
    if not files:
        raise RefsegError(f"{path}: no pictures in this folder", hint="a clip's frames are .jpg or .png files")

    def read() -> Generator[Frame]:
        size: tuple[int, ...] | None = None
        for number, file in enumerate(files):
            pixels = read_pixels(file, max_pixels=max_pixels)
            size = size or pixels.shape
            if pixels.shape != size:
                raise RefsegError(
                    f"{file}: {pixels.shape[2]}x{pixels.shape[1]} pixels, and the frames before it {size[2]}x{size[1]}",
                    hint="without --clip each picture of a folder is asked for itself",
                )
            yield Frame(number, None, str(file), pixels)

    return Video(path, len(files), FOLDER_RATE, False, read)


def _natural(file: Path) -> list[tuple[int, str]]:
    """The order of numbers within names."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _animation(path: Path, max_pixels: int) -> Video:
    from PIL import ImageSequence

    try:
        data = path.read_bytes()
    except OSError as error:
        raise RefsegError(f"{path}: cannot read the clip: {error.strerror or error}") from error

    def read() -> Generator[Frame]:
        time = 0.0
        with _told(path), formats.opened(data, max_pixels=max_pixels) as image:
            for number, picture in enumerate(ImageSequence.Iterator(image)):
                pixels = np.asarray(formats.rgb(picture)).transpose(2, 0, 1)
                yield Frame(number, round(time, 6), str(path), np.array(pixels, order="C"))
                time += _shown(image.info)

    with _told(path), formats.opened(data, max_pixels=max_pixels) as image:
        count = int(getattr(image, "n_frames", 1))
        return Video(path, count, Fraction(1 / _shown(image.info)).limit_denominator(1000), False, read)


def _shown(info: dict[Any, Any]) -> float:
    """Seconds that a frame of an animated picture is shown."""
    seconds = float(info.get("duration", 0)) / 1000
    return seconds if seconds >= SHORTEST else USUAL


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except UnreadablePicture as error:
        raise RefsegError(f"{path}: cannot read the clip: {error}", hint=error.hint or None) from error


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise RefsegError("videos are read and written by PyAV", hint="pip install 'refseg[video]'") from error
    return av


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """FFmpeg's errors, which name neither the file nor what was done."""
    try:
        yield
    except (_av().FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RefsegError(f"{path}: cannot {what}: {reason[:1].lower()}{reason[1:]}") from error


def _opened(path: Path) -> Any:
    """The container. A name is a file's, whatever protocol it looks like, and so is one in a playlist."""
    return _av().open(f"file:{path}", options={"protocol_whitelist": "file"})


def _pictures_of(container: Any, path: Path) -> Any:
    """The first stream of moving pictures: a cover is none."""
    covers = _av().stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise RefsegError(f"{path}: no video in this file")
    return streams[0]


def _video(path: Path, max_pixels: int) -> Video:
    with _explained(path, "read the video"), _opened(path) as container:
        stream = _pictures_of(container, path)
        with _told(path):
            formats.check_size((stream.height, stream.width), 3, max_pixels)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        seconds = (container.duration or 0) / 1e6
        count = stream.frames or round(seconds * rate)

    def read() -> Generator[Frame]:
        with _explained(path, "read the video"), _opened(path) as container:
            yield from _decoded(container, path, rate)

    return Video(path, count, rate, True, read)


def _decoded(container: Any, path: Path, rate: Fraction) -> Generator[Frame]:
    """The frames of an opened container, to the end that its header speaks of."""
    stream = _pictures_of(container, path)
    stream.thread_type = "AUTO"
    start, number, end = (container.start_time or 0) / 1e6, 0, 0.0
    for packet in container.demux():
        if packet.dts is not None:
            ticks = (packet.dts if packet.pts is None else packet.pts) + (packet.duration or 0)
            end = max(end, float(ticks * packet.time_base) - start)
        if packet.stream.index != stream.index:
            continue
        for frame in packet.decode():
            time = float(number / rate) if frame.pts is None else float(frame.pts * frame.time_base) - start
            yield Frame(number, round(time, 6), str(path), _upright(frame))
            number += 1
    expected = (container.duration or 0) / 1e6
    if end < expected - max(MISSING, 2 / float(rate)):
        raise RefsegError(
            f"{path}: the video ends after {end:.1f} of {expected:.1f} seconds", hint="is it whole? copy it again"
        )
    if not number:
        raise RefsegError(f"{path}: no frame in this video")


def _upright(frame: Any) -> np.ndarray:
    """(3, h, w) of a decoded frame, turned as a player turns it."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round((frame.rotation or 0) / 90))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class VideoWriter:
    """Writes frames to a video file, and beside them the sound of another, packet by packet, as it is.

    .mp4 and .mov: H.264. .mkv: masks in FFV1, which keeps every pixel, pictures in H.264. A frame with an odd number of
    rows or columns gets its last one twice, which H.264 of 4:2:0 needs.

    Args:
        path: of the file.  ending: which of `CONTAINERS` it is.
        rate: frames a second, roughly: each frame comes with its time.
        sound: a video file whose first audio track is taken; None for silence.

    muted: the codec of a track that such a file cannot hold; empty otherwise.

    Raises:
        RefsegError: PyAV is missing, or the file cannot be written.
    """

    def __init__(self, path: Path, ending: str, *, rate: Fraction, sound: Path | None = None) -> None:
        self.path, self.ending, self.rate, self.muted = path, ending, rate, ""
        self.out = _av().open(f"file:{path}", "w", format=CONTAINERS[ending])
        self.stream: Any = None
        self.last = -1  # tick of the frame before
        self.sound, self.source = sound, None if sound is None else _opened(sound)
        self.track: Any = None
        self.packets: Iterator[Any] = iter(())
        self.waiting: Any = None

    def add(self, picture: np.ndarray, time: float) -> None:
        """Append a frame. picture: (h, w, 3) uint8 RGB, or (h, w) bool, a mask; all of a file alike.  time: seconds."""
        with _explained(self.path, "write the video"):
            if self.stream is None:
                self._begin(picture)
            self.last = max(self.last + 1, round(time * TICKS))
            self._copy_sound(time)
            self.out.mux(self.stream.encode(self._frame(picture)))

    def close(self, *, whole: bool) -> None:
        """whole: write what is still to come, too."""
        try:
            if whole and self.stream is not None:
                with _explained(self.path, "write the video"):
                    self.out.mux(self.stream.encode(None))
                    self._copy_sound(float("inf"))
        finally:
            with _explained(self.path, "write the video"):
                self.out.close()
            if self.source is not None:
                self.source.close()

    def _begin(self, picture: np.ndarray) -> None:
        exact = self.ending == ".mkv" and picture.ndim == 2
        codec = "ffv1" if exact else next(name for name in CODECS if name in _av().codecs_available)
        self.stream = self.out.add_stream(codec, rate=self.rate)
        self.stream.height, self.stream.width = picture.shape[:2] if exact else [n + n % 2 for n in picture.shape[:2]]
        self.stream.pix_fmt = "gray" if exact else "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, TICKS)
        if codec == "libx264":
            self.stream.options = {"crf": CRF, "preset": "veryfast"}
        if self.sound is not None and self.source is not None and self.source.streams.audio:
            self._begin_sound(self.source.streams.audio[0], self.sound)

    def _begin_sound(self, found: Any, path: Path) -> None:
        if not _holds(self.ending, path):
            self.muted = found.codec.canonical_name
            return
        self.track = self.out.add_stream_from_template(found)
        self.packets = (packet for packet in self.source.demux(found) if packet.dts is not None)  # type: ignore[union-attr]

    def _copy_sound(self, until: float) -> None:
        """The packets up to a time: players want sound and pictures side by side."""
        start = 0.0 if self.source is None else (self.source.start_time or 0) / 1e6
        while (packet := self.waiting or next(self.packets, None)) is not None:
            if float(packet.dts * packet.time_base) - start > until:
                self.waiting = packet
                return
            self.waiting = None
            shift = round(start / packet.time_base)
            packet.dts -= shift
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.stream = self.track
            self.out.mux(packet)

    def _frame(self, picture: np.ndarray) -> Any:
        height, width = self.stream.height, self.stream.width
        odd = ((0, height - picture.shape[0]), (0, width - picture.shape[1]))
        if picture.ndim == 2:
            picture = np.where(np.pad(picture, odd, "edge"), np.uint8(255), np.uint8(0))
        else:
            picture = np.pad(picture, (*odd, (0, 0)), "edge")
        frame = _av().VideoFrame.from_ndarray(picture, format="gray" if picture.ndim == 2 else "rgb24")
        frame.pts, frame.time_base = self.last, Fraction(1, TICKS)
        return frame


def _holds(ending: str, path: Path) -> bool:
    """Whether such a file can hold a video's sound: by trying, as FFmpeg's list of codecs is not the whole story."""
    try:
        with _opened(path) as source, _av().open(io.BytesIO(), "w", format=CONTAINERS[ending]) as trial:
            copy = trial.add_stream_from_template(source.streams.audio[0])
            packet = next(source.demux(audio=0))
            packet.stream = copy
            trial.mux(packet)
    except (_av().FFmpegError, ValueError):
        return False
    return True


@contextmanager
def writing(path: Path, ending: str, *, rate: Fraction, sound: Path | None = None) -> Iterator[VideoWriter]:
    """A `VideoWriter`, whose file is complete when the block ends well."""
    with _explained(path, "write the video"):
        writer = VideoWriter(path, ending, rate=rate, sound=sound)
    try:
        yield writer
    except BaseException:
        writer.close(whole=False)
        raise
    writer.close(whole=True)
