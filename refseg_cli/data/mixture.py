"""Several prepared sets as one, to train on together.

The sets of the RefCOCO family hold each other's pictures out: some of RefCOCO's validation pictures are in RefCOCOg's
train split. A mixture leaves such pictures out of training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from refseg_cli.data.check import TRAIN
from refseg_cli.data.shards import Manifest, Shards, open_shards
from refseg_cli.data.storage import Place
from refseg_cli.data.tally import SplitInfo
from refseg_cli.records import Record

SEPARATOR = ", "  # between the sets' names


def open_mixture(uris: Sequence[str], split: str) -> Shards:
    """One split of one set or of several together; of several, `train` is without the pictures that a set holds out.

    Raises:
        RefsegError: a set is missing, incomplete or without such a split.
    """
    parts = [open_shards(uri, split) for uri in uris]
    if len(parts) == 1:
        return parts[0]
    return Mixture(parts, _held_out(parts) if split == TRAIN else None)


class Mixture(Shards):
    """The same split of several sets, one after the other.

    left_out: (images,) bool, the images that have no expressions here; none of them if not given.
    """

    def __init__(self, parts: Sequence[Shards], left_out: np.ndarray | None = None, training: bool = False) -> None:
        self._parts = parts
        self._first_files = np.cumsum([0, *(len(part.files) for part in parts)])
        self.left_out = np.zeros(sum(map(len, parts)), bool) if left_out is None else left_out
        uri = SEPARATOR.join(part.uri for part in parts)
        super().__init__(uri, parts[0].split, _manifest(parts, self.left_out), training)

    @property
    def repeated(self) -> int:
        """How many images come again because their set is given more than once, be it under another name."""
        once = {part.manifest.fingerprint: part for part in self._parts}.values()
        return len(self) - sum(map(len, once))

    def for_training(self) -> Mixture:
        return Mixture(self._parts, self.left_out, training=True)

    def __getitem__(self, index: int) -> Record:
        return self._without_left_out(super().__getitem__(index), index)

    @property
    def expression_counts(self) -> np.ndarray:
        return np.where(self.left_out, 0, super().expression_counts)

    def target_ids(self) -> list[list[int]]:
        return [[] if out else ids for ids, out in zip(super().target_ids(), self.left_out, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self._parts, "left_out": self.left_out, "training": self.training}

    def _without(self, *columns: str) -> Iterator[Record]:
        for index, record in enumerate(super()._without(*columns)):
            yield self._without_left_out(record, index)

    def _without_left_out(self, record: Record, index: int) -> Record:
        return replace(record, expressions=()) if self.left_out[index] else record

    def place(self, file: int) -> Place:
        part = int(np.searchsorted(self._first_files, file, side="right")) - 1
        return self._parts[part].place(file - int(self._first_files[part]))


def names_of(dataset: str) -> list[str]:
    """The sets that `Manifest.dataset` of a mixture names; of a single set, its name."""
    return dataset.split(SEPARATOR)


def _manifest(parts: Sequence[Shards], left_out: np.ndarray) -> Manifest:
    """Of all together; its plan changes with any of them, with their order and with what is left out."""
    split, manifests = parts[0].split, [part.manifest for part in parts]
    plan = hashlib.sha256(json.dumps([m.fingerprint for m in manifests]).encode() + np.packbits(left_out).tobytes())
    return Manifest(
        dataset=SEPARATOR.join(dict.fromkeys(m.dataset for m in manifests)),
        split_by=SEPARATOR.join(dict.fromkeys(m.split_by for m in manifests)),
        image_source=SEPARATOR.join(dict.fromkeys(m.image_source for m in manifests)),
        source={},
        plan=plan.hexdigest(),
        splits={split: reduce(SplitInfo.plus, (m.splits[split] for m in manifests))},
        format=min(m.format for m in manifests),
    )


def _held_out(parts: Sequence[Shards]) -> np.ndarray:
    """(images,) bool: which images are also in a split of any of the sets that is not for training."""
    held: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name in part.manifest.splits:
            if name != TRAIN:
                split = Shards(part.uri, name, part.manifest)
                held.setdefault(part.manifest.image_source, []).append(split.image_ids())
    found = [
        np.isin(part.image_ids(), np.concatenate([np.zeros(0, np.int64), *held.get(part.manifest.image_source, [])]))
        for part in parts
    ]
    return np.concatenate(found)
