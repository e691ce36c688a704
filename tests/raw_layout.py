"""A dataset of the RefCOCO family in its raw layout, small enough to count by hand."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from refseg_cli.data import masks

Json = dict[str, Any]
HEIGHT, WIDTH = 24, 32


def jpeg(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    """A JPEG file of noise; size: (height, width)."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(data, "JPEG")
    return data.getvalue()


def annotation(ann_id: int, image_id: int, **changes: Any) -> Json:
    """A rectangle of 4 x 3 pixels with its corner at (2, 5)."""
    row = {
        "id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [2.0, 5.0, 4.0, 3.0],
        "iscrowd": 0,
        "segmentation": [[2.0, 5.0, 6.0, 5.0, 6.0, 8.0, 2.0, 8.0]],
    }
    return {**row, **changes}


def rle(compressed: bool) -> Json:
    """The left half of an image."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, : WIDTH // 2] = True
    if compressed:
        return {"size": [HEIGHT, WIDTH], "counts": masks.encode(mask).counts.decode()}
    return {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH // 2, HEIGHT * WIDTH // 2]}


def ref(ref_id: int, image_id: int, ann_id: Any, split: str, texts: Sequence[str] = ("the one",), **more: Any) -> Json:
    """A reference; its sentences are numbered ref_id * 10 and on."""
    sentences = [{"sent_id": ref_id * 10 + i, "sent": text, "tokens": text.split()} for i, text in enumerate(texts)]
    return {"ref_id": ref_id, "image_id": image_id, "ann_id": ann_id, "split": split, "sentences": sentences, **more}


def annotations() -> list[Json]:
    """Two for each of the images 1 to 4, of every form that COCO has."""
    return [
        annotation(10, 1),
        annotation(11, 1, segmentation=rle(compressed=False), iscrowd=1),
        annotation(20, 2, segmentation=rle(compressed=True)),
        annotation(21, 2, segmentation=[[1.0, 1.0, 4.0, 1.0, 4.0, 4.0], [10.0, 10.0, 20.0, 10.0, 20.0, 20.0]]),
        annotation(30, 3),
        annotation(31, 3, category_id=2),
        annotation(40, 4),
        annotation(41, 4),
    ]


def write_instances(folder: Path, rows: Sequence[Json], images: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = {
        "images": [
            {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(1, images + 1)
        ],
        "annotations": list(rows),
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "instances.json").write_text(json.dumps(table))


def write_photos(root: Path, images: int = 4) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for i in range(1, images + 1):
        (root / f"images/COCO_train2014_{i:012d}.jpg").write_bytes(jpeg(i))


def refcoco_refs() -> list[Json]:
    """train: images 1, 2, 3 with 3, 1 and 1 expressions; val: image 4 with 2."""
    return [
        ref(0, 1, 10, "train", ["left cat", "the cat on the left"]),
        ref(1, 1, 11, "train", ["crowd"]),
        ref(2, 4, 40, "val", ["a cat", "it"]),
        ref(3, 3, 31, "train", ["dog"]),
        ref(4, 2, 20, "train", ["half"]),
    ]


def grefcoco_refs() -> list[Json]:
    """train: one expression with one target, two with two, one with none; val: one with one."""
    return [
        ref(0, 1, [10], "train", ["left cat"], no_target=False),
        ref(1, 1, [11, 10], "train", ["both", "all cats"], no_target=False),
        ref(2, 2, [-1], "train", ["a horse"], no_target=True),
        ref(3, 4, [40], "val", ["a cat"], no_target=False),
    ]


def write_refcoco(root: Path, refs: Any = None, rows: Sequence[Json] | None = None, *, protocol: int = 2) -> None:
    """ROOT/refcoco and ROOT/images."""
    write_instances(root / "refcoco", annotations() if rows is None else rows)
    write_photos(root)
    data = pickle.dumps(refcoco_refs() if refs is None else refs, protocol=protocol)
    (root / "refcoco/refs(unc).p").write_bytes(data)


def write_grefcoco(root: Path, refs: Any = None, rows: Sequence[Json] | None = None) -> None:
    """ROOT/grefcoco and ROOT/images."""
    write_instances(root / "grefcoco", annotations() if rows is None else rows)
    write_photos(root)
    (root / "grefcoco/grefs(unc).json").write_text(json.dumps(grefcoco_refs() if refs is None else refs))


def flip(file: Path, column: str, count: int = 10) -> None:
    """Damage a Parquet file: flip every bit of `count` bytes in the middle of a column's first chunk."""
    metadata = pq.read_metadata(file)
    leaves = [metadata.schema.column(i).path for i in range(len(metadata.schema))]
    chunk = metadata.row_group(0).column(leaves.index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(file.read_bytes())
    for position in range(start + chunk.total_compressed_size // 2, start + chunk.total_compressed_size // 2 + count):
        data[position] ^= 0xFF
    file.write_bytes(data)
