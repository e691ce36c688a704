"""The embedded dataset, read back from its files by a reader that shares no code with the generator's logic."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from refseg_cli.data.phrases.colours import PAINTS, hsv, hue_difference, repaint, repaintable
from refseg_cli.data.phrases.logic import Is, Placed, Ranked, assert_unambiguous, targets
from refseg_cli.data.phrases.scene import Scene, Thing
from refseg_cli.data.scenes import compose, generate, generate_films
from refseg_cli.data.scenes.catalogue import HERE, atlas, catalogue
from refseg_cli.errors import RefsegError

Json = dict[str, Any]
IMAGES = {"train": 120, "val": 10, "testA": 30, "testB": 30}
SMALL = {"train": 20, "testA": 4}


class Dataset:
    """The raw files, indexed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        instances = json.loads((root / "grefcoco/instances.json").read_text())
        self.images = {row["id"]: row for row in instances["images"]}
        self.annotations = {row["id"]: row for row in instances["annotations"]}
        self.categories = {row["id"]: row for row in instances["categories"]}
        self.references: list[Json] = json.loads((root / "grefcoco/grefs(unc).json").read_text())
        self.in_image: dict[int, list[Json]] = defaultdict(list)
        for row in instances["annotations"]:
            self.in_image[row["image_id"]].append(row)

    def section(self, annotation_id: int) -> str:
        return self.categories[self.annotations[annotation_id]["category_id"]]["supercategory"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("scenes")
    generate(root, images=IMAGES, seed=7)
    return Dataset(root)


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    generate(tmp_path / "one", images=SMALL, seed=3)
    generate(tmp_path / "two", images=SMALL, seed=3, workers=2)  # its processes also hash strings differently
    generate(tmp_path / "other", images=SMALL, seed=4)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert not set(digest(tmp_path / "one" / "images").values()) & set(digest(tmp_path / "other" / "images").values())


def test_a_larger_dataset_extends_a_smaller_one(tmp_path: Path) -> None:
    generate(tmp_path / "few", images={"val": 3}, seed=3)
    generate(tmp_path / "more", images={"val": 5, "train": 2}, seed=3)
    few, more = digest(tmp_path / "few"), digest(tmp_path / "more")
    pictures = [name for name in few if name.endswith(".jpg")]
    assert len(pictures) == 3
    assert all(few[name] == more[name] for name in pictures)


def test_every_picture_differs(data: Dataset) -> None:
    digests = [value for name, value in digest(data.root).items() if name.endswith(".jpg")]
    assert len(digests) == len(set(digests)) == sum(IMAGES.values())


def test_counts_and_progress(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    counts = generate(tmp_path, images={"val": 4}, progress=lambda done, total: calls.append((done, total)))
    written = Dataset(tmp_path)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert counts.images == {"val": 4}
    assert counts.instances == len(written.annotations)
    assert sum(counts.references.values()) == len(written.references)
    assert sum(counts.expressions.values()) == sum(len(row["sentences"]) for row in written.references)
    assert not list(tmp_path.rglob("*.tmp"))


def test_unknown_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="test_a"):
        generate(tmp_path, images={"test_a": 1})


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"train": 0}, r"scenes: train=0: nothing to make \(give a split more than 0, e.g. train=400,val=40\)"),
        ({"val": 0, "testA": 0}, "scenes: val=0,testA=0: nothing to make"),
        ({"val": 2, "train": -1}, r"scenes: train=-1: not a number of pictures \(from 0 to 999999\)"),
    ],
)
def test_no_pictures_are_no_dataset(tmp_path: Path, images: dict[str, int], said: str) -> None:
    for make, counts in ((generate, "images"), (generate_films, "clips")):
        with pytest.raises(RefsegError, match=said):
            make(tmp_path / "raw", **{counts: images})
    assert not (tmp_path / "raw").exists()


def test_torch_stays_out() -> None:
    code = "import sys, refseg_cli.data.scenes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=HERE.parents[2]).returncode == 0


def test_masks_are_disjoint_and_agree_with_boxes_and_areas(data: Dataset) -> None:
    for image_id, image in data.images.items():
        size = (image["height"], image["width"])
        owned = np.zeros(size, int)
        for row in data.in_image[image_id]:
            mask = coco_mask.decode(row["segmentation"])
            assert mask.shape == size
            ys, xs = np.nonzero(mask)
            x, y, w, h = row["bbox"]
            assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert row["area"] == mask.sum() >= 150
            owned += mask
        assert owned.max() == 1
        assert 3 <= len(data.in_image[image_id]) <= 14


def test_masks_show_what_was_drawn() -> None:
    """A picture without its background: the masks are exactly the opaque pixels."""
    rng = Random(5)
    groups = compose.cast(rng, lambda category: True)
    drawn = [(item, compose.draw(item)) for item in compose.arrange(rng, groups, 320, 240)]
    kept, owner = compose.visible_only(drawn, 320, 240)
    canvas = Image.new("RGBA", (320, 240))
    for item, sprite in kept:
        canvas.alpha_composite(sprite, item.place)
    seen = np.asarray(canvas.getchannel("A"))
    assert (seen[owner >= 0] >= 128).all()
    assert (owner >= 0)[seen >= 255].all()


def test_pictures_match_their_rows(data: Dataset) -> None:
    for image in data.images.values():
        with Image.open(data.root / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            assert picture.mode == "RGB"


def test_ids_are_consistent(data: Dataset) -> None:
    assert [row["ref_id"] for row in data.references] == list(range(len(data.references)))
    sentences = [sentence["sent_id"] for row in data.references for sentence in row["sentences"]]
    assert sentences == list(range(len(sentences)))
    for row in data.references:
        assert row["sent_ids"] == [sentence["sent_id"] for sentence in row["sentences"]]
        if row["no_target"]:
            assert row["ann_id"] == row["category_id"] == [-1]
            continue
        named = [data.annotations[i] for i in row["ann_id"]]
        assert {annotation["image_id"] for annotation in named} == {row["image_id"]}
        assert [annotation["category_id"] for annotation in named] == row["category_id"]


def test_kinds_agree_with_targets_and_shares(data: Dataset) -> None:
    phrases: Counter[str] = Counter()
    for row in data.references:
        number = "no_target" if row["no_target"] else "single" if len(row["ann_id"]) == 1 else "multi"
        assert row["kind"].startswith(number + ".")
        phrases[number] += len(row["sentences"])
        phrases[row["kind"]] += len(row["sentences"])
    total = phrases["single"] + phrases["multi"] + phrases["no_target"]
    assert 0.45 < phrases["single"] / total < 0.60
    assert 0.25 < phrases["multi"] / total < 0.38
    assert 0.12 < phrases["no_target"] / total < 0.19
    assert 8 <= total / len(data.images) <= 14
    assert len(phrases) == 3 + 7 + 4 + 5  # every kind occurs


def test_splits_keep_to_their_subjects(data: Dataset) -> None:
    for row in data.references:
        if row["no_target"] or row["split"] not in ("testA", "testB"):
            continue
        about_people = {data.section(i) == "people" for i in row["ann_id"]}
        assert about_people == {row["split"] == "testA"}, row


def test_phrases_of_nothing_keep_to_their_subjects(data: Dataset) -> None:
    people = Nouns("people").pattern
    for row in data.references:
        if not row["no_target"] or row["split"] not in ("testA", "testB"):
            continue
        for sentence in row["sentences"]:
            before_landmark = sentence["sent"].split(" the ")[0]
            assert bool(re.search(people, before_landmark)) == (row["split"] == "testA"), sentence["sent"]


def test_vocabulary(data: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    words = {word for row in data.references for sentence in row["sentences"] for word in sentence["tokens"]}
    with capsys.disabled():
        print(f"\nscenes vocabulary: {len(words)} words in {len(data.images)} pictures")  # noqa: T201
    assert 300 < len(words) < 1000
    assert all(re.fullmatch(r"[a-z-]+", word) for word in words)
    assert {"person", "people", "animal", "vehicle", "leftmost", "except", "and", "both"} <= words


# --- an independent reading of the phrases ---------------------------------------------------------------------------


class Nouns:
    """Which category names a noun may mean, straight from the catalogue's file."""

    def __init__(self, *sections: str) -> None:
        table = tomllib.loads((HERE / "catalogue.toml").read_text())
        self.means: dict[str, set[str]] = defaultdict(set)
        self.plural = table["plurals"]
        for section in sections or ("people", "animal", "vehicle", "food", "thing"):
            for row in table[section].values():
                names = row["names"].split(", ")
                wider = [*row.get("is", "").split(", "), *table["section"][section].get("is", "").split(", ")]
                for noun in filter(None, [*names, *wider]):
                    self.means[noun].add(names[0])
        for noun in list(self.means):
            self.means[catalogue().plural(noun)] |= self.means[noun]
        self.pattern = r"\b(" + "|".join(sorted(map(re.escape, self.means), key=len, reverse=True)) + r")\b"


NUMBERS = {"both": 2, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
ORDINALS = {"second": 2, "third": 3, "fourth": 4}
QUANTIFIER = r"(?:all the |all of the |all |every |each |the )?"


def centre(row: Json, image: Json) -> tuple[float, float]:
    x, y, w, h = row["bbox"]
    return (x + w / 2) / image["width"], (y + h / 2) / image["height"]


def brute_force(sentence: str, rows: list[Json], image: Json, names: dict[int, str], nouns: Nouns) -> set[int] | None:
    """The annotation ids that a phrase of a simple pattern names; None for any other pattern."""
    noun = nouns.pattern.replace(r"\b", "")

    def those(word: str) -> list[Json]:
        return [row for row in rows if names[row["category_id"]] in nouns.means[word]]

    def by(word: str, key: str) -> list[int]:
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[key]
        return [r["id"] for r in sorted(those(word), key=lambda row: sign * centre(row, image)[axis])]

    if match := re.fullmatch(rf"{QUANTIFIER}{noun}", sentence):
        return {row["id"] for row in those(match[1])}
    if match := re.fullmatch(rf"(?:the )?({'|'.join(NUMBERS)}) {noun}", sentence):
        found = {row["id"] for row in those(match[2])}
        assert len(found) in (0, NUMBERS[match[1]]), sentence
        return found
    if match := re.fullmatch(rf"(?:the )?(left|right)most {noun}", sentence):
        return set(by(match[2], match[1])[:1])
    if match := re.fullmatch(rf"(?:the )?{noun} (?:furthest|farthest) (?:to the )?(left|right)", sentence):
        return set(by(match[1], match[2])[:1])
    if match := re.fullmatch(rf"(?:the )?({'|'.join(ORDINALS)}) {noun} from the (left|right|top)", sentence):
        rank = ORDINALS[match[1]]
        return set(by(match[2], match[3])[rank - 1 : rank])
    if match := re.fullmatch(rf"(?:the )?(?:biggest|largest) {noun}", sentence):
        return {max(those(match[1]), key=lambda row: row["area"])["id"]}
    if match := re.fullmatch(rf"{QUANTIFIER}{noun} (?:on the|at|to the) (left|right|top|bottom)", sentence):
        axis, low = {"left": (0, True), "right": (0, False), "top": (1, True), "bottom": (1, False)}[match[2]]
        return {row["id"] for row in those(match[1]) if (centre(row, image)[axis] < 0.45) == low
                and abs(centre(row, image)[axis] - 0.5) > 0.05}  # fmt: skip
    return None


def test_phrases_read_by_brute_force_name_their_targets(data: Dataset) -> None:
    nouns = Nouns()
    names = {category_id: row["name"] for category_id, row in data.categories.items()}
    understood = total = 0
    for row in data.references:
        rows, image = data.in_image[row["image_id"]], data.images[row["image_id"]]
        for sentence in row["sentences"]:
            total += 1
            found = brute_force(sentence["sent"], rows, image, names, nouns)
            if found is not None:
                understood += 1
                assert found == set(row["ann_id"]) - {-1}, (image["file_name"], sentence["sent"])
    assert understood > 0.4 * total


# --- logic and colours ------------------------------------------------------------------------------------------------


def scene(*objects: tuple[str, int, int, int]) -> Scene:
    """Objects as (category, centre x, centre y, side) in a picture of 100 x 100 pixels."""
    by_name = {category.name: category for category in catalogue().categories}
    return Scene(
        100,
        100,
        tuple(
            Thing(
                by_name[name],
                None,
                (x - side // 2, y - side // 2, x + side // 2, y + side // 2),
                side**2,
                side**2,
            )
            for name, x, y, side in objects
        ),
    )


def test_unclear_scenes_are_refused() -> None:
    near_middle = scene(("dog", 45, 50, 10), ("cat", 80, 50, 10))
    assert targets(Placed(Is("dog"), "left"), near_middle) is None
    close_call = scene(("dog", 20, 50, 10), ("dog", 22, 80, 10))
    assert targets(Ranked(Is("dog"), "left"), close_call) is None
    similar = scene(("dog", 20, 50, 10), ("dog", 70, 80, 11))
    assert targets(Ranked(Is("dog"), "big"), similar) is None
    small, large = scene(("dog", 20, 50, 10), ("dog", 70, 80, 20)).things
    half_hidden = Scene(100, 100, (small, replace(large, area=small.area // 2)))
    assert targets(Ranked(Is("dog"), "small"), half_hidden) is None
    both_right = scene(("dog", 60, 50, 10), ("dog", 90, 50, 10))
    assert targets(Placed(Is("dog"), "left"), both_right) is None  # 'the left dog' may mean the left one of the two
    only_right = scene(("dog", 90, 50, 10))
    assert targets(Placed(Is("dog"), "left"), only_right) == ()
    doubtful = scene(("wolf", 20, 50, 10))
    assert targets(Is("dog"), doubtful) is None


def test_a_wrong_claim_is_caught() -> None:
    two_dogs = scene(("dog", 20, 50, 10), ("dog", 80, 50, 10))
    assert_unambiguous(Placed(Is("dog"), "left"), two_dogs, (0,))
    with pytest.raises(AssertionError, match="names"):
        assert_unambiguous(Placed(Is("dog"), "left"), two_dogs, (1,))


def test_ordinals_count_from_their_side() -> None:
    row = scene(*(("dog", x, 50, 10) for x in (10, 40, 70)))
    assert targets(Ranked(Is("dog"), "left", 2), row) == (1,)
    assert targets(Ranked(Is("dog"), "right", 3), row) == (0,)
    assert targets(Ranked(Is("dog"), "left", 4), row) == ()


HUES = {  # degrees, as a reader of a colour wheel would name them
    "red": (-15, 15),
    "orange": (18, 42),
    "yellow": (46, 65),
    "green": (90, 150),
    "blue": (195, 240),
    "purple": (260, 295),
    "pink": (315, 345),
}


def test_painted_colours_deserve_their_words() -> None:
    sprites = {s for category in catalogue().categories for s in category.sprites if s.repaintable}
    assert len(sprites) > 30
    for sprite in sprites:
        pixels = atlas()[sprite.name]
        part = repaintable(pixels, sprite.colour or "")
        assert part.sum() > 0.15 * (pixels[..., 3] > 127).sum(), sprite
        for word in PAINTS:
            hue, saturation, value = (plane[part] for plane in hsv(repaint(pixels, sprite.colour or "", word)))
            if word in HUES:
                low, high = HUES[word]
                assert abs(np.median(hue_difference(hue, (low + high) / 2))) < (high - low) / 2, (
                    sprite,
                    word,
                )
            else:
                assert saturation.mean() < 0.2
                assert value.mean() > 0.8 if word == "white" else value.mean() < 0.3


def test_atlas_and_its_licence_are_complete() -> None:
    names = {sprite.name for category in catalogue().categories for sprite in category.sprites}
    assert names == set(atlas())
    assert len(names) >= 130
    assert sum((HERE / f).stat().st_size for f in ("atlas.png", "atlas.json", "LICENSE.artwork", "NOTICE")) < 1_500_000
    assert "Apache License" in (HERE / "LICENSE.artwork").read_text()
    people = [category for category in catalogue().categories if category.section == "people"]
    assert len(people) >= 24
