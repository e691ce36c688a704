"""What is timed at each stage of a model's work, as calls of a number of pictures with a number of phrases each.

| stage | from | to |
|---|---|---|
| forward | tensors on the device | logits on the device |
| encode, decode | likewise, but the share of the pictures, and that of the phrases | |
| end-to-end | picture files in memory and phrases as text | masks at original size |
| train | a batch on the device | the optimiser's step |
| loader | prepared data | a batch for training, on the device |
| startup | nothing | a whole `refseg predict` process has ended |

encode and decode are told apart by asking twice as many phrases: what that adds is the phrases' share, and the rest the
pictures'. So they mean the same for every model, wherever language enters. A model of transformers is asked end to end,
and there the picture's share includes reading the file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from refseg_cli.checkpoint import Checkpoint
from refseg_cli.config import Recipe
from refseg_cli.data import loader
from refseg_cli.data.loader import StepDataset
from refseg_cli.data.shards import open_shards, read_manifest
from refseg_cli.data.text import build_tokenizer
from refseg_cli.engine.measuring import SAMPLING, wait_for
from refseg_cli.engine.optimise import build_optimizer, moving_average
from refseg_cli.engine.questions import DemoPicture, Question, demo_pictures
from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch
from refseg_cli.segmenters.base import Segmenter
from refseg_cli.segmenters.precision import Precision, autocast

Stage = Literal["forward", "encode", "decode", "end-to-end", "train", "loader", "startup"]
STAGES: tuple[Stage, ...] = ("forward", "encode", "decode", "end-to-end", "train", "loader", "startup")
BETWEEN_TENSORS: tuple[Stage, ...] = ("forward", "encode", "decode", "train")

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model between tensors.

    vocabulary: token ids there are.  loaded: its checkpoint; None with random weights.  answering: what is asked in
    place of the model, which is trained; None: it is itself.
    """

    model: nn.Module
    recipe: Recipe
    name: str
    vocabulary: int
    loaded: Checkpoint | None = None
    answering: nn.Module | None = None

    def batch(self, images: int, phrases: int) -> Batch:
        """Random input of which every token counts."""
        expressions, length = images * phrases, self.recipe.text.max_tokens
        return Batch(
            images=torch.randn(images, 3, *self.recipe.data.size),
            small=torch.randn(images, 3, *self.recipe.data.small) if any(self.recipe.data.small) else None,
            tokens=torch.randint(self.vocabulary, (expressions, length)),
            attention_mask=torch.ones(expressions, length, dtype=torch.bool),
            image_index=torch.arange(expressions) // phrases,
        )

    def annotated(self, images: int, phrases: int) -> Batch:
        """The same with something to learn: half of each picture, another object for each phrase."""
        batch, (height, width) = self.batch(images, phrases), self.recipe.data.size
        masks = (torch.rand(len(batch), 1, height, width) > 0.5).float()
        return replace(
            batch,
            masks=masks,
            has_target=torch.ones(len(batch), dtype=torch.bool),
            target_id=torch.arange(len(batch)),
            objects=masks[:, 0] if self.recipe.data.objects else None,
            object_of=torch.arange(len(batch)) if self.recipe.data.objects else None,
            categories=torch.ones(images, height, width, dtype=torch.int64) if self.recipe.data.category_map else None,
        )


def count_flops(subject: Subject) -> tuple[int, int]:
    """(operations of an image without language, operations of each phrase), by counting one and two phrases.

    Counted on the CPU, where a GRU is the matrix products that it is; the counter does not know cuDNN's.
    """
    counts = []
    trained = [parameter for parameter in subject.model.parameters() if parameter.requires_grad]
    subject.model.requires_grad_(False)  # the counter's hooks fail on views of parameters that want gradients
    for phrases in (1, 2):
        batch = subject.batch(1, phrases)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subject.model(batch)
        counts.append(counter.get_total_flops())
    for parameter in trained:
        parameter.requires_grad_(True)
    one, two = counts
    return 2 * one - two, two - one


def forward(subject: Subject, device: torch.device, precision: Precision, images: int, phrases: int) -> Call:
    """One forward pass in eval mode."""
    batch = subject.batch(images, phrases).to(device)
    model = (subject.model if subject.answering is None else subject.answering).eval()

    def run() -> None:
        with torch.inference_mode(), autocast(device, precision):
            model(batch)
        wait_for(device)

    return run


def train_parts(
    subject: Subject, device: torch.device, precision: Precision, images: int, phrases: int
) -> dict[str, Call]:
    """What a step of training is made of, in this order: each waits for its device, and needs the one before it.

    Batches come from the stage `loader`, and what processes tell each other is not in it: there is one.
    """
    model = subject.model.train()
    config, batch = subject.recipe.train, subject.annotated(images, phrases).to(device)
    optimizer, average = build_optimizer(model, config), moving_average(model, config)
    loss: list[Tensor] = []

    def forward() -> None:
        with autocast(device, precision):
            terms = model.losses(model(batch), batch)  # type: ignore[operator]
        loss.append(torch.stack(list(terms.values())).sum())
        wait_for(device)

    def backward() -> None:
        loss.pop().backward()
        wait_for(device)

    def move() -> None:
        if config.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait_for(device)

    parts: dict[str, Call] = {"forward": forward, "backward": backward, "optimizer": move}
    if average is not None:
        parts["average"] = partial(average.update_parameters, model)
    return parts


def train(subject: Subject, device: torch.device, precision: Precision, images: int, phrases: int) -> Call:
    """One step of training: forward and losses, backward, the optimiser, and the moving average."""
    parts = train_parts(subject, device, precision, images, phrases)

    def run() -> None:
        for part in parts.values():
            part()
        wait_for(device)

    return run


def end_to_end(
    segmenter: Segmenter, device: torch.device, questions: Sequence[Question], images: int, phrases: int
) -> Call:
    """Pictures one after the other, each read from memory and asked all its phrases."""
    asked = [(q.image, list(islice(cycle(q.phrases), phrases))) for q in islice(cycle(questions), images)]

    def run() -> None:
        for image, texts in asked:
            for _ in segmenter.predict(image, texts):
                pass
        wait_for(device)

    return run


def load_batches(
    subject: Subject, device: torch.device, data: str, images: int, phrases: int
) -> Generator[Batch, None, None]:
    """Batches of the training split as training takes them, without end, prepared by the recipe's workers.

    Raises:
        RefsegError: no such data, damaged shards, or no phrase in them.
    """
    splits = read_manifest(data).splits
    shards = open_shards(data, "train" if "train" in splits else next(iter(splits)))
    recipe = subject.recipe
    texts = (e.phrase(recipe.text.field) for place in range(len(shards)) for e in shards[place].expressions)
    tokenizer = subject.loaded.tokenizer if subject.loaded else build_tokenizer(recipe.text, texts)
    dataset = StepDataset(shards.for_training(), tokenizer, recipe.data, field=recipe.text.field, augment=(0, 0))
    counts = np.array(shards.expression_counts)
    if not counts.any():
        raise RefsegError(f"{data}: no phrase in {shards.split}", hint="name other --data")
    for epoch in range(sys.maxsize):
        steps = loader.grouped_steps(
            counts, shards.row_groups(), batch_images=images, phrases=phrases, rng=np.random.default_rng((0, epoch))
        )
        pinned = device.type == "cuda"
        for batch in loader.iterate(dataset, steps, workers=recipe.data.workers, pin_memory=pinned):
            there = batch.to(device)
            wait_for(device)
            yield there


def a_process(model: str | Path | None, *, watch: Callable[[subprocess.Popen[bytes]], None] | None = None) -> None:
    """Run `refseg predict` of one phrase as a program, to its end.

    watch: gets the process while it runs.

    Raises:
        RefsegError: it failed.
    """
    picture = _demo_picture(model)
    named = [] if model is None else ["--model", str(model)]
    words = ["-m", "refseg_cli", "predict", str(picture.file), picture.phrases[0], *named, "-q", "--no-target-ok"]
    with tempfile.TemporaryDirectory(prefix="refseg-") as folder:
        process = subprocess.Popen([sys.executable, *words, "-o", str(Path(folder) / "mask.png")])
        if watch:
            watch(process)
        status = process.wait()
    if status:
        raise RefsegError("`refseg predict` failed in a process of its own", hint="its own message is above")


def process_memory(model: str | Path | None) -> int:
    """Bytes of resident memory of such a process at the most of what was seen.

    What the system counts at its end would not do: of a child it begins with what the parent holds.
    """
    seen = [0]

    def look(process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            with suppress(psutil.Error):  # it has just ended
                seen.append(psutil.Process(process.pid).memory_info().rss)
            time.sleep(SAMPLING)

    a_process(model, watch=look)
    return max(seen)


def _demo_picture(model: str | Path | None) -> DemoPicture:
    """One of those that the model knows, or the first."""
    pictures = demo_pictures()
    return next((one for one in pictures if one.model == model), pictures[0])
