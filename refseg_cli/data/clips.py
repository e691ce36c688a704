"""The clips of prepared videos: which rows of a split are the frames of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from refseg_cli.errors import RefsegError

if TYPE_CHECKING:
    from refseg_cli.data.shards import Shards


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a split.

    name: of the video.  rows: positions of its frames in `Shards`, in their order.  expressions: how many are asked of
    it: each of its frames has all of them, in one order.
    """

    name: str
    rows: range
    expressions: int

    def __len__(self) -> int:
        return len(self.rows)


class Clips(Sequence[Clip]):
    """The clips of a split, in its order. Frames are read when they are asked for, one at a time.

    Raises:
        RefsegError: the split is of pictures.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        counts = shards.expression_counts
        self._clips: list[Clip] = []
        for name, rows in groupby(enumerate(shards.clip_names()), key=lambda row: row[1]):
            places = [place for place, _ in rows]
            if not name:
                raise RefsegError(f"{shards.uri}: {shards.split} has pictures, not clips", hint=MAKE)
            self._clips.append(Clip(name, range(places[0], places[-1] + 1), int(counts[places[0]])))

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]
        return self._clips[index]


MAKE = "`refseg prepare scenes --video` makes some; see docs/video.md"
