"""DeRIS' queries: Mask2Former's masked decoder over what the picture holds, and after each of its predictions a
loopback to what was said. models/deris.py is what stands around it.

Axes: i images, n expressions, q queries, l words, c channels, h w of a map, k pixels of a memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.layers.attention import DecoderLayer, as_places, feed_forward, split_heads
from refseg_cli.layers.pixel_decoder import LEVELS, sine_positions
from refseg_cli.layers.region_decoder import AttendAndNorm, RegionLayer, View, mlp, region_masks
from refseg_cli.layers.upsampling import resized

POOL = 4  # side of the cells that a loopback sees of the masks, in theirs
PADDING = -100.0  # added to the scores of padding: not minus infinity
DROPOUT = 0.1  # of the existence branch


class Words(NamedTuple):
    """What a phrase says. features (n, l, c); keep (n, l) bool."""

    features: Tensor
    keep: Tensor


class Stage(NamedTuple):
    """A prediction. masks (n, q, h, w) logits; referred (n, q, 2) logits: meant by the phrase, or not; before, queries
    (n, q, c) on either side of the loopback."""

    masks: Tensor
    referred: Tensor
    before: Tensor
    queries: Tensor


class AmongQueries(AttendAndNorm):
    """The queries attend to one another; where each is, its mask says."""

    def forward(self, x: Tensor, covered: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x + covered, self.attention.keys(x + covered, x))


class Alone(nn.Module):
    """What the official code makes of the same: it swaps the axes of queries and batch, so that a query attends to the
    same query of the batch's other phrases. Of a phrase by itself attention to one is that one's value.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, covered: Tensor) -> Tensor:
        return self.norm(x + self.out(self.value(x)))


AMONG = {"alone": Alone, "queries": AmongQueries}


class Loopback(nn.Module):
    """The queries look at each other and at the words.

    Args:
        among: key of `AMONG`.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, among: str) -> None:
        super().__init__()
        self.queries = AMONG[among](dim, heads=heads)
        self.again, self.words = AttendAndNorm(dim, heads=heads), AttendAndNorm(dim, heads=heads)
        self.mlp, self.norm = feed_forward(dim, hidden=hidden), nn.LayerNorm(dim)
        self.join = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, covered: Tensor, words: Words) -> tuple[Tensor, Tensor]:
        """x (n, q, c) -> the queries, and what the words make of them, both (n, q, c).

        covered: (n, q, c), the mean over the map of each query's mask times the features.
        """
        x, told = self._among_themselves(x, covered)
        told = self.words(told, told, self._keys(words), scores_of_padding(words.keep, told))
        told = self.norm(told + self.mlp(told))
        return self.join(torch.cat([x, told], -1)), told

    def heeded(self, x: Tensor, covered: Tensor, words: Words) -> Tensor:
        """How much each query heeds each word (n, q, l), the mean over the heads; arguments as in `forward`."""
        told, attention = self._among_themselves(x, covered)[1], self.words.attention
        Q, K = split_heads(attention.q(told), attention.heads), self._keys(words)[0]
        scores = Q @ K.transpose(-2, -1) * K.shape[-1] ** -0.5
        return (scores + scores_of_padding(words.keep, told)[:, None]).softmax(-1).mean(1)

    def _among_themselves(self, x: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
        x = self.queries(x, covered)
        return x, self.again(x, x, self.again.attention.keys(x, x))

    def _keys(self, words: Words) -> tuple[Tensor, Tensor]:
        """Keys know where in the phrase they are, values do not."""
        count, dim = words.features.shape[1:]
        positions = word_positions(count, dim, like=words.features)
        return self.words.attention.keys(words.features + positions, words.features)


def scores_of_padding(keep: Tensor, like: Tensor) -> Tensor:
    """(n, l) bool -> (n, 1, l), what is added to attention's scores."""
    return torch.zeros_like(keep, dtype=like.dtype).masked_fill(~keep, PADDING)[:, None]


def word_positions(count: int, dim: int, *, like: Tensor) -> Tensor:
    """(count, dim): sine and cosine of a word's place in the first two channels, then 0 and 1 by turns.

    Meant as Vaswani's; but the official code makes whole numbers of the frequencies, so that only the first is left.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    place = torch.arange(count, device=like.device, dtype=exact)
    waves = torch.stack([place.sin(), place.cos()], -1)
    rest = torch.tensor([0.0, 1.0], device=like.device, dtype=exact).repeat(count, dim // 2 - 1)
    return torch.cat([waves, rest], -1).to(like.dtype)


class QueryDecoder(nn.Module):
    """Queries through the three memories, from coarse to fine, again and again if there are more layers.

    Args:
        queries: how many.  among: see `Loopback`.
    """

    def __init__(self, *, dim: int, heads: int, hidden: int, layers: int, queries: int, among: str) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(queries, dim))  # of the queries
        self.level = nn.Parameter(torch.randn(LEVELS, dim))
        self.layers = nn.ModuleList(
            RegionLayer(dim=dim, heads=heads, hidden=hidden, language=None) for _ in range(layers)
        )
        self.norm, self.filter = nn.LayerNorm(dim), mlp(dim, dim, dim, dim)
        self.loopbacks = nn.ModuleList(
            Loopback(dim, heads=heads, hidden=hidden, among=among) for _ in range(layers + 1)
        )
        self.refers = nn.Linear(dim, 2)  # the same for all

    def stages(
        self, x: Tensor, memory: Sequence[Tensor], features: Tensor, words: Words, image_index: Tensor
    ) -> Iterator[Stage]:
        """A prediction before each layer, and the last one.

        Args:
            x: (n, q, c) queries.
            memory: of the images, three maps (i, c, h, w).
            features: (n, c, h, w) mask features.
        """
        views = [self._view(k, memory, image_index) for k in range(min(LEVELS, len(self.layers)))]
        pooled = F.avg_pool2d(features, POOL)
        for k, loopback in enumerate(self.loopbacks):
            masks = self.masks(x, features)
            before = x
            x, told = loopback(before, covered(masks, pooled), words)
            yield Stage(masks, self.refers(told), before, x)
            if k < len(self.layers):
                # The queries have moved on, but look where they were before the loopback.
                view = views[k % LEVELS]._replace(visible=visible(masks, memory[k % LEVELS]))
                x = self.layers[k](x, self.places, view, words.features, words.keep)

    def masks(self, x: Tensor, features: Tensor) -> Tensor:
        """(n, q, h, w) logits."""
        return region_masks(self.filter(self.norm(x)), features, None)

    def heeded(self, last: Stage, features: Tensor, words: Words) -> Tensor:
        """How much each query heeds each word in the last loopback (n, q, l)."""
        loopback = self.loopbacks[-1]
        assert isinstance(loopback, Loopback)
        return loopback.heeded(last.before, covered(last.masks, F.avg_pool2d(features, POOL)), words)

    def _view(self, k: int, memory: Sequence[Tensor], image_index: Tensor) -> View:
        level = memory[k] + self.level[k][:, None, None]
        return View(as_places(level + sine_positions(level)), as_places(level), image_index, None)


def covered(masks: Tensor, pooled: Tensor) -> Tensor:
    """(n, q, c): the mean over all cells of mask times features, however small the mask.

    masks: (n, q, h, w) logits.  pooled: (n, c, h', w') features of the cells.
    """
    share = resized(masks, pooled).sigmoid()
    return torch.einsum("nqhw,nchw->nqc", share, pooled) / (pooled.shape[-2] * pooled.shape[-1])


@torch.no_grad()
def visible(masks: Tensor, memory: Tensor) -> Tensor:
    """(n, q, k) bool: the part of a memory that a query's mask covers, or all of it if that is none.

    A logit of 0 counts as covered; the official float32 sigmoid rounds those above -1e-7 to that.
    """
    inside = resized(masks, memory).flatten(2) >= 0
    return inside | ~inside.any(-1, keepdim=True)


class Existence(nn.Module):
    """Is there a target? (n,) logits, from the queries and the words. Learned, but no answer of DeRIS asks it."""

    def __init__(self, dim: int, *, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads=heads, hidden=hidden, dropout=DROPOUT) for _ in range(layers)
        )
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, 1)

    def forward(self, queries: Tensor, words: Words) -> Tensor:
        for layer in self.layers:
            queries = layer(queries, words.features, memory_keep=words.keep)
        return self.out(self.norm(queries)).mean((1, 2))
