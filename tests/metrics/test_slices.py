"""Which expressions fall into which slice."""

from __future__ import annotations

import numpy as np
import pytest

from refseg_cli.metrics.slices import find_phrasecut_subsets, find_slices

EXPRESSIONS = [  # text, targets, pixels of them, categories
    ("the left dog", 1, 32**2 - 1, ("dog",)),
    ("Two RED cars, please", 2, 32**2, ("car",)),
    ("a man and his dog on the right", 2, 96**2 - 1, ("dog", "person")),
    ("everyone except the boy", 3, 96**2, ("person",)),
    ("unicorn", 0, 0, ()),
    ("person with a blue-green hat, second from left, next to the tree", 1, 500_000, ("person",)),
    ("redder than the androids", 7, 40_000, ("robot",)),
]


def found() -> dict[tuple[str, str], list[int]]:
    texts, counts, areas, categories = zip(*EXPRESSIONS, strict=True)
    slices = find_slices(texts, np.array(counts), np.array(areas), categories)
    assert all(part.rows.dtype == np.bool_ and part.rows.shape == (len(EXPRESSIONS),) for part in slices)
    return {(part.group, part.name): np.flatnonzero(part.rows).tolist() for part in slices}


def test_by_hand():
    expected = {
        ("targets", "no target"): [4],
        ("targets", "single"): [0, 5],
        ("targets", "multi"): [1, 2, 3, 6],
        ("number", "1"): [0, 5],
        ("number", "2"): [1, 2],
        ("number", "3"): [3],
        ("number", "4+"): [6],
        ("size", "small"): [0],
        ("size", "medium"): [1, 2],
        ("size", "large"): [3, 5, 6],
        ("words", "1-2"): [4],
        ("words", "3-4"): [0, 1, 3, 6],
        ("words", "8+"): [2, 5],
        ("says", "spatial"): [0, 2, 5],
        ("says", "colour"): [1, 5],
        ("says", "counting"): [1, 5],
        ("says", '"and"'): [2],
        ("says", '"except"'): [3],
        ("says", '"with"'): [5],
        ("says", "none of these"): [4, 6],
        ("category", "person"): [2, 3, 5],
        ("category", "dog"): [0, 2],
        ("category", "car"): [1],
        ("category", "robot"): [6],
    }
    assert found() == expected


def test_categories_come_by_how_often_they_are_meant_then_by_name():
    assert [name for group, name in found() if group == "category"] == ["person", "dog", "car", "robot"]


def test_numbers_of_targets_and_words_tell_every_expression_apart():
    slices = found()
    for group, everyone in (("words", range(7)), ("number", [0, 1, 2, 3, 5, 6]), ("targets", range(7))):
        members = sorted(n for (g, _), rows in slices.items() if g == group for n in rows)
        assert members == list(everyone)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all dogs but the left one", ["spatial", "counting", '"except"']),
        ("everyone other than the man", ['"except"']),
        ("people apart from the boy", ['"except"']),
        ("the other man", ["none of these"]),
        ("from the other side", ["spatial"]),
        ("topmost kite", ["spatial"]),
        ("the cat moving to the left", ["spatial", "motion"]),
        ("a dog that leaves the picture", ["motion"]),
        ("that plant with green leaves", ["colour", '"with"']),
        ("lowest shelf", ["spatial"]),
    ],
)
def test_words_and_pairs_of_words(text, names):
    """Those of our own scenes among them: `data/scenes/wording.py`."""
    slices = find_slices([text], np.ones(1, int), np.ones(1, int), [()])
    assert [part.name for part in slices if part.group == "says"] == names


def test_nothing_has_no_slices():
    assert find_slices([], np.zeros(0, int), np.zeros(0, int), []) == []


def test_phrasecut_subsets_by_hand():
    """Stuff by any part of the name, COCO's categories by all of it; several are two to four, many five or more."""
    targets = [1, 2, 4, 5, 1, 1, 0]
    categories = [("stop sign",), ("treetop",), ("person",), ("man",), ("table cloth",), ("sign",), ()]
    subsets = find_phrasecut_subsets(np.array(targets), categories)
    assert {part.name: np.flatnonzero(part.rows).tolist() for part in subsets} == {
        "c_coco": [0, 2],
        "i_single": [0, 4, 5],
        "i_multi": [1, 2],
        "i_many": [3],
        "t_stuff": [1, 4],
        "t_obj": [0, 2, 3, 5],
    }
    assert find_phrasecut_subsets(np.zeros(0, int), []) == []


def test_words_are_those_of_each_text_alone():
    """Many are read at once: no word and no pair of words crosses from one text to the next."""
    rng = np.random.default_rng(0)
    words = ["other", "than", "apart", "from", "left", "red", "it's", "and", "dog", "two", "except", "a\nb", "--", "É"]
    texts = [" ".join(rng.choice(words, int(rng.integers(0, 6)))) for _ in range(25_000)]
    said = {part.name: part.rows for part in find_slices(texts, *(np.ones(len(texts), int),) * 2, [()] * len(texts))}
    for name, wanted in (("spatial", {"left"}), ("colour", {"red"}), ("counting", {"two"}), ('"and"', {"and"})):
        assert said[name].tolist() == [not wanted.isdisjoint(text.split()) for text in texts], name
    spoken = [" ".join(text.replace("--", "").split()) for text in texts]
    excepted = ["except" in text or "other than" in text or "apart from" in text for text in spoken]
    assert said['"except"'].tolist() == excepted
    counts = [len(text.replace("--", "").split()) for text in texts]
    assert said["1-2"].tolist() == [count in (1, 2) for count in counts]


def test_things_without_a_category_have_no_slice():
    found = find_slices(["car"] * 2, np.ones(2, int), np.ones(2, int), [("",), ("dog",)])
    assert [part.name for part in found if part.group == "category"] == ["dog"]
