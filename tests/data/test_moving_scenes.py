"""Moving scenes: the same bytes for a seed, masks that follow the things, and phrases that hold in every frame."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from refseg_cli.data import scenes
from refseg_cli.data.phrases.generate import describe
from refseg_cli.data.phrases.logic import FALSE, MOTIONS, TRUE, UNCLEAR, Is, Moves, Placed, targets, throughout
from refseg_cli.data.phrases.nouns import Category
from refseg_cli.data.phrases.proposals import CLIP_KINDS
from refseg_cli.data.phrases.scene import Moment, Scene, Thing
from refseg_cli.data.phrases.wording import MOTION_WORDINGS, Number, word
from refseg_cli.data.scenes.catalogue import catalogue
from refseg_cli.data.scenes.moving import Film, film
from refseg_cli.errors import RefsegError

FRAMES = 6


@pytest.fixture(scope="module")
def clips() -> list[Film]:
    return [film(Random(seed), lambda category: True, FRAMES) for seed in range(12)]


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


def test_a_seed_gives_the_same_bytes_and_more_clips_extend_fewer(tmp_path: Path) -> None:
    for name, number in (("a", 2), ("b", 2), ("c", 3)):
        scenes.generate_films(tmp_path / name, clips={"train": number, "val": 1}, frames=3, seed=5)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert {name: digest for name, digest in c.items() if name in a and name.endswith("jpg")} == {
        name: digest for name, digest in a.items() if name.endswith("jpg")
    }
    videos = json.loads((tmp_path / "a/train/meta_expressions.json").read_text())["videos"]
    tracks = json.loads((tmp_path / "a/train/mask_dict.json").read_text())
    assert list(videos) == ["scene_train_000001", "scene_train_000002"]
    named = {number for video in videos.values() for e in video["expressions"].values() for number in e["anno_id"]}
    assert named
    assert named <= set(map(int, tracks))
    assert {len(track) for track in tracks.values()} == {3}


def test_masks_follow_the_things(clips: list[Film]) -> None:
    """What a thing is said to do shows in its masks, and in nothing else."""
    seen: Counter[str] = Counter()
    for clip in clips:
        assert not (clip.masks.sum(0) > 1).any(), "a pixel belongs to one thing"
        for thing, masks in zip(clip.scene.things, clip.masks, strict=True):
            seen.update(thing.motions)
            there = masks.any((1, 2))
            assert there.mean() >= 0.5
            assert ("enters" in thing.motions) <= (not there[0])
            assert ("leaves" in thing.motions) <= (not there[-1])
            first, last = (np.argwhere(masks[i]).mean(0) for i in np.flatnonzero(there)[[0, -1]])
            down, right = (last - first).tolist()
            assert ("right" in thing.motions) <= (right > abs(down) / 2)
            assert ("left" in thing.motions) <= (right < -abs(down) / 2)
            assert ("down" in thing.motions) <= (down > abs(right) / 2)
            assert ("up" in thing.motions) <= (down < -abs(right) / 2)
            if "still" in thing.motions and len(set(masks.sum((1, 2)))) == 1:  # nothing passes in front of it
                assert (masks == masks[0]).all()
    assert set(seen) == set(MOTIONS)


def test_the_background_stands(clips: list[Film]) -> None:
    for clip in clips:
        free = ~clip.masks.any((0, 1))
        moved = np.abs(clip.images[0].astype(int) - clip.images[-1]).max(-1)[free]
        assert (moved > 0).mean() < 0.05, "but for the soft edges of what moves"


def test_phrases_hold_in_every_frame(clips: list[Film]) -> None:
    kinds: Counter[str] = Counter()
    for seed, clip in enumerate(clips):
        references = describe(clip.scene, catalogue(), Random(seed), lambda category: True, kinds=CLIP_KINDS)
        for reference in references:
            kinds[reference.kind] += 1
            for moment in clip.scene.moments:
                truth = reference.form.truth(moment.scene)
                assert [moment.shown[i] for i in np.flatnonzero(truth == TRUE)] == [
                    target for target in reference.targets if target in moment.shown
                ]
                assert not (truth == UNCLEAR).any()
    assert {"single.motion", "multi.motions", "no_target.motion", "single.position"} <= set(kinds)


def test_a_phrase_of_motion_asks_for_more_than_its_noun(clips: list[Film]) -> None:
    """Among what the noun names, something does not move so: a single frame does not tell which."""
    asked = 0
    for seed, clip in enumerate(clips):
        for reference in describe(clip.scene, catalogue(), Random(seed), lambda category: True, kinds=CLIP_KINDS):
            if isinstance(reference.form, Moves) and reference.targets:
                assert targets(reference.form.of, clip.scene) != reference.targets
                asked += 1
    assert asked > len(clips)


def scene(*boxes: tuple[int, int, int, int]) -> Scene:
    dog = Category(0, "animal", ("dog",), frozenset({"animal"}), frozenset())
    motions = frozenset({"moves", "right"}) if len(boxes) == 1 else frozenset({"still"})
    return Scene(100, 100, tuple(Thing(dog, None, box, 100, 100, motions=motions) for box in boxes))


def test_what_holds_in_some_frames_only_is_unclear() -> None:
    left, right = scene((0, 0, 10, 10)), scene((90, 0, 100, 10))
    moves = Scene(100, 100, left.things, moments=(Moment(left, (0,)), Moment(right, (0,))))
    stays = Scene(100, 100, left.things, moments=(Moment(left, (0,)), Moment(left, (0,))))
    gone = Scene(100, 100, left.things, moments=(Moment(left, (0,)), Moment(scene(), ())))
    on_left = Placed(Is("dog"), "left")
    assert throughout(on_left, moves).tolist() == [UNCLEAR]
    assert throughout(on_left, stays).tolist() == throughout(on_left, gone).tolist() == [TRUE]
    assert targets(on_left, moves) is None
    assert throughout(Moves(Is("dog"), "right"), moves).tolist() == [TRUE]
    assert throughout(Moves(Is("dog"), "left"), moves).tolist() == [FALSE]


def test_each_motion_has_words_for_one_and_several() -> None:
    assert set(MOTION_WORDINGS) == set(MOTIONS)
    said = {
        word(Moves(Is("dog"), motion), Number(count), catalogue(), Random(seed))
        for motion in MOTIONS
        for count in (1, 2)
        for seed in range(20)
    }
    assert {"the dog that moves to the left", "dogs that stand still", "dog leaving"} <= said
    assert not any("*" in phrase or "{" in phrase for phrase in said)


def test_too_few_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="clips of 1 frames"):
        scenes.generate_films(tmp_path, clips={"train": 1}, frames=1)
