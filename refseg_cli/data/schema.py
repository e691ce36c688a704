"""One row of a shard: its columns, how they are stored, and the way from a `Record` and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, pairwise, repeat
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

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
# A column, by Parquet's name
_PHOTO = "image.bytes"
# What training looks at
TRAINING = [
    _PHOTO,
    "file_name",
    "height",
    "width",
    "orientation",
    *(f"instances.list.element.{part}" for part in ("ann_id", "category_id", "box", "rle")),
    *(f"expressions.list.element.{part}" for part in ("text", "raw", "targets")),
]
_REPEATING = frozenset({"split", "instances.list.element.category", "clip"})
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
    images = [_bytes([r.image for r in records], pa.binary()), _strings([r.file_name for r in records])]
    clip = [_strings([r.clip for r in records]), _numbers([r.frame for r in records], np.int32)]
    return pa.RecordBatch.from_arrays(
        [
            pa.StructArray.from_arrays(images, fields=list(_IMAGE)),
            _numbers([r.image_id for r in records], np.int64),
            images[1],
            _strings([r.split for r in records]),
            _numbers([r.height for r in records], np.int32),
            _numbers([r.width for r in records], np.int32),
            _numbers([r.orientation for r in records], np.int8),
            _lists([r.instances for r in records], _instances),
            _lists([r.expressions for r in records], _expressions),
            *clip[: len(schema) - len(SCHEMA)],
        ],
        schema=schema,
    )


def _lists(parts: Sequence[Sequence[T]], to_array: Callable[[list[T]], pa.Array]) -> pa.ListArray:
    """A list column: one array of all the parts together, and where each begins."""
    offsets = _numbers([0, *accumulate(map(len, parts))], np.int32)
    return pa.ListArray.from_arrays(offsets, to_array(list(chain.from_iterable(parts))))


def _instances(instances: list[Instance]) -> pa.StructArray:
    return pa.StructArray.from_arrays(
        [
            _numbers([i.ann_id for i in instances], np.int64),
            _numbers([i.category_id for i in instances], np.int64),
            _strings([i.category for i in instances]),
            _lists([i.box for i in instances], lambda sides: _numbers(sides, np.float64)),
            _rles([i.rle for i in instances]),
            _flags([i.iscrowd for i in instances]),
        ],
        fields=list(_INSTANCE),
    )


def _rles(rles: list[Rle | None] | list[Rle]) -> pa.StructArray:
    return pa.StructArray.from_arrays(
        [
            _lists([rle.size if rle else () for rle in rles], lambda sides: _numbers(sides, np.int32)),
            _bytes([rle.counts if rle else b"" for rle in rles], pa.string()),
        ],
        fields=list(_RLE),
        mask=_flags([rle is None for rle in rles]),
    )


def _expressions(expressions: list[Expression]) -> pa.StructArray:
    return pa.StructArray.from_arrays(
        [
            _strings([e.text for e in expressions]),
            _numbers([e.ref_id for e in expressions], np.int64),
            _numbers([e.sent_id for e in expressions], np.int64),
            _lists([e.targets for e in expressions], lambda targets: _numbers(targets, np.int32)),
            _strings([e.raw for e in expressions]),
            _rles([e.ignored for e in expressions]),
        ],
        fields=list(_EXPRESSION),
    )


# Arrays are made of their memory. `pa.array` takes longer, and imports pandas wherever that is installed: 50 MB and a
# quarter of a second.


def _numbers(values: Sequence[float], kind: type[np.number]) -> pa.Array:
    memory = np.array(values, kind)
    return pa.Array.from_buffers(pa.from_numpy_dtype(kind), len(memory), [None, pa.py_buffer(memory)])


def _flags(values: Sequence[bool]) -> pa.BooleanArray:
    memory = np.packbits(np.array(values, np.bool_), bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(memory)])


def _strings(values: Iterable[str]) -> pa.StringArray:
    return _bytes([value.encode() for value in values], pa.string())


def _bytes(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    """kind: of bytes, or of strings, as whose UTF-8 they are taken."""
    ends = np.array([0, *accumulate(map(len, values))], np.int32)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))])


def to_records(rows: Sequence[Mapping[str, Any]]) -> list[Record]:
    """What a row lacks, `image` or `instances`, is left empty.

    Raises:
        ValueError: a mask, or an orientation, that is none.
    """
    # Shards made before `masks.from_segmentation` saw to it may have runs of length zero.
    rles = iter(masks.normal([_to_rle(i["rle"]) for row in rows for i in row.get("instances", ())]))
    return [_to_record(row, rles) for row in rows]


def to_training_records(table: pa.Table) -> list[Record]:
    """Of rows that have the columns of `TRAINING` alone; the rest is left empty. Masks are as stored, unchecked.

    Column by column, without a dictionary for each row, instance and expression.

    Raises:
        ValueError: an orientation that is none, a box of other than four sides.
    """
    return [record for rows in table.to_batches() for record in _training_records(rows)]


def _training_records(rows: pa.RecordBatch) -> list[Record]:
    of = {name: rows.column(name) for name in rows.schema.names}
    objects, asked = of["instances"].values, of["expressions"].values
    rle, targets = objects.field("rle"), asked.field("targets")
    sizes = [(height, width) for height, width in _parts(rle.field("size"))]
    boxes = [(x, y, w, h) for x, y, w, h in _parts(objects.field("box"))]
    rles = map(Rle, sizes, rle.field("counts").cast(pa.binary()).to_pylist())
    ann_ids, category_ids = objects.field("ann_id").to_pylist(), objects.field("category_id").to_pylist()
    instances = [*map(Instance, ann_ids, category_ids, repeat(""), boxes, rles)]
    # Shards of versions before these columns have none.
    raw = asked.field("raw").fill_null("").to_pylist() if asked.type.get_field_index("raw") >= 0 else repeat("")
    texts = asked.field("text").to_pylist()
    expressions = [*map(Expression, texts, repeat(0), repeat(0), _parts(targets), raw)]
    orientations = of["orientation"].to_pylist() if "orientation" in of else repeat(AS_STORED)
    return [
        Record(0, file_name, "", height, width, photo, own, phrases, _checked(orientation))
        for file_name, height, width, photo, own, phrases, orientation in zip(
            of["file_name"].to_pylist(),
            of["height"].to_pylist(),
            of["width"].to_pylist(),
            of["image"].field("bytes").to_pylist(),
            _parts(of["instances"], instances),
            _parts(of["expressions"], expressions),
            orientations,
            strict=False,  # what is repeated has no end
        )
    ]


def _parts(lists: pa.ListArray, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """What each list has; values: what stands for `lists.values`, which are taken themselves if not given."""
    values = lists.values.to_pylist() if values is None else values
    return [tuple(values[start:end]) for start, end in pairwise(lists.offsets.to_pylist())]


def _checked(orientation: int) -> int:
    if orientation not in ORIENTATIONS:
        raise ValueError(f"orientation {orientation}")
    return orientation


def _to_record(row: Mapping[str, Any], rles: Iterator[Rle]) -> Record:
    """rles: of the instances of this row, and then of the rows behind it."""
    return Record(
        image_id=row["image_id"],
        file_name=row["file_name"],
        split=row["split"],
        height=row["height"],
        width=row["width"],
        image=row["image"]["bytes"] if "image" in row else b"",
        instances=tuple(_to_instance(instance, next(rles)) for instance in row.get("instances", ())),
        expressions=tuple(map(_to_expression, row["expressions"])),
        orientation=_checked(row.get("orientation", AS_STORED)),  # shards of before are of the pixels as stored
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


def _to_box(sides: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, w, h = sides
    return x, y, w, h


def _to_instance(row: Mapping[str, Any], rle: Rle) -> Instance:
    return Instance(
        ann_id=row["ann_id"],
        category_id=row["category_id"],
        category=row["category"],
        box=_to_box(row["box"]),
        rle=rle,
        iscrowd=row["iscrowd"],
    )


def storage_settings(schema: pa.Schema = SCHEMA) -> dict[str, Any]:
    """How a shard is laid out: photos stored as they are, everything else in snappy; an index of the pages and a
    checksum for each.

    Most pages have a few hundred bytes, for which zstd takes longer to begin than to compress. The runs of masks it
    makes smaller by a quarter, which is 0.2 % of a shard, in twice the time. Statistics are kept of what a row has one
    value of, by which readers choose rows, but not of photos, which they would copy. Dictionaries are on where values
    repeat.
    """
    leaves = [leaf for f in schema for leaf in _leaves(f.type, f.name)]
    return {
        "compression": {leaf: "NONE" if leaf == _PHOTO else "SNAPPY" for leaf in leaves},
        "use_dictionary": [leaf for leaf in leaves if leaf in _REPEATING],
        "write_statistics": [leaf for leaf in leaves if leaf != _PHOTO and ".list." not in leaf],
        "write_page_index": True,
        "write_page_checksum": True,
        "store_schema": True,
    }


def _leaves(kind: pa.DataType, name: str) -> Iterator[str]:
    """Parquet's names of the columns that a field is stored in, e.g. ``instances.list.element.ann_id``."""
    if pa.types.is_struct(kind):
        for part in kind:
            yield from _leaves(part.type, f"{name}.{part.name}")
    elif pa.types.is_list(kind):
        yield from _leaves(kind.value_type, f"{name}.list.element")
    else:
        yield name
