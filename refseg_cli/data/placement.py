"""Where a picture lies in the network input, and back. Knows no torch.

Axes: h w of the original picture, H W of the network input.
"""

from __future__ import annotations

from dataclasses import dataclass

from refseg_cli.config import DataConfig


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies in the network input: (top, left, height, width) in input pixels, between their edges.

    Whole numbers, but for `warp`.
    """

    top: float
    left: float
    height: float
    width: float

    @property
    def whole(self) -> bool:
        return all(float(side).is_integer() for side in (self.top, self.left, self.height, self.width))

    def fills(self, size: tuple[int, int]) -> bool:
        """Whether it is all of an input of `size`, without padding."""
        return (self.top, self.left, self.height, self.width) == (0, 0, *size)

    def box(self) -> tuple[slice, slice]:
        """Its rows and columns of the input, to the nearest pixel, and at least one."""
        return _span(self.top, self.height), _span(self.left, self.width)

    def shrunk(self, scale: float, at: tuple[float, float], input_size: tuple[int, int]) -> Placement:
        """The same picture smaller, in whole pixels. at: where in the free rows and columns it goes, each in [0, 1]."""
        height, width = max(1, round(self.height * scale)), max(1, round(self.width * scale))
        top, left = (
            round((of - used) * share) for of, used, share in zip(input_size, (height, width), at, strict=True)
        )
        return Placement(top, left, height, width)

    def scaled(self, of: tuple[int, int], to: tuple[int, int]) -> Placement:
        """The same place in an input of size `to` instead of `of`; in whole pixels where it was."""
        y, x = to[0] / of[0], to[1] / of[1]
        top, left, bottom, right = (
            self.top * y,
            self.left * x,
            (self.top + self.height) * y,
            (self.left + self.width) * x,
        )
        if self.whole:
            top, left = min(round(top), to[0] - 1), min(round(left), to[1] - 1)
            bottom, right = max(top + 1, round(bottom)), max(left + 1, round(right))
        return Placement(top, left, bottom - top, right - left)

    def mirrored(self, input_size: tuple[int, int]) -> Placement:
        """Where it lies once left and right of the whole input change places."""
        return Placement(self.top, input_size[1] - self.left - self.width, self.height, self.width)

    def inverse(self, size: tuple[int, int], input_size: tuple[int, int]) -> Placement:
        """Where the input lies in the picture of `size`, in the picture's pixels."""
        y, x = size[0] / self.height, size[1] / self.width
        return Placement(-self.top * y, -self.left * x, input_size[0] * y, input_size[1] * x)


def _span(start: float, length: float) -> slice:
    first = max(0, round(start))
    return slice(first, max(first + 1, round(start + length)))


def place(size: tuple[int, int], config: DataConfig) -> Placement:
    """Where a picture of `size` (height, width) goes in the network input."""
    (height, width), (H, W) = size, config.size
    if config.resize == "squash":
        return Placement(0, 0, H, W)
    scale = min(H / height, W / width)
    if config.resize == "warp":
        # CRIS counts from the first centre: centre i lies at i * scale + (H - scale * h) / 2. A placement counts from
        # the first edge, which lies half a pixel before it: 1 / 2 in the input, scale / 2 in the picture.
        top, left = ((to - scale * of + 1 - scale) / 2 for to, of in zip(config.size, size, strict=True))
        return Placement(top, left, height * scale, width * scale)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    return Placement((H - h) // 2, (W - w) // 2, h, w)
