"""CARIS's decoder: pixels and tokens (words, and learned prompts beside them) that change each other, layer by layer.

Two of its three dense attentions connect thousands of places with a few dozen tokens, four times as wide inside as the
features. The official code projects every place to that width; here the projection goes to the tokens' side, which
changes the order of the products and nothing else: 1.7 for 9.5 GFLOPs a layer at 448 px.

Axes: i images, n expressions, t tokens, p places of the three coarse maps (strides 32, 16, 8), q queries, k keys,
a heads, d channels of a head, c channels, h w of a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refseg_cli.layers.attention import as_map, feed_forward, join_heads, split_heads, take
from refseg_cli.layers.pixel_decoder import (
    LEVELS,
    DeformableAttention,
    cell_centres,
    flatten_levels,
    group_norm,
    sine_positions,
)
from refseg_cli.layers.upsampling import WIDE, resized, upsampled_conv

HIGHEST = 50_000  # scores are clamped to +-this, since half precision ends at 65504 [official code]


class Scene(NamedTuple):
    """What the decoder makes of the pictures alone.

    places (i, p, c); positions (1, p, c), sine waves and the level's vector; centres (p, 2), see `cell_centres`; sizes
    (height, width) of the three levels; lateral (i, c, h, w), the finest map.
    """

    places: Tensor
    positions: Tensor
    centres: Tensor
    sizes: list[tuple[int, int]]
    lateral: Tensor

    def finest(self, x: Tensor) -> Tensor:
        """(n, p, c) -> the level at stride 8 as a map (n, c, h, w)."""
        part = x.split([h * w for h, w in self.sizes], 1)[-1]
        return as_map(part, self.sizes[-1])


class Stage(NamedTuple):
    """What a layer gives: pixels (n, p, c), tokens (n, t, c), and the weights with which tokens read pixels
    (n, a, t, p), of all pixels, and pixels heed tokens (n, p, a, t), of all tokens."""

    pixels: Tensor
    tokens: Tensor
    reads: Tensor
    heeds: Tensor


class Decoder(nn.Module):
    """See the header.

    Args:
        channels: of the four maps, finest first.
        width: of the dense attentions inside.  hidden: of the feed-forward parts.
    """

    def __init__(
        self, channels: tuple[int, ...], *, dim: int, heads: int, width: int, hidden: int, layers: int
    ) -> None:
        super().__init__()
        coarse = reversed(channels[1:])
        self.project = nn.ModuleList(nn.Sequential(nn.Conv2d(c, dim, 1), group_norm(dim)) for c in coarse)
        self.level = nn.Parameter(torch.randn(LEVELS, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, heads=heads, width=width, hidden=hidden) for _ in range(layers))
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], dim, 1, bias=False), group_norm(dim))
        self.smooth = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.smooth_norm = group_norm(dim)

    def scene(self, maps: list[Tensor]) -> Scene:
        """Maps (i, c, h, w) of four strides, finest first."""
        finest, *coarse = maps
        x = [project(level) for project, level in zip(self.project, reversed(coarse), strict=True)]
        positions = flatten_levels(
            [sine_positions(level)[None] + e[:, None, None] for level, e in zip(x, self.level, strict=True)]
        )
        centres = flatten_levels([cell_centres(level) for level in x])[0]
        sizes = [(level.shape[-2], level.shape[-1]) for level in x]
        return Scene(flatten_levels(x), positions, centres, sizes, self.lateral(finest))

    def forward(self, scene: Scene, tokens: Tensor, keep: Tensor, image_index: Tensor) -> Stage:
        """What the last layer gives; arguments as of `stages`."""
        for stage in self.stages(scene, tokens, keep, image_index):
            last = stage
        return last

    def stages(self, scene: Scene, tokens: Tensor, keep: Tensor, image_index: Tensor) -> Iterator[Stage]:
        """Layer after layer. tokens (n, t, c); keep (n, t) bool, False at padding; image_index (n,)."""
        pixels = take(scene.places, image_index)
        for layer in self.layers:
            stage = layer(pixels, tokens, keep, scene)
            pixels, tokens = stage.pixels, stage.tokens
            yield stage

    def fine(self, pixels: Tensor, scene: Scene, image_index: Tensor) -> Tensor:
        """(n, p, c) -> (n, c, h, w) at stride 4."""
        memory, lateral = scene.finest(pixels), scene.lateral
        if convolves_apart(pixels, lateral):
            y = upsampled_conv(memory, self.smooth.weight, lateral.shape[-2:], align_corners=False)
            y = y + take(self.smooth(lateral), image_index)
        else:
            y = self.smooth(resized(memory, lateral) + take(lateral, image_index))
        return torch.relu(self.smooth_norm(y))


def convolves_apart(pixels: Tensor, lateral: Tensor) -> bool:
    """Whether the convolution of the sum is done as the sum of two, a whole one for each image and a quarter of one for
    each expression: where `upsampled_conv` saves any work, and several expressions share an image.

    A graph, which must not depend on how many there are, is made for several.
    """
    if pixels.shape[2] < WIDE:
        return False
    return torch.compiler.is_exporting() or 3 * pixels.shape[0] > 4 * lateral.shape[0]


class DecoderLayer(nn.Module):
    """Tokens read the pixels and talk to each other, pixels heed them and look around; post-norm everywhere.

    Names are of what precedes: the official v_norm2 is the first of the pixels' norms, v_norm1 the second.
    """

    def __init__(self, dim: int, *, heads: int, width: int, hidden: int) -> None:
        super().__init__()
        self.read = FewQueries(dim, heads=heads, width=width)
        self.read_gain, self.read_norm = nn.Parameter(torch.ones(dim)), nn.LayerNorm(dim)
        self.talk, self.talk_norm = WideAttention(dim, heads=heads, width=width), nn.LayerNorm(dim)
        self.token_mlp, self.token_norm = feed_forward(dim, hidden=hidden), nn.LayerNorm(dim)
        self.heed = FewKeys(dim, heads=heads, width=width)
        self.heed_gain, self.heed_norm = nn.Parameter(torch.ones(dim)), nn.LayerNorm(dim)
        self.pixel_mlp, self.pixel_norm = feed_forward(dim, hidden=hidden), nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)  # [official code]
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.look, self.look_norm = DeformableAttention(dim, heads=heads), nn.LayerNorm(dim)

    def forward(self, pixels: Tensor, tokens: Tensor, keep: Tensor, scene: Scene) -> Stage:
        """pixels (n, p, c), tokens (n, t, c), keep (n, t) bool."""
        X, T = pixels, tokens
        read, reads = self.read(T, X + scene.positions, X)
        T = self.read_norm(T + self.read_gain * read)
        T = self.talk_norm(T + self.talk(T, T, T, keep)[0])
        T = self.token_norm(T + self.token_mlp(T))
        heeded, heeds = self.heed(X + scene.positions, T, T, keep)
        X = self.heed_norm(X + self.heed_gain * heeded)
        X = self.look_norm(X + self._look(X, scene))
        X = self.pixel_norm(X + self.pixel_mlp(X))
        return Stage(X, T, reads, heeds)

    def _look(self, X: Tensor, scene: Scene) -> Tensor:
        """In float32 under autocast, as in the official code: places are fractions of a pixel."""
        kind = X.device.type
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                X = X.float()
                return self.look(X + scene.positions.float(), X, scene.centres.float(), scene.sizes)
        return self.look(X + scene.positions, X, scene.centres, scene.sizes)


class WideAttention(nn.Module):
    """Multi-head attention of `width` channels inside. Returns what was read (n, q, c), and the weights (n, a, q, k).

    Keys have no bias: softmax takes away what is added to all of them.
    """

    def __init__(self, dim: int, *, heads: int, width: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"attention_width {width} is no multiple of heads {heads}")
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q, self.k, self.v = nn.Linear(dim, width), nn.Linear(dim, width, bias=False), nn.Linear(dim, width)
        self.out = nn.Linear(width, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """query (n, q, c), key, value (n, k, c); keep (n, k) bool."""
        Q, K, V = (split_heads(x, self.heads) for x in (self.q(query) * self.scale, self.k(key), self.v(value)))
        scores = (Q @ K.transpose(-2, -1)).clamp(-HIGHEST, HIGHEST)
        weights = scores.masked_fill(~keep[:, None, None], float("-inf")).softmax(-1)
        return self.out(join_heads(weights @ V)), weights


class FewQueries(WideAttention):
    """The same for few queries and many keys, all of them seen: (W_q q) . (W_k k) = (W_k^T W_q q) . k, and the weighted
    sum of values is the value of the weighted sum."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        Q = split_heads(self.q(query) * self.scale, self.heads)
        Q = torch.einsum("natd,adc->natc", Q, self.k.weight.unflatten(0, (self.heads, -1)))
        scores = (Q.flatten(1, 2) @ key.transpose(1, 2)).clamp(-HIGHEST, HIGHEST)
        weights = scores.softmax(-1)  # (n, a * t, p)
        sums = (weights @ value).unflatten(1, (self.heads, -1))
        V = torch.einsum("natc,adc->natd", sums, self.v.weight.unflatten(0, (self.heads, -1)))
        return self.out(join_heads(V) + self.v.bias), weights.unflatten(1, (self.heads, -1))


class FewKeys(WideAttention):
    """The same for many queries and few keys: (W_q q + b) . k = q . (W_q^T k) + b . k, and the output's projection is
    taken of the values, before they are summed. Weights come as (n, q, a, k)."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        K = split_heads(self.k(key) * self.scale, self.heads)  # (n, a, k, d)
        W_q, b_q = (x.unflatten(0, (self.heads, -1)) for x in (self.q.weight, self.q.bias))
        folded = torch.einsum("nakd,adc->nakc", K, W_q).flatten(1, 2)
        scores = query @ folded.transpose(1, 2) + torch.einsum("nakd,ad->nak", K, b_q).flatten(1)[:, None]
        scores = scores.clamp(-HIGHEST, HIGHEST).unflatten(2, (self.heads, -1))  # (n, q, a, k)
        weights = scores.masked_fill(~keep[:, None, None], float("-inf")).softmax(-1)
        V = split_heads(self.v(value), self.heads)
        V = torch.einsum("nakd,cad->nakc", V, self.out.weight.unflatten(1, (self.heads, -1))).flatten(1, 2)
        return weights.flatten(2) @ V + self.out.bias, weights


class MaskHead(nn.Module):
    """Two classes, background and target, each a dot product of pixels with what one token became."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pixels = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, dim, 1), nn.ReLU())
        self.features = nn.Conv2d(dim, dim, 1)
        self.tokens = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor, tokens: Tensor, words: int) -> Tensor:
        """x (n, c, h, w), tokens (n, t, c), of which the first are `words` -> logits (n, 2, h, w).

        The background is the mean of the prompts, the target the first word, [CLS].
        """
        E = self.tokens(torch.stack([tokens[:, words:].mean(1), tokens[:, 0]], 1))  # (n, 2, c)
        # The last convolution goes to the classes' side: two channels are wanted, not c.
        filters, bias = E @ self.features.weight.flatten(1), E @ self.features.bias
        return torch.einsum("nkc,nchw->nkhw", filters, self.pixels(x)) + bias[..., None, None]
