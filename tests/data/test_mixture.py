"""Several sets as one: their images one after the other, without those that any of them holds out."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import RECIPE, records, write_split

from refseg_cli import checkpoint
from refseg_cli.app import main as refseg
from refseg_cli.data import shards
from refseg_cli.data.mixture import Mixture, open_mixture
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.engine.train import TrainRequest, train
from refseg_cli.errors import RefsegError


@pytest.fixture
def sets(tmp_path: Path) -> tuple[str, str]:
    """Of pictures 1, 2 and 3 the first set trains on 1 and 2 and holds out 3, the second trains on 2 and 3."""
    one, two, three = records("train")
    for name, training, held_out in (("first", (one, two), three), ("second", (two, three), one)):
        (folder := tmp_path / name).mkdir()
        write_split(folder, "train", list(training))
        write_split(folder, "val", [replace(held_out, split="val")])
    return str(tmp_path / "first"), str(tmp_path / "second")


def test_one_set_is_itself(sets: tuple[str, str]) -> None:
    assert type(open_mixture(sets[:1], "train")) is Shards


def test_what_any_set_holds_out_is_left_out_of_training(sets: tuple[str, str]) -> None:
    together = open_mixture(sets, "train")
    assert isinstance(together, Mixture)
    assert together.image_ids().tolist() == [1, 2, 2, 3]
    assert together.left_out.tolist() == [True, False, False, True]
    assert together.expression_counts.tolist() == [0, 1, 1, 0]
    assert together.target_ids() == [[], [0], [0], []]
    read = [together[i] for i in range(4)]
    assert [[e.text for e in record.expressions] for record in read] == [[], ["middle"], ["middle"], []]
    assert [len(record.expressions) for record in together.annotations()] == [0, 1, 1, 0]
    assert np.diff(together.row_groups()).tolist() == [0, 1, 0], "a set's groups are its own"
    assert together[-2] == read[2]


def test_held_out_splits_are_whole(sets: tuple[str, str]) -> None:
    together = open_mixture(sets, "val")
    assert together.expression_counts.tolist() == [1, 4]
    assert [record.image_id for record in together.phrases()] == [3, 1]


def test_ids_of_other_sources_are_other_pictures(sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """COCO's picture 3 is not Visual Genome's."""
    known = shards.parse_manifest
    monkeypatch.setattr(shards, "parse_manifest", lambda place: replace(known(place), image_source=place.uri))
    together = open_mixture(sets, "train")
    assert isinstance(together, Mixture)
    assert not together.left_out.any()


def test_damage_is_found_in_each(sets: tuple[str, str]) -> None:
    open_mixture(sets, "train").verify()
    damaged = Path(sets[1]) / "train-00000-of-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(RefsegError, match=f"{damaged}: damaged"):
        open_mixture(sets, "train").verify()


def test_goes_to_another_process(sets: tuple[str, str]) -> None:
    together = open_mixture(sets, "train")
    again = pickle.loads(pickle.dumps(together))
    assert [again[i] for i in range(4)] == [together[i] for i in range(4)]
    assert again.manifest.fingerprint == together.manifest.fingerprint


def test_training_reads_no_more_than_it_needs_of_several_either(sets: tuple[str, str]) -> None:
    together = open_mixture(sets, "train").for_training()
    assert isinstance(together, Mixture)
    for one in (together, pickle.loads(pickle.dumps(together))):
        assert [[e.text for e in one[i].expressions] for i in range(4)] == [[], ["middle"], ["middle"], []]
        assert [one[i].split for i in range(4)] == [""] * 4
        assert one.expression_counts.tolist() == [0, 1, 1, 0]


def test_its_fingerprint_is_of_the_sets_their_order_and_what_is_left_out(sets: tuple[str, str]) -> None:
    parts = [open_shards(uri, "train") for uri in sets]
    some = np.array([True, False, False, False])
    prints = [Mixture(parts), Mixture(parts[::-1]), Mixture(parts, some), Mixture(parts[:1])]
    assert len({one.manifest.fingerprint for one in prints}) == 4


def test_trains_and_validates_on_all_together(sets: tuple[str, str], tmp_path: Path) -> None:
    recipe = replace(RECIPE, train=replace(RECIPE.train, epochs=1, batch_images=2, ema=0.0))
    told: list[tuple[str, int, int]] = []
    request = TrainRequest(recipe, sets, tmp_path / "run", device="cpu")
    result = train(request, progress=lambda stage, done, total, **_: told.append((stage, done, total)))
    assert result.steps == 1, "picture 2 of each"
    assert ("images left out of training, as a set holds them out", 2, 4) in told
    assert ("eval", 5, 5) in told
    assert not any("again" in stage for stage, _, _ in told)
    assert (checkpoint.load(tmp_path / "run" / "best").tokenizer.vocab_size) == 2 + 1, "no word of what is left out"
    with pytest.raises(RefsegError, match="other data"):
        train(replace(request, data=sets[::-1], resume=True))


def test_a_set_that_is_given_again_is_told(sets: tuple[str, str], tmp_path: Path) -> None:
    """By its own name or as a copy: in place of another, a slip that would go unseen."""
    copied = str(shutil.copytree(sets[0], tmp_path / "copy"))
    recipe = replace(RECIPE, train=replace(RECIPE.train, epochs=1, batch_images=3, ema=0.0))
    for again in (sets[0], copied):
        told: dict[str, tuple[int, int]] = {}
        request = TrainRequest(recipe, [*sets, again], tmp_path / f"run-{Path(again).name}", device="cpu")
        train(request, progress=lambda stage, done, total, told=told, **_: told.update({stage: (done, total)}))
        assert told["images that count again, as their set is given again"] == (2, 6)


def test_the_command_takes_several(
    sets: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainRequest] = []

    def stopped(request: TrainRequest, **_: object) -> object:
        seen.append(request)
        from refseg_cli.engine.train import TrainResult

        return TrainResult(request.out, 1, 0, None, "SIGINT")

    monkeypatch.setattr("refseg_cli.engine.train.train", stopped)
    words = ["train", "--recipe", "vlt-tiny", *(word for uri in sets for word in ("--data", uri))]
    refseg([*words, "--out", str(tmp_path / "run")])
    assert seen[0].sources == sets
    assert f"--data {sets[0]} --data {sets[1]} --out" in " ".join(capsys.readouterr().err.split())
