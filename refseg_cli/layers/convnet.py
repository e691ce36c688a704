"""A small residual network, the backbone of the tiny models; of clips it sees neighbouring frames by a temporal shift.

Users: layers/encoders.py. Axes: i images, b clips, f frames of a clip, c channels, h w of a map, finest map first.
"""

from __future__ import annotations

from itertools import islice, pairwise

import torch
from torch import Tensor, nn

from refseg_cli.errors import RefsegError
from refseg_cli.layers.vision import Backbone, conv_bn_relu


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
        self.channels, self.strides, self.staged = tuple(channels[-maps:]), (4, 8, 16, 32)[-maps:], True
        self.stem = conv_bn_relu(3, channels[0], stride=2)
        self.stages = nn.ModuleList(
            Blocks(ResidualBlock(before, after, stride=2), ResidualBlock(after, after))
            for before, after in pairwise(channels)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.of_clips(images, 1)

    def of_clips(self, images: Tensor, frames: int) -> list[Tensor]:
        x, maps = images, []
        for k in range(len(self.channels)):
            x = self.stage(k, x, frames)
            maps.append(x)
        return maps

    def stage(self, k: int, x: Tensor, frames: int = 1) -> Tensor:
        unseen = len(self.stages) - len(self.channels)  # stages before the finest map that comes out
        if k:
            return self.stages[unseen + k](x, frames)
        x = self.stem(x)
        for stage in islice(self.stages, unseen + 1):  # a slice would be a new module
            x = stage(x, frames)
        return x

    def shift(self, share: int) -> None:
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                block.share = share


class Blocks(nn.Sequential):
    """Residual blocks, of clips of `frames` images each."""

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        for block in self:
            x = block(x, frames)
        return x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, basic block).

    share: of a clip, the convolutions see one in so many channels as the frame before has them, and one as the frame
    behind has them: the temporal shift (Lin, Gan, Han, ICCV 2019, arXiv:1811.08383, 4.1, "residual"). 0: none. Where
    there is no such frame, they see the frame's own, where the paper has zeros: so a clip that stands still is seen as
    its pictures are, and a clip of one frame is a picture.
    """

    share = 0

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(inputs, outputs, stride=stride)
        self.conv2 = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        seen = shifted(x, frames, x.shape[1] // self.share) if self.share and frames > 1 else x
        return torch.relu_(self.conv2(self.conv1(seen)).add_(self.shortcut(x)))


def shifted(x: Tensor, frames: int, channels: int) -> Tensor:
    """(i, c, h, w) of clips of `frames` images each, with so many first channels of the frame before and as many
    following ones of the frame behind.
    """
    clips = x.unflatten(0, (-1, frames))
    moved = clips.clone()
    moved[:, 1:, :channels] = clips[:, :-1, :channels]
    moved[:, :-1, channels : 2 * channels] = clips[:, 1:, channels : 2 * channels]
    return moved.flatten(0, 1)
