"""One row of a shard: its columns, how they are stored, and the way from a `Record` and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from refseg_cli.data import masks
from refseg_cli.data.orientation import AS_STORED, ORIENTATIONS
from refseg_cli.records import Expression, Instance, Record, Rle

T = TypeVar("T")

_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
_INSTANCE = pa.struct(
    [
        ("ann_id", pa.int64()),
        ("category_id", pa.int64()),
        ("category", pa.string()),
        ("box", pa.list_(pa.float64())),
        ("rle", _RLE),
        ("iscrowd", pa.bool_()),
    ]
)
_EXPRESSION = pa.struct(
    [
        ("text", pa.string()),
        ("ref_id", pa.int64()),
        ("sent_id", pa.int64()),
        ("targets", pa.list_(pa.int32())),
        ("raw", pa.string()),
        ("ignored", _RLE),
    ]
)
_REPEATING = frozenset({"split", "instances.list.element.category", "clip"})  # columns
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _feature(kind: pa.DataType) -> Any:
    """The description of a column that Hugging Face `datasets` keeps in a schema's metadata."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type) for i in range(kind.num_fields)}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    return {"dtype": str(kind).replace("double", "float64"), "_type": "Value"}


_COLUMNS = pa.schema(
    [
        ("image", _IMAGE),
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("split", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("orientation", pa.int8()),
        ("instances", pa.list_(_INSTANCE)),
        ("expressions", pa.list_(_EXPRESSION)),
    ]
)


def _described(columns: pa.Schema) -> pa.Schema:
    features = {f.name: _feature(f.type) for f in columns}
    return columns.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


SCHEMA = _described(_COLUMNS)
CLIP_SCHEMA = _described(_COLUMNS.append(pa.field("clip", pa.string())).append(pa.field("frame", pa.int32())))


def to_batch(records: Sequence[Record], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    """Rows in the order of the records."""
    images = [pa.array([r.image for r in records], pa.binary()), pa.array([r.file_name for r in records], pa.string())]
    of_clips = [pa.array([getattr(r, f.name) for r in records], f.type) for f in list(schema)[len(SCHEMA) :]]
    return pa.RecordBatch.from_arrays(
        [
            pa.StructArray.from_arrays(images, fields=list(_IMAGE)),
            pa.array([r.image_id for r in records], pa.int64()),
            images[1],
            pa.array([r.split for r in records], pa.string()),
            pa.array([r.height for r in records], pa.int32()),
            pa.array([r.width for r in records], pa.int32()),
            pa.array([r.orientation for r in records], pa.int8()),
            _lists([r.instances for r in records], _instances),
            _lists([r.expressions for r in records], _expressions),
            *of_clips,
        ],
        schema=schema,
    )


def _lists(parts: Sequence[Sequence[T]], to_array: Callable[[list[T]], pa.Array]) -> pa.ListArray:
    """A list column: one array of all the parts together, and where each begins."""
    offsets = pa.array([0, *accumulate(len(part) for part in parts)], pa.int32())
    return pa.ListArray.from_arrays(offsets, to_array([item for part in parts for item in part]))


def _instances(instances: list[Instance]) -> pa.StructArray:
    return pa.StructArray.from_arrays(
        [
            pa.array([i.ann_id for i in instances], pa.int64()),
            pa.array([i.category_id for i in instances], pa.int64()),
            pa.array([i.category for i in instances], pa.string()),
            _lists([i.box for i in instances], lambda sides: pa.array(sides, pa.float64())),
            _rles([i.rle for i in instances]),
            pa.array([i.iscrowd for i in instances], pa.bool_()),
        ],
        fields=list(_INSTANCE),
    )


def _rles(rles: list[Rle | None] | list[Rle]) -> pa.StructArray:
    return pa.StructArray.from_arrays(
        [
            _lists([rle.size if rle else () for rle in rles], lambda sides: pa.array(sides, pa.int32())),
            pa.array([rle.counts.decode("ascii") if rle else None for rle in rles], pa.string()),
        ],
        fields=list(_RLE),
        mask=pa.array([rle is None for rle in rles], pa.bool_()),
    )


def _expressions(expressions: list[Expression]) -> pa.StructArray:
    return pa.StructArray.from_arrays(
        [
            pa.array([e.text for e in expressions], pa.string()),
            pa.array([e.ref_id for e in expressions], pa.int64()),
            pa.array([e.sent_id for e in expressions], pa.int64()),
            _lists([e.targets for e in expressions], lambda targets: pa.array(targets, pa.int32())),
            pa.array([e.raw for e in expressions], pa.string()),
            _rles([e.ignored for e in expressions]),
        ],
        fields=list(_EXPRESSION),
    )


def to_records(rows: Sequence[Mapping[str, Any]]) -> list[Record]:
    """What a row lacks, `image` or `instances`, is left empty.

    Raises:
        ValueError: a mask, or an orientation, that is none.
    """
    # Shards made before `masks.from_segmentation` saw to it may have runs of length zero.
    rles = iter(masks.normal([_to_rle(i["rle"]) for row in rows for i in row.get("instances", ())]))
    return [_to_record(row, rles) for row in rows]


def _to_record(row: Mapping[str, Any], rles: Iterator[Rle]) -> Record:
    """rles: of the instances of this row, and then of the rows behind it."""
    orientation = row.get("orientation", AS_STORED)  # shards of before are of the pixels as stored
    if orientation not in ORIENTATIONS:
        raise ValueError(f"orientation {orientation}")
    return Record(
        image_id=row["image_id"],
        file_name=row["file_name"],
        split=row["split"],
        height=row["height"],
        width=row["width"],
        image=row["image"]["bytes"] if "image" in row else b"",
        instances=tuple(_to_instance(instance, next(rles)) for instance in row.get("instances", ())),
        expressions=tuple(map(_to_expression, row["expressions"])),
        orientation=orientation,
        clip=row.get("clip", ""),
        frame=row.get("frame", 0),
    )


def _to_expression(row: Mapping[str, Any]) -> Expression:
    raw, ignored = row.get("raw") or "", row.get("ignored")  # shards of versions before these columns have none
    region = masks.normal([_to_rle(ignored)])[0] if ignored else None
    return Expression(row["text"], row["ref_id"], row["sent_id"], tuple(row["targets"]), raw, region)


def _to_rle(row: Mapping[str, Any]) -> Rle:
    height, width = row["size"]
    return Rle((height, width), row["counts"].encode())


def _to_instance(row: Mapping[str, Any], rle: Rle) -> Instance:
    x, y, w, h = row["box"]
    return Instance(
        ann_id=row["ann_id"],
        category_id=row["category_id"],
        category=row["category"],
        box=(x, y, w, h),
        rle=rle,
        iscrowd=row["iscrowd"],
    )


def storage_settings(schema: pa.Schema = SCHEMA) -> dict[str, Any]:
    """How a shard is laid out: photos stored as they are, everything else zstd, an index of the pages and
    a checksum for each.

    Statistics are off for photos, which they would copy; dictionaries are on where values repeat.
    """
    leaves = _leaves(schema)
    photo = "image.bytes"
    return {
        "compression": {leaf: "NONE" if leaf == photo else "ZSTD" for leaf in leaves},
        "use_dictionary": [leaf for leaf in leaves if leaf in _REPEATING],
        "write_statistics": [leaf for leaf in leaves if leaf != photo],
        "write_page_index": True,
        "write_page_checksum": True,
        "store_schema": True,
    }


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's names of the columns, e.g. ``instances.list.element.ann_id``."""
    empty = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), empty)
    stored = pq.ParquetFile(pa.BufferReader(empty.getvalue())).schema
    return [stored.column(i).path for i in range(len(stored))]
