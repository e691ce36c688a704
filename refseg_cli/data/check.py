"""Whether prepared data is as its manifest says, and whether training sees pictures of a test: `prepare check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from refseg_cli.data import shards, storage
from refseg_cli.data.clips import Clips
from refseg_cli.data.shards import Manifest, Shards
from refseg_cli.data.storage import Place
from refseg_cli.data.tally import SplitInfo
from refseg_cli.errors import RefsegError
from refseg_cli.progress import Progress, silent

TRAIN = "train"  # the one split that is trained on; every other one is held out


@dataclass(frozen=True, slots=True)
class Checked:
    """One folder of prepared data and what its manifest counts."""

    out: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not as the manifest says.  file: its path or URI."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Leak:
    """Pictures that are in a training split and in a held-out one.  examples: some of their ids."""

    train: str
    held_out: str
    images: int
    examples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found.  leaks: only of data that is not damaged."""

    checked: tuple[Checked, ...]
    damage: tuple[Damage, ...]
    leaks: tuple[Leak, ...]


def check(outs: Sequence[str], *, progress: Progress = silent) -> CheckReport:
    """Compare every file with the manifest, and the splits of all the data with each other.

    Two pictures are the same if their ids come from one source, such as COCO.

    Raises:
        RefsegError: something in `outs` is no complete prepared data.
    """
    checked = tuple(Checked(out, shards.read_manifest(out)) for out in outs)
    files = [(c, split, file) for c in checked for split in c.manifest.splits.values() for file in split.files]
    damage: list[Damage] = []
    for number, (c, _, file) in enumerate(files, start=1):
        place = storage.locate(c.out) / file.name
        reason = _damage(place, file.sha256, file.images)
        if reason:
            damage.append(Damage(place.uri, reason))
        progress("check", number, len(files))
    if damage:
        return CheckReport(checked, tuple(damage), ())
    opened = [(c, name, Shards(c.out, name, c.manifest)) for c in checked for name in c.manifest.splits]
    for c, name, split in opened:
        reason = _miscount(split, c.manifest.splits[name])
        if reason:
            damage.append(Damage(shards.find_manifest(storage.locate(c.out)).uri, f"{name}: {reason}"))
    return CheckReport(checked, tuple(damage), tuple(_leaks(opened)))


def _damage(place: Place, sha256: str, images: int) -> str:
    """What is wrong with a file; empty if nothing is."""
    try:
        if not place.exists():
            return "missing"
        if place.sha256() != sha256:
            return "its SHA-256 is not that of the manifest"
        rows = shards.row_count(place)
    except RefsegError as error:
        return error.message
    return "" if rows == images else f"{rows} images, {images} in the manifest"


def _miscount(split: Shards, info: SplitInfo) -> str:
    """How the manifest's counts of a split differ from its rows; empty if they do not."""
    clips = Clips(split) if info.clips else ()
    expressions = sum(clip.expressions for clip in clips) if clips else int(split.expression_counts.sum())
    if len(clips) != info.clips:
        return f"{len(clips)} clips in the files, {info.clips} in the manifest"
    if len(split) != info.images:
        return f"{len(split)} images in the files, {info.images} in the manifest"
    if expressions != info.expressions:
        return f"{expressions} expressions in the files, {info.expressions} in the manifest"
    return ""


def _leaks(opened: Sequence[tuple[Checked, str, Shards]]) -> list[Leak]:
    ids = [(c, name, np.unique(split.image_ids())) for c, name, split in opened]
    found = []
    for (a, train, ours), (b, held_out, theirs) in product(ids, ids):
        if train != TRAIN or held_out == TRAIN or a.manifest.image_source != b.manifest.image_source:
            continue
        shared = np.intersect1d(ours, theirs, assume_unique=True)
        if shared.size:
            examples = tuple(int(image_id) for image_id in shared[:3])
            found.append(Leak(f"{a.out}: {train}", f"{b.out}: {held_out}", int(shared.size), examples))
    return found
