"""Answers to phrases about a clip, frame by frame, by whatever segmenter. Knows no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from refseg_cli.data.videos import Frame
from refseg_cli.segmenters.base import Found, Segmenter


def follow(
    segmenter: Segmenter, frames: Iterable[Frame], phrases: Sequence[str]
) -> Iterator[tuple[Frame, list[Found]]]:
    """Each frame with the answer to each phrase about it.

    A segmenter with a method `follow` (pixels of frames in, their answers out, in the same order) sees the clip; any
    other is asked about each frame by itself. Frames are taken as they are needed, and so many are held as it looks
    at together.
    """
    held: deque[Frame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in frames:
            held.append(frame)
            yield frame.pixels

    of_clip = getattr(segmenter, "follow", None)
    answers = of_clip(pixels(), phrases) if of_clip else (list(segmenter.predict(p, phrases)) for p in pixels())
    return ((held.popleft(), found) for found in answers)
