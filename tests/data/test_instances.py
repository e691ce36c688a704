"""`instances.json` and its join with the references: what is read, what is named, and what costs no expression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import raw_layout
from hypothesis import given
from hypothesis import strategies as st

from refseg_cli.data.sources import Problem, Reason, instances, refer, without
from refseg_cli.data.sources.named_images import NamedImages
from refseg_cli.errors import RefsegError
from refseg_cli.records import Expression

NAN = float("nan")


def drafts(tmp_path: Path, rows: list[raw_layout.Json], refs: list[raw_layout.Json], **options: Any) -> Any:
    """(drafts, problems) of annotations and references, with two broken categories and three broken images."""
    raw_layout.write_instances(tmp_path, rows)
    table = json.loads((tmp_path / "instances.json").read_text())
    table["categories"] += [{"id": 3, "name": "\ud800"}, {"id": 4, "name": None}]
    size = {"height": raw_layout.HEIGHT, "width": raw_layout.WIDTH}
    table["images"] += [{"id": 6, "file_name": "\udfff.jpg", **size}, {"id": 7, "file_name": "7.jpg"}]
    table["images"] += [{"id": 8, "file_name": "8.jpg", "height": 1, "width": NAN}]
    (tmp_path / "instances.json").write_text(json.dumps(table))
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


TO_12 = raw_layout.ref(5, 1, 12, "train")
TYPED = {"sent_id": 50, "sent": "a", "raw": "A \udc00"}
BROKEN = [
    ([], [raw_layout.ref(5, 1, 99, "train")], Reason.UNKNOWN_ANNOTATION, "99"),
    ([], [raw_layout.ref(5, 1, 40, "train")], Reason.UNKNOWN_ANNOTATION, "40, which belongs to image 4"),
    ([], [raw_layout.ref(5, 77, 10, "train")], Reason.UNKNOWN_IMAGE, "image 77"),
    ([], [raw_layout.ref(5, 1, 10, "../evil")], Reason.BROKEN_REF, "split '../evil'"),
    ([], [raw_layout.ref(5, 1, 10, "train", [" "])], Reason.EMPTY_EXPRESSION, "sentence 50"),
    (
        [raw_layout.annotation(12, 1, bbox=[1, 2, NAN, 4])],
        [TO_12],
        Reason.BROKEN_BOX,
        "nan",
    ),
    ([raw_layout.annotation(12, 1, bbox=[1, 2, -3, 4])], [TO_12], Reason.BROKEN_BOX, "-3"),
    ([raw_layout.annotation(12, 1, bbox="1234")], [TO_12], Reason.BROKEN_BOX, "'1234'"),
    ([raw_layout.annotation(12, 1, bbox=[1, 2, 3])], [TO_12], Reason.BROKEN_BOX, "[1, 2, 3]"),
    ([raw_layout.annotation(12, 1, bbox=[1, 2, 3, 10**400])], [TO_12], Reason.BROKEN_BOX, "[1, 2, 3, 1000"),
    ([raw_layout.annotation(12, 1, iscrowd="2")], [TO_12], Reason.BROKEN_ANNOTATION, "iscrowd '2' is neither true"),
    ([raw_layout.annotation(12, 1, category_id=[])], [TO_12], Reason.UNKNOWN_CATEGORY, "category []"),
    (
        [raw_layout.annotation(12, 1, category_id=3)],
        [TO_12],
        Reason.BROKEN_TEXT,
        "category 3: name with a lone surrogate",
    ),
    ([raw_layout.annotation(12, 1, category_id=4)], [TO_12], Reason.BROKEN_TEXT, "category 4: name None"),
    ([raw_layout.annotation(12, 1, segmentation={"counts": [[[[1]]]]})], [TO_12], Reason.BROKEN_MASK, "too deeply"),
    ([], [raw_layout.ref(5, 6, 10, "train")], Reason.BROKEN_ANNOTATION, "image 6: file_name with a lone surrogate"),
    ([], [raw_layout.ref(5, 7, 10, "train")], Reason.BROKEN_ANNOTATION, "image 7: height None"),
    ([], [raw_layout.ref(5, 8, 10, "train")], Reason.BROKEN_ANNOTATION, "image 8: width nan"),
    ([], [raw_layout.ref(5, 1, 10, "train", ["a \ud83d"])], Reason.BROKEN_TEXT, "sentence 50 with a lone surrogate"),
    ([], [TO_12 | {"ann_id": 10, "sentences": [TYPED]}], Reason.BROKEN_TEXT, "sentence 50 with a lone surrogate"),
    ([], [raw_layout.ref(5, 1, 10, "train", ["a\0b"])], Reason.BROKEN_TEXT, "sentence 50 with a NUL at character 2"),
    (
        [raw_layout.annotation(12, 1, category_id=7)],
        [TO_12],
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
    with pytest.raises(RefsegError, match=r"instances\.json: (not JSON|not a COCO file|an empty file)"):
        instances.read(tmp_path / "instances.json")


def test_what_nobody_refers_to_is_a_caution(tmp_path: Path) -> None:
    rows = [raw_layout.annotation(12, 1, bbox=[1, 2, NAN, 4]), raw_layout.annotation(13, 1, category_id=7)]
    rows += [raw_layout.annotation(NAN, 1), raw_layout.annotation(14, 1 << 70)]  # type: ignore[arg-type]
    expected, _ = drafts(tmp_path, raw_layout.annotations(), raw_layout.refcoco_refs())
    found, problems = drafts(tmp_path, [*raw_layout.annotations(), *rows], raw_layout.refcoco_refs())
    assert found == expected
    assert [(p.reason, p.ref_ids, p.caution) for p in problems] == [
        (Reason.BROKEN_BOX, (), True),
        (Reason.UNKNOWN_CATEGORY, (), True),
        (Reason.BROKEN_ANNOTATION, (), True),
        (Reason.BROKEN_ANNOTATION, (), True),
    ]
    assert problems[2].detail == "annotations, row 10: id nan"
    assert problems[3].detail == "annotations, row 11: image_id of 71 bits"


def test_what_another_split_refers_to_is_no_caution(tmp_path: Path) -> None:
    rows = [*raw_layout.annotations(), raw_layout.annotation(12, 1, bbox=[1, 2, NAN, 4])]
    refs = [*raw_layout.refcoco_refs(), raw_layout.ref(9, 1, 12, "val")]
    _, [problem] = drafts(tmp_path, rows, refs)
    assert (problem.ref_ids, problem.caution) == ((9,), False)
    _, [problem] = drafts(tmp_path, rows, refs, splits=("train",))
    assert (problem.ref_ids, problem.caution) == ((), True)


def test_boxes_are_optional(tmp_path: Path) -> None:
    rows = [
        raw_layout.annotation(12, 1, bbox=None),
        raw_layout.annotation(13, 1, bbox=[]),
        raw_layout.annotation(14, 1),
    ]
    del rows[2]["bbox"]
    found, problems = drafts(tmp_path, [*raw_layout.annotations(), *rows], raw_layout.refcoco_refs())
    assert [annotation.box for annotation in found[0].annotations[2:]] == [None, None, None]
    assert not problems


def test_rows_that_are_all_broken_are_no_coco_file(tmp_path: Path) -> None:
    for name in ("images", "annotations", "categories"):
        raw_layout.write_instances(tmp_path, raw_layout.annotations())
        table = json.loads((tmp_path / "instances.json").read_text())
        for row in table[name]:
            del row["id"]
        (tmp_path / "instances.json").write_text(json.dumps(table))
        with pytest.raises(RefsegError, match=f"not a COCO file: {name}, row"):
            instances.read(tmp_path / "instances.json")


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


@pytest.mark.parametrize("exist", [False, 0, "false", "0"])
def test_a_wrong_description_of_r_refcoco_has_no_target(tmp_path: Path, exist: object) -> None:
    row = raw_layout.ref(7, 1, 10, "val", ["the cat", "the horse"])
    row["sentences"][0]["exist"], row["sentences"][1]["exist"] = "true", exist
    [draft], problems = drafts(tmp_path, [raw_layout.annotation(10, 1)], [row])
    assert [(e.text, e.ref_id, e.targets) for e in draft.expressions] == [("the cat", 7, (0,)), ("the horse", 7, ())]
    assert not problems


def test_a_class_mask_that_is_nested_too_deeply_is_a_caution(tmp_path: Path) -> None:
    sound = {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]}
    table = {
        "images": [],
        "annotations": [],
        "categories": [],
        "class_masks": [sound, {**sound, "segmentation": [[[[1]]]]}],
    }
    found = instances.parse(table, file="instances.json")
    assert found.class_masks == {1: {1: sound["segmentation"]}}
    assert [str(caution) for caution in found.cautions] == [
        "instances.json: broken annotation: class_masks, row 1: nested too deeply"
    ]


def test_an_id_of_two_things_means_neither_and_a_row_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    rows = [*raw_layout.annotations(), raw_layout.annotation(10, 1), raw_layout.annotation(12, 1)]
    rows += [raw_layout.annotation(12, 1, bbox=[3.0, 5.0, 3.0, 3.0])] * 2
    [draft, *_], problems = drafts(tmp_path, rows, [*raw_layout.refcoco_refs(), TO_12])
    assert [a.ann_id for a in draft.annotations] == [10, 11]
    assert [(p.ref_ids, p.detail) for p in problems] == [((5,), "annotation 12: two objects have this id")]


def test_a_photo_or_a_category_of_two_names_is_broken() -> None:
    size = {"height": raw_layout.HEIGHT, "width": raw_layout.WIDTH}
    photos = [{"id": n, "file_name": f"{name}.jpg", **size} for n, name in ((1, "a"), (2, "b"), (2, "c"), (1, "a"))]
    categories = [{"id": 1, "name": name} for name in ("cat", "dog", "cat")]
    table = {"images": photos, "annotations": [raw_layout.annotation(10, 1)], "categories": categories}
    found = instances.parse(table, file="instances.json")
    assert found.broken_photos == {2: "of two photos, 'b.jpg' of 32x24 and 'c.jpg' of 32x24"}
    assert [NamedImages(found).id_of({"image": name}) for name in ("a.jpg", "b.jpg", "c.jpg")] == [1, 2, 2]
    assert found.broken[1] == [
        (10, Reason.BROKEN_TEXT, "annotation 10: category 1: of two categories, 'cat' and 'dog'")
    ]


@pytest.mark.parametrize(
    ("said", "crowd"), [("0", False), ("false", False), (0.0, False), (None, False), ("1", True), (True, True)]
)
def test_whether_an_object_is_a_crowd_may_be_said_in_words(tmp_path: Path, said: object, crowd: bool) -> None:
    [draft], problems = drafts(tmp_path, [raw_layout.annotation(12, 1, iscrowd=said)], [TO_12])
    assert (draft.annotations[0].iscrowd, problems) == (crowd, [])
