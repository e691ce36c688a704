"""Readers of the raw formats: what they read, what they refuse, and what they call it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import raw_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from refseg_cli.data.sources import Problem, Reason, Ref, Sentence, grefer, instances, photos, pickles, refer, without
from refseg_cli.errors import RefsegError
from refseg_cli.records import Expression

# Pickles


class Attack:
    """Unpickling it the usual way would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = [{"a": 1, "b": (2.5, None, True), "c": {3, 4}, "d": OrderedDict(x=b"\xff"), "e": "é", "f": 1 << 80}]
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert pickles.read(path) == value


def test_strings_of_python_2_are_text(tmp_path: Path) -> None:
    # pickle.dumps([{'sent': 'caf\xc3\xa9'}], 0 and 2) of Python 2.7: its str is bytes, here of UTF-8
    lines = b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsa."
    binary = b"\x80\x02]q\x00}q\x01U\x04sentq\x02U\x05caf\xc3\xa9q\x03sa."
    for number, data in enumerate([lines, binary]):
        path = tmp_path / f"{number}.p"
        path.write_bytes(data)
        [row] = pickles.read(path)
        assert pickles.text(row["sent"]) == "café"
    assert pickles.text("caf\xe9") == "café"  # latin-1 that is no UTF-8
    assert pickles.text(b"cat") == "cat"


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_a_function_is_refused_by_name_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "refs(unc).p", tmp_path / "trace"
    path.write_bytes(pickle.dumps([Attack(f"touch {trace}")], protocol=protocol))
    with pytest.raises(RefsegError, match=rf"refused: the pickle asks for {os.system.__module__}\.system"):
        pickles.read(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\ngetattr\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"cnumpy.core.multiarray\n_reconstruct\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    ],
)
def test_no_other_name_is_let_through(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(data)
    with pytest.raises(RefsegError, match="refused"):
        pickles.read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"]r\xff\xff\xff\x03.",  # the 67,108,863rd thing to remember
        b"]p67108863\n.",
        b"\x80\x05\x96" + (1 << 30).to_bytes(8, "little") + b".",  # so many bytes follow
        b"cbuiltins\nbytearray\n(I1073741824\ntR.",
        b"\x80\x05\x8e" + (1 << 30).to_bytes(8, "little") + b".",
        b"\x80\x04\x95" + (1 << 30).to_bytes(8, "little") + b".",
    ],
)
def test_a_few_bytes_do_not_take_all_memory(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with contextlib.suppress(RefsegError):
            pickles.read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_a_damaged_pickle_is_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.p"
    path.write_bytes(pickle.dumps([{"a": "b"}], protocol=2)[:-2] + data)
    with contextlib.suppress(RefsegError):  # any other exception fails the test
        pickles.read(path)


def test_a_missing_or_enormous_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefsegError, match="No such file"):
        pickles.read(tmp_path / "x.p")
    (tmp_path / "x.p").write_bytes(pickle.dumps([0] * 100))
    monkeypatch.setattr(pickles, "MAX_BYTES", 10)
    with pytest.raises(RefsegError, match="more than 10 are not read"):
        pickles.read(tmp_path / "x.p")


# References


def test_refer_reads_rows_whatever_their_keys_are() -> None:
    rows: list[Any] = [
        raw_layout.ref(7, 1, 10, "train", ["a", "b"]),
        {b"ref_id": 8, b"image_id": 1, b"ann_id": 11, b"split": b"val", b"sentences": [{b"sent_id": 3, b"raw": b"c"}]},
    ]
    problems: list[Problem] = []
    assert list(refer.refs(rows, file="f", problems=problems)) == [
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
        found = list(refer.refs(pickles.read(tmp_path / file), file=file, problems=problems))
    assert [ref.sentences for ref in found] == [(Sentence(5, FORMS["sent"], FORMS["raw"]),)]
    raw_layout.write_instances(tmp_path, [raw_layout.annotation(10, 1)])
    known, _ = instances.read(tmp_path / "instances.json")
    [draft] = instances.drafts(found, known, splits=(), file=file, problems=problems)
    assert draft.expressions == (Expression(FORMS["sent"], 7, 5, (0,), FORMS["raw"]),)
    assert not problems


@pytest.mark.parametrize("exist", [False, 0])
def test_a_wrong_description_of_r_refcoco_has_no_target(tmp_path: Path, exist: object) -> None:
    row = raw_layout.ref(7, 1, 10, "val", ["the cat", "the horse"])
    row["sentences"][0]["exist"], row["sentences"][1]["exist"] = not exist, exist
    [draft], problems = drafts(tmp_path, [raw_layout.annotation(10, 1)], [row])
    assert [(e.text, e.ref_id, e.targets) for e in draft.expressions] == [("the cat", 7, (0,)), ("the horse", 7, ())]
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


@pytest.mark.parametrize("ann_id", [[-1, 10], [10]])
def test_contradictory_targets_are_a_broken_row(ann_id: list[int]) -> None:
    problems: list[Problem] = []
    row = raw_layout.ref(5, 1, ann_id, "train", no_target=True)
    assert not list(grefer.refs([row], file="f", problems=problems))
    assert problems[0].reason == Reason.BROKEN_REF


# instances.json and the join


def drafts(tmp_path: Path, rows: list[raw_layout.Json], refs: list[raw_layout.Json], **options: Any) -> Any:
    """(drafts, problems) of annotations and references."""
    raw_layout.write_instances(tmp_path, rows)
    found, _ = instances.read(tmp_path / "instances.json")
    problems: list[Problem] = []
    parsed = refer.refs(refs, file="refs", problems=problems)
    return instances.drafts(parsed, found, splits=options.get("splits", ()), file="refs", problems=problems), problems


def test_an_image_is_one_row_for_each_split(tmp_path: Path) -> None:
    refs = [*raw_layout.refcoco_refs(), raw_layout.ref(9, 1, 11, "val", ["again"])]
    found, problems = drafts(tmp_path, raw_layout.annotations(), refs)
    assert [(d.split, d.image_id) for d in found] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("val", 1),
        ("val", 4),
    ]
    assert [(e.text, e.targets) for e in found[0].expressions] == [
        ("left cat", (0,)),
        ("the cat on the left", (0,)),
        ("crowd", (1,)),
    ]
    assert [(e.text, e.targets) for e in found[3].expressions] == [("again", (1,))]
    assert [a.iscrowd for a in found[0].annotations] == [False, True]
    assert [a.category for a in found[2].annotations] == ["cat", "dog"]
    assert not problems


def test_only_the_wanted_splits_are_read(tmp_path: Path) -> None:
    found, _ = drafts(tmp_path, raw_layout.annotations(), raw_layout.refcoco_refs(), splits=("val",))
    assert {draft.split for draft in found} == {"val"}
    with pytest.raises(RefsegError, match="did you mean 'train'"):
        drafts(tmp_path, raw_layout.annotations(), raw_layout.refcoco_refs(), splits=("trian",))


NAN = float("nan")
TO_12 = raw_layout.ref(5, 1, 12, "train")
BROKEN = [
    ([], [raw_layout.ref(5, 1, 99, "train")], Reason.UNKNOWN_ANNOTATION, "99"),
    ([], [raw_layout.ref(5, 1, 40, "train")], Reason.UNKNOWN_ANNOTATION, "40, which belongs to image 4"),
    ([], [raw_layout.ref(5, 77, 10, "train")], Reason.UNKNOWN_IMAGE, "image 77"),
    ([], [raw_layout.ref(5, 1, 10, "../evil")], Reason.BROKEN_REF, "split '../evil'"),
    ([], [raw_layout.ref(5, 1, 10, "train", [" "])], Reason.EMPTY_EXPRESSION, "sentence 50"),
    (
        [raw_layout.annotation(12, 1, bbox=[1, 2, NAN, 4])],
        [raw_layout.ref(5, 1, 12, "train")],
        Reason.BROKEN_BOX,
        "nan",
    ),
    ([raw_layout.annotation(12, 1, bbox=[1, 2, -3, 4])], [raw_layout.ref(5, 1, 12, "train")], Reason.BROKEN_BOX, "-3"),
    ([raw_layout.annotation(12, 1, bbox=None)], [raw_layout.ref(5, 1, 12, "train")], Reason.BROKEN_BOX, "None"),
    (
        [raw_layout.annotation(12, 1, category_id=7)],
        [raw_layout.ref(5, 1, 12, "train")],
        Reason.UNKNOWN_CATEGORY,
        "annotation 12: 7",
    ),
]


@pytest.mark.parametrize(("rows", "refs", "reason", "detail"), BROKEN)
def test_a_broken_input_is_named_and_left_out(
    tmp_path: Path, rows: list[raw_layout.Json], refs: list[raw_layout.Json], reason: Reason, detail: str
) -> None:
    sound = raw_layout.refcoco_refs()
    expected, _ = drafts(tmp_path, raw_layout.annotations(), sound)
    found, problems = drafts(tmp_path, [*raw_layout.annotations(), *rows], [*sound, *refs])
    assert found == expected
    [problem] = problems
    assert problem.reason == reason
    assert problem.ref_ids == (5,)
    assert detail in problem.detail
    assert "ref 5" in str(problem)


def test_a_lost_target_loses_its_expressions_only() -> None:
    expressions = (Expression("a", 1, 1, (0,)), Expression("b", 1, 2, (1, 2), "B!"), Expression("c", 1, 3, ()))
    assert without(expressions, [0]) == (Expression("b", 1, 2, (0, 1), "B!"), Expression("c", 1, 3, ()))
    assert without(expressions, [1]) == (Expression("a", 1, 1, (0,)), Expression("c", 1, 3, ()))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": 3, "annotations": [], "categories": []}', "[" * 9999]
)
def test_a_damaged_instances_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(RefsegError, match=r"instances\.json: not (JSON|a COCO file)"):
        instances.read(tmp_path / "instances.json")


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


def test_photos_are_found_where_the_downloads_put_them(tmp_path: Path) -> None:
    for place in ("a.jpg", "train2014/b.jpg", "mscoco/images/train2014/c.jpg", "saiapr_tc-12/00/images/d.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    for name in ("a.jpg", "b.jpg", "c.jpg", "00/images/d.jpg"):
        assert photos.find(tmp_path, name) is not None
    assert photos.find(tmp_path, "e.jpg") is None


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "train2014/../../secret", ""])
def test_a_file_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "images/train2014").mkdir(parents=True)
    assert photos.find(tmp_path / "images", name) is None


def test_real_files_are_read(shared: Path) -> None:
    folder = shared / "real/refer/refcoco"
    problems: list[Problem] = []
    refs = refer.refs(pickles.read(folder / "refs(unc).p"), file="refs(unc).p", problems=problems)
    found, _ = instances.read(folder / "instances.json")
    made = instances.drafts(refs, found, splits=(), file="refs(unc).p", problems=problems)
    assert not problems
    assert {d.split: sum(len(e.expressions) for e in made if e.split == d.split) for d in made} == {
        "val": 6,
        "testB": 14,
    }
    for draft in made:
        path = photos.find(shared / "real/refer/images", draft.file_name)
        assert path is not None
        record = photos.finish(draft, path, problems)
        assert record is not None
        assert record.image == path.read_bytes()
    assert not problems


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(), min_size=1), min_size=1))
def test_polygons_are_kept_as_text_that_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, polygons: list[list[float]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "polygons.json"
    row = {"name": '"segmentation": [[1]]', "segmentation": polygons, "b": [[1, 2]]}
    for indent in (None, 1):
        path.write_text(json.dumps([row, row], indent=indent))
        value, _ = instances.load_json(path)
        assert [json.loads(found.pop("segmentation")) for found in value] == [polygons, polygons]
        assert value == [{"name": row["name"], "b": [[1, 2]]}] * 2


def test_other_segmentations_and_sentences_come_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    rows = [[["a", 2]], {"size": [1, 2], "counts": [2]}, [{"size": [1, 2], "counts": "2"}], [], [[float("inf")]]]
    path.write_text(json.dumps([{"segmentation": row, "tokens": [1], "raw": "r", "sent": "s"} for row in rows]))
    value, _ = instances.load_json(path)
    assert value == [{"segmentation": row, "raw": "r", "sent": "s"} for row in rows]
