"""Picture files to pixels.

Axes: h w of the picture.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from refseg_cli.errors import RefsegError


def load_image(source: Path | bytes, name: str | None = None) -> Tensor:
    """(3, h, w) uint8 RGB, turned upright as a viewer shows it.

    Args:
        source: a file, or the bytes of one.
        name: what to call it in an error; the path, or `stdin`, if not given.

    Raises:
        RefsegError: no such file, not a file, empty, cut short, not an image, or too large to be one.
    """
    if isinstance(source, bytes):
        data, name = source, name or "stdin"
    else:
        name = name or str(source)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise RefsegError(f"{name}: cannot read the image: {error.strerror or error}") from error
    if not data:
        raise RefsegError(f"{name}: cannot read the image: it is empty")
    return decode_image(data, name, upright=True)


def decode_image(data: bytes, name: str = "image", *, upright: bool = False) -> Tensor:
    """(3, h, w) uint8 RGB.

    JPEG goes through torchvision, which agrees with the annotations' pixel grid; everything else through Pillow.

    Args:
        upright: obey the EXIF orientation, as a viewer does. Annotated sets are drawn on the stored pixels: off.

    Raises:
        RefsegError: not an image, or cut short.
    """
    try:
        if data[:2] == b"\xff\xd8" and not upright:
            from torchvision.io import ImageReadMode, decode_jpeg

            try:
                return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
            except RuntimeError:
                pass  # CMYK and other rarities: Pillow reads them, or says why not
        with Image.open(io.BytesIO(data)) as opened:
            image = ImageOps.exif_transpose(opened) if upright else opened
            return torch.from_numpy(np.array(_eight_bit(image).convert("RGB"))).permute(2, 0, 1).contiguous()
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).split(" <_io", maxsplit=1)[0] or type(error).__name__
        raise RefsegError(f"{name}: cannot read the image: {reason}") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey as eight bits; Pillow's own conversion would clip nearly all of it to white.

    Raises:
        ValueError: 32-bit or floating point pixels, which have no black and no white.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of {'floating point' if image.mode == 'F' else '32 bits'} have no fixed range")
    return image
