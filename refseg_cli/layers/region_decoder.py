"""The region decoder of ReLA's official code: P*P regions among pixels, words and each other, and what they say.

Users: models/rela.py, whose header tells how the thesis' differs; the thesis' own is there. Its layers are those of
Mask2Former's masked decoder too: models/deris_decoder.py.

Axes: m maps (of an image, or of an image seen with one phrase), n expressions, l words, q = P*P regions, c channels,
h w of a map, k pixels of a memory.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.layers.attention import Attention, as_places, attend, feed_forward, join_heads, split_heads, take
from refseg_cli.layers.pixel_decoder import LEVELS, Pixels, sine_positions
from refseg_cli.layers.upsampling import resized


class Regions(NamedTuple):
    """What a region decoder says of n expressions.

    filters: F_f (n, q, c).  weight: x_r (n, q), how much of each region's mask goes into the target's.
    minimap: (n, q) logits, positive where the region's cell holds a target.  exists: (n,) logits, positive: a target.
    aux: further tensors by name.
    """

    filters: Tensor
    weight: Tensor
    minimap: Tensor
    exists: Tensor
    aux: dict[str, Tensor]


class RegionAttention(Attention):
    """Attention whose keys and values are projected apart from the queries: those that many expressions share, once.

    It starts as in the official code, where the three projections are one matrix.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__(dim, heads=heads)
        for projection in (self.q, self.k, self.v):
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        for projection in (self.q, self.k, self.v, self.out):
            nn.init.zeros_(projection.bias)

    def keys(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(m, k, c) each -> (m, heads, k, c / heads) each."""
        return split_heads(self.k(key), self.heads), split_heads(self.v(value), self.heads)

    def attend(self, query: Tensor, keys: tuple[Tensor, Tensor], keep: Tensor | None = None) -> Tensor:
        """query (n, q, c); keys of `keys()` with n rows.

        keep: (n, 1 or q, k) bool, True where a key may be seen; or numbers that are added to the scores.
        """
        mask = None if keep is None else keep[:, None]
        return self.out(join_heads(attend(split_heads(self.q(query), self.heads), *keys, mask)))


class AttendAndNorm(nn.Module):
    """LayerNorm(x + attention)."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.attention = RegionAttention(dim, heads=heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, query: Tensor, keys: tuple[Tensor, Tensor], keep: Tensor | None = None) -> Tensor:
        return self.norm(x + self.attention.attend(query, keys, keep))


class GatedLanguage(nn.Module):
    """The official language attention: all tokens, padding too, scaled by 0.1 sigmoid(weight)."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.attend = AttendAndNorm(dim, heads=heads)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, words: Tensor, keep: Tensor) -> Tensor:
        return x + 0.1 * self.weight.sigmoid() * self.attend(x, x, self.attend.attention.keys(words, words))


class FullLanguage(nn.Module):
    """Ours: the regions attend to the real words alone, unscaled."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.attend = AttendAndNorm(dim, heads=heads)

    def forward(self, x: Tensor, words: Tensor, keep: Tensor) -> Tensor:
        return self.attend(x, x, self.attend.attention.keys(words, words), keep[:, None])


class View(NamedTuple):
    """What regions look at: a memory's places with and without their positions (m, k, c), each expression's row of them
    (n,) or None, and what of it each region may see (n, q, k) bool, or None for all."""

    placed: Tensor
    places: Tensor
    rows: Tensor | None
    visible: Tensor | None


class RegionLayer(nn.Module):
    """RIA, the words if `language` is given, the regions among themselves, feed-forward; post-norm."""

    def __init__(self, *, dim: int, heads: int, hidden: int, language: nn.Module | None) -> None:
        super().__init__()
        self.image = AttendAndNorm(dim, heads=heads)
        self.language = language
        self.region = AttendAndNorm(dim, heads=heads)
        self.mlp = feed_forward(dim, hidden=hidden)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, place: Tensor, view: View, words: Tensor, keep: Tensor) -> Tensor:
        """x (n, q, c); place (q, c), the regions' positions; words (n, l, c), keep (n, l)."""
        keys, values = self.image.attention.keys(view.placed, view.places)
        x = self.image(x, x + place, (take(keys, view.rows), take(values, view.rows)), view.visible)
        if self.language is not None:
            x = self.language(x, words, keep)
        placed = x + place
        x = self.region(x, placed, self.region.attention.keys(placed, x))
        return self.norm(x + self.mlp(x))


class MaskedRegionDecoder(nn.Module):
    """P*P region queries through masked attention to three memories in turn (Mask2Former), each other and the words.

    Args:
        side: P.
        masked: a region sees only what its present mask covers, or everything if that is empty.
        language: `first`: `GatedLanguage` in the first layer; `every`: `FullLanguage` in each.
        pooled: queries start as what the finest memory holds in the region's cell, and know where that is, so that
            regions need not first learn to be places.
        exists: see `RegionHeads`.
    """

    def __init__(
        self,
        *,
        dim: int,
        word_dim: int,
        heads: int,
        hidden: int,
        layers: int,
        side: int,
        masked: bool,
        language: str,
        pooled: bool,
        exists: str,
    ) -> None:
        super().__init__()
        self.side, self.masked, self.pooled = side, masked, pooled
        self.query_feat = nn.Parameter(torch.randn(side * side, dim))
        self.query_embed = nn.Parameter(torch.randn(side * side, dim))
        self.level_embed = nn.Parameter(torch.randn(LEVELS, dim))
        self.lang_proj = nn.Linear(word_dim, dim, bias=False)
        attention: list[nn.Module | None] = (
            [FullLanguage(dim, heads=heads) for _ in range(layers)]
            if language == "every"
            else [GatedLanguage(dim, heads=heads), *[None] * (layers - 1)]
        )
        self.layers = nn.ModuleList(RegionLayer(dim=dim, heads=heads, hidden=hidden, language=a) for a in attention)
        self.heads = RegionHeads(dim, pool=exists)
        if pooled:
            self._start_as_places()

    def _start_as_places(self) -> None:
        with torch.no_grad():
            grid = self.query_embed.new_zeros(1, self.query_embed.shape[1], self.side, self.side)
            self.query_embed.copy_(as_places(sine_positions(grid)[None])[0])
            for learned in (self.query_feat, self.level_embed):
                learned.mul_(0.02)  # as good as nothing yet

    def forward(self, pixels: Pixels, rows: Tensor | None, words: Tensor, keep: Tensor) -> Regions:
        F_t, F_m = self.lang_proj(words), pixels.mask_features
        memory = [m + e[:, None, None] for m, e in zip(pixels.memory, self.level_embed, strict=True)]
        small = [resized(F_m, m) if self.masked else None for m in memory]
        x = self._start(pixels, rows, words.shape[0])
        for k, layer in enumerate(self.layers):
            level = memory[k % LEVELS]
            visible = self._visible(x, small[k % LEVELS], rows)
            view = View(as_places(level + sine_positions(level)), as_places(level), rows, visible)
            x = layer(x, self.query_embed, view, F_t, keep)
        return self.heads(x)

    def _start(self, pixels: Pixels, rows: Tensor | None, count: int) -> Tensor:
        if not self.pooled:
            return self.query_feat.expand(count, -1, -1)
        return take(as_places(F.adaptive_avg_pool2d(pixels.memory[-1], self.side)), rows) + self.query_feat

    def _visible(self, x: Tensor, mask_features: Tensor | None, rows: Tensor | None) -> Tensor | None:
        """(n, q, k) bool, without gradient: where a region may look; None: everywhere."""
        if mask_features is None:
            return None
        with torch.no_grad():
            inside = region_masks(self.heads.filters(x), mask_features, rows).flatten(2) >= 0
            return inside | ~inside.any(-1, keepdim=True)


class RegionHeads(nn.Module):
    """Region features to filters, minimap and no-target label, behind one shared norm.

    Args:
        pool: how the regions' verdicts on the label become one: `mean`, or `peak`, the log of their mean exponential,
            in which one region that is sure of a target carries the day.
    """

    def __init__(self, dim: int, *, pool: str) -> None:
        super().__init__()
        self.pool = POOLS[pool]
        self.norm = nn.LayerNorm(dim)
        self.filter = mlp(dim, dim, dim, dim)
        self.minimap = nn.Linear(dim, 2)
        self.absent = mlp(dim, dim, 2)

    def filters(self, x: Tensor) -> Tensor:
        return self.filter(self.norm(x))

    def forward(self, x: Tensor) -> Regions:
        F_r = self.norm(x)
        minimap, absent = self.minimap(F_r), self.absent(F_r)
        x_r, present = minimap[..., 1] - minimap[..., 0], absent[..., 0] - absent[..., 1]
        aux = {"minimap_channels": minimap, "absent_channels": absent.mean(1)}
        return Regions(self.filter(F_r), x_r, x_r, self.pool(present), aux)


def mean(verdicts: Tensor) -> Tensor:
    """(n, q) -> (n,)."""
    return verdicts.mean(1)


def peak(verdicts: Tensor) -> Tensor:
    """(n, q) -> (n,): log of the mean exponential, between mean and largest."""
    return verdicts.logsumexp(1) - math.log(verdicts.shape[1])


POOLS = {"mean": mean, "peak": peak}


def mlp(*dims: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(dims):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def region_masks(filters: Tensor, mask_features: Tensor, rows: Tensor | None) -> Tensor:
    """M_r (n, q, h, w), logits, of filters (n, q, c) and mask features (m, c, h, w)."""
    return torch.einsum("nqc,nchw->nqhw", filters, take(mask_features, rows))
