"""The pictures of a game: prepared data, or a COCO file with its photos."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from refseg_cli.data.shards import Shards, open_shards, read_manifest
from refseg_cli.data.sources import Draft, Problem, instances
from refseg_cli.data.sources.photos import examine
from refseg_cli.data.sources.values import identifier
from refseg_cli.data.sources.whereabouts import Photos
from refseg_cli.errors import RefsegError
from refseg_cli.records import Instance, Record

Key = tuple[str, int]  # split and image id

ONLY_SPLIT = "train"  # of a COCO file, which has none
KEPT = 64  # pictures in memory
_COCO_FILE = "--data is a folder of prepared data, or a COCO file in JSON"


@dataclass(frozen=True, slots=True)
class Known:
    """A phrase that the data came with.  targets: annotation ids.  categories: ids of their categories."""

    text: str
    targets: tuple[int, ...]
    categories: frozenset[int]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a picture without loading it.

    objects: annotation ids of what may be selected in it.  categories: ids of their categories.
    """

    key: Key
    objects: frozenset[int]
    categories: frozenset[int]
    known: tuple[Known, ...] = ()


class Gallery:
    """The pictures of a game, each with objects that may be selected.

    Args:
        about: where they come from, as a game keeps it; `fingerprint` in it is equal for the same data.
        entries: in any order.
        categories: id -> name.
        load: reads a picture with its objects; raises RefsegError if it is broken.
    """

    def __init__(
        self,
        about: Mapping[str, Any],
        entries: Iterable[Entry],
        categories: Mapping[int, str],
        load: Callable[[Key], Record],
    ) -> None:
        self.about, self.categories = dict(about), dict(categories)
        self.entries = {entry.key: entry for entry in entries if entry.objects}
        if not self.entries:
            raise RefsegError(f"{about['data']}: no picture with objects to select", hint="see --split and --images")
        self.keys = tuple(self.entries)
        self.splits = tuple(dict.fromkeys(split for split, _ in self.keys))
        self._load, self._lock = load, threading.Lock()
        self._loaded: OrderedDict[Key, Record] = OrderedDict()
        self._pool = _pool(self.entries.values())

    def record(self, key: Key) -> Record:
        """A picture with its objects.

        Raises:
            RefsegError: it is broken.
        """
        with self._lock:  # readers of Parquet are not made for several threads
            if key not in self._loaded:
                self._loaded[key] = self._load(key)
                if len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(key)
            return self._loaded[key]

    def objects(self, split: str, image_id: int) -> frozenset[int]:
        """The ids of what may be selected in a picture; none of one that is not here."""
        entry = self.entries.get((split, image_id))
        return entry.objects if entry else frozenset()

    def others_phrases(self, key: Key, count: int, rng: Random) -> list[tuple[str, int]]:
        """Phrases with targets of other pictures of the same split, and the pictures' ids.

        About categories that this picture shows, as far as there are any: a phrase that nothing fits must not be
        irrelevant to the picture (Liu, 2024, section 6.2.2).
        """
        split, image_id = key
        shown = sorted(self.entries[key].categories)
        near = [said for category in shown for said in self._pool.get((split, category), ())]
        found: dict[str, int] = {}
        for pool in (near, self._pool.get((split, None), ())):
            others = [said for said in pool if said[1] != image_id and said[0] not in found]
            for text, other in rng.sample(others, min(count, len(others))):
                if len(found) < count:
                    found.setdefault(text, other)
        return list(found.items())


def selectable(record: Record) -> tuple[Instance, ...]:
    """The objects that players may choose: no crowds, which nobody can tell apart and gRefCOCO's loaders drop."""
    return tuple(instance for instance in record.instances if not instance.iscrowd)


def _pool(entries: Iterable[Entry]) -> dict[tuple[str, int | None], list[tuple[str, int]]]:
    """(split, category, or None for any) -> phrases with targets and their images' ids."""
    pool: dict[tuple[str, int | None], list[tuple[str, int]]] = {}
    for entry in entries:
        split, image_id = entry.key
        for known in entry.known:
            for category in (*known.categories, None) if known.targets else ():
                pool.setdefault((split, category), []).append((known.text, image_id))
    return pool


def open_gallery(data: str, *, images: Path | None = None, splits: Sequence[str] = ()) -> Gallery:
    """The pictures that ``--data``, ``--images`` and ``--split`` name.

    Args:
        data: prepared data, or a COCO file.
        images: the photos of a COCO file.
        splits: those wanted; none for all of prepared data. Of a COCO file: the one that its pictures are in.

    Raises:
        RefsegError: data that is missing, damaged, or holds nothing to select.
    """
    if data.lower().endswith(".json") and Path(data).is_file():
        if images is None:
            raise RefsegError(f"--data {data} is a COCO file", hint="--images is the folder of its photos")
        return _open_coco(Path(data), images, splits)
    if images is not None:
        raise RefsegError("--images is for a COCO file", hint="omit it: prepared data hold their pictures")
    return _open_prepared(data, splits)


def _open_prepared(data: str, splits: Sequence[str]) -> Gallery:
    manifest = read_manifest(data)
    wanted = tuple(splits) or tuple(manifest.splits)
    shards = {split: open_shards(data, split) for split in wanted}
    places: dict[Key, tuple[Shards, int]] = {}
    entries: list[Entry] = []
    categories: dict[int, str] = {}
    for split, of_split in shards.items():
        for position, record in enumerate(of_split.annotations()):
            key = (split, record.image_id)
            if key not in places:  # a set may have an id twice; the first one is meant
                places[key] = (of_split, position)
                entries.append(_entry(key, record))
                categories.update((instance.category_id, instance.category) for instance in record.instances)

    def load(key: Key) -> Record:
        of_split, position = places[key]
        return of_split[position]

    about = {
        "data": data if "://" in data else str(Path(data).absolute()),
        "images": None,
        "splits": list(wanted),
        "fingerprint": manifest.fingerprint,
        "dataset": manifest.dataset,
    }
    return Gallery(about, entries, categories, load)


def _entry(key: Key, record: Record) -> Entry:
    known = tuple(
        Known(
            expression.raw,
            tuple(record.instances[t].ann_id for t in expression.targets),
            frozenset(record.instances[t].category_id for t in expression.targets),
        )
        for expression in record.expressions
    )
    objects = selectable(record)
    return Entry(key, frozenset(i.ann_id for i in objects), frozenset(i.category_id for i in objects), known)


def _open_coco(path: Path, images: Path, splits: Sequence[str]) -> Gallery:
    if len(splits) > 1:
        raise RefsegError(f"--split {','.join(splits)}: a COCO file is one split", hint="name one")
    split = splits[0] if splits else ONLY_SPLIT
    if not instances.SPLIT_NAME.fullmatch(split):
        raise RefsegError(f"--split {split}: not a valid split name", hint="letters, digits and _")
    if not images.is_dir():
        raise RefsegError(f"{images}: no such folder", hint="--images is the folder of the photos")
    found, digest = instances.read(path, number=identifier, hint=_COCO_FILE)
    photos = Photos([images])
    places = {
        image_id: place
        for image_id, (name, _, _) in found.photos.items()
        if image_id not in found.broken_photos and (place := photos.find(name))
    }
    if not places:
        raise RefsegError(f"{images}: none of the {len(found.photos)} photos of {path}", hint="see --images")

    def load(key: Key) -> Record:
        _, image_id = key
        name, height, width = found.photos[image_id]
        draft = Draft(image_id, name, split, height, width, tuple(found.by_image[image_id]), ())
        problems: list[Problem] = []
        photo = examine(draft, places[image_id], problems)
        if photo is None:
            raise RefsegError(str(problems[0]))
        return Record(image_id, name, split, *photo.size, photo.data, photo.instances, (), photo.orientation)

    entries: list[Entry] = []
    for image_id in places:
        objects = [a for a in found.by_image.get(image_id, ()) if not a.iscrowd]
        ids, of = frozenset(a.ann_id for a in objects), frozenset(a.category_id for a in objects)
        entries.append(Entry((split, image_id), ids, of))
    about = {
        "data": str(path.absolute()),
        "images": str(images.absolute()),
        "splits": [split],
        "fingerprint": digest,
        "dataset": path.stem,
    }
    return Gallery(about, entries, found.categories, load)


def check_same(gallery: Gallery, about: Mapping[str, Any]) -> None:
    """Raises RefsegError: the pictures are not those that the game was begun with."""
    unlike = [name for name in ("fingerprint", "splits") if gallery.about[name] != about[name]]
    if unlike:
        began = f"{about['data']}, split {','.join(about['splits'])}"
        raise RefsegError(
            f"{gallery.about['data']}: not the data that this game was begun with ({began})",
            hint="name the same data and splits, or another --out",
        )
