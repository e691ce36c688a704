"""What holds of photographs and not of scenes: large objects, light, categories known in part or not at all."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from refseg_cli.data.phrases.annotated import MANY, Outline, categories_of, scene_of, vocabulary
from refseg_cli.data.phrases.colours import name_of
from refseg_cli.data.phrases.generate import Reference, describe
from refseg_cli.data.phrases.logic import Coloured, Counted, Everything, Form, Is, Or, Placed, Ranked, Related, targets
from refseg_cli.data.phrases.photographs import companions_of
from refseg_cli.data.phrases.proposals import PHOTO_KINDS
from refseg_cli.data.phrases.scene import Scene
from refseg_cli.data.phrases.wording import Number, word

NAMES = {1: "person", 3: "car", 17: "cat", 18: "dog", 52: "banana", 62: "chair"}
CATEGORIES = categories_of(NAMES)
SIZE = (100, 200)
DOG, CAT = Is("dog"), Is("cat")


def box(category: int, left: int, top: int, right: int, bottom: int, **about: bool) -> Outline:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return Outline(category, mask, **about)


def photo(*outlines: Outline, together: tuple[int, ...] = (), pixels: np.ndarray | None = None) -> Scene:
    return scene_of(outlines, CATEGORIES, SIZE, together=together, pixels=pixels)[0]


def said(scene: Scene, seeds: int = 40, **options: object) -> list[Reference]:
    nouns = vocabulary(CATEGORIES.values())
    return [
        reference
        for seed in range(seeds)
        for reference in describe(scene, nouns, Random(seed), lambda category: True, kinds=PHOTO_KINDS, **options)
    ]


@pytest.mark.parametrize(("number", "named"), [(1, None), (2, (0, 1)), (3, ()), (4, ())])
def test_a_count_fits_nothing_where_there_are_fewer(number: int, named: tuple[int, ...] | None) -> None:
    scene = photo(box(18, 10, 40, 30, 60), box(18, 150, 40, 170, 60))
    assert targets(Counted(DOG, number), scene) == named


@pytest.mark.parametrize(
    ("form", "dog", "named"),
    [
        (Placed(DOG, "left"), (10, 40, 60, 90), (0,)),
        (Placed(DOG, "left"), (0, 0, 155, 100), None),  # nearly the whole picture
        (Placed(DOG, "left"), (60, 0, 200, 100), None),  # right of the middle, and much of it is not
        (Placed(DOG, "left"), (120, 0, 200, 100), ()),
        (Placed(DOG, "middle"), (110, 0, 200, 100), None),
        (Placed(DOG, "middle"), (150, 0, 200, 100), ()),
        (Placed(DOG, "bottom"), (80, 55, 120, 75), None),  # only just below the middle
        (Placed(DOG, "bottom"), (80, 65, 120, 95), (0,)),
        (Placed(DOG, "top left"), (0, 0, 40, 40), (0,)),
        (Placed(DOG, "top left"), (0, 0, 140, 60), None),
    ],
)
def test_a_large_object_is_on_no_side(form: Form, dog: tuple[int, ...], named: tuple[int, ...] | None) -> None:
    assert targets(form, photo(box(18, *dog))) == named


@pytest.mark.parametrize(
    ("relation", "cat", "dog", "named"),
    [
        ("next to", (50, 20, 100, 80), (102, 20, 150, 80), (1,)),
        ("next to", (50, 20, 100, 80), (70, 20, 120, 80), None),  # one behind the other
        ("right of", (20, 20, 60, 80), (100, 20, 150, 80), (1,)),
        ("right of", (20, 20, 150, 80), (60, 20, 190, 80), None),
        ("left of", (20, 20, 60, 80), (100, 20, 150, 80), ()),
        ("left of", (20, 20, 60, 80), (0, 20, 190, 80), None),
    ],
)
def test_what_overlaps_is_not_beside(
    relation: str, cat: tuple[int, ...], dog: tuple[int, ...], named: tuple[int, ...] | None
) -> None:
    assert targets(Related(DOG, relation, CAT), photo(box(17, *cat), box(18, *dog))) == named


def test_not_everything_is_annotated() -> None:
    scene = photo(box(18, 10, 40, 30, 60), box(17, 150, 40, 170, 60))
    assert targets(Everything(), scene) is None
    assert not any("everything" in phrase for reference in said(scene) for phrase in reference.phrases)
    assert targets(Is("food"), photo(box(52, 10, 40, 30, 60))) is None  # there are others than COCO's


def test_all_of_a_category_may_be_known_where_none_of_its_objects_is() -> None:
    dogs = (box(18, 10, 40, 30, 60, traced=False), box(18, 60, 40, 80, 60, traced=False))
    assert not said(photo(*dogs))
    named = {reference.targets for reference in said(photo(*dogs, together=(18,)))}
    assert named == {(), (0, 1)}
    others = photo(*dogs, box(17, 150, 40, 170, 60), together=(18,))
    assert {reference.targets for reference in said(others)} == {(), (0, 1), (2,), (0, 1, 2)}


def test_of_many_objects_hardly_all_are_annotated() -> None:
    few = [box(18, 15 * n, 40, 15 * n + 10, 60) for n in range(MANY - 1)]
    assert targets(DOG, photo(*few)) is not None
    assert targets(DOG, photo(*few, box(18, 180, 40, 190, 60))) is None


def test_an_object_without_pixels_is_somewhere() -> None:
    assert targets(DOG, photo(box(18, 10, 40, 30, 60), box(18, 5, 5, 5, 5))) is None


def flat(rgb: tuple[int, int, int]) -> np.ndarray:
    return np.tile(np.array(rgb, dtype=np.uint8), (*SIZE, 1))


def test_colours_need_light_and_room() -> None:
    red, dark = flat((220, 20, 30)), flat((60, 5, 8))
    car, speck = box(3, 10, 40, 30, 60), box(3, 10, 40, 20, 50)
    assert photo(car, pixels=red).things[0].colour == "red"
    assert photo(speck, pixels=red).things[0].colour is None
    assert photo(car, pixels=dark).things[0].colour is None


@pytest.mark.parametrize(
    ("rgb", "absent"),
    [
        ((245, 245, 240), {"black", "red", "green"}),
        ((240, 150, 20), {"black", "green", "blue"}),
    ],
)
def test_a_colour_is_absent_only_if_no_light_makes_it(rgb: tuple[int, int, int], absent: set[str]) -> None:
    scene = photo(box(18, 10, 40, 30, 60), pixels=flat(rgb))
    colour = scene.things[0].colour
    words = ("black", "white", "orange", "red", "green", "blue", "brown")
    assert {word for word in words if targets(Coloured(DOG, word), scene) == ()} >= absent
    assert targets(Coloured(DOG, "white" if colour == "orange" else "orange"), scene) is None


def test_ginger_in_the_shade_is_neither_orange_nor_brown() -> None:
    assert name_of(np.tile(np.array((140, 85, 45), dtype=np.uint8), (50, 1))) is None


def test_what_is_missing_is_what_often_is_there() -> None:
    scene = photo(box(18, 10, 40, 30, 60))
    companions = companions_of([{18, 62}, {18, 62}, {18, 1}, {17}], CATEGORIES)
    assert companions[CATEGORIES[18].index] == {CATEGORIES[1]: 1.0, CATEGORIES[62]: 2**0.5}
    absent = [p for r in said(scene, companions=companions) if r.kind == "no_target.category" for p in r.phrases]
    chairs, bananas = (sum(noun in phrase for phrase in absent) for noun in ("chair", "banana"))
    assert chairs > 2 * bananas


def test_counts_may_be_wrong() -> None:
    scene = photo(box(18, 10, 40, 30, 60), box(18, 150, 40, 170, 60))
    wrong = {p for r in said(scene) if r.kind == "no_target.count" for p in r.phrases}
    assert {"three dogs", "the three dogs"} <= wrong
    assert any("four dogs" in phrase for phrase in wrong)
    assert not any("two" in phrase or "both" in phrase for phrase in wrong)


def test_the_only_dog_is_no_left_dog() -> None:
    phrases = {p for r in said(photo(box(18, 10, 40, 30, 60))) if r.kind == "single.position" for p in r.phrases}
    assert any(phrase.endswith("on the left") for phrase in phrases)
    assert not any("left dog" in phrase for phrase in phrases)
    two = photo(box(18, 10, 40, 30, 60), box(18, 170, 40, 190, 60))
    assert any("left dog" in p for r in said(two) if r.kind == "single.position" for p in r.phrases)


def test_nothing_is_said_of_nothing() -> None:
    assert not said(photo())


def test_the_closest_is_larger_and_stands_lower() -> None:
    near, far, high = box(18, 10, 40, 50, 90), box(18, 100, 30, 115, 50), box(18, 140, 5, 180, 40)
    closest = Ranked(DOG, "near")
    assert targets(closest, photo(near, far)) == (0,)
    assert targets(Ranked(DOG, "far"), photo(near, far)) == (1,)
    assert targets(closest, photo(far, high)) is None  # the larger one stands higher: it may fly
    phrases = {p for r in said(photo(near, far), seeds=200) if r.kind == "single.distance" for p in r.phrases}
    assert {"closest dog", "dog in the back"} <= phrases


def test_people_are_called_what_people_call_them_but_never_told_apart() -> None:
    two = said(photo(box(1, 10, 40, 30, 90), box(1, 150, 40, 170, 90)))
    men = [r for r in two if any("man" in phrase.split() for phrase in r.phrases)]
    assert len(men) > 5
    assert all(len(r.targets) == 1 and not isinstance(r.form, Is) for r in men if r.kind.startswith("single"))
    assert all(isinstance(r.form, Or) for r in men if len(r.targets) > 1)  # 'the man on the left and the right woman'
    nouns = vocabulary(CATEGORIES.values())
    assert {"guy", "the guy", "person"} <= {word(Is("person"), Number(1), nouns, Random(seed)) for seed in range(300)}


def test_haste_leaves_out_articles_and_writes_figures() -> None:
    dogs = photo(*(box(18, left, 40, left + 15, 70) for left in (10, 60, 110, 160)))
    phrases = " ".join(p for r in said(dogs, repeats=9) for p in r.phrases)
    assert all(piece in phrases for piece in ("2nd dog from", "far left", "on left"))


@pytest.mark.parametrize(("noun", "article"), [("orange", "an orange"), ("dog", "a dog"), ("unicycle", "a unicycle")])
def test_an_article_fits_its_noun(noun: str, article: str) -> None:
    nouns = vocabulary(categories_of({1: noun}).values())
    singular = {word(Is(noun), Number(1), nouns, Random(seed)) for seed in range(20)}
    assert singular == {noun, f"the {noun}", article}
