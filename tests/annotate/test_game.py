from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from pictures import picture, write_split
from raw_layout import annotation, jpeg

from refseg_cli.annotate.gallery import Gallery, check_same, open_gallery, selectable
from refseg_cli.annotate.game import OFFERS, Game, Offer
from refseg_cli.annotate.game_file import begin_game
from refseg_cli.annotate.models import Phrases
from refseg_cli.annotate.rules import Refused, State
from refseg_cli.annotate.store import Store
from refseg_cli.data.shards import open_shards
from refseg_cli.errors import RefsegError


def write(game: Game, player: str, phrase: str, places: tuple[int, ...] = (0,)) -> int:
    """A sample of the player's, about the objects at these places of the picture."""
    task = game.to_annotate(player)
    targets = [10 * task.image_id + place + 1 for place in places]
    return game.annotate(task, targets, not targets, phrase)


def test_a_player_keeps_a_picture_until_it_is_done_and_gets_each_once(game: Game) -> None:
    images = []
    for n in range(4):
        task = game.to_annotate("Ann")
        assert game.to_annotate("Ann") == task
        images.append(task.image_id)
        write(game, "Ann", f"phrase {n}")
    assert sorted(images) == [1, 2, 3, 4]
    assert game.to_annotate("Ann").image_id in images  # when all have been there, again


def test_a_skipped_picture_is_not_drawn_again_at_once(game: Game) -> None:
    seen = set()
    for _ in range(4):
        task = game.to_annotate("Ann")
        seen.add(task.image_id)
        game.store.skip(task.id, "Ann")
    assert seen == {1, 2, 3, 4}


def test_suggestions_come_from_other_pictures_of_the_same_split(prepared: Path, tmp_path: Path) -> None:
    gallery = open_gallery(str(prepared))
    begin_game(tmp_path / "both", gallery.about)
    game = Game(Store(tmp_path / "both"), gallery, rng=Random(4))
    splits = {"train": {1, 2, 3, 4}, "val": {5, 6}}
    seen = set()
    for _ in range(6):
        task = game.to_annotate("Ann")
        others = splits[task.split] - {task.image_id}
        seen.add(task.image_id)
        assert len(task.offers) == min(OFFERS, 3 * len(others))  # three phrases of each have targets
        for offer in task.offers:
            assert offer["targets"] == []
            assert offer["origin"]["image_id"] in others
            assert offer["phrase"].endswith(f" {offer['origin']['image_id']}")
            assert not offer["phrase"].startswith(("neither", "val none"))
        game.store.skip(task.id, "Ann")
    assert seen == {1, 2, 3, 4, 5, 6}


def test_suggestions_name_what_the_picture_shows(prepared: Path) -> None:
    gallery = open_gallery(str(prepared))
    entry = gallery.entries["train", 1]
    gallery._pool["train", 1] = [("of category 1", 2)]
    assert gallery.others_phrases(entry.key, 1, Random(0)) == [("of category 1", 2)]
    found = gallery.others_phrases(entry.key, 4, Random(0))
    assert found[0] == ("of category 1", 2)
    assert len({text for text, _ in found}) == 4


def test_where_the_data_has_no_phrases_the_games_own_are_suggested(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "data").mkdir(exist_ok=True)
        objects = open_garden(split)
        write_split(tmp_path / "data", split, objects)
    gallery = open_gallery(str(tmp_path / "data"))
    begin_game(tmp_path / "game", gallery.about)
    game = Game(Store(tmp_path / "game"), gallery, rng=Random(2))
    game.store.add_imported([("train", 1, "of train", (11,), {}), ("val", 2, "of val", (21,), {})])
    game.store.add_imported([("train", 3, "of nothing", (), {})])
    offers = {}
    for _ in range(len(gallery.keys)):
        task = game.to_annotate("Ann")
        offers[task.split, task.image_id] = [offer["phrase"] for offer in task.offers]
        game.store.skip(task.id, "Ann")
    assert offers == {("train", 1): [], ("train", 3): ["of train"], ("val", 2): [], ("val", 4): ["of val"]}


def open_garden(split: str) -> list:
    from pictures import instance

    numbers = (1, 3) if split == "train" else (2, 4)
    return [picture(n, split, (20, 20), (instance(10 * n + 1, (20, 20), 2, 2, 5, 5),), [("x", ())]) for n in numbers]


def test_how_a_phrase_came_about_is_told_by_what_was_offered(game: Game) -> None:
    game._generate = lambda record, rng: [Offer("made up", {"kind": "generated"}, (10 * record.image_id + 2,))]
    task = game.to_annotate("Ann")
    drawn = task.offers[0]
    samples = [game.annotate(task, [], True, drawn["phrase"].upper())]
    samples += [write(game, "Ann", "Made up", (1,)), write(game, "Ann", "made up", (0,))]
    kinds = [game.store.sample(sample).origin["kind"] for sample in samples]
    assert kinds == ["drawn", "generated", "own"]  # the last one means something else
    assert game.store.sample(samples[0]).origin["image_id"] == drawn["origin"]["image_id"]


@pytest.mark.parametrize(
    ("targets", "nothing", "phrase", "told"),
    [
        ([], False, "the dog", "Choose"),
        ([11], True, "the dog", "not both"),
        ([999], False, "the dog", "no such object"),
        ([], True, " ", "Write"),
        ([], True, "SMALL ONE", "already"),
    ],
)
def test_a_refused_sample_leaves_the_picture_open(
    game: Game, targets: list[int], nothing: bool, phrase: str, told: str
) -> None:
    task = game.to_annotate("Ann")
    if phrase == "SMALL ONE":
        phrase += f" {task.image_id}"
    targets = [10 * task.image_id + 1 if target == 11 else target for target in targets]
    with pytest.raises(Refused, match=told):
        game.annotate(task, targets, nothing, phrase)
    assert game.to_annotate("Ann") == task
    assert game.store.samples() == []


def test_a_whole_round(game: Game) -> None:
    sample = write(game, "Ann", "the two of them", (0, 2))
    image = game.store.sample(sample).image_id
    assert game.to_validate("Ann") is None
    first, second = game.to_validate("Vic"), game.to_validate("Val")
    assert first is not None
    assert second is None
    assert game.validate(first, [10 * image + 1], False) is State.DISPUTED
    second = game.to_validate("Val")
    assert second is not None
    assert game.validate(second, [10 * image + 3, 10 * image + 1], False) is State.ACCEPTED
    task = next(
        t for t in iter(lambda: game.to_annotate("Bob"), None) if t.image_id == image or game.store.skip(t.id, "Bob")
    )
    assert ("the two of them", (10 * image + 1, 10 * image + 3)) in game.known(task)


def test_known_expressions_hold_back_what_is_not_decided(game: Game) -> None:
    task = game.to_annotate("Ann")
    game.annotate(task, [], True, "the purple one")
    assert len(game.known(task)) == 4
    assert ("neither " + str(task.image_id), ()) in game.known(task)


def test_a_broken_picture_is_passed_over(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    load = game.gallery._load

    def broken(key):
        if key[1] != 3:
            raise RefsegError(f"image {key[1]} is broken")
        return load(key)

    monkeypatch.setattr(game.gallery, "_load", broken)
    assert game.to_annotate("Ann").image_id == 3
    game.gallery._loaded.clear()
    monkeypatch.setattr(game.gallery, "_load", lambda key: broken(("train", 1)))
    with pytest.raises(RefsegError, match="is broken"):
        game.to_annotate("Bob")


def test_generated_phrases_name_the_objects_that_they_are_true_of(scenes: Path) -> None:
    gallery = open_gallery(str(scenes), splits=["train"])
    make = Phrases(gallery.categories)
    shards = open_shards(str(scenes), "train")
    found = [(record, offer) for record in shards for offer in make(record, Random(3))]
    assert len(found) > len(shards)
    assert {len(offer.targets) for _, offer in found} >= {0, 1, 2}
    for record, offer in found:
        assert set(offer.targets) <= {instance.ann_id for instance in record.instances}
        assert offer.origin == {"kind": "generated"}
    single = [(record, offer) for record, offer in found if len(offer.targets) == 1]
    named = [o for r, o in single if any(i.category in o.phrase for i in r.instances if i.ann_id in o.targets)]
    assert len(named) > len(single) / 3


# Pictures


def coco(folder: Path, **changes: object) -> Path:
    """A COCO file with its photos: one with two objects and a crowd, one without objects, one that is missing."""
    folder.mkdir()
    for n, name in ((1, "a.jpg"), (2, "b.jpg")):
        (folder / name).write_bytes(jpeg(n))
    table = {
        "images": [
            {"id": n, "file_name": name, "height": 24, "width": 32}
            for n, name in ((1, "a.jpg"), (2, "b.jpg"), (3, "missing.jpg"))
        ],
        "annotations": [annotation(1, 1), annotation(2, 1), annotation(3, 1, iscrowd=1), annotation(4, 3)],
        "categories": [{"id": 1, "name": "dog"}],
        **changes,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(table))
    return path


def test_a_coco_file_is_played_with(tmp_path: Path) -> None:
    path = coco(tmp_path / "own")
    gallery = open_gallery(str(path), images=path.parent)
    assert gallery.keys == (("train", 1),)
    record = gallery.record(("train", 1))
    assert [instance.ann_id for instance in selectable(record)] == [1, 2]
    assert len(record.instances) == 3
    assert record.image == (path.parent / "a.jpg").read_bytes()
    assert open_gallery(str(path), images=path.parent, splits=["val"]).keys == (("val", 1),)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda path: open_gallery(str(path)), "--images is the folder"),
        (lambda path: open_gallery(str(path), images=path.parent / "none"), "no such folder"),
        (lambda path: open_gallery(str(path), images=path.parent, splits=["a", "b"]), "one split"),
        (lambda path: open_gallery(str(path), images=path.parent, splits=["../a"]), "not a valid split name"),
        (lambda path: open_gallery(str(path.parent)), "no complete prepared data"),
        (lambda path: open_gallery(str(path.parent / "gone.json")), "no complete prepared data"),
    ],
)
def test_what_is_no_data_is_named(tmp_path: Path, call: Callable[[Path], Gallery], told: str) -> None:
    with pytest.raises(RefsegError, match=told):
        call(coco(tmp_path / "own"))


def test_data_without_objects_or_photos_is_named(tmp_path: Path) -> None:
    path = coco(tmp_path / "own", annotations=[annotation(4, 3)])
    with pytest.raises(RefsegError, match="no picture with objects"):
        open_gallery(str(path), images=path.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefsegError, match="none of the 3 photos"):
        open_gallery(str(path), images=tmp_path / "empty")


def test_a_split_that_is_not_there_is_named(prepared: Path) -> None:
    with pytest.raises(RefsegError, match=r"unknown split.*'trian'.*did you mean 'train'"):
        open_gallery(str(prepared), splits=["trian"])
    with pytest.raises(RefsegError, match="is for a COCO file"):
        open_gallery(str(prepared), images=prepared)


def test_a_game_keeps_to_its_pictures(game: Game, prepared: Path, tmp_path: Path) -> None:
    other = coco(tmp_path / "own")
    for gallery in (open_gallery(str(other), images=other.parent), open_gallery(str(prepared), splits=["val"])):
        with pytest.raises(RefsegError, match="not the data that this game was begun with"):
            check_same(gallery, game.store.about())
    prepared.rename(tmp_path / "moved")
    check_same(open_gallery(str(tmp_path / "moved"), splits=["train"]), game.store.about())
