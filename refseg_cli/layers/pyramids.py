"""Image encoders that end in a pyramid of four maps, with or without language in them.

Users: models/{caris,deris,rela}.py, layers/region_decoder.py. Each but `NormedMaps` is called with images (i, 3, H, W),
words (n, l, word_dim), keep (n, l) bool and image_index (n,), and gives four maps (m, channels[k], h, w), finest first,
and each expression's row of them (n,), or None where the maps are the expressions' already. Its `backbone` is the plain
one inside.

Axes: i images, n expressions, m maps, l words, c channels, h w of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refseg_cli.layers.attention import EncoderLayer, as_map, as_places, sine_positions_2d, take
from refseg_cli.layers.language import Language, SentencePooling
from refseg_cli.layers.pwam import FusedBackbone
from refseg_cli.layers.sdf import SpatialDynamicFusion
from refseg_cli.layers.upsampling import fitted
from refseg_cli.layers.vision import Backbone, conv_bn_relu

Pyramid = tuple[list[Tensor], Tensor | None]


class NormedMaps(nn.Module):
    """images (i, 3, H, W) -> the backbone's maps (i, c, h, w), finest first, each with a LayerNorm of its own.

    The next stage reads the map as it was.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.channels = backbone, backbone.channels
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = zip(self.norms, self.backbone(images), strict=True)
        return [norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, x in maps]


class PlainPyramid(nn.Module):
    """A backbone that knows no language."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.channels = backbone, backbone.channels

    def forward(self, images: Tensor, words: Tensor, keep: Tensor, image_index: Tensor) -> Pyramid:
        return self.backbone(images), image_index


class FusedPyramid(FusedBackbone):
    """LAVT's: language enters behind every stage."""

    def __init__(self, backbone: Backbone, *, word_dim: int) -> None:
        super().__init__(backbone, word_dim=word_dim, heads=(1, 1, 1, 1))

    def forward(self, images: Tensor, words: Tensor, keep: Tensor, image_index: Tensor) -> Pyramid:  # type: ignore[override]
        return super().forward(images, words, keep, image_index), None


class TiledPyramid(nn.Module):
    """The picture cut into tiles that never see one another ("hard split, input", thesis table 6.2, row 1).

    Args:
        backbone: built for the size of one tile.
        side: tiles in a row and in a column.
    """

    def __init__(self, backbone: Backbone, *, side: int) -> None:
        super().__init__()
        self.backbone, self.channels, self.side = backbone, backbone.channels, side

    def forward(self, images: Tensor, words: Tensor, keep: Tensor, image_index: Tensor) -> Pyramid:
        tiles = images.unflatten(3, (self.side, -1)).unflatten(2, (self.side, -1))  # (i, 3, side, h, side, w)
        maps = self.backbone(tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))
        return [self._joined(m) for m in maps], image_index

    def _joined(self, tiles: Tensor) -> Tensor:
        """(i * side * side, c, h, w) -> (i, c, side * h, side * w)."""
        grid = tiles.unflatten(0, (-1, self.side, self.side)).permute(0, 3, 1, 4, 2, 5)
        return grid.flatten(4, 5).flatten(2, 3)


def tile_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Of a picture in `side` x `side` tiles.

    Raises:
        ValueError: the tiles would not be of one size.
    """
    if size[0] % side or size[1] % side:
        raise ValueError(f"{size[0]}x{size[1]} pixels cannot be cut into {side}x{side} equal tiles")
    return size[0] // side, size[1] // side


class VltPyramid(nn.Module):
    """VLT's encoder (thesis 4.2.1, 4.2.2): the summed maps, fused with language at stride 16, through a transformer.

    VLT's own decoder reads that one map. For those who read four, it is added to each of the backbone's [ours].

    Args:
        inner: VLT's width C.  dim: channels of the maps that come out.
    """

    def __init__(
        self, backbone: Backbone, *, word_dim: int, inner: int, dim: int, heads: int, hidden: int, layers: int
    ) -> None:
        super().__init__()
        self.backbone, self.channels = backbone, (dim,) * len(backbone.channels)
        self.project = nn.ModuleList(conv_bn_relu(c, inner, kernel=1) for c in backbone.channels[1:])
        self.words = nn.Linear(word_dim, inner)
        self.sentence = SentencePooling(inner, dropout=0.0)
        self.fusion = SpatialDynamicFusion(dim=inner)
        self.layers = nn.ModuleList(EncoderLayer(inner, heads=heads, hidden=hidden) for _ in range(layers))
        self.lateral = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in backbone.channels)
        self.out = nn.Conv2d(inner, dim, 1)

    def forward(self, images: Tensor, words: Tensor, keep: Tensor, image_index: Tensor) -> Pyramid:
        maps = self.backbone(images)
        fused = self.out(self._fuse(maps, words, keep, image_index))
        laterals = (take(lateral(m), image_index) for lateral, m in zip(self.lateral, maps, strict=True))
        return [m + fitted(fused, m.shape[-2:]) for m in laterals], None

    def _fuse(self, maps: list[Tensor], words: Tensor, keep: Tensor, image_index: Tensor) -> Tensor:
        """F_ve as a map (n, inner, h, w) at stride 16."""
        h, w = maps[-2].shape[-2:]
        projected = [project(m) for project, m in zip(self.project, maps[1:], strict=True)]
        F_vr = torch.stack([fitted(m, (h, w)) for m in projected]).sum(0)
        F_t = self.words(words)
        language = Language(
            torch.cat([F_t, self.sentence(F_t, keep)[:, None]], 1), nn.functional.pad(keep, (0, 1), value=True)
        )
        x = as_places(self.fusion(F_vr, language, image_index))
        x = x + sine_positions_2d(h, w, x.shape[-1], device=x.device, dtype=x.dtype)
        for layer in self.layers:
            x = layer(x)
        return as_map(x, (h, w))
