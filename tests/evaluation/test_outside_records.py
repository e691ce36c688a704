"""Records are scored by their counts only against the truth that these were counted against, each row once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import records, write_split
from pycocotools import mask as coco
from scored import half, score

from refseg_cli.data import masks
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate


@pytest.fixture
def recorded(data, saved, tmp_path) -> Path:
    path = tmp_path / "records.parquet"
    evaluate(EvalRequest(str(data), ("val",), str(saved), "cpu", records=str(path)))
    return path


def changed(path: Path, column: str, values: pa.Array | list) -> Path:
    """The records with another column."""
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    values = values if isinstance(values, pa.Array) else pa.array(values, table.schema.field(place).type)
    found = table.set_column(place, column, values).replace_schema_metadata(table.schema.metadata)
    pq.write_table(found, path.with_name("changed.parquet"))
    return path.with_name("changed.parquet")


def test_records_of_truth_that_was_annotated_anew_are_named(data, recorded):
    """Same pictures, same ids; the first target is a pixel wider, and the fourth expression got one."""
    one, *others = records("val")
    wider = np.zeros((32, 32), bool)
    wider[:8, :9] = True
    instances = (replace(one.instances[0], rle=masks.encode(wider)), one.instances[1])
    said = (*one.expressions[:3], replace(one.expressions[3], targets=(1,)))
    write_split(data, "val", [replace(one, instances=instances, expressions=said), *others])
    with pytest.raises(RefsegError, match="3 changed truth") as error:
        score(data, recorded)
    assert (
        "sent_id 100, ref_id 10, image 1 'small': counted against 64 pixels, the target now has 72"
        in error.value.message
    )
    outside = score(data, recorded, skip=True)
    assert outside.problems.counts() == {"changed truth": 3}
    assert outside.answers["val"].sent_id.tolist() == [101, 200, 300]


def test_rows_of_records_that_are_doubled_or_of_others_are_named(data, recorded):
    """As many rows as expressions in every picture, but one of them twice and one not at all."""
    table = pq.read_table(recorded)
    ids = table.column("sent_id").to_pylist()
    assert ids[:2] == [100, 101]
    rows = [0, 0, *range(2, 6)]
    pq.write_table(table.take(rows), recorded.with_name("twice.parquet"))
    with pytest.raises(RefsegError, match="1 duplicate, 1 missing"):
        score(data, recorded.with_name("twice.parquet"))
    outside = score(data, recorded.with_name("twice.parquet"), skip=True)
    assert outside.answers["val"].sent_id.tolist() == [100, 102, 103, 200, 300]
    with pytest.raises(RefsegError, match="1 unknown, 1 missing"):
        score(data, changed(recorded, "sent_id", [999, *ids[1:]]))
    texts = table.column("text").to_pylist()
    with pytest.raises(RefsegError, match="1 contradictory, 1 missing"):
        score(data, changed(recorded, "text", ["another phrase", *texts[1:]]))
    shuffled = table.take([5, 2, 0, 4, 1, 3])
    pq.write_table(shuffled, recorded.with_name("shuffled.parquet"))
    assert len(score(data, recorded.with_name("shuffled.parquet")).answers["val"]) == 6


@pytest.mark.parametrize(
    ("first", "named"),
    [
        ({"size": [32, 32], "counts": "~~~~"}, "damaged RLE string"),
        ({"size": [32, 32], "counts": "é\n"}, "damaged RLE string"),
        ({"size": [32, 32], "counts": "10"}, "add up"),
        ({"size": [32, 32], "counts": None}, "without counts"),
        ({"size": None, "counts": "10"}, "without a size"),
        ({"size": [9, 9], "counts": "Q2"}, "mask of 9x9 pixels"),
    ],
)
@pytest.mark.parametrize("how", [{"masks": True}, {"protocols": ("lavt",)}], ids=["for the page", "by their masks"])
def test_masks_in_records_are_checked_like_those_in_json(data, recorded, first, named, how):
    column = pq.read_table(recorded).column("mask").to_pylist()
    source = changed(recorded, "mask", [first, *column[1:]])
    with pytest.raises(RefsegError, match=r"row 0: (unreadable|wrong size): ") as error:
        score(data, source, **how)
    assert named in error.value.message
    outside = score(data, source, skip=True, **how)
    assert outside.answers["val"].sent_id.tolist() == [101, 102, 103, 200, 300]
    assert len(outside.masks) == (5 if "masks" in how else 0)


def test_a_column_of_strings_is_no_masks(data, recorded):
    source = changed(recorded, "mask", pa.array(["~~~~"] * 6))
    for how in ({"masks": True}, {"protocols": ("lavt",)}):
        with pytest.raises(RefsegError, match="6 unreadable"):
            score(data, source, **how)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("predicted", pa.array([2**64 - 1] * 6, pa.uint64())),
        ("predicted", pa.array([5.5] * 6)),
        ("target", pa.array([float("nan")] * 6)),
        ("sent_id", pa.array([float("inf")] * 6)),
    ],
)
def test_numbers_of_records_that_are_no_counts_are_named(data, recorded, column, values):
    with pytest.raises(RefsegError, match=f"damaged records: {column} has values that are not whole numbers"):
        score(data, changed(recorded, column, values))


def test_whole_numbers_as_floats_are_whole_numbers(data, recorded):
    ids = pq.read_table(recorded).column("sent_id").to_pylist()
    source = changed(recorded, "sent_id", pa.array([float(n) for n in ids]))
    assert score(data, source).answers["val"].sent_id.tolist() == ids


# Runs of length zero, as writers make them that cap a run


def with_empty_runs(mask: np.ndarray) -> dict:
    """The left half in three runs, the second of which is empty."""
    inside = int(mask.sum())
    return {"size": list(mask.shape), "counts": [0, 5, 0, inside - 5, mask.size - inside]}


@pytest.mark.parametrize("form", ["counts", "string", "records"])
def test_masks_of_predictions_have_no_empty_runs(data, tmp_path, recorded, form):
    expressions = [(r, e) for r in records("val") for e in r.expressions]
    expected = [masks.encode(half(record)) for record, _ in expressions]
    runs = [with_empty_runs(half(record)) for record, _ in expressions]
    strings = [coco.frPyObjects(one, *one["size"]) for one in runs]
    strings = [{**one, "counts": one["counts"].decode()} for one in strings]
    if form == "records":
        found = pq.read_table(recorded)
        found = found.take([n for n, name in enumerate(found["split"].to_pylist()) if name == "val"])
        column = pa.array(strings, found.schema.field("mask").type)
        found = found.set_column(found.schema.get_field_index("mask"), "mask", column)
        source = tmp_path / "capped.parquet"
        pq.write_table(found, source)
    else:
        given = runs if form == "counts" else strings
        rows = [{"sent_id": e.sent_id, "mask": m} for (_, e), m in zip(expressions, given, strict=True)]
        source = tmp_path / "p.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score(data, source, masks=True).masks == expected


def test_figures_from_masks_where_counts_are_asked_for_are_told(data, recorded):
    assert score(data, recorded).cautions == ()
    (said,) = score(data, recorded, protocols=("refseg", "lavt")).cautions
    assert "has no counts by lavt, or only by earlier rules: all figures are from its masks" in said


def test_rows_of_records_are_merged_if_that_is_asked_for(data, recorded):
    """Each mask in two rows, its left half and its right one: together the same figures, and not those of a half."""
    table = pq.read_table(recorded)
    whole = [coco.decode(mask) for mask in table.column("mask").to_pylist()]
    assert any(mask.any() for mask in whole)
    left = [mask * (np.arange(mask.shape[1]) < mask.shape[1] / 2) for mask in whole]
    rows = [masks.encode(mask) for mask in (*left, *(a - b for a, b in zip(whole, left, strict=True)))]
    kind = table.schema.field("mask").type
    column = pa.array([{"size": list(row.size), "counts": row.counts} for row in rows], kind)
    twice = pa.concat_tables([table, table])
    twice = twice.set_column(table.schema.get_field_index("mask"), table.schema.field("mask"), column)
    source = recorded.with_name("halves.parquet")
    pq.write_table(twice.replace_schema_metadata(table.schema.metadata), source)
    with pytest.raises(RefsegError, match=r"duplicate.*--merge union makes one mask"):
        score(data, source)
    merged, plain = score(data, source, merge="union"), score(data, recorded, merge="union")
    assert plain.cautions == ()  # nothing to merge: scored by their counts
    assert [len(said) for said in (merged.problems.counts(), merged.cautions)] == [0, 1]
    assert "several rows are one answer" in merged.cautions[0]
    found, wanted = (outside.answers["val"].counts() for outside in (merged, plain))
    assert found.intersection.tolist() == wanted.intersection.tolist()
    assert found.union.tolist() == wanted.union.tolist()
