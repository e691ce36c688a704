"""Readers of the raw formats: what they read, what they refuse, and what they call it."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import raw_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from refseg_cli.data.orientation import Frame
from refseg_cli.data.sources import (
    Annotation,
    Draft,
    Problem,
    Reason,
    Ref,
    Sentence,
    grefer,
    instances,
    photos,
    pickles,
    refer,
)
from refseg_cli.data.sources.whereabouts import Photos
from refseg_cli.records import Expression

NAN = float("nan")
HUGE = pytest.param(10**5000, id="5,001 digits")  # more than Python prints

# References


def test_refer_reads_rows_whatever_their_keys_are() -> None:
    rows: list[Any] = [
        raw_layout.ref(7, 1, 10, "train", ["a", "b"]),
        {b"ref_id": 8, b"image_id": 1, b"ann_id": 11, b"split": b"val", b"sentences": [{b"sent_id": 3, b"raw": b"c"}]},
    ]
    problems: list[Problem] = []
    assert list(refer.refs(pickles.rows(rows), file="f", problems=problems)) == [
        Ref(7, 1, "train", (10,), (Sentence(70, "a", "a"), Sentence(71, "b", "b"))),
        Ref(8, 1, "val", (11,), (Sentence(3, "c", "c"),)),
    ]
    assert not problems


# As RefCOCOg has them: the cleaned form loses the punctuation, and its spaces.
FORMS = {"sent_id": 5, "sent": "the man s hat to the left", "raw": "The man's hat , to the left ."}


@pytest.mark.parametrize("file", ["refs(umd).p", "grefs(unc).json"])
def test_a_sentence_is_kept_as_it_was_typed_and_as_it_was_cleaned(tmp_path: Path, file: str) -> None:
    row = {**raw_layout.ref(7, 1, [10] if file.endswith("json") else 10, "val"), "sentences": [FORMS]}
    problems: list[Problem] = []
    if file.endswith("json"):
        (tmp_path / file).write_text(json.dumps([row]))
        found = list(grefer.refs(instances.load_json(tmp_path / file)[0], file=file, problems=problems))
    else:
        (tmp_path / file).write_bytes(pickle.dumps([row], protocol=0))
        found = list(refer.refs(pickles.rows(pickles.read(tmp_path / file)), file=file, problems=problems))
    assert [ref.sentences for ref in found] == [(Sentence(5, FORMS["sent"], FORMS["raw"]),)]
    raw_layout.write_instances(tmp_path, [raw_layout.annotation(10, 1)])
    known, _ = instances.read(tmp_path / "instances.json")
    [draft] = instances.drafts(found, known, splits=(), file=file, problems=problems)
    assert draft.expressions == (Expression(FORMS["sent"], 7, 5, (0,), FORMS["raw"]),)
    assert not problems


@pytest.mark.parametrize("raw", [{}, {"raw": None}, {"raw": "  "}])
def test_a_sentence_of_one_form_is_typed_as_it_is_cleaned(raw: dict[str, Any]) -> None:
    row = {**raw_layout.ref(7, 1, 10, "val"), "sentences": [{"sent_id": 5, "sent": "a cat", **raw}]}
    [found] = refer.refs([row], file="f", problems=[])
    [sentence] = found.sentences
    assert Expression(sentence.text, 7, 5, (), sentence.raw) == Expression("a cat", 7, 5, ())
    assert Expression("a cat", 7, 5, ()).raw == "a cat"


def test_grefer_reads_none_one_and_several_targets() -> None:
    problems: list[Problem] = []
    found = list(grefer.refs(raw_layout.grefcoco_refs(), file="f", problems=problems))
    assert [ref.ann_ids for ref in found] == [(10,), (11, 10), (), (40,)]
    assert not problems


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        {},
        {"ref_id": 5},
        raw_layout.ref(5, 1, "x", "train"),
        {**raw_layout.ref(5, 1, 10, "train"), "sentences": [{"sent_id": 1}]},
        {**raw_layout.ref(5, 1, 10, "train"), "sentences": [{"sent_id": 1, "sent": 3}]},
        {**raw_layout.ref(5, 1, 10, "train"), "sentences": None},
        *(raw_layout.ref(5, 1, ann_id, "train") for ann_id in (NAN, 1.5, True, 1 << 63, 10**5000, "1" * 5000, {})),
        raw_layout.ref(5, NAN, 10, "train"),  # type: ignore[arg-type]
        raw_layout.ref(5, 1, 10, None),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("reader", [refer, grefer])
def test_a_broken_row_is_named_and_the_others_are_read(reader: Any, row: Any) -> None:
    problems: list[Problem] = []
    rows = [row, raw_layout.ref(6, 1, 10, "train")]
    assert [ref.ref_id for ref in reader.refs(rows, file="refs", problems=problems)] == [6]
    [problem] = problems
    assert (problem.reason, problem.file) == (Reason.BROKEN_REF, "refs")
    assert problem.ref_ids == ((5,) if row and "ref_id" in row else ())


@pytest.mark.parametrize("ref_id", [float("inf"), NAN, 1 << 63, HUGE, "x", None])
@pytest.mark.parametrize("reader", [refer, grefer])
def test_an_id_that_is_no_number_of_64_bits_is_named(reader: Any, ref_id: Any) -> None:
    problems: list[Problem] = []
    assert not list(reader.refs([raw_layout.ref(0, 1, 10, "train") | {"ref_id": ref_id}], file="f", problems=problems))
    [problem] = problems
    assert (problem.reason, problem.ref_ids) == (Reason.BROKEN_REF, ())
    assert problem.detail.startswith("row 0: ref_id ")
    json.dumps(asdict(problem)).encode()


def test_ids_may_be_digits_and_whole_floats() -> None:
    problems: list[Problem] = []
    [ref] = refer.refs(
        [raw_layout.ref(5, 1, 10, "train") | {"ref_id": "7", "ann_id": 10.0}], file="f", problems=problems
    )
    assert (ref.ref_id, ref.ann_ids, problems) == (7, (10,), [])


@pytest.mark.parametrize(("ann_id", "no_target"), [([-1, 10], True), ([10], True), ([-1], "false")])
def test_contradictory_targets_are_a_broken_row(ann_id: list[int], no_target: object) -> None:
    problems: list[Problem] = []
    row = raw_layout.ref(5, 1, ann_id, "train", no_target=no_target)
    assert not list(grefer.refs([row], file="f", problems=problems))
    assert problems[0].reason == Reason.BROKEN_REF


# Photos


def pillow_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) if Pillow decodes all of it."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.height, image.width
    except Exception:
        return None


def our_size(data: bytes) -> tuple[int, int] | None:
    try:
        return photos.size_of(data)
    except ValueError:
        return None


def picture(form: str, **options: Any) -> bytes:
    data = io.BytesIO()
    Image.open(io.BytesIO(raw_layout.jpeg(1, (90, 70)))).save(data, form, **options)
    return data.getvalue()


KINDS = {
    "plain": picture("JPEG"),
    "optimised": picture("JPEG", optimize=True, quality=95),
    "subsampled": picture("JPEG", subsampling=2, quality=30),
    "progressive": picture("JPEG", progressive=True),
    "restarts": picture("JPEG", restart_marker_rows=1),
    "exif": picture("JPEG", exif=b"Exif\0\0" + raw_layout.jpeg(2), comment=b"hello"),
    "png": picture("PNG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_measured(kind: str) -> None:
    assert photos.size_of(KINDS[kind]) == (90, 70)


@pytest.mark.parametrize("kind", ["plain", "optimised", "subsampled", "restarts", "exif"])
def test_usual_jpegs_are_not_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "_decoded_size", None)
    assert photos.size_of(KINDS[kind]) == (90, 70)


PIECES = (b"\xff\x00", b"\xff\x01", b"\xff\xd0", b"\xff\xff", b"\xff\xd9", b"\xff\xc0", b"\xff", b"\0", b"\xd9", b"abc")


@given(st.lists(st.sampled_from(PIECES), max_size=6), st.sampled_from((b"\xff\xd9", b"\xff\xd9\0\0", b"\xd9", b"")))
def test_compressed_data_end_where_the_search_for_markers_says(pieces: list[bytes], end: bytes) -> None:
    data = b"head" + b"".join(pieces) + end
    marker = photos._MARKER.search(data, 4)
    is_sound = marker is not None and marker.group() == b"\xff\xd9" and not data[marker.end() :].strip(b"\0")
    with contextlib.nullcontext() if is_sound else pytest.raises(photos._Unsure):
        photos._check_scan(data, 4)


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6))
@settings(max_examples=400, deadline=None)
def test_a_damaged_image_is_refused_where_pillow_refuses_it(kind: str, seed: int) -> None:
    rng, data = random.Random(seed), bytearray(KINDS[kind])
    where = rng.randrange(min(len(data), 800) if seed % 2 else len(data))
    damage = rng.choice(["cut", "byte", "zeros", "noise", "append"])
    if damage == "cut":
        del data[where:]
    elif damage == "byte":
        data[where] = rng.randrange(256)
    elif damage == "append":
        data += rng.randbytes(20)
    else:
        data[where : where + 400] = bytes(400) if damage == "zeros" else rng.randbytes(400)
    assert our_size(bytes(data)) == pillow_size(bytes(data))


def test_a_header_that_no_decoder_takes_is_refused() -> None:
    data = bytearray(KINDS["plain"])
    counts = data.index(b"\xff\xc4") + 5  # how many Huffman codes have 1, 2, ... 16 bits; the usual 0, 1, 5, ...
    data[counts], data[counts + 2] = 3, data[counts + 2] - 3
    assert our_size(bytes(data)) is pillow_size(bytes(data)) is None


def test_an_image_without_its_last_byte_is_left_to_the_decoder() -> None:
    for cut in (1, 2, 50):
        assert our_size(KINDS["plain"][:-cut]) == pillow_size(KINDS["plain"][:-cut])
    assert our_size(KINDS["plain"][: len(KINDS["plain"]) // 2]) is None
    assert our_size(b"") is None
    assert our_size(b"<html>404</html>") is None


def test_real_files_are_read(shared: Path) -> None:
    folder = shared / "real/refer/refcoco"
    problems: list[Problem] = []
    rows = pickles.rows(pickles.read(folder / "refs(unc).p"))
    refs = refer.refs(rows, file="refs(unc).p", problems=problems)
    found, _ = instances.read(folder / "instances.json")
    made = instances.drafts(refs, found, splits=(), file="refs(unc).p", problems=problems)
    assert not problems
    assert {d.split: sum(len(e.expressions) for e in made if e.split == d.split) for d in made} == {
        "val": 6,
        "testB": 14,
    }
    for draft in made:
        path = Photos([shared / "real/refer/images"]).find(draft.file_name)
        assert path is not None
        record = photos.finish(draft, path, problems)
        assert record is not None
        assert record.image == path.read_bytes()
    assert not problems


TEXTS = (
    "[[1,1,30,2,20.5,18.25]]",
    "[[2, 2, 9, 2, 2, 9], [15, 3, 36, 4, 28, 19, 14, 18]]",
    "[[-4,-4,50,-4,50,50]]",  # beyond what annotators overshoot by, for some of the frames
    "[[0,0,9,9]]",
    "[[0,0,9,0,9,9],[1,1]]",
    "[[0,0,9,0,9,1e999]]",
    "[[[0,0,9,0,9,9]]]",
    "[[0,0,9,0,9,9]],[[1]]",
    "[[0,0,,9]]",
    "[[]]",
    '{"size": [30, 40], "counts": [600, 20, 580]}',
)


@pytest.mark.parametrize("masks_on", ["upright", "stored"])
def test_masks_that_are_drawn_together_change_nothing(masks_on: Frame, tmp_path: Path) -> None:
    boxes = [None if number % 2 else (1.0, 2.0, 3.0, 4.0) for number in range(len(TEXTS))]
    annotations = tuple(
        Annotation(n, 1, 1, "cat", box, text, False) for n, (text, box) in enumerate(zip(TEXTS, boxes, strict=True))
    )
    expressions = tuple(Expression(f"number {n}", n, n, (n,)) for n in range(len(TEXTS)))
    drafts, paths = [], []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for height, width in ((30, 40), (40, 30), (0, 0), (31, 40)):
            paths.append(tmp_path / f"{orientation}.jpg")
            drafts.append(Draft(1, paths[-1].name, "val", height, width, annotations, expressions))
        Image.new("RGB", (40, 30)).save(paths[-1], exif=exif)
    rules, of_all = photos.Rules(masks_on=masks_on), photos.drawn(drafts)
    assert sum(map(len, of_all)) >= 2 * 3 * 8
    for draft, path, known in zip(drafts, paths, of_all, strict=True):
        one_by_one, together = list[Problem](), list[Problem]()
        record = photos.finish(draft, path, one_by_one, rules)
        assert photos.finish(draft, path, together, rules, known) == record
        assert together == one_by_one
