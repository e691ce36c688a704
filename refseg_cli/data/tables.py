"""Tables in Parquet: rows of a dataclass, written as they come and read by column; rows of tables by others."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from refseg_cli.data import storage
from refseg_cli.errors import RefsegError, first_line
from refseg_cli.records import Detection, Rle

Row = TypeVar("Row")

ROW_GROUP = 4096  # rows held in memory before they are written
ROWS_AT_A_TIME = 64  # of a table of others, where a row may hold a photo

# COCO's compressed RLE, as pycocotools and others read it
MASK = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
TYPES = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    Rle: MASK,
    tuple[int, ...]: pa.list_(pa.int32()),
    tuple[str, ...]: pa.list_(pa.string()),
    # x, y, width, height in pixels
    tuple[Detection, ...] | None: pa.list_(
        pa.struct([("box", pa.list_(pa.float64())), ("score", pa.float64()), ("mask", MASK)])
    ),
}


@contextmanager
def writing_rows(uri: str, row: type[Row], *, metadata: Mapping[str, str]) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Gives a function that appends rows; the file appears when the block ends, and never if the block fails.

    Args:
        row: a dataclass whose fields are of `TYPES`; each becomes a column of its name.
        metadata: kept in the file's schema.

    Raises:
        RefsegError: the file cannot be written; said at the start of the block where it can be known there.
    """
    hints = typing.get_type_hints(row)
    names = [f.name for f in fields(row)]  # type: ignore[arg-type]
    schema = pa.schema([(name, TYPES[hints[name]]) for name in names], metadata=dict(metadata))
    pending: list[Row] = []

    def flush() -> None:
        columns = [pa.array([_plain(getattr(r, f.name)) for r in pending], f.type) for f in schema]
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        pending.clear()

    def append(rows: Sequence[Row]) -> None:
        pending.extend(rows)
        if len(pending) >= ROW_GROUP:
            flush()

    with storage.writing(storage.locate(uri)) as stream:
        writer = pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True)
        try:
            yield append
            if pending:
                flush()
            writer.close()
        finally:
            writer.is_open = False  # or, after a failure, its destructor writes to the closed file and complains


def read_columns(
    uri: str, names: Sequence[str], *, optional: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The columns of those names, (rows,) each, and the file's metadata.

    optional: columns that older files lack; taken where they are there.

    Raises:
        RefsegError: no such file, not Parquet, damaged, or without such a column.
    """
    with storage.locate(uri).open() as file, _explained(uri):
        footer = pq.read_metadata(file)
        # Strings stay the dictionaries that Parquet has them as: of a million phrases most are equal to another.
        strings = [field.name for field in footer.schema.to_arrow_schema() if pa.types.is_string(field.type)]
        parquet = pq.ParquetFile(file, metadata=footer, read_dictionary=strings, page_checksum_verification=True)
        metadata = {k.decode(): v.decode() for k, v in (parquet.schema_arrow.metadata or {}).items()}
        for name in names:
            if name not in parquet.schema_arrow.names:
                raise RefsegError(f"{uri}: no column {name!r}", hint=f"it has {', '.join(parquet.schema_arrow.names)}")
        found = [*names, *(name for name in optional if name in parquet.schema_arrow.names)]
        table = parquet.read(columns=found)
        return {name: _column(table[name]) for name in found}, metadata


def _column(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,), of lists (rows, k) where they are whole numbers and equally many.

    Strings that are equal are one object, and so are equal lists of one string.
    """
    kind = column.type
    if pa.types.is_list(kind) and not column.null_count:
        whole = column.combine_chunks()
        lengths, values = numbers(whole.value_lengths()), whole.flatten()
        if pa.types.is_integer(kind.value_type) and not values.null_count:
            if len(lengths) and (lengths == lengths[0]).all():
                return numbers(values).reshape(len(lengths), -1)
        elif pa.types.is_string(kind.value_type):
            return _string_lists(values, lengths)
    if pa.types.is_dictionary(kind):
        return _strings(column.combine_chunks())
    plain = pa.types.is_primitive(kind) and not column.null_count
    return numbers(column) if plain else column.to_numpy()


def numbers(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(rows,) of numbers or flags without a null. Not by `to_numpy`, which imports pandas wherever that is installed.

    findings/pyarrow-to-numpy-pandas.sh has the cost.
    """
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if not len(whole):
        return np.zeros(0, dtype=whole.type.to_pandas_dtype())
    if pa.types.is_boolean(whole.type):
        return np.from_dlpack(whole.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(whole)


def _strings(encoded: pa.DictionaryArray) -> np.ndarray:
    strings = np.array([*encoded.dictionary.to_pylist(), None], dtype=object)
    codes = encoded.indices.fill_null(len(encoded.dictionary)) if encoded.null_count else encoded.indices
    return strings[numbers(codes)]


def _string_lists(values: pa.StringArray, lengths: np.ndarray) -> np.ndarray:
    """(rows,) of tuples."""
    encoded = values.dictionary_encode()
    strings, codes = encoded.dictionary.to_pylist(), numbers(encoded.indices)
    known = np.empty(len(strings) + 1, dtype=object)  # a tuple of each string, and the empty one
    for place, string in enumerate(strings):
        known[place] = (string,)
    known[-1] = ()
    ends, one = np.cumsum(lengths), lengths == 1
    which = np.full(len(lengths), len(strings))
    which[one] = codes[ends[one] - 1]
    found = known[which]
    for row in np.flatnonzero(lengths > 1).tolist():
        found[row] = tuple(strings[code] for code in codes[ends[row] - lengths[row] : ends[row]].tolist())
    return found


def column_names(uri: str) -> tuple[str, ...]:
    """The columns of a Parquet file, of any kind.

    Raises:
        RefsegError: no such file, or not Parquet.
    """
    with storage.locate(uri).open() as file, _explained(uri):
        return tuple(pq.read_schema(file).names)


def iter_rows(uri: str, *, without: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file of any kind, as plain values, a few of them in memory at a time.

    without: columns that are left out.

    Raises:
        RefsegError: no such file, not Parquet, or damaged.
    """
    with storage.locate(uri).open() as file, _explained(uri):
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        names = [name for name in parquet.schema_arrow.names if name not in without]
        for batch in parquet.iter_batches(ROWS_AT_A_TIME, columns=names, use_threads=False):
            yield from batch.to_pylist()


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """What Arrow complains of, in one line with the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RefsegError(f"{uri}: cannot read this as Parquet: {first_line(error)}") from error


def read_rows(uri: str) -> list[dict[str, Any]]:
    """The rows of somebody's table, as plain Python values.

    Raises:
        RefsegError: no such file, not Parquet, or damaged.
    """
    with storage.locate(uri).open() as file:
        try:
            return pq.ParquetFile(file, page_checksum_verification=True).read().to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RefsegError(f"{uri}: cannot read this as Parquet: {first_line(error)}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Rle):
        return {"size": value.size, "counts": value.counts.decode("ascii")}
    if isinstance(value, Detection):
        return {"box": value.box, "score": value.score, "mask": _plain(value.rle)}
    if isinstance(value, tuple) and value and isinstance(value[0], Detection):
        return [_plain(one) for one in value]
    return value
