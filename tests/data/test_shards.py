"""Shards: what is written is read back, whole or not at all, by us and by `datasets`."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import uuid
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco
from raw_layout import flip, jpeg

from refseg_cli.data import masks, shards, storage, tally
from refseg_cli.data.schema import CLIP_SCHEMA, SCHEMA, storage_settings, to_batch
from refseg_cli.errors import RefsegError
from refseg_cli.records import Expression, Instance, Record, Rle

COUNT = 37


def record(i: int) -> Record:
    """Image i has i % 4 expressions, with 0, 1 and 2 targets in turn."""
    mask = np.zeros((2, 24, 32), bool)
    mask[0, i % 20 :, i % 7] = mask[1, : i % 20 + 1, 9] = True
    instances = tuple(
        Instance(100 * i + k, k, "cat" if k else "dog", (0.5 + k, 1.0, 2.25, 3.0 + i), masks.encode(mask[k]), bool(k))
        for k in range(2)
    )
    expressions = tuple(
        Expression(f"phrase {k} – «{i}»", 10 * i, 100 * i + k, tuple(range(k % 3)), f"Phrase {k} , «{i}» .")
        for k in range(i % 4)
    )
    return Record(i, f"{i}.jpg", "val", 24, 32, jpeg(i), instances, expressions)


def write(uri: str, count: int = COUNT) -> shards.Manifest:
    """`count` records in shards of 17 images, with a manifest."""
    folder = storage.locate(uri)
    info = tally.SplitInfo()
    for number, start in enumerate(range(0, count, 17)):
        rows = map(record, range(start, min(start + 17, count)))
        info = info.plus(shards.write_shard(folder / f"val-{number}.parquet", rows, plan="p", problems=[]))
    manifest = shards.Manifest("d", "unc", "coco", {}, "p", {"val": info})
    storage.write(folder / shards.MANIFEST, manifest.to_json())
    return manifest


@pytest.fixture(params=["path", "file://", "memory://"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory://":
        return f"memory://{uuid.uuid4().hex}/a b"
    return str(tmp_path / "out") if request.param == "path" else (tmp_path / "out").as_uri()


def test_what_is_written_is_read_back(uri: str) -> None:
    manifest = write(uri)
    split = shards.open_shards(uri, "val")
    assert split.manifest == manifest
    assert len(split) == COUNT
    assert [split[i] for i in range(COUNT)] == [record(i) for i in range(COUNT)]
    assert [split[i] for i in (36, 3, 19, 0, -1, -37)] == [record(i) for i in (36, 3, 19, 0, 36, 0)]
    assert split.expression_counts.tolist() == [i % 4 for i in range(COUNT)]
    assert split.image_ids().tolist() == list(range(COUNT))
    with pytest.raises(IndexError):
        split[COUNT]


def test_shards_without_the_column_of_raw_phrases_are_read(tmp_path: Path) -> None:
    """As versions before that column wrote them."""
    write(str(tmp_path))
    for file in tmp_path.glob("*.parquet"):
        table = pq.read_table(file)
        rows = table["expressions"].to_pylist()
        for row in rows:
            for expression in row:
                del expression["raw"]
        place = table.schema.get_field_index("expressions")
        pq.write_table(table.set_column(place, "expressions", pa.array(rows)), file, row_group_size=8)
    split = shards.open_shards(str(tmp_path), "val")
    expected = [replace(e, raw="") for i in range(COUNT) for e in record(i).expressions]
    assert [e for i in range(COUNT) for e in split[i].expressions] == expected
    assert {e.raw for e in expected} == {e.text for e in expected}
    training = split.for_training()
    assert [e.raw for i in range(COUNT) for e in training[i].expressions] == [e.text for e in expected]


def test_counts_are_those_of_the_records(tmp_path: Path) -> None:
    info = write(str(tmp_path)).splits["val"]
    # Of 37 images, nine each have 1, 2 and 3 expressions: 0 targets; 0 and 1; 0, 1 and 2.
    assert (info.images, info.refs, info.expressions) == (37, 27, 54)
    assert (info.no_target, info.single, info.multi) == (27, 18, 9)
    assert [file.images for file in info.files] == [17, 17, 3]


def test_a_file_appears_whole_or_not_at_all(uri: str) -> None:
    folder = storage.locate(uri)

    def breaks_off() -> Iterator[Record]:
        yield from map(record, range(10))
        assert not any(name.endswith(".parquet") for name in folder.names())
        raise RefsegError("broken")

    with pytest.raises(RefsegError, match="broken"):
        shards.write_shard(folder / "val-0.parquet", breaks_off(), plan="p", problems=[])
    assert folder.names() == []


def test_hash_and_size_are_those_of_the_file(tmp_path: Path) -> None:
    import hashlib

    for file in write(str(tmp_path)).splits["val"].files:
        data = (tmp_path / file.name).read_bytes()
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_batch_is_what_arrow_makes_of_the_same_values() -> None:
    ignored = masks.encode(np.tri(24, 32, dtype=bool))
    records = [replace(record(i), clip="c" * i, frame=i) for i in range(4)]
    records[3] = replace(records[3], expressions=tuple(replace(e, ignored=ignored) for e in records[3].expressions[:2]))
    rows = [{**asdict(r), "image": {"bytes": r.image, "path": r.file_name}, "file_name": r.file_name} for r in records]
    for schema in (SCHEMA, CLIP_SCHEMA):
        found = to_batch(records, schema)
        found.validate(full=True)
        assert found.to_pylist() == pa.RecordBatch.from_pylist(rows, schema).to_pylist()


def test_photos_are_stored_as_they_are_and_the_rest_is_compressed(tmp_path: Path) -> None:
    write(str(tmp_path))
    metadata = pq.read_metadata(tmp_path / "val-0.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [16, 1]
    for i in range(metadata.num_columns):
        column = metadata.row_group(0).column(i)
        name = column.path_in_schema
        assert column.compression == ("UNCOMPRESSED" if name == "image.bytes" else "SNAPPY")
        assert column.has_offset_index
        # Readers choose rows by what a row has one value of.
        assert column.has_column_index == (name != "image.bytes" and ".list." not in name)
    assert jpeg(3) in (tmp_path / "val-0.parquet").read_bytes()


def test_datasets_opens_it_with_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write(str(tmp_path / "out"))
    found = datasets.load_dataset(
        "parquet", data_files={"val": str(tmp_path / "out/*.parquet")}, cache_dir=str(tmp_path / "cache"), split="val"
    )
    assert isinstance(found.features["image"], datasets.Image)
    assert len(found) == COUNT
    row = found[3]
    assert row["image"].size == (32, 24)
    assert [e["targets"] for e in row["expressions"]] == [[], [0], [0, 1]]
    assert [o["box"] for o in row["instances"]] == [list(o.box) for o in record(3).instances]


HELD: list[shards.Shards] = []


def hold(split: shards.Shards) -> None:
    HELD.append(split)


def third_image() -> tuple[Record, bool]:
    """With whether this process opened the file that it was read from."""
    return HELD[-1][3], HELD[-1]._process == os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_opened_split_crosses_to_other_processes(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    write(str(tmp_path))
    split = shards.open_shards(str(tmp_path), "val")
    assert split[3] == record(3)
    # What initializes a process is not pickled where it is forked.
    with multiprocessing.get_context(method).Pool(1, initializer=hold, initargs=(split,)) as pool:
        assert pool.apply(third_image) == (record(3), True)
    assert pickle.loads(pickle.dumps(split))[3] == record(3)


def test_a_window_of_row_groups_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(str(tmp_path))
    split = shards.open_shards(str(tmp_path), "val")
    assert split.row_groups().tolist() == [0] * 16 + [1] + [2] * 16 + [3] + [4] * 3
    read: list[int] = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, group, **more: (read.append(group), real(self, group, **more))[1]
    )
    order = np.random.default_rng(0).permutation(COUNT)
    assert [split[i].image_id for i in order] == order.tolist()
    assert len(read) == 5
    monkeypatch.setattr(shards, "KEPT_BYTES", 0)  # one is kept in any case
    split = shards.open_shards(str(tmp_path), "val")
    assert [split[i].image_id for i in (0, 1, 16, 16, 0)] == [0, 1, 16, 16, 0]
    assert len(read) == 5 + 3


def test_training_reads_what_it_looks_at_alone(tmp_path: Path) -> None:
    write(str(tmp_path))
    split = shards.open_shards(str(tmp_path), "val").for_training()
    for one in (split, pickle.loads(pickle.dumps(split))):
        for i in range(COUNT):
            whole = record(i)
            assert one[i] == replace(
                whole,
                image_id=0,
                split="",
                instances=tuple(replace(o, category="", iscrowd=False) for o in whole.instances),
                expressions=tuple(replace(e, ref_id=0, sent_id=0, ignored=None) for e in whole.expressions),
            )


def test_the_damaged_row_of_a_row_group_is_named(tmp_path: Path) -> None:
    folder = storage.locate(str(tmp_path / "out"))
    rows = [*map(record, range(18)), replace(with_counts(b"~~"), image_id=18)]
    info = shards.write_shard(folder / "val-0.parquet", rows, plan="p", problems=[])
    storage.write(folder / shards.MANIFEST, shards.Manifest("d", "unc", "coco", {}, "p", {"val": info}).to_json())
    split = shards.open_shards(folder.uri, "val")
    assert split[15].image_id == 15
    with pytest.raises(RefsegError, match=r"val-0.parquet: damaged shard: row 18: damaged RLE string"):
        split[16]


@pytest.mark.parametrize("reason", ["orientation 9", "expected 4, got 3"])
def test_the_damaged_row_of_a_row_group_is_named_in_training(tmp_path: Path, reason: str) -> None:
    folder = storage.locate(str(tmp_path / "out"))
    rows = [*map(record, range(20))]
    three_sides = replace(rows[18].instances[0], box=(1.0, 2.0, 3.0))
    rows[18] = replace(rows[18], **{"orientation": 9} if "9" in reason else {"instances": (three_sides,)})
    info = shards.write_shard(folder / "val-0.parquet", rows, plan="p", problems=[])
    storage.write(folder / shards.MANIFEST, shards.Manifest("d", "unc", "coco", {}, "p", {"val": info}).to_json())
    split = shards.open_shards(folder.uri, "val").for_training()
    assert split[15].file_name == "15.jpg"
    with pytest.raises(RefsegError, match=rf"val-0.parquet: damaged shard: row 18: .*{reason}"):
        split[16]


def test_missing_and_damaged_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match=r"nowhere: no complete prepared data here"):
        shards.open_shards(tmp_path / "nowhere", "val")
    write(str(tmp_path))
    with pytest.raises(RefsegError, match="did you mean 'val'"):
        shards.open_shards(str(tmp_path), "vale")
    (tmp_path / "val-0.parquet").write_bytes(b"not Parquet")
    with pytest.raises(RefsegError, match=r"val-0\.parquet: damaged shard"):
        shards.open_shards(str(tmp_path), "val")[0]
    (tmp_path / "val-0.parquet").unlink()
    with pytest.raises(RefsegError, match=r"val-0\.parquet: no such file"):
        shards.open_shards(str(tmp_path), "val")[0]


def test_a_flipped_bit_changes_no_record(tmp_path: Path) -> None:
    """Whatever page it is in; of the footer, which has no checksum, `verify` takes care."""
    write(str(tmp_path), 9)
    file = tmp_path / "val-0.parquet"
    data = file.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    positions, told = range(4, footer, 61), []
    for position in positions:
        file.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        split = shards.open_shards(str(tmp_path), "val")
        try:
            assert [split[i] for i in range(9)] == [record(i) for i in range(9)]
        except RefsegError as error:
            told.append(str(error))
        with pytest.raises(RefsegError, match=r"val-0\.parquet: damaged shard: its SHA-256"):
            split.verify()
    assert len(told) > 0.8 * len(positions)
    assert all(line.startswith(f"{file}: damaged shard: ") and "\n" not in line for line in told)


def test_shards_of_earlier_builds_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {name: value for name, value in storage_settings().items() if name != "write_page_checksum"}
    monkeypatch.setattr(shards, "storage_settings", lambda schema: settings)
    manifest = replace(write(str(tmp_path)), format=1)
    (tmp_path / shards.MANIFEST).unlink()
    (tmp_path / "manifest.json").write_bytes(manifest.to_json())
    split = shards.open_shards(str(tmp_path), "val")
    assert not split.manifest.has_page_checksums
    assert [split[i] for i in range(COUNT)] == [record(i) for i in range(COUNT)]
    split.verify()
    flip(tmp_path / "val-0.parquet", "image.bytes")
    assert shards.open_shards(str(tmp_path), "val")[7] != record(7)
    with pytest.raises(RefsegError, match=r"val-0\.parquet: damaged shard"):
        split.verify()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "splits": 3}', '{"format": 99}'])
def test_a_damaged_manifest_is_no_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / shards.MANIFEST).write_text(text)
    with pytest.raises(RefsegError, match=r"manifest\.json: (damaged|format 99)"):
        shards.open_shards(str(tmp_path), "val")


def test_a_manifest_of_later_fields_is_refused(tmp_path: Path) -> None:
    table = json.loads(write(str(tmp_path)).to_json())
    (tmp_path / shards.MANIFEST).write_text(json.dumps({**table, "colour": 1}))
    with pytest.raises(RefsegError, match="damaged manifest"):
        shards.read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("plan",), 5),
        (("splits", "val", "images"), "20"),
        (("splits", "val", "expressions"), -1),
        (("splits", "val", "files", 0, "images"), {}),
        (("splits", "val", "files", 0, "images"), True),
        (("splits", "val", "files", 0, "name"), "../val-0.parquet"),
        (("splits", "val", "files", 0, "name"), ["val-0.parquet"]),
        (("splits", "val", "files", 0, "name"), "\ud800.parquet"),
        (("dataset",), "a \ud83d"),
    ],
)
def test_a_manifest_of_other_values_is_damaged(tmp_path: Path, keys: tuple[str | int, ...], value: object) -> None:
    table = inner = json.loads(write(str(tmp_path)).to_json())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (tmp_path / shards.MANIFEST).write_text(json.dumps(table))
    with pytest.raises(RefsegError, match="damaged manifest"):
        shards.read_manifest(str(tmp_path))


def test_a_folder_with_names_of_other_bytes_is_listed(tmp_path: Path) -> None:
    """One file of an old camera, and nothing could be prepared beside it."""
    (tmp_path / "b.txt").touch()
    (tmp_path / "folder").mkdir()
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT))
    assert storage.locate(tmp_path).names() == ["b.txt", "caf\udce9.jpg"]
    assert storage.locate(tmp_path / "gone").names() == []
    with pytest.raises(RefsegError, match="Not a directory"):
        storage.locate(tmp_path / "b.txt").names()


def test_an_empty_name_is_no_folder() -> None:
    with pytest.raises(RefsegError, match="the name of a file or folder is empty"):
        storage.locate("")


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="File name too long"):
        storage.locate(tmp_path / ("x" * 300)).exists()


@pytest.mark.parametrize("uri", ["nosuch://bucket/x", "memory:/x://y"])
def test_a_uri_that_nothing_reads_is_one_line(uri: str) -> None:
    with pytest.raises(RefsegError) as caught:
        storage.locate(uri)
    assert "\n" not in str(caught.value)


def with_counts(counts: bytes) -> Record:
    """A record whose one mask of 4 x 4 pixels has these runs."""
    instance = Instance(1, 1, "cat", (0.0, 0.0, 4.0, 4.0), Rle((4, 4), counts))
    return Record(1, "1.jpg", "val", 4, 4, b"", (instance,), ())


def written(tmp_path: Path, record: Record) -> shards.Shards:
    folder = storage.locate(str(tmp_path / "out"))
    info = shards.write_shard(folder / "val-0.parquet", [record], plan="p", problems=[])
    storage.write(folder / shards.MANIFEST, shards.Manifest("d", "unc", "coco", {}, "p", {"val": info}).to_json())
    return shards.open_shards(folder.uri, "val")


def test_runs_of_no_pixel_in_shards_made_before_are_joined_on_reading(tmp_path: Path) -> None:
    counts = coco.frPyObjects({"size": [4, 4], "counts": [2, 3, 0, 3, 8]}, 4, 4)["counts"]
    rle = written(tmp_path, with_counts(counts))[0].instances[0].rle
    assert masks.runs(rle).tolist() == [2, 6, 8]
    assert masks.area(masks.union([rle, rle], (4, 4))) == 6


def test_a_mask_in_a_shard_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match=r"val-0.parquet: damaged shard: row 0: damaged RLE string"):
        written(tmp_path, with_counts(b"~~"))[0]
    split = written(tmp_path, replace(with_counts(b"`0"), orientation=9))
    for one in (split, split.for_training()):
        with pytest.raises(RefsegError, match=r"val-0.parquet: damaged shard: row 0: orientation 9"):
            one[0]


def test_a_manifest_nested_without_end_is_damaged(tmp_path: Path) -> None:
    (tmp_path / shards.MANIFEST).write_text('{"splits":' + "[" * 100_000)
    with pytest.raises(RefsegError, match=r"manifest\.json: damaged manifest: nested too deeply"):
        shards.read_manifest(str(tmp_path))


def test_problems_may_name_what_is_no_unicode(tmp_path: Path) -> None:
    problems = [{"file": os.fsdecode(b"photos\xff/1.jpg"), "detail": "größer"}]
    place = storage.locate(tmp_path) / "val-0.parquet"
    shards.write_shard(place, [record(1)], plan="p", problems=problems)
    about = shards.about_shard(place)
    assert about is not None
    assert about.problems == problems
