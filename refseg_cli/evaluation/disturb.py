"""Questions changed on purpose, to see what an answer depends on.

`random`, `attended`: words are taken out of the phrase (thesis table 4.5a, "Masked"); a model that leans on one word
falls. `shuffled-phrases`, `wrong-image`: the phrase, or the picture, of another image; what is left of the score is
what can be had without language, or without looking.

Axes: N expressions, q queries, t language features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from refseg_cli.data.loader import Pick, StepDataset
from refseg_cli.data.text import Tokenizer
from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Sample
from refseg_cli.segmenters.explain import explained

Kind = Literal["random", "attended", "shuffled-phrases", "wrong-image"]
Change = Callable[[Batch], Batch]
WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What to change.  words: how many are taken out of each phrase; the last one always stays."""

    kind: Kind
    words: int = 1
    seed: int = 0

    def __str__(self) -> str:
        if self.kind in ("random", "attended"):
            return f"{self.words} {self.kind} word{'s' if self.words > 1 else ''} erased"
        return self.kind

    def prepare(self, model: nn.Module, dataset: StepDataset, images: np.ndarray, device: torch.device | str) -> Change:
        """The change for one pass.

        Args:
            images: positions, in the dataset's split, of the images that are asked about.

        Raises:
            RefsegError: fewer than two images to exchange anything between; later, from the change itself: a model that
                shows no attention to words.
        """
        if self.kind == "random":
            rng = np.random.default_rng(self.seed)
            return lambda batch: _ask(batch, dataset.tokenizer, [self._without_random(s, rng) for s in batch.samples])
        if self.kind == "attended":
            return lambda batch: self._without_attended(batch, model, dataset.tokenizer, device)
        partners = _partners(dataset, images, self.seed)
        if self.kind == "shuffled-phrases":
            return lambda batch: _ask(batch, dataset.tokenizer, _phrases_of(batch, dataset, partners))
        return lambda batch: _with_pictures_of(batch, dataset, partners)

    def _without_random(self, sample: Sample, rng: np.random.Generator) -> str:
        words = sample.text.split()
        gone = set(rng.permutation(len(words))[: min(self.words, len(words) - 1)].tolist())
        return " ".join(word for i, word in enumerate(words) if i not in gone)

    def _without_attended(
        self, batch: Batch, model: nn.Module, tokenizer: Tokenizer, device: torch.device | str
    ) -> Batch:
        aux = explained(model, batch.to(device)).aux
        shown = [name for name, kind in getattr(model, "EXPLAIN", {}).items() if kind == "words"]
        name = next((name for name in (*shown, "query_attention") if name in aux), None)
        if name is None:
            raise RefsegError(
                "this model has no attention over words to tell the most attended ones by",
                hint="--mask-words random erases words of any model",
            )
        weights = aux[name].float().cpu()
        importance = weights.sum(1) if weights.ndim == 3 else weights  # a_i = sum_n a_ni (N, t) [thesis 4.2.5]
        texts = [
            _without_heaviest(sample.text, row, tokenizer, self.words)
            for sample, row in zip(batch.samples, importance, strict=True)
        ]
        return _ask(batch, tokenizer, texts)


def _without_heaviest(text: str, weights: Tensor, tokenizer: Tokenizer, count: int) -> str:
    """The phrase without the words that weigh most. weights: (t,); a word weighs what its tokens do together."""
    text = text.strip()
    words = [match.span() for match in WORD.finditer(text)]
    weight = [0.0] * len(words)
    encoding = tokenizer.pipeline.encode(text)
    for place, (start, end) in enumerate(encoding.offsets[: len(weights)]):
        # A special token or padding covers nothing; a piece of sentencepiece may begin with the space before its word.
        word = next((w for w, (a, b) in enumerate(words) if start < end and a < end <= b), None)
        if word is not None:
            weight[word] += float(weights[place])
    heaviest = sorted(range(len(words)), key=lambda w: (-weight[w], w))[: min(count, len(words) - 1)]
    return " ".join(text[a:b] for w, (a, b) in enumerate(words) if w not in heaviest)


def _ask(batch: Batch, tokenizer: Tokenizer, texts: Sequence[str]) -> Batch:
    """The same batch with other phrases; its samples say what was asked."""
    tokens, attention_mask = tokenizer.encode(texts)
    samples = tuple(replace(sample, text=text) for sample, text in zip(batch.samples, texts, strict=True))
    return replace(batch, tokens=tokens, attention_mask=attention_mask, samples=samples)


def _partners(dataset: StepDataset, images: np.ndarray, seed: int) -> dict[int, int]:
    """image_id -> the position of another image: the next one in a random round of all of them."""
    if len(images) < 2:
        raise RefsegError("a single image has no other to swap phrases or pictures with", hint="evaluate two or more")
    order = np.random.default_rng(seed).permutation(images)
    ids = dataset.shards.image_ids()
    return {int(ids[a]): int(b) for a, b in zip(order, np.roll(order, -1), strict=True)}


def _phrases_of(batch: Batch, dataset: StepDataset, partners: dict[int, int]) -> list[str]:
    """For each expression a phrase of its image's partner, one after the other and around."""
    texts, seen = [], dict.fromkeys(partners, 0)
    known: dict[int, list[str]] = {}
    for sample in batch.samples:
        if sample.image_id not in known:
            others = dataset.shards[partners[sample.image_id]].expressions
            known[sample.image_id] = [e.phrase(dataset.field) for e in others]
        phrases = known[sample.image_id]
        texts.append(phrases[seen[sample.image_id] % len(phrases)])
        seen[sample.image_id] += 1
    return texts


def _with_pictures_of(batch: Batch, dataset: StepDataset, partners: dict[int, int]) -> Batch:
    """The batch with the partners' pictures."""
    samples = dict(zip(batch.image_index.tolist(), batch.samples, strict=True))  # one of each image
    step = tuple(Pick(partners[samples[image].image_id], (0,)) for image in range(len(batch.images)))
    others = dataset[step]
    return replace(batch, images=others.images, small=others.small, normalisation=others.normalisation)
