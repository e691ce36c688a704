"""Which expression an entry means: every way to name one, names that disagree, and names that do not suffice."""

from __future__ import annotations

import random

import pytest

from refseg_cli.evaluation.matching import Wanted, match
from refseg_cli.evaluation.predictions import Given, Problems


def wanted(image: int, sent: int, phrase: str, *, ref=0, targets=(0,), name="", split="val") -> Wanted:
    return Wanted(split, image, name or f"COCO_train2014_{image:012d}.jpg", ref, sent, (phrase,), targets)


def matched(given: list[Given], expressions: list[Wanted], **options) -> tuple[dict[int, str], list[tuple[str, str]]]:
    """Place -> where, and the problems as (reason, where)."""
    problems = Problems()
    found = match(given, expressions, problems, **options)
    told = {n: "+".join(entry.where for entry in entries) for n, entries in found.items()}
    return told, [(problem.reason, problem.where) for problem in problems.found]


def given(where: str, *images: int | str, **names) -> Given:
    return Given(where, images=images, **names)


# Own data that numbers its sentences anew in every reference: ids 0 and 1 twice in each of two pictures
RESTARTED = [
    wanted(image, sent, f"{place} {'one' if sent else 'dog'}", ref=ref, targets=(target,))
    for image in (1, 2)
    for ref, place, target in ((10 * image, "left", 0), (10 * image + 1, "right", 1))
    for sent in (0, 1)
]


@pytest.mark.parametrize(
    "names",
    [
        lambda w: given("", w.image_id, phrase=w.phrases[0]),
        lambda w: given("", w.file_name, phrase=w.phrases[0]),
        lambda w: given("", w.image_id, w.file_name, ref_id=w.ref_id, sent_id=w.sent_id, phrase=w.phrases[0]),
        lambda w: given("", ref_id=w.ref_id, sent_id=w.sent_id),
        lambda w: given("", w.image_id, sent_id=w.sent_id, phrase=w.phrases[0]),
        lambda w: given("", ref_id=w.ref_id, phrase=w.phrases[0]),
    ],
)
def test_names_together_find_what_one_alone_does_not_in_any_order(names):
    entries = [names(w)._replace(where=str(n)) for n, w in enumerate(RESTARTED)]
    random.Random(1).shuffle(entries)
    found, problems = matched(entries, RESTARTED)
    assert (found, problems) == ({n: str(n) for n in range(8)}, [])


def test_an_id_of_several_expressions_is_ambiguous_and_never_dealt_out():
    found, problems = matched([given("x", sent_id=0), given("y", sent_id=1)], RESTARTED)
    assert (found, problems) == ({}, [("ambiguous", "x"), ("ambiguous", "y")])
    four = [given(w, sent_id=0) for w in "abcd"]
    assert matched(four, RESTARTED) == ({}, [("ambiguous", w) for w in "abcd"])
    beside_its_picture = [given("x", 1, sent_id=0)]
    assert matched(beside_its_picture, RESTARTED) == ({}, [("ambiguous", "x")])


@pytest.mark.parametrize(
    "entry",
    [
        given("x", sent_id=7, phrase="right dog"),
        given("x", 2, sent_id=7),
        given("x", "elsewhere.jpg", sent_id=7),
        given("x", sent_id=7, ref_id=2),
        given("x", 1, phrase="left dog", ref_id=2),
        given("x", 1, "COCO_train2014_000000000002.jpg", sent_id=7),
    ],
)
def test_names_that_disagree_are_a_contradiction(entry):
    two = [wanted(1, 7, "left dog", ref=1), wanted(2, 8, "right dog", ref=2)]
    assert matched([entry], two) == ({}, [("contradictory", "x")])


def test_names_of_nothing_are_unknown():
    one = [wanted(1, 7, "left dog", ref=1)]
    entries = [
        given("a", sent_id=9),
        given("b", 1, phrase="right dog"),
        given("c", 3, phrase="left dog"),
        given("d", ref_id=3),
        given("e", "dog.jpg", phrase="left dog"),
    ]
    assert matched(entries, one) == ({}, [("unknown", where) for where in "abcde"])


@pytest.mark.parametrize(
    "image",
    [
        9,
        "9",
        "000000000009",
        "000000000009.jpg",
        "val2017/000000000009.jpg",
        "COCO_train2014_000000000009",
        "COCO_train2014_000000000009.jpg",
        "COCO_train2014_000000000009.JPG",
        "COCO_train2014_000000000009.png",
        "COCO_train2014_000000000009_0.jpg",
        "COCO_train2014_000000000009_16.jpg",
        "some/where/COCO_train2014_000000000009.jpg",
        "C:\\data\\COCO_train2014_000000000009.jpg",
    ],
)
@pytest.mark.parametrize(
    "file_name", ["COCO_train2014_000000000009.jpg", "000000000009.jpg", "val2017/000000000009.jpg"]
)
def test_a_photo_of_coco_by_all_its_names(image, file_name):
    two = [wanted(9, 1, "a dog", name=file_name), wanted(90, 2, "a dog")]
    assert matched([given("x", image, phrase="a dog")], two) == ({0: "x"}, [])


def test_other_pictures_by_path_name_and_number():
    three = [
        wanted(1, 1, "a dog", name="first/0001.jpg"),
        wanted(2, 2, "a dog", name="second/0001.jpg"),
        wanted(3, 3, "a dog", name="7.v2.png"),
    ]
    for image, place in [("first/0001.jpg", 0), ("/data/second/0001.jpg", 1), ("7.v2", 2), ("7.v2.jpg", 2), ("3", 2)]:
        assert matched([given("x", image, phrase="a dog")], three) == ({place: "x"}, []), image
    assert matched([given("x", "0001.jpg", phrase="a dog")], three) == ({}, [("ambiguous", "x")])
    assert matched([given("x", "third/0001.jpg", phrase="a dog")], three) == ({}, [("ambiguous", "x")])
    # A number is a name first where it stands for one, and an id first where it stands for an id.
    two = [wanted(1, 1, "a dog", name="2.png"), wanted(2, 2, "a dog", name="1.png")]
    assert matched([given("x", "1", phrase="a dog")], two) == ({1: "x"}, [])
    assert matched([given("x", 1, phrase="a dog")], two) == ({0: "x"}, [])


# The same phrase, or the same reference, more than once

ALIKE = [
    wanted(1, 1, "left dog", ref=1),
    wanted(1, 2, "Left  dog", ref=1),
    wanted(1, 3, "the dog", ref=1),
    wanted(2, 4, "left dog", ref=2),
]


def test_one_answer_serves_all_expressions_that_say_the_same_of_a_picture():
    assert matched([given("x", 1, phrase="left dog")], ALIKE) == ({0: "x", 1: "x"}, [])
    assert matched([given("x", ref_id=1)], ALIKE) == ({0: "x", 1: "x", 2: "x"}, [])
    other_truth = [wanted(1, 1, "left dog", targets=(0,)), wanted(1, 2, "left dog", targets=(1,))]
    assert matched([given("x", 1, phrase="left dog")], other_truth) == ({0: "x", 1: "x"}, [])
    twice = [wanted(1, 1, "left dog"), wanted(1, 1, "left dog", split="testA")]
    assert matched([given("x", sent_id=1)], twice) == ({0: "x", 1: "x"}, [])


def test_as_many_answers_as_expressions_are_dealt_out_if_it_does_not_matter_how():
    two = [given(w, 1, phrase="left dog", masks=(w,)) for w in "xy"]
    assert matched(two, ALIKE) == ({0: "x", 1: "y"}, [])
    other_truth = [wanted(1, 1, "left dog", targets=(0,)), wanted(1, 2, "left dog", targets=(1,))]
    assert matched(two, other_truth) == ({}, [("ambiguous", "x"), ("ambiguous", "y")])
    same = [given(w, 1, phrase="left dog", masks=("m",)) for w in "xy"]
    assert matched(same, other_truth) == ({0: "x", 1: "y"}, [])
    three = [*two, given("z", 1, phrase="left dog")]
    assert matched(three, ALIKE) == ({0: "x", 1: "x"}, [("duplicate", "y"), ("duplicate", "z")])


def test_a_name_and_an_id_of_one_expression_are_two_answers():
    problems = Problems()
    found = match([given("x", sent_id=4), given("y", 2, phrase="left dog")], ALIKE, problems)
    assert {n: [entry.where for entry in entries] for n, entries in found.items()} == {3: ["x"]}
    assert str(problems.found[0]) == "y: duplicate: image 2 'left dog' is answered by x"


def test_the_narrower_of_two_names_goes_first():
    both = [given("wide", 1, phrase="left dog"), given("narrow", sent_id=2)]
    assert matched(both, ALIKE) == ({0: "wide", 1: "narrow"}, [])


def test_parts_of_one_answer_are_joined_where_that_was_asked_for():
    parts = [given(w, 1, phrase="left dog", masks=(w,)) for w in "xyz"]
    assert matched(parts, ALIKE, union=True) == ({0: "x+y+z", 1: "x+y+z"}, [])
    assert matched(parts[:2], ALIKE, union=True) == ({0: "x+y", 1: "x+y"}, [])
    unclear = [given("x", sent_id=0), given("y", sent_id=0)]
    assert matched(unclear, RESTARTED, union=True) == ({}, [("ambiguous", "x"), ("ambiguous", "y")])


def test_an_entry_of_records_answers_its_own_split():
    twice = [wanted(1, 1, "left dog"), wanted(1, 1, "left dog", split="testA")]
    rows = [given("b", sent_id=1, split="testA"), given("a", sent_id=1, split="val")]
    assert matched(rows, twice) == ({0: "a", 1: "b"}, [])


def test_a_phrase_that_one_expression_is_as_typed_and_another_as_cleaned_goes_to_both_or_to_what_is_left():
    typed = [
        Wanted("val", 1, "a.jpg", 1, 1, ("dog", "Dog."), (0,)),
        Wanted("val", 1, "a.jpg", 2, 2, ("dog", "dog"), (1,)),
    ]
    as_typed = [given("y", 1, phrase="dog"), given("x", 1, phrase="Dog.")]
    assert matched(as_typed, typed) == ({0: "x", 1: "y"}, [])
    assert matched(as_typed, typed, union=True) == ({0: "x", 1: "y"}, [])
    assert matched([given("x", "a.jpg", phrase="DOG")], typed) == ({0: "x", 1: "x"}, [])
    assert matched([given("x", sent_id=1, phrase="dog."), given("y", sent_id=2, phrase="dog.")], typed) == (
        {0: "x"},
        [("contradictory", "y")],
    )
