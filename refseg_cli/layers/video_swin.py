"""Video Swin Transformer (Liu et al., CVPR 2022, arXiv:2106.13230) as a backbone of clips: torchvision's network, which
is the authors', and the authors' names of its weights.

A frame gets a map of its own, as ReferFormer (wjn922/ReferFormer, models/video_swin_transformer.py) has it: patches
span one frame, where the network that classifies actions joins two; weights of those are summed over the two. The maps
are the stages' as they leave them, without a norm.

Users: layers/encoders.py. Axes: i images, b clips, f frames of a clip, c channels, h w of a map.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from refseg_cli.errors import RefsegError, unknown_name
from refseg_cli.layers.keymap import Rule, rename
from refseg_cli.layers.vision import Backbone, some
from refseg_cli.layers.weights import find_weights, read_weights

WINDOW = (8, 7, 7)  # frames, rows, columns [configs/recognition/swin/swin_base_patch244_window877_*.py]


class Size(NamedTuple):
    """width: channels of the first stage.  depths, heads: blocks and attention heads of each stage.  drop_path: the
    largest stochastic depth rate."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    drop_path: float = 0.2  # [ReferFormer, `configs`]


SIZES = {
    "video_swin_t": Size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "video_swin_s": Size(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "video_swin_b": Size(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "video_swin_mini": Size(24, (1, 1, 2, 1), (1, 2, 4, 8), 0.0),  # ours, for a CPU
}

# Files of the authors' (SwinTransformer/Video-Swin-Transformer) and of torchvision's, to torchvision's names.
OFFICIAL_KEYS = (
    Rule(r"(cls_)?head\..*", None, "classifies actions"),
    Rule(r"(backbone\.)?norm\..*", None, "normalises what is classified"),
    Rule(r".*relative_position_index", None, "follows from the window"),
    Rule(r"(?:backbone\.)?patch_embed\.proj\.weight", "patch_embed.proj.weight", convert=lambda w: w.sum(2)),
    Rule(r"(?:backbone\.)?patch_embed\.(.*)", r"patch_embed.\1"),
    Rule(r"features\.(.*)", r"features.\1"),
    *(
        rule
        for stage in range(4)
        for rule in (
            Rule(
                rf"(?:backbone\.)?layers\.{stage}\.blocks\.(\d+)\.mlp\.fc1\.(.*)", rf"features.{2 * stage}.\1.mlp.0.\2"
            ),
            Rule(
                rf"(?:backbone\.)?layers\.{stage}\.blocks\.(\d+)\.mlp\.fc2\.(.*)", rf"features.{2 * stage}.\1.mlp.3.\2"
            ),
            Rule(rf"(?:backbone\.)?layers\.{stage}\.blocks\.(\d+)\.(.*)", rf"features.{2 * stage}.\1.\2"),
            Rule(rf"(?:backbone\.)?layers\.{stage}\.downsample\.(.*)", rf"features.{2 * stage + 1}.\1"),
        )
    ),
)


class Patches(nn.Module):
    """Of one frame each: images (i, 3, H, W) -> (i, h, w, c) at stride 4, padded to the right and below."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, width, 4, stride=4), nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = nn.functional.pad(images, (0, -width % 4, 0, -height % 4))
        return self.norm(self.proj(padded).permute(0, 2, 3, 1))


class VideoSwin(Backbone):
    """The `maps` coarsest maps (three: strides 8, 16, 32).

    Args:
        name: of `SIZES`.
        pretrained: a file of weights, or a package that holds one; False for none.
        drop_path: largest stochastic depth rate; None for the usual one.

    Raises:
        RefsegError: no such size, no file named, or one whose weights are of another network.
    """

    def __init__(self, name: str, *, pretrained: bool | str, maps: int = 3, drop_path: float | None = None) -> None:
        super().__init__()
        from torchvision.models.video.swin_transformer import SwinTransformer3d  # not for every model

        if name not in SIZES:
            raise unknown_name("backbone", name, SIZES)
        size = SIZES[name]
        net = SwinTransformer3d(
            patch_size=[1, 4, 4],
            embed_dim=size.width,
            depths=list(size.depths),
            num_heads=list(size.heads),
            window_size=list(WINDOW),
            stochastic_depth_prob=size.drop_path if drop_path is None else drop_path,
        )
        self.patch_embed, self.features, self.maps = Patches(size.width), net.features, maps
        self.channels = tuple(size.width << stage for stage in range(4))[-maps:]
        self.strides = (4, 8, 16, 32)[-maps:]
        if pretrained is True:
            raise RefsegError(
                f"{name}: no place on the hub is known that has its weights",
                hint="set model.pretrained to the authors' file, or to false; see docs/video.md",
            )
        if pretrained:
            self._take(name, find_weights(pretrained))

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.of_clips(images, 1)

    def of_clips(self, images: Tensor, frames: int) -> list[Tensor]:
        x = self.patch_embed(images).unflatten(0, (-1, frames))  # (b, f, h, w, c)
        maps = []
        for number, part in enumerate(self.features):
            x = part(x)
            if number % 2 == 0:  # a stage; between two of them patches are merged
                maps.append(x.flatten(0, 1).permute(0, 3, 1, 2))
        return maps[-self.maps :]

    def _take(self, name: str, path: Path) -> None:
        renamed = rename(read_weights(path), OFFICIAL_KEYS)
        expected = {key: value for key, value in self.state_dict().items() if not key.endswith("_position_index")}
        fitting = {
            key for key, value in renamed.weights.items() if key in expected and value.shape == expected[key].shape
        }
        others = renamed.unknown + [renamed.sources[key] for key in renamed.weights if key not in fitting]
        missing = [key for key in expected if key not in fitting]
        if missing or others:
            raise RefsegError(
                f"{path}: not the weights of {name}: {len(missing)} tensors missing or of another shape "
                f"({some(missing)}), {len(others)} without a place ({some(others)})",
                hint="set model.backbone to the network that they are of",
            )
        self.load_state_dict(renamed.weights, strict=False)
