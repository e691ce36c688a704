"""A model at the table: phrases that it proposes, and its opinion of a finished sample."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from random import Random

import numpy as np

from refseg_cli.annotate.gallery import selectable
from refseg_cli.annotate.game import GENERATED, Offer
from refseg_cli.annotate.store import Store
from refseg_cli.data import formats, masks
from refseg_cli.data.phrases.annotated import Outline, categories_of, scene_of, vocabulary
from refseg_cli.data.phrases.generate import describe
from refseg_cli.data.phrases.proposals import PHOTO_KINDS
from refseg_cli.records import Record, Rle
from refseg_cli.segmenters.base import Segmenter


class Phrases:
    """Phrases about a picture that `data.phrases` can prove of its objects.

    Args:
        names: of the categories, by id.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._categories = categories_of(names)
        self._nouns = vocabulary(self._categories.values())

    def __call__(self, record: Record, rng: Random) -> list[Offer]:
        """One wording of each reference; a picture that cannot be decoded has none."""
        try:
            pixels = formats.upright(record.image, record.orientation)
        except ValueError:
            return []
        outlines = [
            Outline(instance.category_id, masks.decode(instance.rle).astype(bool), crowd=instance.iscrowd)
            for instance in record.instances
        ]
        size = (record.height, record.width)
        scene, places = scene_of(outlines, self._categories, size, pixels=pixels)
        found = describe(scene, self._nouns, rng, lambda category: True, kinds=PHOTO_KINDS)
        ann_ids = [record.instances[place].ann_id for place in places]
        return [
            Offer(one.phrases[0], {"kind": GENERATED}, tuple(sorted(ann_ids[t] for t in one.targets))) for one in found
        ]


class Opinions:
    """What a segmenter answers to finished samples; each is asked once.

    Args:
        segmenter: whichever answers.
    """

    def __init__(self, segmenter: Segmenter, store: Store) -> None:
        self.name = segmenter.name
        self._segmenter, self._store, self._lock = segmenter, store, threading.Lock()

    def of(self, sample_id: int, record: Record) -> tuple[Rle, bool]:
        """The model's mask for the sample's phrase, and whether it finds anything at all."""
        with self._lock:  # one picture at a time: a model takes all cores, and its memory
            kept = self._store.opinion(sample_id, self.name)
            if kept is None:
                kept = self._ask(sample_id, record)
        counts, found = kept
        return Rle((record.height, record.width), counts.encode("ascii")), found

    def _ask(self, sample_id: int, record: Record) -> tuple[str, bool]:
        pixels = formats.upright(record.image, record.orientation)
        channels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        phrase = self._store.sample(sample_id).phrase
        [answer] = self._segmenter.predict(channels, [phrase])
        kept = (masks.encode(answer.mask).counts.decode("ascii"), answer.exists)
        self._store.keep_opinion(sample_id, self.name, *kept)
        return kept


def agreement(mask: Rle, found: bool, targets: tuple[int, ...], record: Record) -> float:
    """IoU of the model's answer with a selection of the picture's objects, in [0, 1]; 1 where both say "nothing"."""
    if not found or not targets:
        return float(not found and not targets)
    pixels = masks.count(mask, masks.union([i.rle for i in selectable(record) if i.ann_id in targets], mask.size))
    return pixels.intersection / pixels.union
