"""Convolutions of upsampled maps, without the work of convolving what upsampling has only repeated.

Users: models/lavt.py, models/cgformer.py. Axes: n maps, c channels in, o channels out, h w of a map, H W upsampled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDE = 256  # input channels from which the detour of `upsampled_conv` is faster, measured on a CPU


def upsampled_conv(x: Tensor, weight: Tensor, size: tuple[int, ...], *, align_corners: bool) -> Tensor:
    """The 3x3 convolution, padded with zeros, of a map upsampled bilinearly; a quarter of its work if that doubles it.

    Upsampling and the convolution's nine 1x1 taps are linear and act on different axes, so they commute: each tap runs
    on the small map, is upsampled, shifted into its place and added; along the width first, then along the height.
    Where there are few channels to multiply, moving nine maps costs more than it saves: there in the usual order.

    Args:
        x: (n, c, h, w).  weight: (o, c, 3, 3).  size: (H, W) that x is upsampled to.

    Returns:
        (n, o, H, W)
    """

    if x.shape[1] < WIDE:
        return F.conv2d(F.interpolate(x, size, mode="bilinear", align_corners=align_corners), weight, padding=1)

    def place(taps: list[Tensor], size: tuple[int, ...], dim: int) -> Tensor:
        """Upsample the three; the first reads one pixel before along `dim`, the last one behind; sum."""
        before, y, behind = (F.interpolate(t, size, mode="bilinear", align_corners=align_corners) for t in taps)
        most = y.shape[dim] - 1
        y.narrow(dim, 1, most).add_(before.narrow(dim, 0, most))
        y.narrow(dim, 0, most).add_(behind.narrow(dim, 1, most))
        return y

    rows = []
    for row in weight.unbind(2):
        columns = [F.conv2d(x, tap[..., None, None]) for tap in row.unbind(2)]
        rows.append(place(columns, (x.shape[2], size[1]), dim=3))
    return place(rows, size, dim=2)


class TopDown(nn.Module):
    """From the coarsest map to the finest, each time joined with the next finer one. [LAVT 3.3]

    Args:
        channels: of the maps, finest first.  dim: of what comes out.
        bias: of the convolutions, each of which batch normalisation follows.
    """

    def __init__(self, channels: tuple[int, ...], *, dim: int, bias: bool) -> None:
        super().__init__()
        coarser = (channels[-1], *(dim for _ in channels[2:]))
        finer = reversed(channels[:-1])
        self.steps = nn.ModuleList(JoinFiner(a, b, dim=dim, bias=bias) for a, b in zip(coarser, finer, strict=True))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (n, c, h, w), finest first -> one fewer, (n, dim, h, w), coarsest first."""
        *finer, y = maps
        joined = []
        for step, x in zip(self.steps, reversed(finer), strict=True):
            y = step(y, x)
            joined.append(y)
        return joined


class JoinFiner(nn.Module):
    """Two 3x3 convolutions over a coarser map, upsampled with aligned corners, beside a finer one."""

    def __init__(self, coarser: int, finer: int, *, dim: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(coarser + finer, dim, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=bias)
        self.norm1, self.norm2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)

    def forward(self, coarser: Tensor, finer: Tensor) -> Tensor:
        """(n, c, h, w), (n, d, H, W) -> (n, dim, H, W)."""
        coarse, fine = self.conv1.weight.split([coarser.shape[1], finer.shape[1]], 1)
        y = upsampled_conv(coarser, coarse, finer.shape[-2:], align_corners=True)
        y = torch.relu(self.norm1(y + F.conv2d(finer, fine, self.conv1.bias, padding=1)))
        return torch.relu(self.norm2(self.conv2(y)))
