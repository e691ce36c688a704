"""refseg from Python: whatever answers phrases, called with the pictures that a program has. Imports no torch itself.

Axes: h w pixels of a picture, upright.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

import numpy as np

from refseg_cli.data.formats import MAX_PIXELS
from refseg_cli.data.pictures import from_pillow, read_pixels
from refseg_cli.data.remote import is_url, read_url
from refseg_cli.data.videos import Frame, open_video
from refseg_cli.errors import RefsegError
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.base import Found, Segmenter, check_phrases
from refseg_cli.segmenters.choice import open_segmenter
from refseg_cli.segmenters.follow import follow
from refseg_cli.segmenters.several import several

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    Picture = str | Path | bytes | Image | np.ndarray | Tensor


class Model:
    """Answers phrases about pictures. `refseg_cli.load` makes one.

    Args:
        segmenter: what answers.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    @property
    def name(self) -> str:
        """What its answers are signed with."""
        return self.segmenter.name

    @property
    def thresholds(self) -> Thresholds:
        """What turns its probabilities into decisions."""
        return self.segmenter.thresholds

    @overload
    def __call__(self, pictures: Picture, phrases: str | Sequence[str]) -> list[Found]: ...
    @overload
    def __call__(self, pictures: list[Picture], phrases: str | Sequence[str]) -> list[list[Found]]: ...
    def __call__(
        self, pictures: Picture | list[Picture], phrases: str | Sequence[str]
    ) -> list[Found] | list[list[Found]]:
        """The answer to each phrase, in their order; for a list of pictures such a list for each.

        Args:
            pictures: one, or a list of them. A picture is a file's path or URL, the bytes of one, a Pillow image, an
                array (h, w, 3) or (h, w) uint8 in RGB or grey, or a tensor (3, h, w) uint8 in RGB. Files and Pillow
                images are turned upright by their EXIF orientation.
            phrases: one, or several; each is asked of each picture, which is encoded once for all of them.

        Raises:
            RefsegError: a picture cannot be read or has another shape, or a phrase is empty.
        """
        if isinstance(pictures, list):
            return list(self.each(pictures, phrases))
        return self._answer(pictures, phrases)

    def each(
        self, pictures: Sequence[Picture], phrases: str | Sequence[str], *, batch_images: int = 1
    ) -> Iterator[list[Found]]:
        """As a call with a list of pictures, but one picture's answers at a time, so that memory stays small.

        Args:
            batch_images: pictures that go through the network together.

        Raises:
            RefsegError: as a call, once the pictures before are answered; or more than one picture a batch of a model
                that takes one at a time.
        """
        answer = several(self.segmenter, batch_images)
        asked = [phrases] if isinstance(phrases, str) else list(phrases)
        for start in range(0, len(pictures), batch_images):
            batch, broken = [], None
            for picture in pictures[start : start + batch_images]:
                try:
                    batch.append((_image(picture) if batch_images == 1 else _pixels(picture), asked))
                except RefsegError as error:
                    broken = error
                    break
            yield from map(list, answer(batch))
            if broken:
                raise broken

    def follow(
        self, clip: str | Path | Iterable[Picture], phrases: str | Sequence[str], *, every: int = 1
    ) -> Iterator[tuple[Frame, list[Found]]]:
        """Each frame of a clip with the answer to each phrase about it, as it comes; a few frames are held.

        A model of clips looks at so many frames together as its recipe says, SAM 3 follows what it found, and any other
        model looks at each frame by itself.

        Args:
            clip: the path of a video, an animated picture or a folder of frames; or the frames themselves, in any form
                of a picture and of one size, also from a generator.
            phrases: one, or several; each is asked of each frame.
            every: only each so many-th frame is asked about, from the first on.

        Raises:
            RefsegError: at once if there is no such clip or a phrase is empty; when it comes to that if a frame cannot
                be read or is of another size, or the clip is damaged.
        """
        asked = [phrases] if isinstance(phrases, str) else list(phrases)
        check_phrases(asked)
        if every < 1:
            raise RefsegError(f"each {every}-th frame", hint="`every` is a number from 1")
        return follow(self.segmenter, _frames(clip, every), asked)

    def _answer(self, picture: Picture, phrases: str | Sequence[str]) -> list[Found]:
        return list(self.segmenter.predict(_image(picture), [phrases] if isinstance(phrases, str) else list(phrases)))


def load_model(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    threshold: float | None = None,
    no_target_threshold: float | None = None,
    threads: int = 0,
) -> Model:
    """See `refseg_cli.load`."""
    return Model(
        open_segmenter(
            model, device=device, threshold=threshold, no_target_threshold=no_target_threshold, threads=threads
        )
    )


def _frames(clip: str | Path | Iterable[Picture], every: int) -> Iterator[Frame]:
    if isinstance(clip, str) and is_url(clip):
        raise RefsegError(f"{clip}: a clip is a file or a folder", hint="save it first")
    if isinstance(clip, str | Path):
        return open_video(Path(clip)).frames(every)
    if isinstance(clip, bytes) or not isinstance(clip, Iterable) or getattr(clip, "ndim", 4) != 4:
        raise RefsegError(f"a clip cannot be a {type(clip).__name__}", hint="a path, or pictures one after the other")
    return _of_pictures(clip, every)


def _of_pictures(pictures: Iterable[Picture], every: int) -> Iterator[Frame]:
    first: tuple[int, ...] | None = None
    for number, picture in enumerate(pictures):
        if number % every:
            continue
        pixels = _pixels(picture)
        first = first or pixels.shape
        if pixels.shape != first:
            sizes = " and ".join(f"{width}x{height}" for _, height, width in (first, pixels.shape))
            raise RefsegError(f"frames of {sizes} pixels in one clip", hint="`each` takes pictures of any size")
        yield Frame(number, None, str(picture) if isinstance(picture, str | Path) else "", pixels)


def _pixels(picture: Picture) -> np.ndarray:
    """(3, h, w) uint8."""
    image = _image(picture)
    return image if isinstance(image, np.ndarray) else read_pixels(image)


def _image(picture: Picture) -> Path | bytes | np.ndarray:
    """What a segmenter takes: a file, its bytes, or pixels (3, h, w) uint8."""
    if isinstance(picture, str) and is_url(picture):
        return read_url(picture, max_pixels=MAX_PIXELS)
    if isinstance(picture, str | Path):
        return Path(picture)
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        return _channels_first(picture)
    if hasattr(picture, "getexif"):  # Pillow's, without importing it
        return from_pillow(cast("Image", picture))
    if hasattr(picture, "detach"):  # a tensor, without importing torch
        return _of_tensor(picture.detach().cpu().numpy())
    raise RefsegError(
        f"a picture cannot be a {type(picture).__name__}", hint="a path, bytes, a Pillow image, an array or a tensor"
    )


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise RefsegError(
            f"a picture as an array of {pixels.dtype} {pixels.shape}", hint="give uint8 (h, w, 3) in RGB, or (h, w)"
        )
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _of_tensor(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.size:
        raise RefsegError(f"a picture as a tensor of {pixels.dtype} {pixels.shape}", hint="give uint8 (3, h, w) in RGB")
    return np.ascontiguousarray(pixels)
