"""BEiT-3's multiway encoder (Wang et al., Image as a Foreign Language, CVPR 2023, arXiv:2208.10442): patches of a
picture and words attend to one another, and everything else has weights of its own for either.

User: models/deris.py. Facts from torchscale 0.3.0 (microsoft/torchscale), the authors' implementation.

Axes: i images, n expressions, p patches, l words, c channels, h w grid of the patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.layers.attention import as_map, as_places, attend, join_heads, split_heads


class Way(nn.Module):
    """What a block has for patches, and once more for words: all but the attention itself.

    Pre-norm, with one more LayerNorm behind the attention and one inside the feed-forward part (sub-LN).
    """

    def __init__(self, dim: int, *, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.inner_norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.mlp_norm = nn.LayerNorm(hidden)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (n, t, c)."""
        x = self.norm1(x)
        return self.q(x), self.k(x), self.v(x)

    def finish(self, x: Tensor, attended: Tensor, kept: Tensor | None) -> Tensor:
        """kept: (n, 1, 1), what of each branch goes into the sum; None for all of it."""
        x = x + _share(self.out(self.inner_norm(attended)), kept)
        return x + _share(self.down(self.mlp_norm(F.gelu(self.up(self.norm2(x))))), kept)


def _share(branch: Tensor, kept: Tensor | None) -> Tensor:
    return branch if kept is None else branch * kept


class MultiwayBlock(nn.Module):
    """One layer. drop_path: how often an expression skips both branches in training."""

    def __init__(self, dim: int, *, heads: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.heads, self.drop_path = heads, drop_path
        self.picture, self.words = Way(dim, hidden=hidden), Way(dim, hidden=hidden)

    def forward(self, x: Tensor, y: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, p, c); y (n, l, c); keep (n, p + l) bool, True where a token may be seen."""
        both = zip(self.picture.project(x), self.words.project(y), strict=True)
        q, k, v = (split_heads(torch.cat(pair, 1), self.heads) for pair in both)
        attended = join_heads(attend(q, k, v, keep[:, None, None]))
        of_x, of_y = attended.split([x.shape[1], y.shape[1]], 1)
        kept = self._kept(x)
        return self.picture.finish(x, of_x, kept), self.words.finish(y, of_y, kept)

    def _kept(self, x: Tensor) -> Tensor | None:
        if not self.training or not self.drop_path:
            return None
        return x.new_empty(len(x), 1, 1).bernoulli_(1 - self.drop_path) / (1 - self.drop_path)


class MultiwayEncoder(nn.Module):
    """Patches and words, embedded -> the same after all layers.

    Args:
        grid: (height, width) in patches.  words: positions that a phrase may have.
        drop_path: of the last layer; that of the others rises to it from 0.
    """

    def __init__(
        self, dim: int, *, heads: int, hidden: int, layers: int, drop_path: float, grid: tuple[int, int], words: int
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"width {dim} is no multiple of width_heads {heads}")
        self.grid = grid
        self.cls = nn.Parameter(torch.zeros(dim))
        self.picture_positions = nn.Parameter(torch.empty(1 + grid[0] * grid[1], dim))
        self.word_positions = nn.Parameter(torch.empty(words, dim))
        rates = [drop_path * k / max(1, layers - 1) for k in range(layers)]
        self.layers = nn.ModuleList(MultiwayBlock(dim, heads=heads, hidden=hidden, drop_path=r) for r in rates)
        self.picture_norm, self.word_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        for table in (self.picture_positions, self.word_positions):
            nn.init.normal_(table, std=dim**-0.5)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.02, b=0.02)
                nn.init.zeros_(layer.bias)

    def place(self, patches: Tensor) -> Tensor:
        """Patches (i, c, h, w) as tokens (i, 1 + p, c) behind [CLS], with their positions: all before words come in."""
        tokens = as_places(patches)
        return torch.cat([self.cls.expand(tokens.shape[0], 1, -1), tokens], 1) + self.picture_positions

    def forward(self, placed: Tensor, words: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """placed (n, 1 + p, c), of `place`; words (n, l, c), keep (n, l) bool -> a map (n, c, h, w), words (n, l, c).

        Padding is nothing to begin with, and seen by nobody, but has features in the end like any word.
        """
        x, y = placed, (words + self.word_positions[: words.shape[1]]) * keep[..., None]
        seen = F.pad(keep, (x.shape[1], 0), value=True)
        for layer in self.layers:
            x, y = layer(x, y, seen)
        patches = self.picture_norm(x[:, 1:])  # nobody reads [CLS]
        return as_map(patches, self.grid), self.word_norm(y)
