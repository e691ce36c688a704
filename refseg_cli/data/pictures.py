"""Picture files to pixels.

Axes: h w of the picture, upright.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refseg_cli.data import formats
from refseg_cli.data.formats import MAX_PIXELS, UnreadablePicture
from refseg_cli.data.orientation import AS_STORED, turned, turned_size
from refseg_cli.errors import RefsegError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def read_pixels(source: Path | bytes, name: str | None = None, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(3, h, w) uint8 RGB, turned upright by its EXIF orientation, as a viewer shows it.

    Args:
        source: a file, or the bytes of one.
        name: what to call it in an error; the path, or `stdin`, if not given.
        max_pixels: the largest picture to read; a pixel counts as RGB does, three bytes.

    Raises:
        RefsegError: no such file, not a file, empty, cut short, no picture of a format that is read, or too large.
    """
    if isinstance(source, bytes):
        data, name = source, name or "stdin"
    else:
        name = name or str(source)
        try:
            data = source.read_bytes()
        except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
            raise RefsegError(f"{name}: cannot read the image: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise RefsegError(f"{name}: cannot read the image: it is empty", hint=formats.COPY_AGAIN)
    try:
        with formats.opened(data, max_pixels=max_pixels) as image:
            return _pixels(np.asarray(formats.rgb(image)), formats.orientation(image))
    except UnreadablePicture as error:
        raise _unreadable(name, error) from error


def from_pillow(image: Image) -> np.ndarray:
    """(3, h, w) uint8 RGB of a picture that Pillow has open, turned upright by its EXIF orientation.

    Raises:
        RefsegError: its file is damaged or cut short.
    """
    try:
        return _pixels(np.asarray(formats.rgb(image)), formats.orientation(image))
    except UnreadablePicture as error:
        raise _unreadable("picture", error) from error
    except OSError as error:
        raise _unreadable("picture", formats.refused(error)) from error


def load_image(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """As `read_pixels`, for torch."""
    import torch

    return torch.from_numpy(read_pixels(source, max_pixels=max_pixels))


def as_tensor(image: Path | bytes | np.ndarray | Tensor) -> Tensor:
    """(3, h, w) uint8 RGB of a file, its bytes, or pixels that are read already.

    Raises:
        RefsegError: as `read_pixels`.
    """
    import torch

    if isinstance(image, Path | bytes):
        return load_image(image)
    # torch warns of arrays that cannot be written to; Pillow's are such.
    return torch.from_numpy(np.require(image, requirements="W")) if isinstance(image, np.ndarray) else image


def decode_image(
    data: bytes, name: str = "image", *, orientation: int = AS_STORED, size: tuple[int, int] | None = None
) -> Tensor:
    """(3, h, w) uint8 RGB of a picture in prepared data, turned from the pixels as stored; channels last in memory.

    JPEG goes through torchvision, which gives the pixels that `load_image` gives, faster; the rest through Pillow.

    Args:
        orientation: EXIF's number, as the data says: the file itself is not asked.
        size: (height, width) that the picture must have, upright; None for any within `MAX_PIXELS`.

    Raises:
        RefsegError: no picture of a format that is read, cut short, too large, or not of that size.
    """
    import torch

    stored = None if size is None else turned_size(size, orientation)
    try:
        pixels = _jpeg(data, stored)
        if pixels is None:
            with formats.opened(data, max_pixels=MAX_PIXELS if size is None else None) as image:
                if stored and stored != (image.height, image.width):
                    raise UnreadablePicture(
                        f"it is {image.width}x{image.height} pixels, the data says {stored[1]}x{stored[0]}"
                    )
                pixels = torch.from_numpy(np.array(formats.rgb(image))).permute(2, 0, 1)
    except UnreadablePicture as error:
        raise _unreadable(name, error) from error
    return pixels if orientation == AS_STORED else torch.from_numpy(turned(pixels.numpy(), orientation).copy("K"))


def _jpeg(data: bytes, stored: tuple[int, int] | None) -> Tensor | None:
    """(3, h, w) as stored; None if it is no JPEG of that size, or one that torchvision does not read."""
    found = formats.jpeg_size(data)
    if found is None or stored not in (None, found):
        return None  # torchvision makes room for whatever a header says; Pillow is asked first
    if stored is None:
        formats.check_size(found, 3, MAX_PIXELS)
    import torch

    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None  # CMYK and other rarities: Pillow reads them, or says why not
    except ImportError:
        return None  # torchvision 0.29 announces that its decoder will go


def _pixels(picture: np.ndarray, orientation: int) -> np.ndarray:
    """(h, w, 3) as stored to (3, h, w) upright."""
    return np.array(turned(picture.transpose(2, 0, 1), orientation), order="C")


def _unreadable(name: str, error: UnreadablePicture) -> RefsegError:
    return RefsegError(f"{name}: cannot read the image: {error}", hint=error.hint or None)
