"""Phrases about annotated photographs: what is not known must make no phrase."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from refseg_cli.data import masks
from refseg_cli.data.phrases import annotated
from refseg_cli.data.phrases.annotated import Outline, categories_of, scene_of, vocabulary
from refseg_cli.data.phrases.colours import PAINTS, name_of
from refseg_cli.data.phrases.generate import describe
from refseg_cli.data.phrases.logic import Coloured, Everything, Except, Is, Or, Placed, Ranked, Related, targets, words
from refseg_cli.data.phrases.scene import Scene
from refseg_cli.errors import RefsegError

NAMES = {1: "person", 3: "car", 8: "truck", 17: "cat", 18: "dog", 22: "elephant"}
CATEGORIES = categories_of(NAMES)
SIZE = (100, 200)


def block(category: int, left: int, *, top: int = 40, side: int = 20, **about: bool) -> Outline:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return Outline(category, mask, **about)


def scene(*outlines: Outline, complete: tuple[int, ...] | None = None, pixels: np.ndarray | None = None) -> Scene:
    return scene_of(outlines, CATEGORIES, SIZE, complete=complete, pixels=pixels)[0]


def test_categories_have_the_words_of_coco_or_their_own_names() -> None:
    found = categories_of({1: "sports ball", 2: "tv", 3: "Teddy_Bear", 4: "bow_(weapon)", 5: "person"})
    assert [found[i].name for i in range(1, 6)] == ["ball", "tv", "teddy bear", "bow", "person"]
    assert found[3].doubtful == {"toy", "bear", "animal"}  # "toy" fits much that nobody annotates
    assert found[5].section == "people"
    assert (found[4].section, found[4].general) == ("thing", frozenset())
    assert vocabulary(found.values()).plural("person") == "people"


@pytest.mark.parametrize("name", [" ", "_", "(other)", ","])
def test_a_category_without_a_word_is_named(name: str) -> None:
    with pytest.raises(RefsegError, match=f"category 7: .*{re.escape(repr(name))}"):
        categories_of({1: "dog", 7: name})


def test_a_noun_is_unclear_where_more_may_be_there_than_is_annotated() -> None:
    dogs = (block(18, 10), block(18, 150))
    assert targets(Is("dog"), scene(*dogs)) == (0, 1)
    assert targets(Is("dog"), scene(*dogs, complete=(18,))) == (0, 1)
    assert targets(Is("dog"), scene(*dogs, complete=(1,))) is None
    # "animal" is true of an elephant that nobody looked for, "car" may be said of a truck
    assert targets(Is("animal"), scene(*dogs, complete=(17, 18))) is None
    assert targets(Is("animal"), scene(*dogs, complete=(17, 18, 22))) == (0, 1)
    assert targets(Is("car"), scene(*dogs, complete=(3,))) is None
    assert targets(Is("car"), scene(*dogs, complete=(3, 8))) == ()


@pytest.mark.parametrize(
    "form",
    [
        Placed(Is("dog"), "left"),
        Ranked(Is("dog"), "left", 2),
        Coloured(Is("dog"), "black"),
        Related(Is("dog"), "left of", Is("cat")),
        Related(Is("cat"), "left of", Is("dog")),
        Or(Is("cat"), Is("dog")),
        Except(Is("cat"), Is("dog")),
        Everything(),
    ],
)
def test_every_form_is_as_unclear_as_its_nouns(form: object) -> None:
    outlines = (block(18, 10), block(17, 150))
    assert targets(form, scene(*outlines, complete=(17,))) is None


def test_every_form_tells_its_nouns() -> None:
    form = Or(
        Except(Is("a"), Placed(Is("b"), "left")), Related(Coloured(Is("c"), "red"), "above", Ranked(Is("d"), "big"))
    )
    assert list(words(form)) == ["a", "b", "c", "d"]
    assert list(words(Everything())) == [None]


def test_a_crowd_is_of_unknown_number() -> None:
    found, positions = scene_of((block(18, 10), block(1, 80, crowd=True), block(18, 150)), CATEGORIES, SIZE)
    assert positions == (0, 2)
    assert targets(Is("person"), found) is None
    assert targets(Is("dog"), found) == (0, 1)


def test_a_doubtful_outline_counts_but_is_no_target() -> None:
    """Of two dogs, one without a mask that can be trusted: nobody says "the dog", nobody asks for both."""
    found = scene(block(18, 10), block(18, 150, traced=False), block(17, 80))
    said = references(found)
    named = {t for _, reference_targets, _ in said for t in reference_targets}
    assert named == {0, 2}
    assert not any(phrase in ("dog", "the dog", "both dogs", "two dogs") for _, _, phrase in said)
    assert any(reference_targets == (0,) for _, reference_targets, _ in said)  # the dog on the left


def references(found: Scene, seeds: int = 40) -> list[tuple[str, tuple[int, ...], str]]:
    """(kind, targets, phrase) of many describers."""
    nouns = vocabulary(CATEGORIES.values())
    said = [r for seed in range(seeds) for r in describe(found, nouns, Random(seed), lambda category: True)]
    return [(r.kind, r.targets, phrase) for r in said for phrase in r.phrases]


def test_absence_is_claimed_only_of_what_was_looked_for() -> None:
    said = references(scene(block(18, 10), complete=(18, 17)))
    absent = {phrase for kind, _, phrase in said if kind == "no_target.category"}
    assert any("cat" in phrase for phrase in absent)
    assert not any(noun in phrase for phrase in absent for noun in ("elephant", "car", "truck", "person", "people"))


def test_people_have_no_colour_and_others_only_a_clear_one() -> None:
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    pixels[...] = (200, 30, 30)
    pixels[:, 100:] = (128, 128, 128)
    found = scene(block(1, 10), block(3, 40), block(3, 150), pixels=pixels)
    assert [thing.colour for thing in found.things] == [None, "red", None]
    assert targets(Coloured(Is("car"), "red"), found) is None  # the grey one may be called anything


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((220, 20, 30), "red"),
        ((240, 130, 20), "orange"),
        ((110, 65, 25), "brown"),
        ((240, 220, 40), "yellow"),
        ((40, 150, 60), "green"),
        ((30, 80, 200), "blue"),
        ((245, 245, 240), "white"),
        ((20, 20, 22), "black"),
        ((128, 128, 128), None),
        ((150, 120, 110), None),  # skin, wood, dust
    ],
)
def test_colour_words(rgb: tuple[int, int, int], word: str | None) -> None:
    pixels = np.tile(np.array(rgb, dtype=np.uint8), (50, 1))
    assert name_of(pixels) == word
    doubtful = pixels.copy()
    doubtful[:25] = 128 if word else (0, 0, 255)
    assert name_of(doubtful) is None
    assert word is None or word in {*PAINTS, "brown"}


def test_nothing_has_no_colour() -> None:
    assert name_of(np.zeros((0, 3), dtype=np.uint8)) is None


def test_real_photographs_are_described_and_every_phrase_is_proven(shared: Path) -> None:
    """`describe` proves each phrase; here, that there are some of each number, the same ones again, and few colours."""
    table = json.loads((shared / "photos" / "instances.json").read_text("utf-8"))
    categories = categories_of({row["id"]: row["name"] for row in table["categories"]})
    written = tomllib.loads(Path(annotated.__file__).with_name("coco.toml").read_text("utf-8"))
    assert {row["name"] for row in table["categories"]} == {name for s in annotated.SECTIONS for name in written[s]}
    nouns, kinds = vocabulary(categories.values()), set()
    chosen = {row["id"]: row for row in itertools.islice(table["images"], 0, None, 150)}
    objects: dict[int, list[dict]] = {number: [] for number in chosen}
    for row in table["annotations"]:
        if row["image_id"] in objects:
            objects[row["image_id"]].append(row)
    for number, image in chosen.items():
        size = (image["height"], image["width"])
        outlines = [
            Outline(
                row["category_id"],
                masks.decode(masks.from_segmentation(row["segmentation"], *size)).astype(bool),
                traced=bool(row["reliable"]),
            )
            for row in objects[number]
        ]
        with Image.open(shared / "photos" / "images" / image["file_name"]) as photo:
            pixels = np.asarray(photo.convert("RGB"))
        found, _ = scene_of(outlines, categories, size, complete=image["complete"], pixels=pixels)
        if not any(thing.traced for thing in found.things):
            continue
        first, again = (describe(found, nouns, Random(number), lambda category: True) for _ in range(2))
        assert first == again
        kinds |= {reference.kind.partition(".")[0] for reference in first}
    assert kinds == {"single", "multi", "no_target"}
