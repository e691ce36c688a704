"""Upsampling, and convolutions of upsampled maps without the work of convolving what it has only repeated.

Users: layers/vision.py, models/lavt.py, caris.py, caris_decoder.py, cgformer.py, deris.py, vlt.py.
Axes: n maps, c channels in, o channels out, h w of a map, H W upsampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.layers.attention import kept

upsample_bilinear2d_backward = torch.ops.aten.upsample_bilinear2d_backward
ROWS = 16  # of a map that `upsampled_parts` makes at a time
NARROW, SMALL = 48, 24  # input channels from which, and sides up to which `_by_axes` is faster, measured on a CPU
WIDE = 256  # input channels from which the detour of `upsampled_conv` is faster, measured on a CPU


def upsample(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear, the corners' centres on the corners' centres."""
    return _bilinear(x, size=size, align_corners=True)


def _bilinear(x: Tensor, *, align_corners: bool, size: tuple[int, ...] | None = None) -> Tensor:
    """size: twice that of x, if not given; an exported graph then asks for no sizes."""
    by_hand = x.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if by_hand and x.shape[1] == 1 <= len(x):  # in this order: what is exported must not ask how many
        return _Plane.apply(x, size or (2 * x.shape[-2], 2 * x.shape[-1]), align_corners)
    return F.interpolate(x, size, None if size else 2.0, mode="bilinear", align_corners=align_corners)


class _Plane(torch.autograd.Function):
    """Bilinear, of a single channel, to learn. PyTorch often takes it for channels lying side by side, and goes pixel
    by pixel: by planes, which the channels of one map are, and back in matrix products it takes a third to a fifth of
    the time.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
        context.sides = tuple(zip(x.shape[-2:], size, strict=True))
        context.align_corners = align_corners
        return F.interpolate(x.transpose(0, 1), size, mode="bilinear", align_corners=align_corners).transpose(0, 1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        down, across = (
            _shares(few, many, align_corners=context.align_corners)[:, 1].to(gradient) for few, many in context.sides
        )
        return down.T @ gradient @ across, None, None


def fitted(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(i, c, h, w) -> (i, c, *size), bilinear, pixels as cells; itself where it has that size."""
    if x.shape[-2:] == size:
        return x
    return _bilinear(x, size=size, align_corners=False)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """`fitted` to the size of another map."""
    return fitted(x, like.shape[-2:])


def doubled(x: Tensor) -> Tensor:
    """(i, c, h, w) -> (i, c, 2 h, 2 w), bilinear, pixels as cells."""
    return _bilinear(x, align_corners=False)


def upsampled_dot(x: Tensor, pixels: Tensor, image_index: Tensor) -> Tensor:
    """The product over channels of a map, upsampled bilinearly, with what each pixel of its image holds.

    Args:
        x: (n, c, h, w).  pixels: (i, c, H, W).  image_index: (n,), the image of each map.

    Returns:
        (n, 1, H, W)
    """
    if x.is_cpu and not torch.compiler.is_compiling():
        wide = torch.promote_types(x.dtype, torch.float32)  # 16 bits are upsampled at half the speed
        return _UpsampledDot.apply(x.to(wide), pixels.to(wide), image_index)
    return (fitted(x, pixels.shape[-2:]) * pixels[image_index]).sum(1, keepdim=True)


class _UpsampledDot(torch.autograd.Function):
    """Map by map, so that what is upsampled stays in the processor's cache; on the way back it is made once more."""

    @staticmethod
    def forward(context: Any, x: Tensor, pixels: Tensor, image_index: Tensor) -> Tensor:
        context.images = image_index.tolist()
        context.save_for_backward(x, pixels)
        size = pixels.shape[-2:]
        products = [
            (fitted(one, size) * pixels[k]).sum(1, keepdim=True)
            for one, k in zip(x.split(1), context.images, strict=True)
        ]
        return torch.cat(products)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, pixels = context.saved_tensors
        size, pulled = pixels.shape[-2:], torch.zeros_like(pixels)
        parts = []
        for one, k, pull in zip(x.split(1), context.images, gradient.split(1), strict=True):
            pulled[k : k + 1].addcmul_(fitted(one, size), pull)
            parts.append(upsample_bilinear2d_backward(pull * pixels[k], size, one.shape, False))
        return torch.cat(parts), pulled, None


def upsampled_conv(x: Tensor, weight: Tensor, size: tuple[int, ...], *, align_corners: bool) -> Tensor:
    """The 3x3 convolution, padded with zeros, of a map upsampled bilinearly; a quarter of its work if that doubles it.

    Upsampling and the convolution's nine 1x1 taps are linear and act on different axes, so they commute: each tap runs
    on the small map, is upsampled, shifted into its place and added; along the width first, then along the height.
    Where there are few channels to multiply, moving nine maps costs more than it saves: there in the usual order, but
    on a CPU for a single output, and for small maps, which matrix products upsample.

    Args:
        x: (n, c, h, w).  weight: (o, c, 3, 3).  size: (H, W) that x is upsampled to.

    Returns:
        (n, o, H, W)
    """
    by_hand = x.is_cpu and not torch.compiler.is_compiling()
    if by_hand and weight.shape[0] == 1:
        taps = F.conv2d(x, weight.flip(2, 3).permute(2, 3, 1, 0).flatten(0, 1)[..., None])
        larger = F.interpolate(taps, size, mode="bilinear", align_corners=align_corners)
        return F.fold(larger.flatten(2), size, 3, padding=1)
    if x.shape[1] < WIDE:
        if by_hand and x.shape[1] >= NARROW and max(x.shape[-2:]) <= SMALL:
            return _by_axes(x, weight, size, align_corners=align_corners)
        return _conv(F.interpolate(x, size, mode="bilinear", align_corners=align_corners), weight)
    rows = (
        _placed(
            (F.conv2d(x, tap[..., None, None]) for tap in row.unbind(2)),
            (x.shape[2], size[1]),
            dim=3,
            align_corners=align_corners,
        )
        for row in weight.unbind(2)
    )
    return _placed(rows, size, dim=2, align_corners=align_corners)


def conv_of_doubled(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The 3x3 convolution, padded with zeros, of a map `doubled`: (n, c, h, w) -> (n, o, 2h, 2w)."""
    if not torch.is_grad_enabled() and (not x.is_cpu or torch.compiler.is_compiling()):
        return conv(doubled(x))
    y = upsampled_conv(x, conv.weight, (2 * x.shape[-2], 2 * x.shape[-1]), align_corners=False)
    return y if conv.bias is None else y + conv.bias[:, None, None]


def _conv(x: Tensor, weight: Tensor) -> Tensor:
    """The 3x3 convolution, padded with zeros; of up to eight outputs for two neighbours at a time, since a CPU makes
    sixteen in the time of eight. Without gradients.
    """
    (n, _, h, w), outputs = x.shape, weight.shape[0]
    if outputs > 8 or w % 2 or not x.is_cpu or torch.is_grad_enabled():
        return F.conv2d(x, weight, padding=1)
    pairs = F.conv2d(x, torch.cat([F.pad(weight, (0, 1)), F.pad(weight, (1, 0))]), stride=(1, 2), padding=1)
    return pairs.permute(0, 2, 3, 1).reshape(n, h, w, outputs).permute(0, 3, 1, 2)


def doubled_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution, padded with zeros, of a map at twice its size by nearest neighbours: one of the map itself,
    with a kernel for each of the four places that a pixel becomes. It pays for few outputs: a CPU makes sixteen in the
    time of one.

    x: (n, c, h, w) -> (n, o, 2h, 2w)
    """
    (n, _, h, w), (outputs, inputs) = x.shape, conv.weight.shape[:2]
    taps = conv.weight.flatten(2) @ _doubled_taps().to(x.device, conv.weight.dtype)
    kernel = taps.view(outputs, inputs, 4, 3, 3).transpose(1, 2).flatten(0, 1)
    bias = None if conv.bias is None else conv.bias.repeat_interleave(4)
    places = F.conv2d(x, kernel, bias, padding=1).unflatten(1, (outputs, 2, 2))
    return places.permute(0, 4, 2, 5, 3, 1).reshape(n, 2 * h, 2 * w, outputs).permute(0, 3, 1, 2)


@kept
def _doubled_taps() -> Tensor:
    """(9, 36) of a kernel's tap in each of the 2 x 2 kernels that read the map before it was doubled."""
    axis = torch.tensor([[[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])  # (place, read, tap)
    return torch.einsum("yab,xcd->bdyxac", axis, axis).reshape(9, 36)


def _by_axes(x: Tensor, weight: Tensor, size: tuple[int, ...], *, align_corners: bool) -> Tensor:
    """`upsampled_conv` in matrix products alone: of the channels, then along the height, then along the width."""
    (n, c, h, w), (height, width) = x.shape, size
    down = _shares(h, height, align_corners=align_corners).to(x).transpose(0, 1)
    across = _shares(w, width, align_corners=align_corners).to(x).transpose(1, 2).flatten(1)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, c)
    taps = weight.permute(2, 1, 3, 0).flatten(2).unbind(0)  # (c, 3 o) for each row of the kernel
    rows = x.new_zeros(())
    for share, tap in zip(down, taps, strict=True):
        rows = torch.baddbmm(rows, share.expand(n, -1, -1), (pixels @ tap).view(n, h, -1))
    return (across @ rows.view(n * height, 3 * w, -1)).view(n, height, width, -1).permute(0, 3, 1, 2)


def _placed(taps: Iterator[Tensor], size: tuple[int, ...], *, dim: int, align_corners: bool) -> Tensor:
    """Three taps upsampled and added, one at a time: the first reads one pixel before along `dim`, the last behind."""

    def larger() -> Tensor:
        return F.interpolate(next(taps), size, mode="bilinear", align_corners=align_corners)

    before, y = larger(), larger()
    most = y.shape[dim] - 1
    y.narrow(dim, 1, most).add_(before.narrow(dim, 0, most))
    del before
    y.narrow(dim, 0, most).add_(larger().narrow(dim, 1, most))
    return y


def upsampled_parts(x: Tensor, weight: Tensor, size: tuple[int, int], *, align_corners: bool) -> Iterator[Tensor]:
    """`upsampled_conv` of one map in parts (1, o, r, W) from the top, each made when it is asked for.

    Of a wide map on a CPU a part has `ROWS` rows: nothing large is held, and what is held stays in the processor's
    cache. Elsewhere the whole map is one part. Without gradients.
    """
    if not x.is_cpu or x.shape[1] < WIDE:
        yield upsampled_conv(x, weight, size, align_corners=align_corners)
        return
    blocks, outputs = _row_blocks(x.shape[2], size[0], align_corners=align_corners), weight.shape[0]
    taken = blocks[0].last - blocks[0].first
    rows, held = x.new_empty(3, taken, size[1], outputs), blocks[0].first
    kernel, pixels = (
        weight.permute(2, 3, 1, 0).contiguous(),
        x.permute(0, 2, 3, 1).contiguous(),
    )  # products, (3, 3, c, o)
    for block in blocks:
        again = max(0, held - block.first)  # rows that the block before has read too
        rows[:, :again] = rows[:, taken - again :].clone()
        fresh, held = pixels[:, block.first + again : block.last], block.last
        if again < taken:
            doubles = size[1] == 2 * fresh.shape[2] and not align_corners
            wide = _doubled(fresh, kernel) if doubles else _widened(fresh, kernel, size[1], align_corners=align_corners)
            for k, y in enumerate(wide):
                rows[k, again:] = y[0].permute(1, 2, 0)
        y = block.shares.to(x) @ rows.view(3 * taken, -1)
        yield y.view(1, -1, size[1], outputs).permute(0, 3, 1, 2)


def _widened(pixels: Tensor, kernel: Tensor, width: int, *, align_corners: bool) -> Iterator[Tensor]:
    """For each row of the kernel (3, 3, c, o) what it makes of pixels (1, r, w, c), upsampled: (1, o, r, width)."""
    for row in kernel:
        taps = ((pixels @ tap).permute(0, 3, 1, 2) for tap in row)
        yield _placed(taps, (pixels.shape[1], width), dim=3, align_corners=align_corners)


def _doubled(pixels: Tensor, kernel: Tensor) -> Iterator[Tensor]:
    """`_widened` to twice the width, pixels as cells, with 5 products of a pixel in place of 6.

    There the outer taps a and c meet only in sums s_i = a x_{i-1} + c x_i, which lie between the pixels and are
    upsampled like them. Two of the sums take three products in place of four: (a + c) x_i, a (x_{i-1} - x_i) and
    c (x_i - x_{i+1}) (Winograd's F(2, 2); Lavin and Gray, CVPR 2016).
    """
    size, outputs = (pixels.shape[1], 2 * pixels.shape[2]), kernel.shape[3]
    left, right = pixels[:, :, 0], pixels[:, :, -1]  # continued beyond the border, where the convolution reads zeros
    behind = right[:, :, None].expand(-1, -1, 2 - pixels.shape[2] % 2, -1)
    ends = torch.cat([left[:, :, None], pixels, behind], 2)
    here = ends[:, :, 1::2]
    before, after = (d.flatten(0, 2) for d in (ends[:, :, :-1:2] - here, here - ends[:, :, 2::2]))
    here = here.flatten(0, 2)
    for a, b, c in kernel:
        both = here @ (a + c)
        pairs = torch.stack([torch.addmm(both, before, a), torch.addmm(both, after, c, alpha=-1)], 1)
        sums = pairs.view(1, size[0], -1, outputs)[:, :, : pixels.shape[2] + 1].permute(0, 3, 1, 2)
        y = F.interpolate((pixels @ b).permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
        y += F.interpolate(sums, (size[0], size[1] + 2), mode="bilinear", align_corners=False)[..., 1:-1]
        y[..., 0] -= (left @ a).transpose(1, 2)
        y[..., -1] -= (right @ c).transpose(1, 2)
        yield y


class _Block(NamedTuple):
    """`shares` (r, 3 k) of what each of the three taps has in the rows first to last - 1 of a small map, k of them, go
    into r rows of the large one."""

    first: int
    last: int
    shares: Tensor


def _row_blocks(height: int, wanted: int, *, align_corners: bool) -> list[_Block]:
    """What `_placed` does along the height, as sums for each `ROWS` of the rows wanted; k is the same in all."""
    shares = _shares(height, wanted, align_corners=align_corners)
    read = [part.abs().sum((0, 1)).nonzero()[:, 0].tolist() for part in shares.split(ROWS)]
    most = max(places[-1] + 1 - places[0] for places in read)
    starts = [min(places[0], height - most) for places in read]
    return [
        _Block(first, first + most, part[:, :, first : first + most].flatten(1))
        for first, part in zip(starts, shares.split(ROWS), strict=True)
    ]


@kept
def _shares(height: int, wanted: int, *, align_corners: bool) -> Tensor:
    """(wanted, 3, height) what each of the three taps has of each row in those wanted."""
    row = torch.eye(height, dtype=torch.float64)[None, :, :, None]  # a map whose channels have one row each
    taps = [
        _placed(iter([row * (tap == k) for k in range(3)]), (wanted, 1), dim=2, align_corners=align_corners)
        for tap in range(3)
    ]
    return torch.stack(taps, 1)[0, ..., 0].permute(2, 0, 1)


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

    normed = (("conv1", "norm1"), ("conv2", "norm2"))  # see folding.py

    def __init__(self, coarser: int, finer: int, *, dim: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(coarser + finer, dim, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=bias)
        self.norm1, self.norm2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)

    def forward(self, coarser: Tensor, finer: Tensor) -> Tensor:
        """(n, c, h, w), (n, d, H, W) -> (n, dim, H, W)."""
        size = finer.shape[-2:]
        if coarser.shape[1] < WIDE and not torch.is_grad_enabled():
            y = self.conv1(torch.cat([upsample(coarser, size), finer], 1))
        else:
            coarse, fine = self.conv1.weight.split([coarser.shape[1], finer.shape[1]], 1)
            y = upsampled_conv(coarser, coarse, size, align_corners=True)
            y = y + F.conv2d(finer, fine, self.conv1.bias, padding=1)
        y = torch.relu(self.norm1(y))
        return torch.relu(self.norm2(self.conv2(y)))
