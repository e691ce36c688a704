"""Pixel decoders: a backbone's pyramid to memories for attention, and one fine map for dot products with filters.

Users: models/{deris,rela}.py; of parts models/{caris,deris}_decoder.py, layers/region_decoder.py.
In both kinds the places of the three coarse maps see one another; the finest map joins at the end.

Axes: m maps (of an image, or of an image seen with one phrase), c channels, h w of a map, p places of all levels,
s levels, r points sampled at a level.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.layers.attention import EncoderLayer, as_map, as_places, feed_forward, kept
from refseg_cli.layers.keymap import Rule, feed_forward_rules
from refseg_cli.layers.upsampling import resized
from refseg_cli.layers.vision import conv_bn_relu

LEVELS = 3  # coarse maps: strides 32, 16, 8, always in this order


class Pixels(NamedTuple):
    """What a pixel decoder gives.

    mask_features: (m, c, h, w) at the finest map's stride.  memory: (m, c, h, w) of each level.
    image: (m, c, h, w), the middle level as it came from the backbone, but for a 1x1 convolution.
    """

    mask_features: Tensor
    memory: list[Tensor]
    image: Tensor


class DensePixelDecoder(nn.Module):
    """Ours, for small pictures: plain self-attention over all places of the coarse maps.

    Args:
        channels: of the four maps, finest first.
        hidden: width of the feed-forward part.
    """

    def __init__(self, channels: tuple[int, ...], *, dim: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn_relu(c, dim, kernel=1) for c in reversed(channels[1:]))
        self.level_embed = nn.Parameter(torch.randn(LEVELS, dim) * 0.02)
        self.layers = nn.ModuleList(EncoderLayer(dim, heads=heads, hidden=hidden) for _ in range(layers))
        self.fine = nn.Conv2d(channels[0], dim, 1)
        self.mask_features = nn.Sequential(conv_bn_relu(dim, dim), nn.Conv2d(dim, dim, 1))

    def forward(self, maps: list[Tensor]) -> Pixels:
        """Maps of four strides, finest first."""
        fine, *coarse = maps
        x = [lateral(level) for lateral, level in zip(self.lateral, reversed(coarse), strict=True)]
        placed = [
            level + sine_positions(level) + e[:, None, None] for level, e in zip(x, self.level_embed, strict=True)
        ]
        places = flatten_levels(placed)
        for layer in self.layers:
            places = layer(places)
        memory = unflatten_levels(places, x)
        joined = self.fine(fine) + resized(memory[-1], fine)
        return Pixels(self.mask_features(joined + sine_positions(joined)), memory, x[1])


class DeformablePixelDecoder(nn.Module):
    """The official one, of Mask2Former (Cheng et al., CVPR 2022): deformable self-attention over the coarse maps
    (Zhu et al., Deformable DETR, ICLR 2021), without a compiled operator.

    Learning under autocast it computes in float32, as the official code does: places are fractions of a pixel. Where
    nothing is learnt, only these are, and the sum that runs through the layers.

    Args:
        channels: of the four maps, finest first.
        hidden: width of the feed-forward part.
        simplified: as in Mask2Former-Simplify, which DeRIS took over: the finest map's convolutions have biases, and
            there is a ReLU behind the first of them too.
    """

    def __init__(
        self, channels: tuple[int, ...], *, dim: int, heads: int, hidden: int, layers: int, simplified: bool = False
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_lateral(c, dim) for c in reversed(channels[1:]))
        self.level_embed = nn.Parameter(torch.randn(LEVELS, dim))
        self.layers = nn.ModuleList(DeformableLayer(dim, heads=heads, hidden=hidden) for _ in range(layers))
        self.fine = nn.Sequential(nn.Conv2d(channels[0], dim, 1, bias=simplified), group_norm(dim))
        if simplified:
            self.fine.append(nn.ReLU())
        self.smooth = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=simplified), group_norm(dim), nn.ReLU())
        self.mask_features = nn.Conv2d(dim, dim, 1)

    def forward(self, maps: list[Tensor]) -> Pixels:
        """Maps of four strides, finest first."""
        device = maps[0].device.type
        if torch.is_autocast_enabled(device) and torch.is_grad_enabled():
            with torch.autocast(device, enabled=False):
                return self._decode([m.float() for m in maps])
        return self._decode(maps)

    def _decode(self, maps: list[Tensor]) -> Pixels:
        fine, *coarse = maps
        x = [_exact(lateral(level)) for lateral, level in zip(self.lateral, reversed(coarse), strict=True)]
        positions = flatten_levels(
            [sine_positions(level)[None] + e[:, None, None] for level, e in zip(x, self.level_embed, strict=True)]
        )
        centres = flatten_levels([cell_centres(level) for level in x])[0]
        places, sizes = flatten_levels(x), [(level.shape[-2], level.shape[-1]) for level in x]
        for layer in self.layers:
            places = layer(places, positions, centres, sizes)
        memory = unflatten_levels(places, x)
        mask_features = self.mask_features(self.smooth(self.fine(fine) + resized(memory[-1], fine)))
        return Pixels(mask_features, memory, x[1])


def _lateral(inputs: int, dim: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, dim, 1)
    nn.init.xavier_uniform_(conv.weight)
    return nn.Sequential(conv, group_norm(dim))


class DeformableLayer(nn.Module):
    """Deformable self-attention and feed-forward, each with residual and LayerNorm after it (post-norm)."""

    def __init__(self, dim: int, *, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, heads=heads)
        self.mlp = feed_forward(dim, hidden=hidden)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, positions: Tensor, centres: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """x, positions (m or 1, p, c); centres (p, 2)."""
        x = self.norm1(x + self.attention(x + positions, x, centres, sizes))
        return self.norm2(x + self.mlp(x))


class DeformableAttention(nn.Module):
    """Every place looks at `points` points of each level and head, which it chooses itself (Deformable DETR, Eq. 3)."""

    def __init__(self, dim: int, *, heads: int, points: int = 4) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim {dim} is no multiple of heads {heads}")
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(dim, heads * LEVELS * points * 2)
        self.weights = nn.Linear(dim, heads * LEVELS * points)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self._start()

    def _start(self) -> None:
        """Evenly: each head looks in a direction of its own, its points one after another outwards [official code]."""
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # on the border of a square
        steps = torch.arange(1, self.points + 1)[:, None]
        rays = (direction[:, None, None] * steps).expand(-1, LEVELS, -1, -1)
        with torch.no_grad():
            self.offsets.bias.copy_(rays.flatten())
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, memory: Tensor, centres: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """query, memory (m, p, c); centres (p, 2) of the places, (x, y) in [0, 1]; sizes (height, width) per level."""
        if query.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return self._by_rows(query, memory, centres, sizes)
        value = self.value(memory).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1)  # (m, heads, c / heads, p)
        offsets, scores = self._chosen(query)
        offsets = offsets.unflatten(-1, (self.heads, LEVELS, self.points, 2)).permute(0, 2, 3, 1, 4, 5)
        weights = scores.unflatten(-1, (self.heads, -1)).softmax(-1)  # over the points of all levels
        weights = weights.unflatten(-1, (LEVELS, self.points)).permute(0, 2, 3, 1, 4)  # (m, heads, s, p, r)
        total = torch.zeros_like(value)
        for s, (level, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], -1), sizes, strict=True)):
            # An offset is counted in pixels of the level that it looks at.
            where = centres[:, None] + offsets[:, :, s] / offsets.new_tensor([w, h])  # (m, heads, p, r, 2)
            seen = F.grid_sample(
                level.unflatten(-1, (h, w)).flatten(0, 1), 2 * where.flatten(0, 1) - 1, align_corners=False
            ).unflatten(0, (-1, self.heads))  # (m, heads, c / heads, p, r); 0 beyond the map
            total = total + (seen * weights[:, :, s, None]).sum(-1)
        return self.out(total.flatten(1, 2).transpose(1, 2))

    def _chosen(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Where each place looks, and the scores of what it sees there: under autocast in the query's precision."""
        if torch.is_autocast_enabled(query.device.type):
            with torch.autocast(query.device.type, enabled=False):
                return self.offsets(query), self.weights(query)
        return self.offsets(query), self.weights(query)

    def _by_rows(self, query: Tensor, memory: Tensor, centres: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """The same by hand, in 0.4 of the time on a CPU: each head of a place reads the four cells around each of its
        points, all in one weighted sum of rows of the values, which stay as they lie."""
        (m, p, _), heads, s = query.shape, self.heads, len(sizes)
        value = _exact(self.value(memory)).view(m * p * heads, -1)
        offsets, scores = self._chosen(query)
        # (b, s r) from here on, b heads of places: on longer rows arithmetic is several times as fast.
        right, below = offsets.view(len(value), -1, 2).unbind(-1)
        share = _softmax(scores.view(len(value), -1))
        h, w = query.new_tensor(sizes).repeat_interleave(self.points, 0).T
        x, y = centres.repeat_interleave(heads, 0).repeat(m, 1).T[..., None]
        columns, across = _cells(x, right, w)
        lines, down = _cells(y, below, h)
        levels = torch.tensor([sum(height * width for height, width in sizes[:k]) for k in range(s)])
        bag = torch.arange(len(value))[:, None]
        image, head = bag.div(p * heads, rounding_mode="floor") * p * heads, bag % heads
        first = image + head + heads * levels.repeat_interleave(self.points)  # row of a level's first place
        total = torch.zeros_like(value)
        for line, a in zip(lines, down, strict=True):
            begin, part = line * w, a * share
            for column, b in zip(columns, across, strict=True):
                rows = (begin + column).long().mul_(heads).add_(first)
                total += F.embedding_bag(rows, value, mode="sum", per_sample_weights=part * b)
        return self.out(total.view(m, p, -1))


def _exact(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _softmax(scores: Tensor) -> Tensor:
    """Over a last axis of a dozen, where PyTorch's own takes six times as long."""
    powers = (scores - scores.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))


def _cells(centres: Tensor, offsets: Tensor, sizes: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Along one axis the two cells around each point, and what each gives: nothing beyond the map.

    centres (b, 1) in [0, 1]; offsets (b, s r) in cells; sizes (s r,) in cells, as floats.
    """
    where = (centres * sizes).add_(offsets).sub_(0.5)
    low = where.floor()
    high, beyond = low + 1, where.sub_(low)
    first, second = (cell.clamp(min=0).minimum(sizes - 1) for cell in (low, high))
    return (first, second), ((1 - beyond).mul_(first == low), beyond.mul_(second == high))


class Sharpen(nn.Module):
    """Ours: mask features at stride 2, from those at stride 4 and the picture's own edges."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = 32
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.context = nn.Conv2d(dim, width, 1)
        last = nn.Conv2d(width, dim, 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)  # starts as plain upsampling
        self.details = nn.Sequential(nn.ReLU(), conv_bn_relu(width, width), last)

    def forward(self, mask_features: Tensor, images: Tensor) -> Tensor:
        edges = self.stem(images)
        return resized(mask_features, edges) + self.details(edges + resized(self.context(mask_features), edges))


def group_norm(dim: int) -> nn.GroupNorm:
    """Groups of 8 channels, which are 32 groups at the official width."""
    return nn.GroupNorm(max(1, dim // 8), dim)


def flatten_levels(levels: list[Tensor]) -> Tensor:
    """Maps (m, c, h, w) -> (m, p, c), level after level, row by row."""
    return torch.cat([as_places(level) for level in levels], 1)


def unflatten_levels(places: Tensor, like: list[Tensor]) -> list[Tensor]:
    """The inverse of `flatten_levels`, for maps of the sizes of `like`."""
    parts = places.split([level.shape[-2] * level.shape[-1] for level in like], 1)
    return [as_map(part, level.shape[-2:]) for part, level in zip(parts, like, strict=True)]


def cell_centres(like: Tensor) -> Tensor:
    """(1, 2, h, w): x and y of each place of a map, in (0, 1)."""
    h, w = like.shape[-2:]
    y = (torch.arange(h, device=like.device, dtype=like.dtype) + 0.5) / h
    x = (torch.arange(w, device=like.device, dtype=like.dtype) + 0.5) / w
    return torch.stack([x[None].expand(h, -1), y[:, None].expand(-1, w)])[None]


def sine_positions(like: Tensor) -> Tensor:
    """(c, h, w) fixed sine embeddings for a map (m, c, h, w), as Mask2Former has them: sine and cosine by turns.

    The first half of the channels tells y, the second x; coordinates are normalised to (0, 2 pi].

    Raises:
        ValueError: the channels are no multiple of 4.
    """
    c, h, w = like.shape[1:]
    if c % 4:
        raise ValueError(f"sine positions need channels in fours, not {c}")
    return _sine_positions(c, h, w, device=like.device, dtype=like.dtype)


@kept
def _sine_positions(c: int, h: int, w: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    exact = torch.promote_types(dtype, torch.float32)
    frequencies = 10000 ** (-2 * torch.arange(c // 4, device=device, dtype=exact) / (c // 2))

    def waves(count: int) -> Tensor:  # (count, c / 2)
        place = torch.arange(1, count + 1, device=device, dtype=exact) / (count + 1e-6) * (2 * math.pi)
        angle = place[:, None] * frequencies
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)

    rows, columns = waves(h)[:, None].expand(-1, w, -1), waves(w).expand(h, -1, -1)
    return torch.cat([rows, columns], -1).to(dtype).permute(2, 0, 1)  # laid out as maps are


def pixel_decoder_rules(theirs: str) -> tuple[Rule, ...]:
    """The rules for a `DeformablePixelDecoder` of official files, but for its finest map's two convolutions.

    Args:
        theirs: where it stands in the official model, a regular expression. In ours it is `pixel_decoder`.
    """
    ours = "pixel_decoder"
    layer, our_layer = rf"{theirs}\.transformer\.encoder\.layers\.(\d+)", rf"{ours}.layers.\1"
    names = {"sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "value", "output_proj": "out"}
    return (
        Rule(rf"{theirs}\.input_proj\.(.*)", rf"{ours}.lateral.\1"),
        Rule(rf"{theirs}\.transformer\.level_embed", f"{ours}.level_embed"),
        *(Rule(rf"{layer}\.self_attn\.{a}\.(.*)", rf"{our_layer}.attention.{b}.\2") for a, b in names.items()),
        Rule(rf"{layer}\.(norm\d\..*)", rf"{our_layer}.\2"),
        *feed_forward_rules(layer, our_layer),
        Rule(rf"{theirs}\.mask_features\.(.*)", rf"{ours}.mask_features.\1"),
    )
