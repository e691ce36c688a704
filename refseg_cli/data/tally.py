"""What a split holds, in numbers: images, expressions and targets; of videos, clips too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from refseg_cli.records import Record

COUNTS = ("images", "refs", "expressions", "single", "multi", "no_target", "clips")  # of `SplitInfo`


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One file of a split.  bytes: its size.  images: its rows."""

    name: str
    bytes: int
    sha256: str
    images: int


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """Counts of a split; single, multi and no_target are expressions with one, several and no targets.

    clips: of videos, whose frames are the images; an expression counts once a clip, with its targets of all frames.
    masks: False where nobody knows the targets, as in the test splits of benchmarks that are scored on a server: their
           expressions count as no_target.
    """

    images: int = 0
    refs: int = 0
    expressions: int = 0
    single: int = 0
    multi: int = 0
    no_target: int = 0
    files: tuple[ShardInfo, ...] = ()
    clips: int = 0
    masks: bool = True

    def plus(self, other: SplitInfo) -> SplitInfo:
        """The counts of both together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in COUNTS}
        return SplitInfo(**sums, files=self.files + other.files, masks=self.masks and other.masks)

    def to_json(self) -> dict[str, Any]:
        """Without what only videos have, of pictures."""
        usual = {f.name: f.default for f in fields(self) if f.name in ("clips", "masks")}
        return {name: value for name, value in asdict(self).items() if usual.get(name, ...) != value}


class Tally:
    """Counts records one after the other, the frames of a clip together."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._clip = ""
        self._refs: set[int] = set()
        self._named: list[set[int]] = []  # the things that each expression names

    def add(self, record: Record) -> None:
        """Count a picture, or a frame after those of its clip before it."""
        if not record.clip:
            self._close()
            self._count(len({e.ref_id for e in record.expressions}), [len(set(e.targets)) for e in record.expressions])
        else:
            if record.clip != self._clip:
                self._close()
                self._clip = record.clip
                self._refs = {expression.ref_id for expression in record.expressions}
                self._named = [set() for _ in record.expressions]
            for named, expression in zip(self._named, record.expressions, strict=True):
                named.update(record.instances[t].ann_id for t in expression.targets)
        self._sums["images"] += 1

    def counts(self) -> SplitInfo:
        """Of all that was added; `files` is empty."""
        self._close()
        sums: dict[str, Any] = dict(self._sums)
        return SplitInfo(**sums)

    def _close(self) -> None:
        if self._clip:
            self._sums["clips"] += 1
            self._count(len(self._refs), list(map(len, self._named)))
        self._refs, self._named, self._clip = set(), [], ""

    def _count(self, refs: int, named: Sequence[int]) -> None:
        """named: how many things each expression names."""
        sums = self._sums
        sums["refs"] += refs
        sums["expressions"] += len(named)
        sums["single"] += (single := named.count(1))
        sums["no_target"] += (none := named.count(0))
        sums["multi"] += len(named) - single - none
