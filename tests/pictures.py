"""Three pictures whose masks can be counted by hand, as prepared data, and models that answer as they are told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from refseg_cli.config import DataConfig, Recipe, TextConfig
from refseg_cli.data import masks, storage
from refseg_cli.data.shards import MANIFEST, Manifest, write_shard
from refseg_cli.records import Batch, Expression, Instance, Prediction, Record

INPUT = (32, 32)
SETTINGS = {"backbone": "convnet", "backbone_channels": [4, 4, 4, 4, 4], "pretrained": False, "text": "transformer"}
SIZES = {"embedding_dim": 8, "dim": 8, "heads": 2, "hidden": 8, "query_count": 2, "mask_dims": [4], "contrast": "none"}
RECIPE = Recipe(
    arch="vlt",
    model={**SETTINGS, **SIZES, "no_target_head": True},
    data=DataConfig(size=INPUT, resize="squash", workers=0),
    text=TextConfig(max_tokens=6),
)


def encoded(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """A picture's file.  picture: also (h, w) or (h, w, 3) uint8."""
    file = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, kind, **options)
    return file.getvalue()


def instance(number: int, size: tuple[int, int], top: int, left: int, height: int, width: int) -> Instance:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return Instance(number, 1, "thing", (left, top, width, height), masks.encode(mask))


def picture(number: int, split: str, size: tuple[int, int], instances: tuple, phrases: list) -> Record:
    """phrases: (text, targets) of each expression."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    expressions = tuple(
        Expression(text, 10 * number + i, 100 * number + i, targets) for i, (text, targets) in enumerate(phrases)
    )
    return Record(number, f"{number}.png", split, *size, encoded(pixels), instances, expressions)


def records(split: str) -> list[Record]:
    """32 x 32 (the network's own size), 20 x 40 and 10 x 10 pixels; four phrases with targets and two without.

    testA has the second and third picture only.
    """
    one, two, three = (32, 32), (20, 40), (10, 10)
    pictures = [
        picture(
            1,
            split,
            one,
            (instance(1, one, 0, 0, 8, 8), instance(2, one, 16, 16, 16, 16)),
            [("small", (0,)), ("large", (1,)), ("both", (0, 1)), ("neither", ())],
        ),
        picture(2, split, two, (instance(3, two, 5, 10, 10, 20),), [("middle", (0,))]),
        picture(3, split, three, (), [("nothing here", ())]),
    ]
    return pictures[1:] if split == "testA" else pictures


def write_split(folder: Path, split: str, content: list[Record]) -> None:
    """Add a split to the prepared data in `folder`."""
    place = storage.locate(folder)
    known = json.loads((folder / MANIFEST).read_text())["splits"] if (folder / MANIFEST).exists() else {}
    info = write_shard(place / f"{split}-00000-of-00001.parquet", content, plan="test", problems=[])
    manifest = Manifest("test", "", "test", {}, "test", {split: info})
    table = json.loads(manifest.to_json())
    table["splits"] = {**known, **table["splits"]}
    (folder / MANIFEST).write_text(json.dumps(table))


class Fake(nn.Module):
    """Answers as `answer` says, after a look at each picture with `eye`, which counts what it has seen."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer
        self.eye = nn.Conv2d(3, 1, 1)
        self.seen = 0
        self.eye.register_forward_hook(self.count)

    def count(self, eye, inputs, output) -> None:
        self.seen += len(inputs[0])

    def forward(self, batch: Batch) -> Prediction:
        self.eye(batch.images)
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.answer(batch)


def truth(batch: Batch) -> Prediction:
    return Prediction(20 * batch.masks - 10, torch.where(batch.has_target, 5.0, -5.0))


def everything(batch: Batch) -> Prediction:
    return Prediction(torch.full((len(batch), 1, *INPUT), 9.0))


def left_half_but_says_none(batch: Batch) -> Prediction:
    return Prediction(left_half(batch).mask_logits, torch.full((len(batch),), -5.0))


def left_half(batch: Batch) -> Prediction:
    logits = torch.full((len(batch), 1, *INPUT), -9.0)
    logits[..., : INPUT[1] // 2] = 9.0
    return Prediction(logits)
