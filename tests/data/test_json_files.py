"""Annotation files read piece by piece say what they say read as a whole, and take no more room than that."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refseg_cli.data.sources import instances, json_files
from refseg_cli.errors import RefsegError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('a"\\[]{},: é', max_size=5)
KEYS = st.sampled_from(["id", "tokens", "segmentation", "a}, {"])
VALUES = st.recursive(
    SCALARS | st.lists(st.lists(st.integers(0, 99), min_size=1), min_size=1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@example({"id": 1, "segmentation": [[[0]], None]}, None, 7)
@given(VALUES, st.sampled_from([None, 1]), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_pieces_of_any_size_say_what_the_whole_does(
    tmp_path_factory: pytest.TempPathFactory, value: Any, indent: int | None, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces.json"
    data = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "CHUNK", chunk)
        found = json_files.load_json(path)
    assert found == (json_files._whole(path, data), hashlib.sha256(data).hexdigest())


JSON = SCALARS | st.sampled_from([float("nan"), float("inf"), "\ud800", 2**64, -(2**80), 10**400, "\x00"])


@given(st.recursive(JSON, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=8))
def test_a_text_says_what_it_says_to_the_standard_library(value: Any) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert repr(json_files.parse(text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["", "[1] x", "[1,]", "\ufeff[1]", '["\t"]', "[" * 100_000, "01", '{"a" 1}'])
def test_what_is_no_json_text_is_refused(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        json_files.parse(text)


@pytest.mark.parametrize("data", [b'[{"a":1},]', b'[{"a":1}', b'{"a":[1] "b":2}', b"[1]]", b"{1:2}", b'{"a":1},', b"["])
def test_what_is_not_json_is_not_json_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(json_files, "CHUNK", 3)
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(RefsegError, match="not JSON"):
        json_files.load_json(tmp_path / "x.json")


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_other_encodings_are_read(tmp_path: Path, coding: str) -> None:
    (tmp_path / "x.json").write_text('[{"a": "é"}]', encoding=coding)
    assert json_files.load_json(tmp_path / "x.json")[0] == [{"a": "é"}]


@pytest.mark.parametrize("inner", [{"tokens": ["a"] * 900}, {"tokens": [{"b": 1}] * 600}])
def test_neither_bytes_nor_text_of_all_of_a_file_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: dict[str, Any]
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"images": [inner] * 400, "id": 7}))
    monkeypatch.setattr(json_files, "CHUNK", 1 << 15)
    tracemalloc.start()
    try:
        value, _ = json_files.load_json(path)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 2
    finally:
        tracemalloc.stop()
    assert value == {"images": [{}] * 400, "id": 7}


def test_annotations_of_images_that_nobody_wants_are_passed_over() -> None:
    rows = [{"id": i, "image_id": i, "category_id": 1, "segmentation": [], "bbox": "?"} for i in range(3)]
    images = [{"id": i, "file_name": "a.jpg", "height": 1, "width": 1} for i in range(3)]
    table = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    found = instances.parse(table, file="x.json", wanted={1})
    assert list(found.broken) == [1]
    assert found.image_of == {0: 0, 1: 1, 2: 2}
