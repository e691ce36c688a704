"""Rows of a dataclass to Parquet and back."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_layout import flip

from refseg_cli.data import masks, tables
from refseg_cli.data.tables import read_columns, writing_rows
from refseg_cli.errors import RefsegError
from refseg_cli.records import Rle


@dataclass(frozen=True)
class Line:
    number: int
    share: float
    text: str
    yes: bool
    mask: Rle


LINES = [Line(i, i / 7, "ä" * i, i % 2 == 0, masks.encode(np.tri(i + 1, 5, dtype=bool))) for i in range(8)]


def write(path: Path, *parts: list[Line]) -> None:
    with writing_rows(str(path), Line, metadata={"key": "värde"}) as append:
        for part in parts:
            append(part)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "lines.parquet", LINES[:3], [], LINES[3:])
    columns, metadata = read_columns(str(tmp_path / "lines.parquet"), ["text", "number", "share", "yes"])
    assert list(columns) == ["text", "number", "share", "yes"]
    assert [tuple(row) for row in zip(*(c.tolist() for c in columns.values()), strict=True)] == [
        (line.text, line.number, line.share, line.yes) for line in LINES
    ]
    assert (columns["number"].dtype, columns["yes"].dtype) == (np.int64, np.bool_)
    assert metadata["key"] == "värde"
    rles = pq.read_table(tmp_path / "lines.parquet", columns=["mask"])["mask"].to_pylist()
    assert [Rle(tuple(r["size"]), r["counts"].encode()) for r in rles] == [line.mask for line in LINES]


def test_rows_leave_memory_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 3)
    write(tmp_path / "lines.parquet", *([line] for line in LINES))
    file = pq.ParquetFile(tmp_path / "lines.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 2]
    assert file.read(columns=["number"])["number"].to_pylist() == list(range(8))


def test_no_rows_are_a_table_of_no_rows(tmp_path):
    write(tmp_path / "lines.parquet")
    columns, _ = read_columns(str(tmp_path / "lines.parquet"), ["number", "yes"])
    assert [(c.shape, c.dtype) for c in columns.values()] == [((0,), np.int64), ((0,), np.bool_)]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # pyarrow's destructor would complain
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    write(tmp_path / "lines.parquet", LINES[:1])

    def fail() -> None:
        with writing_rows(str(tmp_path / "lines.parquet"), Line, metadata={}) as append:
            append(LINES)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["lines.parquet"]
    assert len(read_columns(str(tmp_path / "lines.parquet"), ["number"])[0]["number"]) == 1


def test_other_files_and_columns_are_named(tmp_path):
    write(tmp_path / "lines.parquet", LINES)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "lines.parquet").read_bytes()[:-20])
    (tmp_path / "empty.parquet").touch()
    for name in ("cut", "empty"):
        with pytest.raises(RefsegError, match=f"{name}.parquet: cannot read this as Parquet"):
            read_columns(str(tmp_path / f"{name}.parquet"), ["number"])
    with pytest.raises(RefsegError, match="no column 'age'") as error:
        read_columns(str(tmp_path / "lines.parquet"), ["number", "age"])
    assert error.value.hint == "it has number, share, text, yes, mask"
    with pytest.raises(RefsegError, match=r"missing\.parquet: no such file"):
        read_columns(str(tmp_path / "missing.parquet"), ["number"])


def test_strings_that_are_equal_are_one_object_and_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 2)  # dictionaries of their own
    rows = [Line(i, 0.0, text, True, LINES[0].mask) for i, text in enumerate(["a", "b", "b", "c", "b"])]
    write(tmp_path / "lines.parquet", *([row] for row in rows))
    texts = read_columns(str(tmp_path / "lines.parquet"), ["text"])[0]["text"].tolist()
    assert texts == ["a", "b", "b", "c", "b"]
    assert texts[1] is texts[2] is texts[4]
    pq.write_table(pa.table({"text": ["a", None, "a"]}), tmp_path / "gaps.parquet")
    assert read_columns(str(tmp_path / "gaps.parquet"), ["text"])[0]["text"].tolist() == ["a", None, "a"]


def test_damage_is_named(tmp_path):
    shares = np.random.default_rng(0).random(100)  # nothing to compress, so that nothing else would notice
    lines = [Line(i, share, "", True, LINES[0].mask) for i, share in enumerate(shares.tolist())]
    write(tmp_path / "lines.parquet", lines)
    flip(tmp_path / "lines.parquet", "share")
    with pytest.raises(RefsegError, match=r"lines\.parquet: cannot read this as Parquet: .* CRC "):
        read_columns(str(tmp_path / "lines.parquet"), ["share"])


def test_a_table_without_checksums_is_read(tmp_path):
    write(tmp_path / "lines.parquet", LINES)
    pq.write_table(pq.read_table(tmp_path / "lines.parquet"), tmp_path / "old.parquet")
    assert read_columns(str(tmp_path / "old.parquet"), ["number"])[0]["number"].tolist() == list(range(8))


def test_rows_go_where_the_name_points(tmp_path):
    """As every file does, see test_files.py: through a link, into a FIFO, with the mode that was there."""
    write(tmp_path / "real.parquet", LINES[:1])
    (tmp_path / "real.parquet").chmod(0o600)
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    write(tmp_path / "link.parquet", LINES)
    assert (tmp_path / "link.parquet").is_symlink()
    assert (tmp_path / "real.parquet").stat().st_mode & 0o777 == 0o600
    os.mkfifo(tmp_path / "fifo.parquet")
    with ThreadPoolExecutor(1) as other:
        read = other.submit((tmp_path / "fifo.parquet").read_bytes)
        write(tmp_path / "fifo.parquet", LINES)
        assert read.result(timeout=30) == (tmp_path / "real.parquet").read_bytes()
    assert (tmp_path / "fifo.parquet").is_fifo()


READS = """
import sys
from importlib.abc import MetaPathFinder

class Asked(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "pandas":
            raise SystemExit("pandas is imported")

sys.meta_path.insert(0, Asked())
from refseg_cli.data.shards import open_shards
from refseg_cli.data.tables import read_columns

shards = open_shards(sys.argv[1], "val")
assert shards.expression_counts.sum() and len(shards.image_ids())
read_columns(sys.argv[2], ["text", "image_id", "flag", "share", "categories", "curve"])
"""


def test_reading_does_without_pandas(scenes, tmp_path):
    """pyarrow imports it for `to_numpy` where it is installed: a second and 50 MB for nothing."""

    @dataclass
    class Row:
        text: str
        image_id: int
        flag: bool
        share: float
        categories: tuple[str, ...]
        curve: tuple[int, ...]

    file = tmp_path / "rows.parquet"
    rows = [Row("dog", 1, True, 0.5, ("dog",), (1, 2)), Row("cat", 2, False, 0.25, (), (3, 4))]
    with writing_rows(str(file), Row, metadata={}) as append:
        append(rows)
    columns, _ = read_columns(str(file), [f.name for f in fields(Row)])
    assert columns["flag"].tolist() == [True, False]
    assert columns["share"].tolist() == [0.5, 0.25]
    assert columns["curve"].tolist() == [[1, 2], [3, 4]]
    ran = subprocess.run(
        [sys.executable, "-c", READS, str(scenes), str(file)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
