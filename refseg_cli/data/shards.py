"""Prepared data: Parquet shards with one image a row, and the manifest that says they are complete.

Of videos an image is a frame; the frames of a clip follow each other, in one shard.

    OUT/train-00000-of-00012.parquet    image bytes as found, instances, expressions
    OUT/_manifest.json                  counts and hashes; written last, so its presence means "complete"

`pyarrow.dataset.dataset(OUT)` and `pandas.read_parquet(OUT)` read the folder as one table;
`datasets.load_dataset("parquet", data_files=...)` reads the shards too, with `image` as an Image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from refseg_cli.config import build
from refseg_cli.data import storage
from refseg_cli.data.schema import (
    CLIP_SCHEMA,
    SCHEMA,
    TRAINING,
    storage_settings,
    to_batch,
    to_records,
    to_training_records,
)
from refseg_cli.data.storage import Place, locate
from refseg_cli.data.tables import numbers
from refseg_cli.data.tally import COUNTS, ShardInfo, SplitInfo, Tally
from refseg_cli.errors import RefsegError, first_line, unknown_name
from refseg_cli.files import parse_json, parse_own_json
from refseg_cli.records import Record

# Part of every plan, so that a rerun does not mix shards of two formats. 1: pages without checksums, sentences in one
# form, pictures as stored. 2: no pixels that count for nothing.
FORMAT = 3
READABLE = (1, 2, FORMAT)
MANIFEST = "_manifest.json"  # readers of a folder of Parquet files pass over names with an underscore
MANIFESTS = (MANIFEST, "manifest.json")  # and the earlier name
_ABOUT = b"refseg"  # in a shard's metadata: `About` as JSON
# Reading one image at random reads its row group: small ones, since an image is some 150 kB. But each has its columns,
# and with half as many rows an image takes 0.05 ms longer to write.
ROWS_PER_GROUP = 16
KEPT_BYTES = 96 << 20  # of the row groups that a reader keeps: a window of `loader.shuffled` of photos of 190 kB
GROUPS_AT_A_TIME = 16  # of those that are read without their photos
REPAIR = "run the same `refseg prepare` again: it makes damaged shards anew"
WRITE_BYTES = 1 << 20  # gathered before they are hashed and passed on: Parquet writes many small pieces


@dataclass(frozen=True, slots=True)
class Manifest:
    """What OUT/_manifest.json says.

    image_source: where image ids come from; the same id means the same picture within one source only.
    source:       what the data was made from: file names and hashes, or a generator's settings.
    plan:         fingerprint of everything that the bytes of the shards depend on, but for the photos.
    problems:     reason -> how many broken inputs there were, cautions among them.
    """

    dataset: str
    split_by: str
    image_source: str
    source: dict[str, Any]
    plan: str
    splits: dict[str, SplitInfo]
    problems: dict[str, int] = field(default_factory=dict)
    refseg: str = ""
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """Equal for the same shards, photos included."""
        files = sorted((file.name, file.sha256) for split in self.splits.values() for file in split.files)
        return hashlib.sha256(json.dumps([self.plan, files]).encode()).hexdigest()

    @property
    def has_page_checksums(self) -> bool:
        """Whether damage to the shards shows when they are read."""
        return self.format > 1

    @property
    def has_raw_sentences(self) -> bool:
        """Whether sentences are there as they were typed, too, where the source had them."""
        return self.format > 1

    def to_json(self) -> bytes:
        splits = {name: split.to_json() for name, split in self.splits.items()}
        return (json.dumps({**asdict(self), "splits": splits}, indent=1, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True, slots=True)
class About:
    """What a shard says of itself, so that a rerun can keep it.

    plan: as in `Manifest`.  counts: without `files`.  problems: what was left out of it, in the caller's form.
    """

    plan: str
    counts: SplitInfo
    problems: list[dict[str, Any]]


def write_shard(place: Place, records: Iterable[Record], *, plan: str, problems: list[dict[str, Any]]) -> SplitInfo:
    """Write one shard, whole or not at all; its counts, with one `ShardInfo` in `files`.

    Args:
        problems: kept with the shard; looked at when all records were taken, so `records` may append to it.

    Raises:
        RefsegError: disk full and the like; and whatever `records` raises.
    """
    tally, remaining = Tally(), iter(records)
    groups = iter(lambda: list(islice(remaining, ROWS_PER_GROUP)), [])
    first = next(groups, [])
    schema = CLIP_SCHEMA if first and first[0].clip else SCHEMA
    with storage.writing(place) as sink:
        buffer = io.BufferedWriter(sink, WRITE_BYTES)
        writer = pq.ParquetWriter(buffer, schema, **storage_settings(schema))
        try:
            for rows in chain([first], groups) if first else ():
                batch = to_batch(rows, schema)
                for record in rows:
                    tally.add(record)
                rows.clear()  # so that photos are held once while they are written
                writer.write_batch(batch)
                del batch
            counts = tally.counts()
            about = json.dumps({"plan": plan, "counts": counts.to_json(), "problems": problems}, ensure_ascii=False)
            # Problems may name what is no Unicode; what stands for such bytes is escaped, as JSON has it.
            writer.add_key_value_metadata({_ABOUT: about.encode("utf-8", "backslashreplace")})
            writer.close()
            buffer.flush()
        finally:
            writer.is_open = False  # or, after a failure, its destructor writes to the closed file and complains
    return replace(counts, files=(ShardInfo(place.name, sink.size, sink.digest.hexdigest(), counts.images),))


def about_shard(place: Place) -> About | None:
    """What a complete shard says of itself; None if the file is no complete shard of ours."""
    try:
        with place.open() as stream:
            table = parse_json((pq.read_metadata(stream).metadata or {})[_ABOUT])
        return About(table["plan"], _to_split(table["counts"]), table["problems"])
    except (RefsegError, pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None


def holds(place: Place, images: Iterable[tuple[int, bytes]]) -> bool:
    """Whether a shard is sound, and has exactly these images in this order.

    Args:
        images: the id of each, and the bytes of its photo.
    """
    try:
        return all(found == wanted for found, wanted in zip_longest(_photos(place), images))
    except RefsegError:
        return False


def _photos(place: Place) -> Iterator[tuple[int, pa.Buffer]]:
    """Image id and photo of each row. All columns are read with them, so that every page is verified."""
    with place.open() as stream, _explained(place):
        file = pq.ParquetFile(stream, page_checksum_verification=True)
        for batch in file.iter_batches(ROWS_PER_GROUP, use_threads=False):
            photos = batch.column("image").field("bytes")
            yield from zip(batch.column("image_id").to_pylist(), (photo.as_buffer() for photo in photos), strict=True)


@contextmanager
def _explained(place: Place, where: str = "") -> Iterator[None]:
    """What Arrow complains of while it reads a shard, in one line with its name; where: in it."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise RefsegError(f"{place.uri}: damaged shard: {where}{reason}", hint=REPAIR) from error


def row_count(place: Place) -> int:
    """Rows of a shard, by its footer.

    Raises:
        RefsegError: no such file, or no Parquet.
    """
    try:
        with place.open() as stream:
            return pq.read_metadata(stream).num_rows
    except (pa.ArrowException, OSError) as error:
        raise RefsegError(f"{place.uri}: not a Parquet file: {error}", hint=REPAIR) from error


def read_manifest(uri: str | Place) -> Manifest:
    """The manifest of prepared data.

    Raises:
        RefsegError: there is none, or it is of another format.
    """
    return parse_manifest(find_manifest(uri if isinstance(uri, Place) else locate(uri)))


def find_manifest(folder: Place) -> Place:
    """Where the manifest of prepared data is, under its name of today or the earlier one.

    Raises:
        RefsegError: there is none.
    """
    for name in MANIFESTS:
        if (folder / name).exists():
            return folder / name
    raise RefsegError(
        f"{folder.uri}: no complete prepared data here ({MANIFEST} is missing)",
        hint="`refseg prepare` writes it last; run it again if it was interrupted",
    )


def parse_manifest(place: Place) -> Manifest:
    """What a manifest says.

    Raises:
        RefsegError: it is damaged, or of another format.
    """
    try:
        table = parse_own_json(place.read())
        if table["format"] not in READABLE:
            raise RefsegError(
                f"{place.uri}: format {table['format']}, this version reads {FORMAT}", hint="prepare the data again"
            )
        splits = {name: _to_split(split) for name, split in table["splits"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefsegError(f"{place.uri}: damaged manifest: {error}", hint="prepare the data again") from error
    return replace(build(Manifest, {**table, "splits": {}}, f"{place.uri}: damaged manifest"), splits=splits)


def _to_split(table: Mapping[str, Any]) -> SplitInfo:
    """Raises TypeError, ValueError: it is not one. By hand: there may be very many files."""
    split = SplitInfo(**{**table, "files": tuple(ShardInfo(**file) for file in table["files"])})
    counts = [getattr(split, name) for name in COUNTS]
    for file in split.files:
        counts += (file.bytes, file.images)
        if type(file.name) is not str or "/" in file.name or "\0" in file.name:  # none leads elsewhere
            raise ValueError(f"{file.name!r} is no name of a file in its folder")
    if wrong := [number for number in counts if type(number) is not int or not 0 <= number < 1 << 63]:
        raise ValueError(f"{wrong[0]!r} in place of a count")
    return split


def open_shards(uri: str | Path, split: str) -> Shards:
    """One split of prepared data.

    Raises:
        RefsegError: the data is missing or incomplete, or has no such split.
    """
    folder = locate(uri)
    manifest = read_manifest(folder)
    if split not in manifest.splits:
        raise unknown_name(f"split of {folder.uri}", split, manifest.splits)
    return Shards(str(uri), split, manifest)


def _records(table: pa.Table) -> list[Record]:
    return to_records(table.to_pylist())


class Shards:
    """One split as a sequence of records, by position in the order of the files.

    Files are opened when they are first needed in each process, so that an object may cross to other processes by
    fork or by pickling.

    training: records hold what training looks at, see `schema.to_training_records`.
    """

    def __init__(self, uri: str, split: str, manifest: Manifest, training: bool = False) -> None:
        self.uri, self.split, self.manifest, self.training = uri, split, manifest, training
        self.files = manifest.splits[split].files
        self._starts = [0, *accumulate(file.images for file in self.files)]
        self._counts: np.ndarray | None = None
        self._forget()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        file = bisect_right(self._starts, index) - 1
        row = index - self._starts[file]
        starts = self._group_starts(file)
        group = bisect_right(starts, row) - 1
        return self._row_group(file, group)[row - starts[group]]

    def for_training(self) -> Shards:
        """The same split, of whose records no more is read than training looks at."""
        return Shards(self.uri, self.split, self.manifest, training=True)

    def annotations(self) -> Iterator[Record]:
        """The records in their order with `image` left empty: the photos, nearly all of the data, are not read."""
        return self._without("image")

    def phrases(self) -> Iterator[Record]:
        """The same with `instances` left empty, too."""
        return self._without("image", "instances")

    def _without(self, *left_out: str) -> Iterator[Record]:
        for file in range(len(self.files)):
            parquet = self._open(file)
            columns = [name for name in parquet.schema_arrow.names if name not in left_out]
            groups = range(parquet.metadata.num_row_groups)
            for start in range(0, len(groups), GROUPS_AT_A_TIME):
                part = list(groups[start : start + GROUPS_AT_A_TIME])
                with _explained(self.place(file)):
                    records = _records(parquet.read_row_groups(part, columns=columns, use_threads=False))
                yield from records

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "split": self.split, "manifest": self.manifest, "training": self.training}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def verify(self) -> None:
        """Compare the files with the hashes in the manifest.

        Page checksums, which are verified whenever something is read, would stop a run only when it comes to the
        damage. They also leave out the footer, and old shards have none.

        Raises:
            RefsegError: a file is damaged or missing.
        """
        for number, file in enumerate(self.files):
            if self.place(number).sha256() != file.sha256:
                raise RefsegError(
                    f"{self.place(number).uri}: damaged shard: its SHA-256 is not that of the manifest", hint=REPAIR
                )

    @property
    def expression_counts(self) -> np.ndarray:
        """(images,) int64, how many expressions each image has."""
        if self._counts is None:
            columns = [self._column(file, "expressions.list.element.sent_id") for file in range(len(self.files))]
            lengths = [numbers(chunk.value_lengths()) for column in columns for chunk in column.chunks]
            self._counts = np.concatenate([np.zeros(0, np.int64), *lengths]).astype(np.int64)
        return self._counts

    def target_ids(self) -> list[list[int]]:
        """For each image, an id of the referred instances for each expression: equal ids, equal targets."""
        images: list[list[int]] = []
        for file in range(len(self.files)):
            for expressions in self._column(file, "expressions.list.element.targets").to_pylist():
                seen: dict[tuple[int, ...], int] = {}
                keys = [tuple(sorted(expression["targets"])) for expression in expressions]
                images.append([seen.setdefault(key, len(seen)) for key in keys])
        return images

    def clip_names(self) -> list[str]:
        """(images,) the video of each frame; empty for pictures."""
        names: list[str] = []
        for file, info in enumerate(self.files):
            known = "clip" in self._open(file).schema_arrow.names
            names += self._column(file, "clip").to_pylist() if known else [""] * info.images
        return names

    def image_ids(self) -> np.ndarray:
        """(images,) int64."""
        columns = [numbers(self._column(file, "image_id")) for file in range(len(self.files))]
        return np.concatenate([np.zeros(0, np.int64), *columns])

    def row_groups(self) -> np.ndarray:
        """(images,) int64: the same for images that are read at once, ascending."""
        sizes = [np.diff([*self._group_starts(n), file.images]) for n, file in enumerate(self.files)]
        return np.repeat(np.arange(sum(map(len, sizes))), np.concatenate([np.zeros(0, np.int64), *sizes]))

    def _column(self, file: int, name: str) -> pa.ChunkedArray:
        with _explained(self.place(file)):
            return self._open(file).read(columns=[name], use_threads=False).column(0)

    def _group_starts(self, file: int) -> list[int]:
        """The first row of each row group; read from the file, since writers may choose other sizes."""
        if file not in self._grouping:
            metadata = self._open(file).metadata
            rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._grouping[file] = [0, *accumulate(rows[:-1])]
        return self._grouping[file]

    def _row_group(self, file: int, group: int) -> list[Record]:
        if (file, group) not in self._groups or self._process != os.getpid():
            with _explained(self.place(file)):
                columns = TRAINING if self.training else None
                table = self._open(file).read_row_group(group, columns=columns, use_threads=False)
                self._groups[file, group] = self._converted(file, group, table), table.nbytes
            self._kept += table.nbytes
            while self._kept > KEPT_BYTES and len(self._groups) > 1:
                _, (_, size) = self._groups.popitem(last=False)
                self._kept -= size
        self._groups.move_to_end((file, group))
        return self._groups[file, group][0]

    def _converted(self, file: int, group: int, table: pa.Table) -> list[Record]:
        convert = to_training_records if self.training else _records
        try:
            return convert(table)
        except (KeyError, TypeError, ValueError):
            for place, row in enumerate(range(len(table)), start=self._group_starts(file)[group]):
                with _explained(self.place(file), f"row {place}: "):
                    convert(table.take([row]))
            raise

    def _open(self, file: int) -> pq.ParquetFile:
        if self._process != os.getpid():  # a file position must not be shared across a fork
            self._forget()
        if file not in self._opened:
            place = self.place(file)
            with _explained(place):
                # What lies far away is fetched in few pieces; a local file is mapped into memory.
                self._opened[file] = pq.ParquetFile(
                    place.open(), page_checksum_verification=True, pre_buffer=not place.is_local
                )
        return self._opened[file]

    def place(self, file: int) -> Place:
        """Where a file of `files` is."""
        return locate(self.uri) / self.files[file].name

    def _forget(self) -> None:
        self._process = os.getpid()
        self._opened: dict[int, pq.ParquetFile] = {}
        self._grouping: dict[int, list[int]] = {}
        self._groups: OrderedDict[tuple[int, int], tuple[list[Record], int]] = OrderedDict()
        self._kept = 0  # bytes
