"""Multi-head attention and the standard transformer layers, over scaled_dot_product_attention.

Users: models/*.py, layers/*.py. Called directly rather than through nn.MultiheadAttention, whose fast path and dynamic
shapes do not survive export.

Axes: b batch, q queries, k keys, c channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache, partial, wraps
from typing import ParamSpec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sizes = ParamSpec("Sizes")


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, 3.2.2) of queries (b, q, c) on memory (b, k, c).

    Args:
        outputs: channels that come out; 0: as many as go in.
        causal: a position sees itself and those before it; not together with `keep`.
    """

    def __init__(self, dim: int, *, heads: int, dropout: float = 0.0, outputs: int = 0, causal: bool = False) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim {dim} is no multiple of heads {heads}")
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, outputs or dim)
        self.qkv: nn.Linear | None = None

    def join(self) -> None:
        """From now on one product makes queries, keys and values of the same input: less to call, for small models that
        only answer."""
        self.qkv = deepcopy(self.q)
        for name in ("weight", "bias"):
            joined = torch.cat([getattr(linear, name).detach() for linear in (self.q, self.k, self.v)])
            setattr(self.qkv, name, nn.Parameter(joined, requires_grad=False))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep: (b, k) bool, True where a key may be attended to."""
        if self.qkv is not None and query is key is value:
            q, k, v = self.qkv(query).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        else:
            q, k, v = (split_heads(x, self.heads) for x in (self.q(query), self.k(key), self.v(value)))
        mask = None if keep is None else keep[:, None, None, :]
        drop = self.dropout if self.training else 0.0
        return self.out(join_heads(attend(q, k, v, mask, dropout=drop, causal=self.causal)))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """PyTorch's scaled_dot_product_attention of heads (b, heads, tokens, c).

    mask: (b, 1 or heads, 1 or q, k) bool, True where a key may be seen, or numbers that are added to the scores.

    Where a CPU learns in 16 bits, attention alone is in float32, and what comes out as what went in: PyTorch's way
    back takes up to fifteen times as long in bfloat16 (findings/torch-attention-backward-bf16.sh).
    """
    ask = partial(F.scaled_dot_product_attention, dropout_p=dropout, is_causal=causal, scale=scale)
    if not (q.is_cpu and torch.is_grad_enabled() and (q.dtype.itemsize < 4 or torch.is_autocast_enabled("cpu"))):
        return ask(q, k, v, attn_mask=mask)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.float()
    with torch.autocast("cpu", enabled=False):
        return ask(q.float(), k.float(), v.float(), attn_mask=mask).to(q.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, tokens, c) -> (b, heads, tokens, c / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def as_places(x: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, h*w, c)."""
    return x.flatten(2).transpose(1, 2)


def as_map(places: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """The inverse of `as_places` for a map of (height, width): a pixel's channels stay side by side.

    Those of a transposed single map would too, but PyTorch no longer knew, and interpolated in a tenth of the speed.
    """
    return places.unflatten(1, size).permute(0, 3, 1, 2)


def take(x: Tensor, rows: Tensor | None) -> Tensor:
    """(m, ...) -> (n, ...): what each expression reads. Not to be written to: it may be x itself."""
    if rows is None or (not torch.compiler.is_compiling() and len(x) == len(rows) == 1):  # exported, it asks no size
        return x
    return x[rows]


def feed_forward(dim: int, *, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Two linear layers with ReLU between (Vaswani et al. 2017, Eq. 2)."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with residual and LayerNorm after it (post-norm)."""

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(dim, heads=heads, dropout=dropout)
        self.mlp = feed_forward(dim, hidden=hidden, dropout=dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor | None = None, *, positions: Tensor | None = None) -> Tensor:
        """x (b, q, c); keep (b, q) bool; positions (q, c), seen by queries and keys alone [DETR]."""
        placed = x if positions is None else x + positions
        x = self.norm1(x + self.drop(self.attention(placed, placed, x, keep)))
        return self.norm2(x + self.drop(self.mlp(x)))


class DecoderLayer(nn.Module):
    """Self-attention among the queries, cross-attention to the memory, feed-forward; post-norm."""

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.self_attention = Attention(dim, heads=heads, dropout=dropout)
        self.cross_attention = Attention(dim, heads=heads, dropout=dropout)
        self.mlp = feed_forward(dim, hidden=hidden, dropout=dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, memory: Tensor, keep: Tensor | None = None, memory_keep: Tensor | None = None
    ) -> Tensor:
        """keep, memory_keep: (b, q) and (b, k) bool over the queries themselves and the memory; None keeps all."""
        x = self.norm1(queries + self.drop(self.self_attention(queries, queries, queries, keep)))
        x = self.norm2(x + self.drop(self.cross_attention(x, memory, memory, memory_keep)))
        return self.norm3(x + self.drop(self.mlp(x)))


def kept(make: Callable[Sizes, Tensor]) -> Callable[Sizes, Tensor]:
    """A function of numbers alone whose results are kept for those who ask the same again; nobody may write into them.

    A compiler has to see what is computed, and gets it anew.
    """

    @lru_cache(maxsize=64)
    def remembered(*sizes: Sizes.args, **named: Sizes.kwargs) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():  # it outlives the mode that it was asked for in
            return make(*sizes, **named)

    @wraps(make)
    def ask(*sizes: Sizes.args, **named: Sizes.kwargs) -> Tensor:
        return make(*sizes, **named) if torch.compiler.is_compiling() else remembered(*sizes, **named)  # type: ignore[arg-type]

    return ask


def sine_waves(count: int, dim: int, *, like: Tensor, first: int = 0) -> Tensor:
    """(count, dim) for the positions first, first + 1, ...: sine and cosine by turns (Vaswani et al. 2017, 3.5).

    like: whose device and number format it has.  Raises: ValueError where `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"sine positions of {dim} channels: sine and cosine must come in pairs")
    exact = torch.promote_types(like.dtype, torch.float32)
    frequencies = 10000 ** (-2 * torch.arange(dim // 2, device=like.device, dtype=exact) / dim)
    angle = torch.arange(first, first + count, device=like.device, dtype=exact)[:, None] * frequencies
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).to(like.dtype)


def sine_axes(like: Tensor, *, first: int = 0) -> tuple[Tensor, Tensor]:
    """Of each place of a map (n, c, h, w): `sine_waves` of its row and of its column, (h*w, c / 2) each."""
    c, h, w = like.shape[1:]
    rows = sine_waves(h, c // 2, like=like, first=first)[:, None].expand(h, w, -1)
    columns = sine_waves(w, c // 2, like=like, first=first)[None].expand(h, w, -1)
    return rows.flatten(0, 1), columns.flatten(0, 1)


@kept
def sine_positions_2d(height: int, width: int, dim: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(height * width, dim) fixed sine embeddings, first half of the channels for y, second for x (DETR's form).

    Coordinates are normalised to (0, 2 pi], so that a picture's edges look the same at every resolution.
    """
    half = dim // 2
    frequencies = 10000 ** (-2 * torch.arange(half // 2, device=device, dtype=torch.float32) / half)
    y = torch.arange(1, height + 1, device=device, dtype=torch.float32) / height * (2 * math.pi)
    x = torch.arange(1, width + 1, device=device, dtype=torch.float32) / width * (2 * math.pi)
    y, x = y[:, None] * frequencies, x[:, None] * frequencies
    rows = torch.cat([y.sin(), y.cos()], 1)[:, None].expand(height, width, -1)
    columns = torch.cat([x.sin(), x.cos()], 1)[None].expand(height, width, -1)
    positions = torch.cat([rows, columns], -1).flatten(0, 1).to(dtype)
    return F.pad(positions, (0, dim - positions.shape[-1]))
