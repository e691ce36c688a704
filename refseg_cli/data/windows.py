"""Clips to steps: which frames are looked at together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refseg_cli.data.clips import Clip
from refseg_cli.data.loader import Pick, Step

ROWS = 256  # frames times phrases in one pass through the network


def drawn_windows(
    clips: Sequence[Clip], *, batch: int, frames: int, phrases: int, rng: np.random.Generator
) -> list[Step]:
    """Training: of every clip in random order some frames that follow each other, with the same phrases; steps of at
    most `batch` clips.

    Args:
        frames: of a window; a shorter clip ends with its last frame, again and again.
        phrases: drawn for a clip; 0 for all.
    """
    windows: list[Step] = []
    for number in rng.permutation([number for number, clip in enumerate(clips) if clip.expressions]):
        clip = clips[number]
        start = int(rng.integers(max(1, len(clip) - frames + 1)))
        chosen = rng.permutation(clip.expressions)
        expressions = tuple(int(e) for e in (chosen[:phrases] if phrases else chosen))
        rows = [clip.rows[min(start + i, len(clip) - 1)] for i in range(frames)]
        windows.append(tuple(Pick(row, expressions, clip.rows[0]) for row in rows))
    return [sum(windows[i : i + batch], ()) for i in range(0, len(windows), batch)]


def whole_windows(clips: Sequence[Clip], *, frames: int) -> list[Step]:
    """Evaluation: every frame of every clip in order, with all phrases; a step is of one clip and at most `frames` of
    its frames, in windows of nearly the same length.
    """
    steps: list[Step] = []
    for clip in clips:
        windows = np.array_split(np.arange(len(clip)), -(-len(clip) // frames)) if clip.expressions else []
        for window in windows:
            most = max(1, ROWS // len(window))
            asked = range(clip.expressions)
            for part in (tuple(asked[i : i + most]) for i in range(0, len(asked), most)):
                steps.append(tuple(Pick(clip.rows[int(i)], part, clip.rows[0]) for i in window))
    return steps
