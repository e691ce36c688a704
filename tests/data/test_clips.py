"""Clips in shards: frames of a video stay together, and are read back as such."""

from __future__ import annotations

import io
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from refseg_cli.data import masks, shards, storage
from refseg_cli.data.clips import Clips
from refseg_cli.data.schema import SCHEMA
from refseg_cli.data.tally import SplitInfo, Tally
from refseg_cli.errors import RefsegError
from refseg_cli.records import Expression, Instance, Record


def picture(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 6), grey).save(buffer, "PNG")
    return buffer.getvalue()


def frame(clip: int, number: int) -> Record:
    """Thing 1 is in every frame, thing 2 in odd ones; asked are both, thing 2, and what is not there."""
    mask = np.zeros((6, 8), bool)
    mask[number % 6, clip] = True
    things = (1, 2) if number % 2 else (1,)
    instances = tuple(Instance(k, 0, "", (clip, 0, 1, 1), masks.encode(mask)) for k in things)
    expressions = (
        Expression("both", 10 * clip, 10 * clip, tuple(range(len(things)))),
        Expression("the second", 10 * clip + 1, 10 * clip + 1, (1,) if 2 in things else ()),
        Expression("a horse", 10 * clip + 2, 10 * clip + 2, ()),
    )
    image_id = 100 * clip + number
    return Record(
        image_id,
        f"v{clip}/{number:05}.jpg",
        "train",
        6,
        8,
        picture(image_id),
        instances,
        expressions,
        1,
        f"v{clip}",
        number,
    )


def write(folder: Path, clips: int = 2, length: int = 11) -> shards.Manifest:
    info = SplitInfo()
    for clip in range(clips):
        rows = (frame(clip, number) for number in range(length))
        info = info.plus(
            shards.write_shard(storage.locate(folder / f"train-{clip}.parquet"), rows, plan="p", problems=[])
        )
    manifest = shards.Manifest("d", "own", "d", {}, "p", {"train": info})
    storage.write(storage.locate(folder / shards.MANIFEST), manifest.to_json())
    return manifest


def test_clips_are_read_back_frame_by_frame(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    split = shards.open_shards(tmp_path, "train")
    assert split.manifest == manifest
    clips = Clips(split)
    assert [(clip.name, clip.rows, clip.expressions) for clip in clips] == [
        ("v0", range(11), 3),
        ("v1", range(11, 22), 3),
    ]
    assert [[split[row] for row in clip.rows] for clip in clips] == [[frame(c, n) for n in range(11)] for c in range(2)]
    assert [e.text for e in split[clips[0].rows[0]].expressions] == ["both", "the second", "a horse"]


def test_an_expression_counts_once_a_clip(tmp_path: Path) -> None:
    info = write(tmp_path).splits["train"]
    assert (info.images, info.clips, info.refs, info.expressions) == (22, 2, 6, 6)
    assert (info.single, info.multi, info.no_target) == (2, 2, 2)


def test_pictures_count_one_by_one_as_before() -> None:
    tally = Tally()
    for record in chain((frame(0, n) for n in range(3)), ()):
        tally.add(Record(*(getattr(record, name) for name in Record.__slots__[:9])))
    counts = tally.counts()
    assert (counts.images, counts.clips, counts.expressions) == (3, 0, 9)
    assert set(counts.to_json()) == {"images", "refs", "expressions", "single", "multi", "no_target", "files"}


def test_shards_of_pictures_stay_as_they_were(tmp_path: Path) -> None:
    record = Record(*(getattr(frame(0, 0), name) for name in Record.__slots__[:9]))
    place = storage.locate(tmp_path / "train-0.parquet")
    shards.write_shard(place, [record], plan="p", problems=[])
    assert pq.read_schema(tmp_path / "train-0.parquet").names == SCHEMA.names


def test_pictures_are_no_clips(tmp_path: Path) -> None:
    record = Record(*(getattr(frame(0, 0), name) for name in Record.__slots__[:9]))
    place = storage.locate(tmp_path / "train-0.parquet")
    info = shards.write_shard(place, [record], plan="p", problems=[])
    manifest = shards.Manifest("d", "own", "d", {}, "p", {"train": info})
    storage.write(storage.locate(tmp_path / shards.MANIFEST), manifest.to_json())
    with pytest.raises(RefsegError, match="train has pictures, not clips"):
        Clips(shards.open_shards(tmp_path, "train"))
