"""Write the embedded dataset in the raw gRefCOCO layout, so that it goes through the same reader as real data.

OUT/images/scene_train_000000000001.jpg
OUT/grefcoco/instances.json      COCO: images, annotations (compressed RLE), categories
OUT/grefcoco/grefs(unc).json     references; `kind` is an addition of ours, for analysis
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refseg_cli.data import masks
from refseg_cli.data.phrases.generate import Reference, describe
from refseg_cli.data.phrases.nouns import Category
from refseg_cli.data.scenes.catalogue import catalogue
from refseg_cli.data.scenes.compose import Composition, compose
from refseg_cli.errors import RefsegError, unknown_name
from refseg_cli.files import write

Json = dict[str, Any]

DEFAULT_IMAGES = {"train": 4000, "val": 300, "testA": 300, "testB": 300}
SUBJECTS: dict[str, Callable[[Category], bool]] = {  # what the phrases of a split are about, as in RefCOCO
    "train": lambda category: True,
    "val": lambda category: True,
    "testA": lambda category: category.section == "people",
    "testB": lambda category: category.section != "people",
}
IDS_PER_SPLIT = 1_000_000  # image ids of a split start at a multiple of it
IDS_PER_IMAGE = 100  # annotation ids of an image start at a multiple of it
JPEG_QUALITY = 92
CHUNK = 16  # images that a worker is given at a time


@dataclass(frozen=True, slots=True)
class Counts:
    """What was written. references and expressions: 'single', 'multi', 'no_target' -> how many."""

    images: dict[str, int] = field(default_factory=dict)
    instances: int = 0
    references: Counter[str] = field(default_factory=Counter)
    expressions: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to make: all that its contents depend on."""

    seed: int
    split: str
    index: int

    @property
    def image_id(self) -> int:
        return list(SUBJECTS).index(self.split) * IDS_PER_SPLIT + self.index + 1

    @property
    def file_name(self) -> str:
        return f"scene_{self.split}_{self.image_id:012d}.jpg"


def generate(
    out: Path,
    *,
    images: Mapping[str, int] = DEFAULT_IMAGES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Counts:
    """Write a dataset, the same bytes for the same seed, whatever the number of workers.

    Args:
        images: split -> number of pictures; the splits are train, val, testA and testB. A picture depends on the
            seed, its split and its index alone, so more pictures only extend a smaller dataset.
        progress: called with the pictures done and their total.

    Raises:
        RefsegError: an unknown split, no pictures, or more than ids.
    """
    jobs = list(plan(images, seed))
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "grefcoco").mkdir(exist_ok=True)
    instances: Json = {
        "info": info(seed),
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": categories(),
    }
    grefs: list[Json] = []
    for done, (image, objects, references) in enumerate(made(jobs, out, workers), start=1):
        instances["images"].append(image)
        instances["annotations"] += objects
        number(references, grefs)
        grefs += references
        if progress:
            progress(done, len(jobs))
    write(out / "grefcoco/instances.json", json.dumps(instances).encode())
    write(out / "grefcoco/grefs(unc).json", json.dumps(grefs).encode())
    return counted(images, instances, grefs)


def plan(images: Mapping[str, int], seed: int) -> Iterator[Job]:
    """The pictures to make, in the order of the files."""
    for split in images:
        if split not in SUBJECTS:
            raise unknown_name("split of scenes", split, SUBJECTS)
        if not 0 <= images[split] < IDS_PER_SPLIT:
            raise RefsegError(
                f"scenes: {split}={images[split]}: not a number of pictures",
                hint=f"from 0 to {IDS_PER_SPLIT - 1}",
            )
    if not any(images.values()):
        asked = ",".join(f"{split}={number}" for split, number in images.items())
        raise RefsegError(f"scenes: {asked}: nothing to make", hint="give a split more than 0, e.g. train=400,val=40")
    for split in SUBJECTS:
        yield from (Job(seed, split, index) for index in range(images.get(split, 0)))


def made(jobs: list[Job], out: Path, workers: int) -> Iterator[tuple[Json, list[Json], list[Json]]]:
    """Make the pictures, in order: rows of `images`, `annotations` and `grefs` for each."""
    work = partial(make, out=out)
    if workers <= 1:
        yield from map(work, jobs)
        return
    # A fork of a process that runs threads (torch's, say) may hang, so the workers start from scratch.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, jobs, chunksize=CHUNK)


def make(job: Job, *, out: Path) -> tuple[Json, list[Json], list[Json]]:
    """Make one picture: write its file, return its rows."""
    rng = Random(f"{job.seed}/{job.split}/{job.index}")
    picture = compose(rng, SUBJECTS[job.split])
    references = describe(picture.scene, catalogue(), rng, SUBJECTS[job.split])
    write(out / "images" / job.file_name, jpeg(picture.image))
    size = {"width": picture.scene.width, "height": picture.scene.height}
    annotations = list(annotation_rows(job, picture))
    return (
        {"id": job.image_id, "file_name": job.file_name, **size},
        annotations,
        [reference_row(job, reference, annotations) for reference in references],
    )


def annotation_rows(job: Job, picture: Composition) -> Iterator[Json]:
    """COCO annotations of a picture's objects."""
    for i, (thing, mask) in enumerate(zip(picture.scene.things, picture.masks, strict=True)):
        left, top, right, bottom = thing.box
        yield {
            "id": job.image_id * IDS_PER_IMAGE + i,
            "image_id": job.image_id,
            "category_id": thing.category.index + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": thing.area,
            "iscrowd": 0,
            "segmentation": rle(mask),
        }


def reference_row(job: Job, reference: Reference, annotations: list[Json]) -> Json:
    """A reference as in grefs(unc).json, still without the ids that depend on the references before it."""
    named = [annotations[i] for i in reference.targets]
    return {
        "image_id": job.image_id,
        "split": job.split,
        "ann_id": [row["id"] for row in named] or [-1],
        "category_id": [row["category_id"] for row in named] or [-1],
        "no_target": not named,
        "kind": reference.kind,
        "file_name": job.file_name,
        "sentences": [{"sent": text, "raw": text, "tokens": text.split()} for text in reference.phrases],
    }


def number(references: list[Json], earlier: list[Json]) -> None:
    """Give references and sentences the ids that follow on the earlier ones."""
    sent_id = earlier[-1]["sent_ids"][-1] + 1 if earlier else 0
    for ref_id, reference in enumerate(references, start=len(earlier)):
        reference["ref_id"] = ref_id
        reference["file_name"] = reference["file_name"].replace(".jpg", f"_{ref_id}.jpg")
        for sentence in reference["sentences"]:
            sentence["sent_id"] = sent_id
            sent_id += 1
        reference["sent_ids"] = [sentence["sent_id"] for sentence in reference["sentences"]]


def counted(images: Mapping[str, int], instances: Json, grefs: list[Json]) -> Counts:
    """Count what was written."""
    counts = Counts(dict(images), len(instances["annotations"]))
    for reference in grefs:
        number_of_targets = reference["kind"].partition(".")[0]
        counts.references[number_of_targets] += 1
        counts.expressions[number_of_targets] += len(reference["sentences"])
    return counts


def info(seed: int) -> Json:
    return {"description": "refseg scenes", "seed": seed, "artwork": "Noto Emoji (Apache-2.0)"}


def categories() -> list[Json]:
    """The categories as in instances.json."""
    return [
        {"id": category.index + 1, "name": category.name, "supercategory": category.section}
        for category in catalogue().categories
    ]


def rle(mask: NDArray[np.bool_]) -> Json:
    """COCO's compressed run-length encoding of an (h, w) mask."""
    encoded = masks.encode(mask)
    return {"size": list(encoded.size), "counts": encoded.counts.decode("ascii")}


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """(h, w, 3) uint8 RGB as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
