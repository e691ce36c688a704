"""Vision backbones: images to a pyramid of feature maps. The only door to timm.

Users: layers/encoders.py, which builds them. Axes: i images, c channels, h w of a map, finest map first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from refseg_cli.errors import RefsegError


class Backbone(nn.Module):
    """images (i, 3, H, W) -> list of maps (i, channels[k], H / strides[k], W / strides[k])."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


def freeze(backbone: Backbone) -> Backbone:
    """No gradients, and normalisation with its stored statistics, in training too."""
    backbone.requires_grad_(False)
    backbone.eval()
    backbone.train = lambda mode=True: backbone  # type: ignore[method-assign]  # stays in eval mode
    return backbone


class TimmBackbone(Backbone):
    """The `maps` coarsest feature maps of a timm model (three: strides 8, 16, 32), channels first."""

    def __init__(self, name: str, *, size: tuple[int, int], pretrained: bool, maps: int = 3) -> None:
        super().__init__()
        import timm

        extra: dict[str, Any] = {}
        if "swin" in name:
            extra = {"img_size": size, "strict_img_size": False, "always_partition": True}
        try:
            net: Any = timm.create_model(
                name, pretrained=pretrained, features_only=True, out_indices=tuple(range(-maps, 0)), **extra
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RefsegError(f"timm cannot build {name!r}: {reason}", hint="see timm.list_models()") from error
        except (OSError, ValueError) as error:  # no network, no such weights
            reason = str(error).splitlines()[0]
            raise RefsegError(
                f"cannot load pretrained weights of {name!r}: {reason}", hint="or set model.pretrained=false"
            ) from error
        self.net: nn.Module = net
        self.channels = tuple(net.feature_info.channels())
        self.strides = tuple(net.feature_info.reduction())
        self.channels_last = getattr(net, "output_fmt", None) == "NHWC"  # timm's Format is a str
        if "swin" in name:
            _pad_before_roll(net)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.net(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else list(maps)


def _pad_before_roll(net: nn.Module) -> None:
    """Swin's window attention as its authors wrote it: pad the map to a window multiple, then roll.

    timm rolls first and pads after, which differs wherever a map is no multiple of the window (stage 4 at 480 px).
    """
    from timm.models.swin_transformer import SwinTransformerBlock

    for block in net.modules():
        if isinstance(block, SwinTransformerBlock):
            block.__class__ = _padded_block()


_PADDED: list[type] = []


def _padded_block() -> type:
    """The subclass of timm's block, made on first use because importing timm costs seconds."""
    if _PADDED:
        return _PADDED[0]
    from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse

    class PadFirstBlock(SwinTransformerBlock):
        def _attn(self, x: Tensor) -> Tensor:
            _, height, width, _ = x.shape
            (wh, ww), (sh, sw) = self.window_size, self.shift_size
            x = nn.functional.pad(x, (0, 0, 0, -width % ww, 0, -height % wh))
            padded = x.shape[1:3]
            shifted = torch.roll(x, (-sh, -sw), (1, 2)) if sh or sw else x
            windows = window_partition(shifted, self.window_size).flatten(1, 2)
            # The block's own mask is laid out for its padded input resolution; other sizes get theirs.
            mask = self.get_attn_mask(shifted) if sh or sw else None
            windows = self.attn(windows, mask=mask).unflatten(1, (wh, ww))
            x = window_reverse(windows, self.window_size, *padded)
            x = torch.roll(x, (sh, sw), (1, 2)) if sh or sw else x
            return x[:, :height, :width]

    _PADDED.append(PadFirstBlock)
    return PadFirstBlock


class ConvNet(Backbone):
    """A small residual network for the tiny models: a stem at stride 2 and four stages at strides 4, 8, 16, 32.

    Args:
        channels: of the stem and the four stages.
        maps: how many of the stages' maps come out, from the coarsest.
    """

    def __init__(self, channels: tuple[int, ...], *, maps: int = 3) -> None:
        super().__init__()
        if len(channels) != 5:
            raise RefsegError(f"model.backbone_channels: expected 5 numbers (stem, four stages), not {list(channels)}")
        self.channels, self.strides = tuple(channels[-maps:]), (4, 8, 16, 32)[-maps:]
        self.stem = conv_bn_relu(3, channels[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(before, after, stride=2), ResidualBlock(after, after))
            for before, after in pairwise(channels)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-len(self.channels) :]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, basic block)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(inputs, outputs, stride=stride)
        self.conv2 = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


def conv_bn_relu(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU; same size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class PyramidSum(nn.Module):
    """The backbone's last three maps, brought to `dim` channels and one grid, summed (VLT: F_vr, thesis 4.2.6).

    Users: models/vlt.py, models/align.py.
    """

    def __init__(self, backbone: Backbone, *, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.backbone = grid, backbone
        self.project = nn.ModuleList(conv_bn_relu(k, dim, kernel=1) for k in backbone.channels)

    def forward(self, images: Tensor) -> Tensor:
        """images (i, 3, H, W) -> (i, dim, *grid)."""
        maps = [project(m) for project, m in zip(self.project, self.backbone(images), strict=True)]
        fitted = [nn.functional.interpolate(m, self.grid, mode="bilinear", align_corners=False) for m in maps]
        return fitted[0] + fitted[1] + fitted[2]
