"""From mask features to a mask, and to the word whether there is a target at all.

Users: models/{vlt,m3att,jmceln}.py. Axes: n expressions, k channels of the mask feature, h w its grid.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from refseg_cli.layers.upsampling import conv_of_doubled, doubled
from refseg_cli.layers.vision import conv_bn_relu


class MaskDecoder(nn.Module):
    """3x3 convolutions, each followed by an upsampling, then one to a single channel (VLT, thesis 4.2.4; M3Att, 5.1.4).

    Args:
        dims: channels of the 3x3 convolutions.
        out_kernel: side of the last convolution.
    """

    def __init__(self, inputs: int, *, dims: tuple[int, ...], out_kernel: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv_bn_relu(a, b) for a, b in zip((inputs, *dims), dims, strict=False))
        self.out = nn.Conv2d(dims[-1], 1, out_kernel, padding=out_kernel // 2)

    def forward(self, mask_feature: Tensor) -> Tensor:
        """(n, k, h, w) -> logits (n, 1, h s, w s) with s = 2^len(dims)."""
        return self.logits(self.features(mask_feature))

    def features(self, mask_feature: Tensor) -> Tensor:
        """What the last upsampling reads: (n, k, h, w) -> (n, dims[-1], h s / 2, w s / 2)."""
        x = self.convs[0](mask_feature)
        for convs in islice(self.convs, 1, None):
            conv, *others = convs.children()
            assert isinstance(conv, nn.Conv2d)
            x = conv_of_doubled(x, conv)
            for other in others:
                x = other(x)
        return x

    def logits(self, features: Tensor) -> Tensor:
        """The rest. One pixel's convolution commutes with upsampling, and goes first: it leaves one channel."""
        if self.out.kernel_size == (1, 1):
            return doubled(self.out(features))
        return conv_of_doubled(features, self.out)


class NoTargetHead(nn.Module):
    """Ours: is there a target? From the mean response and each mask channel's peak and mean."""

    def __init__(self, mask_channels: int, *, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim + 2 * mask_channels, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, response: Tensor, mask_feature: Tensor) -> Tensor:
        """response (n, dim), mask_feature (n, k, h, w) -> (n,) logits, positive when a target is present."""
        maps = mask_feature.flatten(2)
        return self.mlp(torch.cat([response, maps.amax(2), maps.mean(2)], 1))[:, 0]
