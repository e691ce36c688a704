"""A page to look at beside prepared data: `--preview`."""

from __future__ import annotations

from collections.abc import Iterator

from refseg_cli.data import shards, storage
from refseg_cli.data.shards import Manifest
from refseg_cli.records import Record
from refseg_cli.report import preview

PAGE = "_preview.html"  # readers of a folder of Parquet files pass over names with an underscore


def write_preview(out: str, manifest: Manifest, *, pictures: int) -> str:
    """Write a page with some pictures of the prepared data, from all over it, and their phrases; gives its path or URI.

    Raises:
        RefsegError: a shard that is damaged, a full disk.
    """
    place = storage.locate(out) / PAGE
    expressions = sum(split.expressions for split in manifest.splits.values())
    title = (
        f"{manifest.dataset}: {min(pictures, _images(manifest))} of {_images(manifest)} pictures, {expressions} phrases"
    )
    storage.write(place, preview.render(title, _spread(out, manifest, pictures)))
    return place.uri


def _images(manifest: Manifest) -> int:
    return sum(split.images for split in manifest.splits.values())


def _spread(out: str, manifest: Manifest, pictures: int) -> Iterator[Record]:
    """Records at equal distances, split after split."""
    total = _images(manifest)
    wanted = sorted({i * total // pictures for i in range(pictures)})
    first = 0
    for split, info in manifest.splits.items():
        rows = shards.open_shards(out, split)
        yield from (rows[i - first] for i in wanted if first <= i < first + info.images)
        first += info.images
