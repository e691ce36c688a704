"""Our own checkpoints as segmenters: a picture and phrases in, a mask for each phrase out.

Axes: N phrases, h w pixels of the picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refseg_cli import checkpoint
from refseg_cli.data.loader import batch_for, batch_of_frames
from refseg_cli.data.pictures import as_tensor
from refseg_cli.data.windows import ROWS
from refseg_cli.layers.folding import folded
from refseg_cli.records import Batch, Explanation, MapKind, Prediction
from refseg_cli.segmenters.base import Found, check_phrases
from refseg_cli.segmenters.cautions import cautions
from refseg_cli.segmenters.compiling import Compiled, Compiling
from refseg_cli.segmenters.decisions import Decision, override
from refseg_cli.segmenters.explain import explain, explained, kinds_of
from refseg_cli.segmenters.inference import pick_device, postprocess
from refseg_cli.segmenters.passes import Passes, joined
from refseg_cli.segmenters.precision import DTYPES, Wanted, asked_at, choose

if TYPE_CHECKING:
    from refseg_cli.segmenters.several import Questions

# Mask pixels brought to the picture's size at a time: 128 MB of float32 logits.
PIXELS_AT_A_TIME = 32_000_000
MAP_CELLS = 170  # longer side of a map that is drawn


class Predictor:
    """A loaded model that answers phrases.

    Args:
        folder: a checkpoint or a training run; None for the bundled model.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        threshold, no_target_threshold: probabilities in [0, 1] in place of the checkpoint's own, see `Thresholds`.
        precision: of the arithmetic, see precision.py.
        memory: bytes that a pass through the network may take; None for the usual budget of passes.py.
        compile: let torch.compile make passes faster, and note there what that cost; None for not.

    Raises:
        RefsegError: no such model, device or compiler, or a threshold that is no probability.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        device: str = "auto",
        threshold: float | None = None,
        no_target_threshold: float | None = None,
        precision: Wanted = "fp32",
        memory: int | None = None,
        compile: Compiling | None = None,
    ) -> None:
        self.device = pick_device(device)
        found = checkpoint.load(folder, self.device)
        self.thresholds = override(found.thresholds, mask=threshold, exists=no_target_threshold)
        self.precision = choose(precision, self.device, found.info, found.thresholds)

        self.model = model = folded(found.model, DTYPES[self.precision])
        self.checkpoint = replace(found, model=model)  # weights that were made anew are held once
        asked_of = model if compile is None else Compiled(model, self.device, compile)
        self.ask = asked_at(asked_of, self.device, self.precision)
        self.passes = Passes(self.ask, self.device, budget=memory, measured=compile is None)
        explaining = asked_at(partial(explained, model), self.device, self.precision)
        self.explaining = Passes(explaining, self.device, budget=memory)

    @property
    def name(self) -> str:
        return self.checkpoint.name

    def predict(self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        """An answer to each phrase, in their order. The picture is encoded once for as many of them as
        memory holds.

        image: a file, its bytes, or pixels (3, h, w) uint8 RGB.

        Raises:
            RefsegError: the image cannot be read, or a phrase is none; said at once, before the first answer.
        """
        return self._answer([(image, phrases)], {})

    def explain(self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        """As `predict`, with the maps of the model's table `EXPLAIN`; without any for a model that has none."""
        return self._answer([(image, phrases)], kinds_of(self.checkpoint.model))

    def soften(self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        """As `predict`, with the probability of each pixel."""
        return self._answer([(image, phrases)], {}, soft=True)

    def predict_many(self, questions: Questions, *, soft: bool = False) -> Iterator[Iterator[Found]]:
        """For each picture, in order, what `predict` gives, or with `soft` what `soften` gives. As many pictures are
        encoded together as memory holds with their phrases.

        questions: pictures as of `predict`, each with its phrases. Its answers are to be taken before the next one's.

        Raises:
            RefsegError: as `predict`, of any of them.
        """
        return _apart(self._answer(questions, {}, soft=soft), [len(phrases) for _, phrases in questions])

    def follow(self, frames: Iterable[np.ndarray], phrases: Sequence[str]) -> Iterator[list[Found]]:
        """The answers to all phrases about each frame of a clip, in the order of the frames.

        A model of clips looks at `data.clip_window` frames of its recipe together: its average is over these. The last
        window of a clip looks back, so that it is as long as the others. It holds two windows. Any other model looks at
        each frame by itself.

        frames: pixels (3, h, w) uint8 RGB, all of one size.

        Raises:
            RefsegError: a phrase is none.
        """
        check_phrases(phrases)
        data = self.checkpoint.recipe.data
        size = data.clip_window if data.clip_frames else 1
        most = max(1, ROWS // size)
        left, before = iter(frames), list[Tensor]()
        while window := [as_tensor(frame) for frame in islice(left, size)]:
            seen = before[len(window) :] + window
            parts = [self._watch(seen, phrases[i : i + most]) for i in range(0, len(phrases), most)]
            for frame in list(zip(*parts, strict=True))[-len(window) :]:
                yield [found for part in frame for found in part]
            before = window

    def _watch(self, window: Sequence[Tensor], phrases: Sequence[str]) -> list[list[Found]]:
        """Of each frame of a window, the answers to the phrases."""
        found = self.checkpoint
        batch = batch_of_frames(window, phrases, found.tokenizer, found.recipe.data)
        with torch.inference_mode():
            decisions = iter(postprocess(self.ask(batch.to(self.device)), batch, self.thresholds))
        pairs = [zip(phrases, islice(decisions, len(phrases)), strict=True) for _ in window]
        return [[Found(p, d.mask, d.exists, d.p_target, int(d.mask.sum())) for p, d in frame] for frame in pairs]

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        """What a user should know before relying on the answers; a sentence each.

        name: the picture's file name.
        """
        found = self.checkpoint
        return cautions(name, phrases, model=found.name, info=found.info, tokenizer=found.tokenizer)

    def _answer(self, questions: Questions, kinds: Mapping[str, MapKind], *, soft: bool = False) -> Iterator[Found]:
        asked = list(chain.from_iterable(phrases for _, phrases in questions))
        check_phrases(asked)
        pictures = [(as_tensor(image), phrases) for image, phrases in questions if phrases]
        answers = self._decide(pictures, kinds, soft=soft) if pictures else iter(())
        return (
            Found(phrase, d.mask, d.exists, d.p_target, int(d.mask.sum()), maps, soft=d.soft)
            for phrase, (d, maps) in zip(asked, answers, strict=True)
        )

    def _decide(
        self, pictures: Sequence[tuple[Tensor, Sequence[str]]], kinds: Mapping[str, MapKind], *, soft: bool
    ) -> Iterator[tuple[Decision, tuple[Explanation, ...]]]:
        """The decision on each phrase of each picture, and its maps of those `kinds`."""
        found = self.checkpoint
        rows = max(1, PIXELS_AT_A_TIME // max(pixels[0].numel() for pixels, _ in pictures))
        batches = [batch_for(pixels, phrases, found.tokenizer, found.recipe.data) for pixels, phrases in pictures]
        passes = iter((self.explaining if kinds else self.passes)(joined(batches)))
        while True:
            with torch.inference_mode():  # not across a yield: whoever asks for the answers is none of its business
                batch, prediction = next(passes, (None, None))
                if batch is None or prediction is None:
                    return
                maps = explain(prediction, batch, kinds, found.tokenizer, longest=MAP_CELLS)
            for start in range(0, len(batch), rows):
                with torch.inference_mode():
                    part = _rows(prediction, batch, slice(start, start + rows))
                    decisions = postprocess(*part, self.thresholds, soft=soft)
                    drawn = list(islice(maps, len(decisions)))
                yield from zip(decisions, drawn, strict=True)


def _apart(answers: Iterator[Found], counts: Sequence[int]) -> Iterator[Iterator[Found]]:
    """So many answers, and then so many."""
    for count in counts:
        own = islice(answers, count)
        yield own
        deque(own, maxlen=0)  # those that nobody wanted


def _rows(prediction: Prediction, batch: Batch, rows: slice) -> tuple[Prediction, Batch]:
    """Some of the expressions of a batch and of what the model says of them."""
    exists = prediction.exists_logit
    return Prediction(prediction.mask_logits[rows], None if exists is None else exists[rows]), batch.part(rows)
