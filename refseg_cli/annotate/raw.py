"""Accepted samples as files: out in gRefCOCO's raw layout, with where each came from, and in again.

OUT/grefcoco/grefs(unc).json    references; `provenance` is an addition of ours
OUT/grefcoco/instances.json     COCO: the pictures, all their objects, the categories
OUT/images/NAME                 the photos' bytes as found
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from refseg_cli import __version__, files
from refseg_cli.annotate.gallery import Gallery, Key, selectable
from refseg_cli.annotate.rules import Refused, State, clean_phrase, kind
from refseg_cli.annotate.store import Sample, Store
from refseg_cli.data import masks
from refseg_cli.data.sources import Problem, Ref, grefer, instances
from refseg_cli.errors import RefsegError
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Instance, Record

FOLDER, REFS, INSTANCES, IMAGES = "grefcoco", "grefs(unc).json", "instances.json", "images"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: pictures, and expressions by split and kind."""

    out: str
    pictures: int
    splits: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def expressions(self) -> int:
        return sum(sum(kinds.values()) for kinds in self.splits.values())


@dataclass(frozen=True, slots=True)
class Imported:
    """What was taken over.  known: phrases that were there already.  problems: what could not be, a sentence each."""

    added: int
    known: int
    problems: tuple[str, ...] = ()


def export(store: Store, gallery: Gallery, out: Path, *, progress: Progress = silent) -> Exported:
    """Write the accepted samples.

    Raises:
        RefsegError: there is none, a picture cannot be read, or a file cannot be written.
    """
    by_picture: dict[Key, list[Sample]] = {}
    for sample in store.samples():
        if sample.state is State.ACCEPTED:
            by_picture.setdefault((sample.split, sample.image_id), []).append(sample)
    if not by_picture:
        raise RefsegError("no accepted phrase yet", hint="a phrase is accepted when a validator finds the same objects")
    coco: Json = {"info": _info(store), "licenses": [], "images": [], "annotations": [], "categories": []}
    refs: list[Json] = []
    splits: dict[str, dict[str, int]] = {}
    names: dict[int, str] = {}  # of the photos, by image id
    taken: set[str] = set()
    order = {split: place for place, split in enumerate(gallery.splits)}
    for done, key in enumerate(sorted(by_picture, key=lambda key: (order.get(key[0], len(order)), key[1])), start=1):
        if key not in gallery.entries:
            raise RefsegError(f"image {key[1]} of {key[0]}: not in {gallery.about['data']}", hint="see --data")
        record = gallery.record(key)
        if record.image_id not in names:  # a picture may be in two splits
            names[record.image_id] = name = _file_name(record, taken)
            files.write(out / IMAGES / name, record.image)
            size = {"height": record.height, "width": record.width}
            coco["images"].append({"id": record.image_id, "file_name": name, **size})
            coco["annotations"] += [_annotation(record, instance) for instance in record.instances]
        for sample in by_picture[key]:
            refs.append(_ref(len(refs), sample, record, names[record.image_id]))
            kinds = splits.setdefault(sample.split, {})
            kinds[kind(sample.targets)] = kinds.get(kind(sample.targets), 0) + 1
        progress("pictures", done, len(by_picture))
    coco["categories"] = [{"id": number, "name": name} for number, name in sorted(gallery.categories.items())]
    files.write(out / FOLDER / INSTANCES, _bytes(coco))
    files.write(out / FOLDER / REFS, _bytes(refs))
    return Exported(str(out), len(names), splits)


def _info(store: Store) -> Json:
    about = store.about()
    told = {name: about[name] for name in ("dataset", "fingerprint", "splits")}
    return {"description": "refseg annotate", "refseg": __version__, "pictures_from": told}


def _file_name(record: Record, taken: set[str]) -> str:
    """A name for the photo that no other has and that leads nowhere else, whatever the data calls it."""
    name = PurePosixPath(record.file_name.replace("\\", "/")).name.replace(":", "_")
    if name in ("", "..") or name.lower() in taken:
        name = f"{record.image_id}_{name.strip('.')}"
    taken.add(name.lower())
    return name


def _annotation(record: Record, instance: Instance) -> Json:
    return {
        "id": instance.ann_id,
        "image_id": record.image_id,
        "category_id": instance.category_id,
        "bbox": list(instance.box),
        "area": masks.area(instance.rle),
        "iscrowd": int(instance.iscrowd),
        "segmentation": {"size": list(instance.rle.size), "counts": instance.rle.counts.decode("ascii")},
    }


def _ref(number: int, sample: Sample, record: Record, photo: str) -> Json:
    """A reference of one sentence; photo: its file's name. Ids are places in the file, as in gRefCOCO's."""
    categories = {instance.ann_id: instance.category_id for instance in selectable(record)}
    lost = [ann_id for ann_id in sample.targets if ann_id not in categories]
    if lost:
        raise RefsegError(f"image {record.image_id}: annotation {lost[0]} is gone", hint="see --data")
    path = PurePosixPath(photo)
    text = sample.phrase.lower()
    return {
        "ref_id": number,
        "image_id": record.image_id,
        "split": sample.split,
        "ann_id": list(sample.targets) or [grefer.NO_TARGET],
        "category_id": [categories[ann_id] for ann_id in sample.targets] or [grefer.NO_TARGET],
        "no_target": not sample.targets,
        "file_name": f"{path.stem}_{number}{path.suffix}",
        "sentences": [{"sent_id": number, "sent": text, "raw": sample.phrase, "tokens": text.split()}],
        "sent_ids": [number],
        "provenance": _provenance(sample) if sample.imported is None else sample.imported,
    }


def _provenance(sample: Sample) -> Json:
    """Who wrote it, who found it, and how long that took."""
    assert sample.opened is not None
    return {
        "origin": sample.origin,
        "annotator": sample.author,
        "seconds": round(sample.submitted - sample.opened, 1),
        "submitted": round(sample.submitted),
        "validators": [
            {
                "validator": judged.player,
                "agrees": judged.answer.targets == frozenset(sample.targets),
                "seconds": round(judged.submitted - judged.opened, 1),
            }
            for judged in sample.answers
        ],
    }


def _bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def import_(store: Store, gallery: Gallery, root: Path) -> Imported:
    """Take over the phrases of an earlier export, or of gRefCOCO itself, as accepted samples.

    Raises:
        RefsegError: there is no such export, or nothing in it is about the pictures of this game.
    """
    path = root / FOLDER / REFS
    rows, _ = instances.load_json(path, hint="name the folder that `refseg annotate export` wrote")
    if not isinstance(rows, list):
        raise RefsegError(f"{path}: holds no list of references", hint="is it a grefs(unc).json?")
    broken: list[Problem] = []
    told: list[str] = []
    refs = grefer.refs(rows, file=path.name, problems=broken)
    dicts = (row for row in rows if isinstance(row, dict))
    provenance = {row["ref_id"]: row.get("provenance") for row in dicts if isinstance(row.get("ref_id"), int)}
    samples = list(_samples(refs, provenance, gallery, path.name, told))
    told += [str(problem) for problem in broken]
    if not samples:
        reasons = f": {told[0]}" if told else ""
        raise RefsegError(f"{path}: nothing to import{reasons}", hint="ids must be those of the game's --data")
    added = store.add_imported(samples)
    return Imported(added, len(samples) - added, tuple(told))


def _samples(
    refs: Iterator[Ref], provenance: Mapping[Any, Any], gallery: Gallery, file: str, problems: list[str]
) -> Iterator[tuple[str, int, str, Sequence[int], Json]]:
    for ref in refs:
        entry = gallery.entries.get((ref.split, ref.image_id))
        if entry is None:
            problems.append(f"{file}: ref {ref.ref_id}: image {ref.image_id} of {ref.split} is not in this game")
            continue
        if not entry.objects.issuperset(ref.ann_ids):
            problems.append(f"{file}: ref {ref.ref_id}: image {ref.image_id} has no such object")
            continue
        came = provenance.get(ref.ref_id)
        for sentence in ref.sentences:
            try:
                phrase = clean_phrase(sentence.raw)
            except Refused as error:
                problems.append(f"{file}: ref {ref.ref_id}: {error}")
                continue
            yield ref.split, ref.image_id, phrase, ref.ann_ids, came if isinstance(came, dict) else {"from": file}
