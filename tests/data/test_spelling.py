"""Typos: which unknown words are read as which known ones, and through which doors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from refseg_cli.config import Recipe, TextConfig, build
from refseg_cli.data.spelling import Spelling
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.errors import RefsegError

# Of the phrases that `--phrases generate` makes of photographs.
KNOWN = [
    *(
        "the",
        "in",
        "a",
        "both",
        "three",
        "left",
        "right",
        "middle",
        "back",
        "light",
        "black",
        "large",
        "larger",
        "largest",
    ),
    *("person", "people", "woman", "dog", "cat", "cats", "horse", "horses", "giraffe", "zebra", "hand", "bed", "table"),
    *("couch", "bottle", "ball", "boat", "car", "cars", "plant", "plants", "broccoli", "carrot", "coffee"),
]
SPELLING = TextConfig(max_tokens=8, spelling=True)


@pytest.fixture(scope="module")
def spelling() -> Spelling:
    return Spelling(KNOWN)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return build_tokenizer(SPELLING, [" ".join(KNOWN)])


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("brocolli", "broccoli"),  # the wrong letter doubled
        ("brocollie", "broccoli"),  # and one more
        ("girafe", "giraffe"),
        ("coffe", "coffee"),
        ("womann", "woman"),
        ("lefft", "left"),
        ("peolpe", "people"),  # neighbours swapped
        ("rigth", "right"),
        ("botlle", "bottle"),
        ("zebras", "zebra"),
        ("hands", "hand"),
        ("boats", "boat"),
    ],
)
def test_typos_are_read(spelling: Spelling, typo: str, meant: str) -> None:
    assert spelling.meant_by(typo) == meant


@pytest.mark.parametrize(
    "word",
    [
        *("cart", "coat", "camisole", "bald", "house", "pants", "tree", "trees", "there", "block", "beach", "water"),
        *("thomas", "mary", "peter", "carol", "hat", "dgo", "2nd", "catz", "émile", "\ue000"),
    ],
)
def test_other_words_stay_unknown(spelling: Spelling, word: str) -> None:
    assert spelling.meant_by(word) is None


def test_a_typo_of_two_words_is_of_neither(spelling: Spelling) -> None:
    assert spelling.meant_by("larget") is None
    assert Spelling(["large", "larger"]).meant_by("larget") == "large"


def test_the_first_letter_and_the_length_count() -> None:
    spelling = Spelling(["umbrella", "knife"])
    assert spelling.meant_by("umbrelka") == "umbrella"
    assert spelling.meant_by("embrella") is None
    assert spelling.meant_by("knige") is None


def test_the_phrase_is_read_as_if_it_had_been_typed_right(words: Tokenizer) -> None:
    typed, meant = words.encode(["The Brocolli, in (peolpe) camisole", "the broccoli, in (people) zzz"])[0]
    assert torch.equal(typed, meant)
    reading = words.read(" The Brocolli in camisole peolpe camisole ")
    assert reading.text == "The broccoli in camisole people camisole"
    assert reading.read_as == {"Brocolli": "broccoli", "peolpe": "people"}
    assert reading.unknown == ("camisole",)


def test_without_it_old_checkpoints_read_as_ever(words: Tokenizer, tmp_path: Path) -> None:
    words.save(tmp_path)
    unknown = words.pipeline.token_to_id("[UNK]")
    assert Tokenizer.load(tmp_path).encode(["brocolli"])[0][0, 0] == unknown
    assert Tokenizer.load(tmp_path).read("the brocolli").unknown == ("brocolli",)
    assert Tokenizer.load(tmp_path, spelling=True).encode(["brocolli"])[0][0, 0] != unknown
    assert not build(Recipe, {"arch": "vlt"}, "").text.spelling


def test_sub_words_have_no_typos() -> None:
    with pytest.raises(RefsegError, match="spelling: True is not for clip"):
        TextConfig(tokenizer="clip", spelling=True)
