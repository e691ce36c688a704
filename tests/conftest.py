"""What several rooms' tests share: a handful of prepared scenes and a model of a few thousand weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from refseg_cli.config import DataConfig, Recipe, TextConfig, TrainConfig

SHARED = Path(__file__).resolve().parents[2] / "shared"
SCENES = {"train": 10, "val": 4, "testA": 2, "testB": 2}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and equal results need an equal order of sums."""
    import torch

    torch.set_num_threads(1)


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
