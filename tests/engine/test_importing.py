"""Official checkpoints: read safely, every tensor accounted for, written as folders that load."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from refseg_cli import checkpoint
from refseg_cli.config import DataConfig, Published, Recipe, TextConfig
from refseg_cli.engine import importing, releases
from refseg_cli.engine.importing import ImportRequest, Official, Part, import_checkpoint
from refseg_cli.engine.releases import Release
from refseg_cli.errors import RefsegError
from refseg_cli.layers.keymap import Renamed, Rule
from refseg_cli.metrics.protocols import VLT
from refseg_cli.models import build_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "two", "people", "on", "left", "the", "red", "car"]
RULES = (
    Rule(r"see\.index_\d+", None, "computed"),
    Rule(r"see\.turned", "pixel.2.weight", convert=lambda t: t.T),
    Rule(r"see\.(.+)", r"vision.\1"),
    Rule(r"read\.(.+)", r"language.\1"),
    Rule(r"((?:pixel|phrase|vision)\..+)", r"\1"),
)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A small Align that reads WordPiece, as if it had been published."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(WORDS), encoding="utf-8")
    return Recipe(
        arch="align",
        model={"backbone": "convnet", "backbone_channels": (4, 6, 8, 8, 8), "dim": 16, "heads": 2},
        data=DataConfig(size=(64, 96)),
        text=TextConfig(tokenizer="bert", vocab=str(vocab), max_tokens=6),
        published=Published(paper="Nobody 2020"),
    )


@pytest.fixture
def weights(recipe: Recipe) -> dict[str, Tensor]:
    """Its trained weights under the names of "the official code"."""
    torch.manual_seed(0)
    ours = build_model(recipe, vocab_size=len(WORDS)).state_dict()
    ours = {name: torch.randn_like(t) if t.is_floating_point() else t + 7 for name, t in ours.items()}
    official = {
        name.replace("vision.", "see.").replace("language.", "read."): tensor
        for name, tensor in ours.items()
        if name != "pixel.2.weight"
    }
    return official | {"see.turned": ours["pixel.2.weight"].T, "see.index_1": torch.arange(4)}


@pytest.fixture(autouse=True)
def _official_align(monkeypatch: pytest.MonkeyPatch) -> None:
    official = Official(RULES, lambda weights: {"dim": len(weights["see.turned"]) // 2}, VLT)
    monkeypatch.setitem(importing.OFFICIAL, "align", official)


@pytest.fixture
def attempt(recipe: Recipe, tmp_path: Path) -> Callable[..., importing.ImportReport]:
    """Import weights that torch.save or safetensors has written."""

    def call(content: Any, name: str = "official.pth", **changes: Any) -> importing.ImportReport:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
        else:
            torch.save(content, path)
        return import_checkpoint(ImportRequest(path, recipe, tmp_path / "out" / "imported", **changes))

    return call


Attempt = Callable[..., importing.ImportReport]


def test_folder_holds_what_the_file_held(attempt: Attempt, weights: dict[str, Tensor], recipe: Recipe) -> None:
    report = attempt({"model": weights, "args": argparse.Namespace(lr=1e-3)}, name="best.pth")
    loaded = checkpoint.load(report.out)
    found = loaded.model.state_dict()
    assert len(found) == len(weights) - 1
    for key, tensor in weights.items():
        if key not in ("see.index_1", "see.turned"):
            assert torch.equal(found[key.replace("see.", "vision.").replace("read.", "language.")], tensor), key
    assert torch.equal(found["pixel.2.weight"], weights["see.turned"].T)
    assert loaded.thresholds.mask == 0.35
    assert loaded.name == "align:best.pth"
    assert loaded.tokenizer.encode(["two people"])[0].tolist() == [[2, 5, 6, 3, 0, 0]]
    assert loaded.recipe.text == recipe.text


def test_report_counts_every_tensor(attempt: Attempt, weights: dict[str, Tensor]) -> None:
    report = attempt(weights)
    assert report.dropped == {"see.index_1": "computed"}
    assert sum(part.tensors for part in report.parts) == len(weights) - 1
    pixel = [t for key, t in weights.items() if key.startswith("pixel")] + [weights["see.turned"]]
    assert Part("pixel", len(pixel), sum(t.numel() for t in pixel)) in report.parts
    assert report.weights == sum(t.numel() for key, t in weights.items() if key != "see.index_1")
    assert report.model == {"dim": 16}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": {f"module.{key}": t for key, t in w.items()}, "epoch": 3},
        lambda w: {"model_state_dict": w, "cur_iou": torch.tensor(0.5), "optimizer": {"state": {0: torch.ones(2)}}},
        lambda w: {"state_dict": w, "best_iou": np.float64(0.5), "i": np.int64(3), "prec": {"Pr@50": np.float32(1)}},
        lambda w: {
            "model": {key: t for key, t in w.items() if not key.startswith("read")},
            "bert_model": {key: t for key, t in w.items() if key.startswith("read")},
        },
    ],
    ids=["bare", "DDP", "CGFormer", "ASDA", "two modules"],
)
def test_every_layout_is_found(attempt: Attempt, weights: dict[str, Tensor], wrap: Callable[..., Any]) -> None:
    report = attempt(wrap(weights))
    assert {part.name for part in report.parts} == {"vision", "language", "pixel", "phrase"}
    assert report.notes == ()


def test_safetensors_and_half_precision(attempt: Attempt, weights: dict[str, Tensor]) -> None:
    half = {key: t.half() if t.is_floating_point() else t for key, t in weights.items()}
    written = load_file(attempt(half, name="official.safetensors").out / checkpoint.WEIGHTS)
    assert written["pixel.0.bias"].dtype == torch.float32
    assert torch.equal(written["pixel.0.bias"], weights["pixel.0.bias"].half().float())


def test_sizes_are_those_of_the_weights(weights: dict[str, Tensor], recipe: Recipe, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "x.pth")
    other = replace(recipe, model={**recipe.model, "dim": 32})
    report = import_checkpoint(ImportRequest(tmp_path / "x.pth", other, tmp_path / "out"))
    assert checkpoint.load(report.out).recipe.model["dim"] == 16


def test_views_of_one_tensor_are_written_apart(attempt: Attempt, weights: dict[str, Tensor]) -> None:
    both = torch.randn(2, *weights["pixel.0.bias"].shape)
    shared = {**weights, "pixel.0.bias": both[0], "phrase.0.bias": both[1]}
    found = checkpoint.load(attempt(shared).out).model.state_dict()
    assert torch.equal(found["pixel.0.bias"], both[0])
    assert torch.equal(found["phrase.0.bias"], both[1])


class Runs:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_nothing_in_a_file_is_run(attempt: Attempt, weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match=r"refused, as it asks for posix\.system, which might run code"):
        attempt({"model": weights, "args": Runs(f"touch {tmp_path}/ran")})
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_keras_weights_are_told_apart(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "vlt.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(8))
    with pytest.raises(RefsegError, match=r"vlt\.h5: a Keras file"):
        import_checkpoint(ImportRequest(path, recipe, tmp_path / "out"))
    with pytest.raises(RefsegError, match=r"vlt cannot be imported: .*another graph"):
        import_checkpoint(ImportRequest(path, replace(recipe, arch="vlt"), tmp_path / "out"))


def test_weights_that_are_no_numbers_are_refused(attempt: Attempt, weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights = {**weights, "pixel.0.bias": torch.full_like(weights["pixel.0.bias"], float("nan"))}
    with pytest.raises(RefsegError, match=r"pixel\.0\.bias"):
        attempt(weights)
    assert not (tmp_path / "out").exists()


def test_every_misfit_is_named_ten_at_most(attempt: Attempt, weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights["pixel.0.bias"]
    weights["phrase.0.bias"] = torch.ones(3, 5)
    weights |= {f"head.{n}": torch.ones(1) for n in range(12)} | {"see.spare": torch.ones(2)}
    with pytest.raises(RefsegError) as caught:
        attempt(weights)
    assert "official.pth: does not fit align: 1 missing: pixel.0.bias; 13 unexpected: head.0, head.1, " in str(
        caught.value
    )
    assert "head.9, ...; 1 of another shape: phrase.0.bias 3x5 for 32" in str(caught.value)
    assert "head.10" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_sizes_that_cannot_be_read_off_are_missing_tensors(attempt: Attempt, weights: dict[str, Tensor]) -> None:
    del weights["see.turned"]
    with pytest.raises(RefsegError, match=r"does not fit align: 1 missing: see\.turned"):
        attempt(weights)


def test_another_architecture_is_recognised(
    attempt: Attempt, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(importing.OFFICIAL, "align", Official((), lambda _: {}, VLT))
    monkeypatch.setitem(importing.OFFICIAL, "other", Official(RULES, lambda _: {}, VLT))
    with pytest.raises(RefsegError, match="its names are those of --arch other"):
        attempt(weights)


def test_what_the_model_says_of_its_weights_names_the_file(
    attempt: Attempt, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> dict[str, Any]:
        raise RefsegError("that of a branch", hint="take another")

    monkeypatch.setitem(importing.OFFICIAL, "align", Official(RULES, refuse, VLT))
    with pytest.raises(RefsegError, match=r"official\.pth: that of a branch \(take another\)"):
        attempt(weights)


def test_relas_other_branch_is_recognised(tmp_path: Path, recipe: Recipe) -> None:
    gate = {
        "sem_seg_head.predictor.RLA_gate": torch.zeros(()),
        "sem_seg_head.predictor.RLA_lang.norm.weight": torch.ones(4),
    }
    torch.save({"model": gate}, tmp_path / "x.pth")
    with pytest.raises(RefsegError, match=r"x\.pth: .*branch `original`"):
        import_checkpoint(ImportRequest(tmp_path / "x.pth", replace(recipe, arch="rela"), tmp_path / "out"))


def test_two_tensors_for_one_of_ours_are_named(attempt: Attempt, weights: dict[str, Tensor]) -> None:
    with pytest.raises(RefsegError, match=r"official\.pth: (\S+) and (\S+) both become vision\.project"):
        attempt(weights | {"vision.project.0.0.weight": torch.ones(1)})


def test_counters_of_frozen_normalisation_may_be_absent(attempt: Attempt, weights: dict[str, Tensor]) -> None:
    counters = [key for key in weights if key.endswith("num_batches_tracked")]
    report = attempt({key: tensor for key, tensor in weights.items() if key not in counters})
    assert report.notes == (f"{len(counters)} counters of frozen batch normalisation start at 0",)
    found = checkpoint.load(report.out).model.state_dict()
    assert all(not t.any() for name, t in found.items() if name.endswith("num_batches_tracked"))


def test_an_existing_folder_is_left_alone(attempt: Attempt, weights: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "out" / "imported").mkdir(parents=True)
    (tmp_path / "out" / "imported" / "thesis.tex").write_text("years")
    with pytest.raises(RefsegError, match="imported: exists already"):
        attempt(weights)
    assert (tmp_path / "out" / "imported" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize(("sizes", "paper"), [({"dim": 16}, "Nobody 2020"), ({"dim": 16, "dropout": 0.1}, "")])
def test_published_figures_stay_only_with_the_recipes_own_sizes(
    attempt: Attempt,
    weights: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    sizes: dict[str, Any],
    paper: str,
) -> None:
    monkeypatch.setitem(importing.OFFICIAL, "align", Official(RULES, lambda _: sizes, VLT))
    assert checkpoint.load(attempt(weights).out).recipe.published.paper == paper


def test_the_tag_of_a_backbones_name_is_no_difference(recipe: Recipe) -> None:
    """It says where the official training began."""
    recipe = replace(recipe, model={"backbone": "swin_base_patch4_window7_224.ms_in22k", "dim": 4})
    same = importing.fitted(recipe, {"backbone": "swin_base_patch4_window7_224", "dim": 4})
    assert same == recipe
    for found in ({"backbone": "swin_base_patch4_window12_384"}, {"dim": 8}, {"layers": 6}):
        other = importing.fitted(recipe, found)
        assert other.model == {**recipe.model, **found}
        assert other.published == Published()


@pytest.mark.parametrize(
    ("wanted", "value", "note"),
    [
        (None, 0.0, "lang_weight is 0 as in the official evaluation, which never loads it; the file says 0.75"),
        ("zero", 0.0, "lang_weight is 0 as in the official evaluation, which never loads it; the file says 0.75"),
        ("stored", 0.75, "lang_weight is 0.75 as in the file; official figures come from 0"),
    ],
)
def test_relas_lang_weight_is_a_choice(wanted: Any, value: float, note: str) -> None:
    renamed = Renamed({"gate": torch.tensor(0.75)}, {"gate": "sem_seg_head.predictor.lang_weight"})
    assert importing.settle_lang_weight("rela", renamed, wanted) == [note]
    assert renamed.weights["gate"].item() == value
    with pytest.raises(RefsegError, match="--lang-weight is for rela"):
        importing.settle_lang_weight("lavt", Renamed(), "zero")
    assert importing.settle_lang_weight("lavt", Renamed(), None) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokenizer": "words"}, "its own vocabulary does not fit official weights"),
        ({"vocab": ""}, "tokenizer 'bert' needs a vocabulary (give its file by --vocab)"),
    ],
)
def test_tokens_are_those_of_the_weights(
    weights: dict[str, Tensor], recipe: Recipe, tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    torch.save(weights, tmp_path / "x.pth")
    recipe = replace(recipe, text=replace(recipe.text, **changes))
    with pytest.raises(RefsegError) as caught:
        import_checkpoint(ImportRequest(tmp_path / "x.pth", recipe, tmp_path / "out"))
    assert says in str(caught.value)


@pytest.mark.parametrize("arch", ["isfp", "jmceln", "m3att"])
def test_architectures_without_official_code_say_so(recipe: Recipe, tmp_path: Path, arch: str) -> None:
    request = ImportRequest(tmp_path / "x.pth", replace(recipe, arch=arch), tmp_path / "out")
    with pytest.raises(RefsegError, match=f"{arch} cannot be imported: .* no layout of its files is known .*train one"):
        import_checkpoint(request)


def test_architectures_without_official_weights_say_so(recipe: Recipe, tmp_path: Path) -> None:
    request = ImportRequest(tmp_path / "x.pth", replace(recipe, arch="nobody"), tmp_path / "out")
    with pytest.raises(RefsegError, match="there is no official checkpoint of nobody"):
        import_checkpoint(request)


# The release that a file is taken for


@pytest.fixture
def released(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> dict[str, Release]:
    """Two releases: of these sizes, and of twice the width."""
    recipes = {"small": recipe, "wide": replace(recipe, model={**recipe.model, "dim": 32})}
    known = {name: Release("nobody's page") for name in recipes}
    monkeypatch.setattr(releases, "RELEASES", known)
    monkeypatch.setattr(releases, "load_recipe", recipes.__getitem__)
    return known


def test_a_file_that_is_expected_is_imported_with_its_digest(
    attempt: Attempt, weights: dict[str, Tensor], released: dict[str, Release], tmp_path: Path
) -> None:
    report = attempt(weights, expect="small")
    digest = hashlib.sha256((tmp_path / "official.pth").read_bytes()).hexdigest()
    assert (
        report.notes[0] == f"it has the sizes of small; no digest of that file is published: yours has SHA-256 {digest}"
    )
    released["small"] = Release("nobody's page", sha256=digest)
    [note] = releases.refuse_unlike("small", tmp_path / "official.pth", releases.load_recipe("small"), {"dim": 16})
    assert note == "the file is small of nobody's page, byte for byte"


def test_a_file_of_another_release_is_refused(
    attempt: Attempt, weights: dict[str, Tensor], released: dict[str, Release], tmp_path: Path
) -> None:
    with pytest.raises(RefsegError, match=r"official\.pth: not wide: model\.dim is 16, not 32 \(docs"):
        attempt(weights, expect="wide")
    released["small"] = Release("nobody's page", sha256="0" * 64)
    with pytest.raises(RefsegError, match="not small: its SHA-256 is"):
        attempt(weights, expect="small")
    with pytest.raises(RefsegError, match="--expect: unknown release 'smal'"):
        attempt(weights, expect="smal")
    assert not (tmp_path / "out").exists()


def test_settings_of_another_release_are_refused(
    recipe: Recipe, weights: dict[str, Tensor], released: dict[str, Release], tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "official.pth")
    other = replace(recipe, data=replace(recipe.data, size=(64, 64)))
    with pytest.raises(RefsegError, match=r"not small: data\.size is \(64, 64\), not \(64, 96\)"):
        import_checkpoint(ImportRequest(tmp_path / "official.pth", other, tmp_path / "new", expect="small"))
