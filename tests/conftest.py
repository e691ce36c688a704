"""What several rooms' tests share: a handful of prepared scenes and a model of a few thousand weights."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import forked
import pytest
import torch
from hypothesis import settings
from pictures import RECIPE, records, write_split
from torch import nn

from refseg_cli import checkpoint
from refseg_cli.config import DataConfig, Recipe, TextConfig, TrainConfig
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.evaluation.scoring import evaluate_model
from refseg_cli.models import build_model
from refseg_cli.records import Thresholds

SHARED = Path(__file__).resolve().parents[2] / "shared"
SCENES = {"train": 10, "val": 4, "testA": 2, "testB": 2}


settings.register_profile("refseg", deadline=None)  # a busy machine is no fault
settings.load_profile("refseg")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """No garbage is looked for meanwhile, nor later among what is there then: libraries and thousands of tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and equal results need an equal order of sums."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_settings() -> None:
    """Of those who run the tests: neither their files nor their variables."""
    for name in [name for name in os.environ if name.startswith("REFSEG_") and "TEST" not in name]:
        del os.environ[name]
    os.environ["REFSEG_CONFIG"] = os.devnull


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """A shell that starts the tests in the background has them, and what they start, ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `refseg` and a `python` that start in no time."""
    with forked.programs(tmp_path_factory.mktemp("bin")) as folder:
        yield folder


@pytest.fixture(scope="session")
def python(forks: Path) -> Path:
    """What runs `-c PROGRAM` in a process of its own, with torch and the engine imported."""
    return forks / "python"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real annotations and vocabularies, which lie beside a working copy and are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED.name}/ beside the repository (real annotations, vocabularies)")
    return SHARED


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared scenes: a folder of shards."""
    from refseg_cli.engine.prepare import prepare_scenes

    out = tmp_path_factory.mktemp("scenes")
    prepare_scenes(str(out), images=SCENES, seed=5)
    return out


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared scenes that move: a folder of shards, clips of five frames."""
    from refseg_cli.engine.prepare_video import prepare_moving_scenes

    out = tmp_path_factory.mktemp("films")
    prepare_moving_scenes(str(out), clips={"train": 4, "val": 2}, frames=5, seed=3)
    return out


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """VLT so small that a step takes milliseconds."""
    return Recipe(
        arch="vlt",
        model={
            "backbone": "convnet",
            "backbone_channels": (8, 8, 16, 16, 16),
            "pretrained": False,
            "text": "transformer",
            "text_layers": 1,
            "dim": 16,
            "heads": 2,
            "hidden": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "dropout": 0.1,
            "stride": 8,
            "query_count": 4,
            "mask_dims": (8, 8),
            "no_target_head": True,
        },
        data=DataConfig(size=(64, 64), resize="squash", flip=0.5, jitter=0.1, phrases_per_image=3, workers=0),
        text=TextConfig(tokenizer="words", max_tokens=16),
        train=TrainConfig(epochs=2, batch_images=2, lr=1e-3, save_every_steps=2, eval_limit=2),
    )


@pytest.fixture(scope="session")
def run(scenes: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run; its figures mean nothing, its checkpoint is a whole one."""
    from refseg_cli.engine.train import TrainRequest, train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(TrainRequest(recipe, str(scenes), out, device="cpu"))
    return out


# An untrained model on disk: its answers mean nothing, but they are answers

UNTRAINED = {
    "backbone": "convnet",
    "backbone_channels": (4, 6, 8, 8, 8),
    "pretrained": False,
    "text": "transformer",
    "dim": 16,
    "heads": 2,
    "hidden": 24,
    "query_count": 3,
    "mask_dims": (8, 6),
    "no_target_head": True,
}


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a VLT of a few thousand weights, 64 x 96 pixels and 6 tokens, that calls itself one of scenes."""
    folder = tmp_path_factory.mktemp("untrained") / "vlt"
    text = TextConfig(max_tokens=6)
    recipe = Recipe(arch="vlt", model=UNTRAINED, data=DataConfig(size=(64, 96)), text=text)
    tokenizer = build_tokenizer(text, ["two people on left", "the red car", "a dog and a cat", "the big one"])
    torch.manual_seed(0)
    model = build_model(recipe, vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        model.mask_decoder.out.weight.mul_(20)  # so that masks have an inside and an outside
    thresholds = Thresholds(exists=0.4)
    checkpoint.save(folder, model, recipe, tokenizer, thresholds=thresholds, info={"data": "scenes", "name": "tiny"})
    return folder


@pytest.fixture(scope="module")
def traced_once() -> Iterator[None]:
    """For tests that export one model only."""
    import exporting

    with exporting.traced_once():
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The `--model` of a zero-shot family, with random weights: a folder, or for a detector two."""
    import tiny_zero_shot  # and transformers, which few tests need

    root = tmp_path_factory.mktemp("zero-shot")
    built: dict[str, Path] = {}

    def name_of(family: str) -> str:
        parts = [family, "sam2"] if family in ("grounding-dino", "mm-grounding-dino", "owlv2") else [family]
        for part in parts:
            built[part] = built.get(part) or tiny_zero_shot.build(part, root)
        return "+".join(str(built[part]) for part in parts)

    return name_of


# Three pictures, and a model that has never seen any: see pictures.py


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("val", "testA"):
        write_split(folder, split, records(split))
    return folder


@pytest.fixture
def val(data: Path) -> Shards:
    return open_shards(data, "val")


@pytest.fixture
def tokenizer() -> Tokenizer:
    return build_tokenizer(RECIPE.text, [e.text for r in records("val") for e in r.expressions])


@pytest.fixture
def vlt(val, tokenizer) -> nn.Module:
    """Untrained, but moved and stretched so that about half of all pixels are in its masks, at no narrow margin."""
    torch.manual_seed(3)
    model = build_model(RECIPE, vocab_size=tokenizer.vocab_size).eval()
    logits = []
    watch = model.register_forward_hook(lambda m, inputs, prediction: logits.append(prediction.mask_logits))
    evaluate_model(model, tokenizer, RECIPE, Thresholds(), val, device="cpu")
    watch.remove()
    with torch.no_grad():
        model.mask_decoder.out.bias -= logits[0].median()
        for parameter in model.mask_decoder.out.parameters():
            parameter *= 5 / logits[0].std()
    return model


@pytest.fixture
def saved(tmp_path: Path, vlt, tokenizer) -> Path:
    folder = tmp_path / "run"
    checkpoint.save(folder, vlt, RECIPE, tokenizer, thresholds=Thresholds(mask=0.4, exists=0.2))
    return folder
