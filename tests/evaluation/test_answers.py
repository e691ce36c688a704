"""Answers on disk: the round trip, files from before some of the columns, and files that are none."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from refseg_cli.data import masks
from refseg_cli.data.shards import MANIFEST
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import (
    NO_MASK,
    About,
    Answer,
    collect,
    concatenate,
    plan_views,
    read_answers,
    read_masks,
    writing_records,
)
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.records import Thresholds

ABOUT = About(
    data="somewhere",
    dataset="scenes",
    model="tiny",
    trained_on="scenes",
    thresholds=Thresholds(mask=0.5, exists=0.3, min_pixels=2),
    mask_thresholds=(0.2, 0.8),
    views={"lavt": 0, "rela": 1},
)


def mask(pixels: int) -> np.ndarray:
    found = np.zeros((4, 5), dtype=bool)
    found.flat[:pixels] = True
    return found


ROWS = [
    Answer(1, 10, 100, "val", "a dog", 1, True, True, 0.9, 3, 6, 4, 5, masks.encode(mask(4)), True, ("dog",), 3, 4,
           (4, 9, 2, 2), (30, 40, 50, 31, 41, 51)),
    Answer(1, 11, 101, "val", "two cats", 2, True, False, 0.1, 0, 8, 0, 8, masks.encode(mask(0)), True, ("cat",), 2, 3,
           (3, 7, 1, 1), (20, 30, 80, 21, 31, 81)),
    Answer(2, 12, 102, "testA", "nothing", 0, False, True, 0.3, 0, 2, 2, 0, masks.encode(mask(2)), True, (), 0, 2,
           (0, 6, 0, 1), (0, 20, 0, 0, 21, 0)),
]  # fmt: skip


def written(path: Path, rows=ROWS, about=ABOUT) -> str:
    with writing_records(str(path), about) as append:
        append(rows)
    return str(path)


def test_what_is_read_is_what_was_written(tmp_path):
    uri = written(tmp_path / "r.parquet")
    found, expected = read_answers(uri), collect(ABOUT, ROWS)
    assert found.about == ABOUT
    for f in fields(found):
        column, other = getattr(found, f.name), getattr(expected, f.name)
        if isinstance(column, np.ndarray):
            assert column.dtype == other.dtype, f.name
            np.testing.assert_array_equal(column, other)
        else:
            assert column == other, f.name
    as_coco = [{"size": list(row.mask.size), "counts": row.mask.counts.decode()} for row in ROWS]
    assert read_masks(uri) == as_coco


def test_a_reference_is_one_of_its_split_and_picture():
    places = [("val", 1, 7), ("val", 1, 7), ("val", 2, 7), ("test", 1, 7), ("val", 1, 8)]
    rows = [replace(ROWS[0], split=split, image_id=image, ref_id=ref) for split, image, ref in places]
    found = collect(ABOUT, rows).references.tolist()
    assert [found.index(number) for number in found] == [0, 0, 2, 3, 4]
    assert collect(ABOUT, []).references.tolist() == []


def test_each_protocol_finds_its_counts():
    found = collect(ABOUT, ROWS)
    assert found.counts().predicted.tolist() == [4, 3, 2]  # before the rule emptied the second
    assert found.counts().says_target.tolist() == [True, False, True]
    assert found.counts(PROTOCOLS["thesis"]).intersection.tolist() == [3, 2, 0]  # by 0.5 at original size, as its own
    assert found.counts(PROTOCOLS["lavt"]).intersection.tolist() == [30, 20, 0]
    assert found.counts(PROTOCOLS["rela"]).target.tolist() == [51, 81, 0]
    assert found.has_counts(PROTOCOLS["rela"])
    assert not found.has_counts(PROTOCOLS["cris"])
    with pytest.raises(KeyError):
        found.counts(PROTOCOLS["cris"])
    other = replace(found, about=replace(ABOUT, thresholds=Thresholds(mask=0.4)))
    assert not other.has_counts(PROTOCOLS["thesis"])
    finished = replace(found, about=replace(ABOUT, finished=True))
    assert finished.counts(PROTOCOLS["cris"]).intersection.tolist() == [3, 2, 0]


def test_a_point_of_the_curve_is_decided_by_the_models_own_rule():
    found = collect(ABOUT, ROWS)
    low, high = found.counts_at(0), found.counts_at(1)
    assert (low.intersection.tolist(), low.predicted.tolist()) == ([4, 3, 0], [9, 7, 6])
    assert low.says_target.tolist() == [True, False, True]  # probabilities 0.9, 0.1, 0.3 against 0.3
    assert high.says_target.tolist() == [True, False, False]  # one pixel is fewer than two
    headless = collect(ABOUT, [replace(row, has_head=False) for row in ROWS])
    assert headless.counts_at(1).says_target.tolist() == [True, False, False]
    assert np.isnan(headless.counts().p_target).all()


def test_views_are_planned_once_each_and_the_models_own_not_at_all():
    named = [PROTOCOLS[name] for name in ("refseg", "thesis", "vlt", "lavt", "asda")]
    places, views = plan_views(named, Thresholds())
    assert places == {"vlt": 0, "lavt": 1, "asda": 0}
    assert views == [PROTOCOLS["vlt"].view(0.5), PROTOCOLS["lavt"].view(0.5)]
    assert "thesis" in plan_views(named, Thresholds(mask=0.4))[0]


def test_rows_splits_and_parts():
    found = collect(ABOUT, ROWS)
    assert found.splits == ["val", "testA"]
    assert found.of_split("testA").text == ["nothing"]
    assert found.rows(np.array([2, 0])).sent_id.tolist() == [102, 100]
    joined = concatenate(ABOUT, [collect(ABOUT, ROWS[:1]), collect(ABOUT, ROWS[1:])])
    assert joined.text == found.text
    np.testing.assert_array_equal(joined.views, found.views)
    assert len(concatenate(ABOUT, [])) == 0
    assert concatenate(ABOUT, []).views.shape == (0, 2, 3)


def test_files_from_before_some_columns_are_read_as_far_as_they_go(tmp_path):
    """Format /1 promises that columns are only ever added."""
    about = About(data="d", model="m", thresholds=Thresholds(mask=0.5))
    table = pq.read_table(written(tmp_path / "new.parquet", [replace(r, curve=(), views=()) for r in ROWS], about))
    added = ["has_head", "categories", "raw_intersection", "raw_predicted", "curve", "views"]
    metadata = {b"format": b"refseg.records/1", b"about": b'{"data": "d", "model": "m", "thresholds": {"mask": 0.5}}'}
    pq.write_table(table.drop_columns(added).replace_schema_metadata(metadata), tmp_path / "old.parquet")
    found = read_answers(str(tmp_path / "old.parquet"))
    assert found.about == replace(about, rules=1)
    assert found.counts().predicted.tolist() == [4, 0, 2]
    assert found.categories == [(), (), ()]
    assert not found.has_head.any()


def test_what_a_later_version_adds_is_passed_over(tmp_path):
    table = pq.read_table(written(tmp_path / "now.parquet"))
    about = table.schema.metadata[b"about"].replace(b"{", b'{"colour": "red", ', 1).replace(b'"lavt"', b'"unheard-of"')
    later = table.append_column("mood", pa.array(["fine"] * 3))
    pq.write_table(
        later.replace_schema_metadata({**table.schema.metadata, b"about": about}), tmp_path / "later.parquet"
    )
    found = read_answers(str(tmp_path / "later.parquet"))
    assert found.counts(PROTOCOLS["rela"]).target.tolist() == [51, 81, 0]


def test_other_files_are_no_records(data, tmp_path):
    with pytest.raises(RefsegError, match="no such file"):
        read_answers(str(tmp_path / "missing.parquet"))
    with pytest.raises(RefsegError, match="Parquet"):
        read_answers(str(data / MANIFEST))
    with pytest.raises(RefsegError, match="no column"):
        read_answers(str(data / "val-00000-of-00001.parquet"))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("union", [1, 1, 1], "damaged records: expression 0"),
        ("raw_intersection", [9, 0, 0], "damaged records: expression 0"),
        ("views", [[1, 2, 3]] * 3, "damaged records"),
        ("views", [[1, 2, 3, 4, 0, 0]] * 3, "damaged records: expression"),
    ],
)
def test_damaged_records_are_no_scores(tmp_path, column, values, message):
    uri = written(tmp_path / "r.parquet")
    table = pq.read_table(uri)
    place = table.schema.get_field_index(column)
    broken = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    pq.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(RefsegError, match=message):
        read_answers(str(tmp_path / "broken.parquet"))
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "plain.parquet")
    with pytest.raises(RefsegError, match="not a file of records"):
        read_answers(str(tmp_path / "plain.parquet"))


def test_a_row_without_a_mask_says_so():
    assert Answer(1, 1, 1, "val", "x", 0, False, False, 0.0, 0, 0, 0, 0, NO_MASK).mask.size == (0, 0)


def test_counts_by_rules_of_before_are_no_longer_the_protocols(tmp_path):
    """lavt took other neighbours, rela crowds, cris another grid: nobody is to take them for today's."""
    now = pq.read_table(written(tmp_path / "now.parquet"))
    assert read_answers(str(tmp_path / "now.parquet")).has_counts(PROTOCOLS["lavt"])
    about = json.loads(now.schema.metadata[b"about"])
    assert about.pop("rules") == 3
    metadata = {**now.schema.metadata, b"about": json.dumps(about).encode()}
    pq.write_table(now.replace_schema_metadata(metadata), tmp_path / "before.parquet")
    before = read_answers(str(tmp_path / "before.parquet"))
    assert not before.has_counts(PROTOCOLS["lavt"])
    assert not before.has_counts(PROTOCOLS["rela"])
