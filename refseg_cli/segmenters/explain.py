"""What a model shows of its inner life: `Prediction.aux`'s maps of each expression, in the picture's own frame.

A model class says in its table `EXPLAIN` which of its tensors a person can look at, and what each is (`MapKind`).

Axes: n expressions, q queries (or regions, stages, grid cells), h w cells, t tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.data.placement import Placement
from refseg_cli.data.text import Tokenizer
from refseg_cli.records import Batch, Explanation, MapKind, Prediction

MOST = 16  # rows of one name that are shown: those with the highest peaks
SENTENCE = "[phrase]"  # stands for the feature of the whole phrase behind its tokens


def kinds_of(model: nn.Module | type[nn.Module]) -> Mapping[str, MapKind]:
    """The model's table; empty for one that has nothing to show."""
    return getattr(model, "EXPLAIN", {})


def explained(model: Callable[[Batch], Prediction], batch: Batch) -> Prediction:
    """The model's answer with all that it can show; some of it may cost more than the answer (`explained`)."""
    answer: Callable[[Batch], Prediction] = getattr(model, "explained", model)
    return answer(batch)


def explain(
    prediction: Prediction, batch: Batch, kinds: Mapping[str, MapKind], tokenizer: Tokenizer, *, longest: int
) -> Iterator[tuple[Explanation, ...]]:
    """For each expression of the batch its maps, in the order of `kinds`; names that `aux` lacks are left out.

    Args:
        longest: cells of a map's longer side at most; one that the model has with fewer cells keeps their number.
    """
    assert batch.sizes is not None
    assert batch.content is not None
    input_size = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    sizes, content = batch.sizes.tolist(), batch.content.tolist()
    found = {name: (kind, prediction.aux[name]) for name, kind in kinds.items() if name in prediction.aux}
    for n, image in enumerate(batch.image_index.tolist()):
        frame = _Frame(Placement(*content[image]), input_size, tuple(sizes[image]), longest)
        tokens = _Tokens(batch.tokens[n], batch.attention_mask[n], tokenizer)
        yield tuple(
            # What does not depend on the phrase there is once for each image; if there are as many, each has one.
            _one(name, kind, tensor[n if len(tensor) == len(batch) else image], frame, tokens)
            for name, (kind, tensor) in found.items()
        )


def _one(name: str, kind: MapKind, values: Tensor, frame: _Frame, tokens: _Tokens) -> Explanation:
    if kind == "weights":
        return _weights(name, values)
    if kind == "words":
        return _over_words(name, values, tokens)
    if kind == "word_map":
        return _of_words(name, values, tokens, frame)
    return _over_picture(name, kind, values, frame)


class _Frame:
    """Brings maps of the network's input to the picture.

    Args:
        size: (height, width) of the picture in pixels.
    """

    def __init__(self, placement: Placement, input_size: tuple[int, int], size: tuple[int, int], longest: int) -> None:
        self.placement, self.input_size, self.size, self.longest = placement, input_size, size, longest

    def crop(self, maps: Tensor) -> Tensor:
        """(q, h, w) of the input -> (q, h', w') of the picture: the padding cut off, the picture's proportions.

        Of maps that say in or out (0 or 1) each value stays one of the two; others are averaged.
        """
        hard = bool(((maps == 0) | (maps == 1)).all()) and bool(maps.any())
        sides = self.longest if hard else min(self.longest, max(maps.shape[-2:]))
        height, width = (max(1, round(side * sides / max(self.size))) for side in self.size)
        maps, place = maps[:, None].float(), self.placement
        if not place.fills(self.input_size):
            maps = _resized(maps, self.input_size, hard=hard)[:, :, *place.box()]
        return _resized(maps, (height, width), hard=hard)[:, 0]


def _resized(maps: Tensor, size: tuple[int, int], *, hard: bool) -> Tensor:
    """(q, 1, h, w) -> (q, 1, *size)."""
    if hard:
        return F.interpolate(maps, size, mode="nearest-exact")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)


class _Tokens:
    """The real tokens of one phrase: their positions, and how a person reads them.

    Args:
        tokens, keep: (L,) ids, and True at real ones.
    """

    def __init__(self, tokens: Tensor, keep: Tensor, tokenizer: Tokenizer) -> None:
        self.length = len(tokens)
        self.positions = torch.nonzero(keep)[:, 0].tolist()
        self.words = [_word(tokenizer, int(tokens[position])) for position in self.positions]

    def of(self, count: int) -> tuple[list[int], list[str]]:
        """Positions and words among `count` features: the tokens alone, or with the whole phrase behind them."""
        if count == self.length:
            return self.positions, self.words
        return [*self.positions, self.length], [*self.words, SENTENCE]


def _over_picture(name: str, kind: MapKind, maps: Tensor, frame: _Frame) -> Explanation:
    if maps.dim() == 2:
        maps = maps[None]
    rows = _highest(maps.flatten(1).amax(1))
    values = frame.crop(maps[rows])
    if kind == "logits":
        values = values.sigmoid()
    return Explanation(name, kind, values.cpu().numpy(), tuple(rows.tolist()), len(maps))


def _over_words(name: str, weights: Tensor, tokens: _Tokens) -> Explanation:
    """Weights (t,) or (q, t)."""
    if weights.dim() == 1:
        weights = weights[None]
    positions, words = tokens.of(weights.shape[1])
    rows = _highest(weights[:, positions].amax(1))
    values = weights[rows][:, positions].float().cpu().numpy()
    return Explanation(name, "words", values, tuple(rows.tolist()), len(weights), tuple(words))


def _of_words(name: str, maps: Tensor, tokens: _Tokens, frame: _Frame) -> Explanation:
    """Maps (t, h, w)."""
    positions, words = tokens.of(len(maps))
    found = _over_picture(name, "word_map", maps[positions], frame)
    return replace(found, words=tuple(words[row] for row in found.rows))


def _weights(name: str, weights: Tensor) -> Explanation:
    weights = weights.flatten().float()
    rows = _highest(weights)
    return Explanation(name, "weights", weights[rows].cpu().numpy(), tuple(rows.tolist()), len(weights))


def _highest(peaks: Tensor) -> Tensor:
    """The positions of the `MOST` highest, in ascending order; all of them if there are no more."""
    return peaks.float().topk(min(MOST, len(peaks))).indices.sort().values


def _word(tokenizer: Tokenizer, token: int) -> str:
    """As a person reads it: without the marks of where sub-words begin and end."""
    text = tokenizer.pipeline.id_to_token(token) or ""
    return text.removesuffix("</w>").removeprefix("##")
