"""Checkpoint folders: whole or absent, the same after loading, and never able to run code."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from refseg_cli import checkpoint
from refseg_cli.errors import RefsegError
from refseg_cli.records import Thresholds


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "best", tmp_path / "model"))


def test_loaded_model_is_the_saved_one(folder: Path, tmp_path: Path) -> None:
    first = checkpoint.load(folder)
    checkpoint.save(tmp_path / "again", first.model, first.recipe, first.tokenizer, thresholds=first.thresholds)
    second = checkpoint.load(tmp_path / "again")
    assert second.recipe == first.recipe
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name
    assert not second.model.training


def test_run_folder_stands_for_its_best(run: Path) -> None:
    assert checkpoint.resolve(run) == run / "best"
    assert checkpoint.resolve(run / "last") == run / "last"


def test_who_reads_between_the_two_renames_of_a_replacement_does_not_stop_it(folder: Path) -> None:
    new, old = folder.with_name("new"), folder.with_name(f".{folder.name}.old")
    shutil.copytree(folder, new)
    folder.rename(old)
    assert checkpoint.resolve(folder) == old
    checkpoint.load(folder)
    new.rename(folder)
    assert checkpoint.resolve(folder) == folder


def test_failed_save_leaves_the_old_one_and_no_rubbish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = checkpoint.load(folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RefsegError, match="cannot write the checkpoint: No space left"):
        checkpoint.save(folder, loaded.model, loaded.recipe, loaded.tokenizer, extra=full)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_disk_that_fills_up_in_torch_save_is_called_that(folder: Path) -> None:
    loaded = checkpoint.load(folder)

    def full(path: Path) -> None:
        with Path("/dev/full").open("wb") as file:
            torch.save({"a": torch.zeros(9999)}, file)

    with pytest.raises(RefsegError, match="cannot write the checkpoint: No space left"):
        checkpoint.save(folder, loaded.model, loaded.recipe, loaded.tokenizer, extra=full)
    checkpoint.load(folder)


def test_a_new_folder_obeys_the_umask_and_a_replaced_one_keeps_its_modes(folder: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(folder)
    new, link = tmp_path / "new", tmp_path / "link"
    link.symlink_to("new")
    before = os.umask(0o027)
    try:
        checkpoint.save(link, loaded.model, loaded.recipe, loaded.tokenizer)
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in (new, *new.iterdir())} == {
        "new": 0o750,
        "model.safetensors": 0o640,
        "config.json": 0o640,
        "tokenizer.json": 0o640,
    }
    new.chmod(0o700)
    (new / "config.json").chmod(0o600)
    checkpoint.save(link, loaded.model, loaded.recipe, loaded.tokenizer)
    checkpoint.store_thresholds(link, Thresholds(mask=0.3), info={})
    assert link.is_symlink()
    assert [(new / name).stat().st_mode & 0o777 for name in ("", "config.json")] == [0o700, 0o600]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model", "new"]


@pytest.mark.parametrize("thing", ["file", "folder"])
def test_what_is_no_checkpoint_is_not_replaced(folder: Path, tmp_path: Path, thing: str) -> None:
    loaded, there = checkpoint.load(folder), tmp_path / "there"
    mine = there if thing == "file" else there / "thesis.tex"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("years of work")
    with pytest.raises(RefsegError, match="there: in the way of a checkpoint folder"):
        checkpoint.save(there, loaded.model, loaded.recipe, loaded.tokenizer)
    assert mine.read_text() == "years of work"


def test_what_killed_runs_left_is_removed(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / ".best.old")  # cut between the two renames
    for name in (".last.old", ".last-x0_9abcd", ".best-0123abcd.part", "last"):
        shutil.copytree(folder, run / name)
    for name in (".metrics.jsonl-0123abcd.part", ".mine", ".lastly"):
        (run / name).touch()
    checkpoint.tidy(run)
    assert sorted(p.name for p in run.iterdir()) == [".lastly", ".mine", "best", "last"]


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", b"{", "cannot read"),
        ("config.json", b'{"format": 99}', "not a checkpoint of format 1"),
        ("config.json", b'{"format": 1, "recipe": [1]}', "recipe: expected a table"),
        ("config.json", rb'{"format": 1, "name": "a\ud800"}', "cannot read: .*surrogates not allowed"),
        ("config.json", b'{"format": 1, "scores": [1]}', "scores: expected numbers by name"),
        ("config.json", b'{"format": 1, "scores": {"gIoU": "40.5"}}', "scores: expected numbers by name"),
        ("model.safetensors", b"garbage!" * 9, "cannot load the weights"),
        ("tokenizer.json", b"{}", "not a tokenizer file"),
    ],
)
def test_damaged_file_is_named(folder: Path, file: str, content: bytes, says: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(RefsegError, match=says) as caught:
        checkpoint.load(folder)
    assert file in str(caught.value)


def test_truncated_weights_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RefsegError, match=r"model\.safetensors: cannot load the weights"):
        checkpoint.load(folder)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    path = folder / "config.json"
    table = json.loads(path.read_text("utf-8"))
    table["recipe"]["model"]["dim"] = 32
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(RefsegError, match=r"cannot load the weights: \S+ is \(16.*\), not \(32.*; and \d+ more"):
        checkpoint.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["vision.backbone.stem.0.weight", "vision.backbone.stem.1.running_var"])
def test_weights_that_are_no_numbers_are_refused(folder: Path, name: str, value: float) -> None:
    """They scored as a model, and answered "no target" with the exit status of one."""
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[1] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(RefsegError, match=f"{name} holds NaN or infinity"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("thresholds", "mask"), 1.5, "thresholds: mask: 1.5 is not a probability"),
        (("thresholds", "exists"), -0.1, "thresholds: exists: -0.1 is not a probability"),
        (("thresholds", "exists"), float("nan"), "thresholds: exists: nan is not a probability"),
        (("thresholds", "min_pixels"), -1, "thresholds: min_pixels: -1 is not"),
        (("recipe", "data", "std"), [0.2, 0, 0.2], r"data: std\[1\]: 0.0 is not a number above 0"),
        (("recipe", "data", "std"), [0.2, float("inf"), 0.2], r"data: std\[1\]: inf is not a number above 0"),
        (("recipe", "data", "mean"), [0.2, float("nan"), 0.2], r"data: mean\[1\]: nan is not a number"),
        (("recipe", "data", "size"), [0, 64], r"data: size\[0\]: 0 is not a number from 1"),
    ],
)
def test_settings_that_no_picture_survives_are_refused(
    folder: Path, keys: tuple[str, ...], value: object, says: str
) -> None:
    path = folder / "config.json"
    table = json.loads(path.read_text("utf-8"))
    inner = table
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(RefsegError, match=says) as caught:
        checkpoint.load(folder)
    assert str(path) in str(caught.value)


def test_deep_nesting_is_no_internal_error(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        before = (folder / name).read_text()
        (folder / name).write_text('{"a":' * 100_000)
        with pytest.raises(RefsegError, match=name):
            checkpoint.load(folder)
        (folder / name).write_text(before)


def test_a_changed_recipe_is_the_loaded_ones_and_what_differs_is_said(folder: Path) -> None:
    plain = checkpoint.load(folder)
    assert plain.changed == ()
    asked = ["model.query_count=4", "model.heads=4", "data.mean=[0.5, 0, 0]", "data.workers=3"]
    found = checkpoint.load(folder, overrides=[*asked, "data.fill=0", "data.fill=0.25"])
    # Not the four queries, which it had; nor the workers, whose number answers do not depend on.
    assert found.changed == ("model.heads=4", "data.mean=[0.5, 0.0, 0.0]", "data.fill=0.25")
    assert checkpoint.adjusted(plain.recipe, found.changed)[0].data == replace(found.recipe.data, workers=0)
    assert (plain.model.config.heads, found.model.config.heads) == (2, 4)
    assert (found.recipe.data.mean, found.recipe.data.workers) == ((0.5, 0, 0), 3)


def test_a_checkpoint_from_before_text_field_asks_what_it_always_did(folder: Path) -> None:
    table = json.loads((folder / "config.json").read_text("utf-8"))
    del table["recipe"]["text"]["field"]
    (folder / "config.json").write_text(json.dumps(table), encoding="utf-8")
    assert checkpoint.load(folder).recipe.text.field == "sent"
    changed = checkpoint.load(folder, overrides=["text.field=raw"])
    assert (changed.recipe.text.field, changed.changed) == ("raw", ("text.field=raw",))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.lr=1", "only training reads it"),
        ("data.flip=0.5", "only training reads it"),
        ("text.max_tokens=20", "the tokenizer is stored beside the weights"),
        ("text.field=spoken", "--set: text: field: unknown value 'spoken'"),
        ("arch=lavt", "the weights are of this architecture"),
        ("published.figures.a=1", "it is what the paper says"),
        ("model.pretrained=true", "all weights are in the checkpoint"),
        ("model.dim=32", r"the weights do not fit a model with model\.dim=32"),
        ("model.dims=32", "unknown key 'dims'"),
        ("data.sizes=32", "--set: data: unknown key 'sizes'"),
        ("oracle=mask", "--set: unknown key 'oracle'"),
        ("model.dim", "expected key=value"),
    ],
)
def test_changes_that_a_trained_model_cannot_take_are_refused(folder: Path, override: str, says: str) -> None:
    with pytest.raises(RefsegError, match=says) as caught:
        checkpoint.load(folder, overrides=[override])
    assert caught.value.hint


def test_missing_checkpoint_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    with pytest.raises(RefsegError, match=r"no such checkpoint folder \(give the --out of"):
        checkpoint.load(tmp_path / "nothing")
    with pytest.raises(RefsegError, match=r"no such checkpoint folder \(did you mean '.*/first'\?\)"):
        checkpoint.load(tmp_path / "frist")
    with pytest.raises(RefsegError, match=r"photo: no such checkpoint folder \(did you mean 'photos'\?\)"):
        checkpoint.load("photo")
    with pytest.raises(RefsegError, match="no checkpoint in this folder"):
        checkpoint.load(tmp_path)


def test_stored_thresholds_are_the_only_change(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    thresholds = Thresholds(mask=0.35, exists=0.7, min_pixels=50)
    checkpoint.store_thresholds(folder, thresholds, info={"split": "val"})
    table, old = json.loads((folder / "config.json").read_text()), json.loads(before["config.json"])
    chosen = {"mask": 0.35, "exists": 0.7, "min_pixels": 50}
    assert table == {**old, "thresholds": chosen, "calibrated": {"split": "val"}}
    assert checkpoint.load(folder).thresholds == thresholds
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {**after, "config.json": before["config.json"]} == before


def test_thresholds_that_cannot_be_stored_leave_the_old_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RefsegError, match="No space left"):
        checkpoint.store_thresholds(folder, Thresholds(mask=0.1), info={})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_bundled_models_go_by_name_unless_a_checkpoint_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()  # prepared data, say
    assert checkpoint.resolve("scenes") == checkpoint.BUNDLE / "scenes"
    assert checkpoint.resolve(None) == checkpoint.BUNDLE / "photos"
    shutil.copytree(run / "best", tmp_path / "scenes", dirs_exist_ok=True)
    assert checkpoint.resolve("scenes") == Path("scenes")
    with pytest.raises(RefsegError, match="no such checkpoint folder"):
        checkpoint.resolve("scene")


def test_a_model_of_transformers_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clipseg"}')
    with pytest.raises(RefsegError, match="a model of transformers, not a checkpoint of refseg"):
        checkpoint.load(tmp_path)
