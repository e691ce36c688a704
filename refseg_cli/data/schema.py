"""One row of a shard: its columns, how they are stored, and the way from a `Record` and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from refseg_cli.records import Expression, Instance, Record, Rle

_INSTANCE = pa.struct(
    [
        ("ann_id", pa.int64()),
        ("category_id", pa.int64()),
        ("category", pa.string()),
        ("box", pa.list_(pa.float64())),
        ("rle", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
        ("iscrowd", pa.bool_()),
    ]
)
_EXPRESSION = pa.struct(
    [("text", pa.string()), ("ref_id", pa.int64()), ("sent_id", pa.int64()), ("targets", pa.list_(pa.int32()))]
)
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
        ("instances", pa.list_(_INSTANCE)),
        ("expressions", pa.list_(_EXPRESSION)),
    ]
)
SCHEMA = _COLUMNS.with_metadata(
    {"huggingface": json.dumps({"info": {"features": {f.name: _feature(f.type) for f in _COLUMNS}}})}
)


def to_batch(records: Sequence[Record]) -> pa.RecordBatch:
    """Rows in the order of the records."""
    images = [{"bytes": r.image, "path": r.file_name} for r in records]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(images, _IMAGE),
            pa.array([r.image_id for r in records], pa.int64()),
            pa.array([r.file_name for r in records], pa.string()),
            pa.array([r.split for r in records], pa.string()),
            pa.array([r.height for r in records], pa.int32()),
            pa.array([r.width for r in records], pa.int32()),
            pa.array([[_instance_row(i) for i in r.instances] for r in records], pa.list_(_INSTANCE)),
            pa.array([[_expression_row(e) for e in r.expressions] for r in records], pa.list_(_EXPRESSION)),
        ],
        schema=SCHEMA,
    )


def _instance_row(instance: Instance) -> dict[str, Any]:
    return {
        "ann_id": instance.ann_id,
        "category_id": instance.category_id,
        "category": instance.category,
        "box": instance.box,
        "rle": {"size": instance.rle.size, "counts": instance.rle.counts.decode("ascii")},
        "iscrowd": instance.iscrowd,
    }


def _expression_row(expression: Expression) -> dict[str, Any]:
    return {
        "text": expression.text,
        "ref_id": expression.ref_id,
        "sent_id": expression.sent_id,
        "targets": expression.targets,
    }


def to_record(row: Mapping[str, Any]) -> Record:
    return Record(
        image_id=row["image_id"],
        file_name=row["file_name"],
        split=row["split"],
        height=row["height"],
        width=row["width"],
        image=row["image"]["bytes"],
        instances=tuple(_to_instance(i) for i in row["instances"]),
        expressions=tuple(
            Expression(e["text"], e["ref_id"], e["sent_id"], tuple(e["targets"])) for e in row["expressions"]
        ),
    )


def _to_instance(row: Mapping[str, Any]) -> Instance:
    x, y, w, h = row["box"]
    height, width = row["rle"]["size"]
    return Instance(
        ann_id=row["ann_id"],
        category_id=row["category_id"],
        category=row["category"],
        box=(x, y, w, h),
        rle=Rle((height, width), row["rle"]["counts"].encode()),
        iscrowd=row["iscrowd"],
    )


def storage_settings() -> dict[str, Any]:
    """How a shard is laid out: photos stored as they are, everything else zstd, an index of the pages.

    Statistics are off for photos, which they would copy; dictionaries are on where values repeat.
    """
    leaves = _leaves()
    photo = "image.bytes"
    return {
        "compression": {leaf: "NONE" if leaf == photo else "ZSTD" for leaf in leaves},
        "use_dictionary": ["split", "instances.list.element.category"],
        "write_statistics": [leaf for leaf in leaves if leaf != photo],
        "write_page_index": True,
        "store_schema": True,
    }


def _leaves() -> list[str]:
    """Parquet's names of the columns, e.g. ``instances.list.element.ann_id``."""
    empty = pa.BufferOutputStream()
    pq.write_table(SCHEMA.empty_table(), empty)
    schema = pq.ParquetFile(pa.BufferReader(empty.getvalue())).schema
    return [schema.column(i).path for i in range(len(schema))]
