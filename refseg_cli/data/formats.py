"""Picture files: which formats are read, how large a picture may be, and which way up it is.

Every door to pictures goes through here: `predict`, `prepare`, the loader of train and eval, and the report.
"""

from __future__ import annotations

import importlib.util
import io
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    import numpy as np

from refseg_cli.data.orientation import AS_STORED, ORIENTATIONS, turned

# Pillow's names of what people have pictures in; PPM stands for PBM, PGM and PNM too. It knows forty more, EPS among
# them, for which it starts Ghostscript. Those come first that it loads no further plugins for.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000")
AVIF = "AVIF"  # in Pillow from 11.3 on, unless it was built without
READ = "JPEG, PNG, GIF, WebP, BMP, TIFF, PPM/PGM/PBM, JPEG 2000 and AVIF"
# Of RGB, three bytes each. Pillow's own limit, which is twice what it warns of.
MAX_PIXELS = 178_956_970
_ORIENTATION = 0x0112  # EXIF and TIFF
_SUBFILE, _BITS, _PHOTOMETRIC, _DNG = 0x00FE, 0x0102, 0x0106, 0xC612  # TIFF
_BYTES = {"RGBA": 4, "RGBX": 4, "CMYK": 4, "YCbCr": 3, "LAB": 3, "I": 4, "F": 4}  # a pixel; RGB of the others: 3
_CONVERT = "convert it to JPEG or PNG"
COPY_AGAIN = "copy or download it again"
# What is told by its first bytes, so that the message can say what it is. Offset, bytes, name.
_FOREIGN = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"gimp xcf", "a GIMP file"),
    (40, b" EMF", "EMF"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"v/1\1", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (8, b"CR\2\0", "a camera's RAW file (CR2)"),
    (0, b"FUJIFILMCCD-RAW", "a camera's RAW file (RAF)"),
    (0, b"IIRO", "a camera's RAW file (ORF)"),
    (0, b"IIRS", "a camera's RAW file (ORF)"),
    (0, b"MMOR", "a camera's RAW file (ORF)"),
    (0, b"IIU\0", "a camera's RAW file (RW2)"),
    (0, b"FOVb", "a camera's RAW file (X3F)"),
    (6, b"HEAPCCDR", "a camera's RAW file (CRW)"),
    (0, b"\0MRM", "a camera's RAW file (MRW)"),
)
_BRANDS = (  # of ISO's media files, which begin with a box `ftyp` that lists what they can be read as
    ({b"avif", b"avis"}, AVIF),
    ({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}, "HEIC"),
    ({b"crx "}, "a camera's RAW file (CR3)"),
)
_SVG = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]", re.DOTALL | re.IGNORECASE
)
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head)", re.IGNORECASE)
_LFS = b"version https://git-lfs.github.com/"
# How Pillow's readers end at damaged files: saying what is wrong with them, or not.
_REFUSALS = (OSError, ValueError, SyntaxError, RuntimeError, EOFError, struct.error)
_STUMBLES = (LookupError, TypeError, ArithmeticError)
_CUT = re.compile("truncated|eof|only got", re.IGNORECASE)  # in their words for a file that ends too early
_LOCK = threading.Lock()


class UnreadablePicture(ValueError):
    """A file that is no picture we read.  hint: what to do about it; may be empty."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


@contextmanager
def opened(data: bytes, *, max_pixels: int | None = MAX_PIXELS) -> Iterator[Image.Image]:
    """The picture with its header read and its pixels not yet, in Pillow's hands while the block lasts.

    Args:
        max_pixels: as for `check_size`; None for any number, where the caller knows the size.

    Raises:
        UnreadablePicture: of no format that we read, damaged, or too large; on decoding, within the block, too.
    """
    formats = _formats(data)
    try:
        with _open(data, formats) as image:
            if image.format == "TIFF" and (image.tag_v2.get(_SUBFILE, 0) == 1 or _DNG in image.tag_v2):  # type: ignore[attr-defined]
                # Pillow would read the preview, some 160 pixels wide.
                raise _foreign("a camera's RAW file (DNG, NEF, ARW or the like)")
            if max_pixels is not None:
                check_size((image.height, image.width), _BYTES.get(image.mode, 3), max_pixels)
            yield image
    except UnreadablePicture:
        raise
    except UnidentifiedImageError as error:
        raise UnreadablePicture("cannot identify image file", f"refseg reads {READ}") from error
    except _REFUSALS as error:
        raise refused(error) from error
    except _STUMBLES as error:
        raise UnreadablePicture("damaged file", COPY_AGAIN) from error


def refused(error: Exception) -> UnreadablePicture:
    """What Pillow said when it gave up, in our words if that is that the file ends too early."""
    if isinstance(error, EOFError | struct.error) or _CUT.search(str(error)):
        return UnreadablePicture("the file is cut off", COPY_AGAIN)
    return UnreadablePicture(str(error) or type(error).__name__, f"{COPY_AGAIN}, or {_CONVERT}")


def check_size(size: tuple[int, int], pixel_bytes: int, max_pixels: int) -> None:
    """That decoding a picture would take no more memory than `max_pixels` of RGB do.

    size: (height, width), as its header says.

    Raises:
        UnreadablePicture: it would.
    """
    height, width = size
    if height * width * pixel_bytes > 3 * max_pixels:
        needed = -(-height * width * pixel_bytes // 3)
        gigabytes, allowed = (f"{3 * pixels / 1e9:.2g} GB" for pixels in (needed, max_pixels))
        raise UnreadablePicture(
            f"{width}x{height} pixels take {gigabytes} decoded, {allowed} at most", f"--max-pixels {needed} reads it"
        )


def orientation_of(data: bytes) -> int:
    """The EXIF orientation of a picture; 1 where it says none, or nothing sensible, or is none that we read."""
    try:
        with opened(data, max_pixels=None) as image:
            return orientation(image)
    except UnreadablePicture:
        return AS_STORED


def orientation(image: Image.Image) -> int:
    """The EXIF orientation by which an opened picture's pixels, as Pillow gives them, are turned upright."""
    if image.format == "TIFF":  # Pillow turns these itself, on decoding
        return AS_STORED
    try:
        found = image.getexif().get(_ORIENTATION, AS_STORED)
    except (*_REFUSALS, *_STUMBLES):
        return AS_STORED  # damaged EXIF is none, as for any viewer
    return found if isinstance(found, int) and found in ORIENTATIONS else AS_STORED


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The marker of each segment of a JPEG's header, and where its length stands; as far as it makes sense."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        yield marker, position + 2
        if marker == 0xDA:  # the compressed data follow
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4])


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG's header says; None if it is none, or an unusual one."""
    for marker, start in jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame; the others are tables
            size = data[start + 3 : start + 7]
            return struct.unpack(">HH", size) if len(size) == 4 else None
    return None


def rgb(image: Image.Image) -> Image.Image:
    """The picture in eight-bit RGB.

    Raises:
        UnreadablePicture: 32-bit or floating point pixels, which have no black and no white.
    """
    return image if image.mode == "RGB" else _eight_bit(image).convert("RGB")


def upright(data: bytes, orientation: int) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a picture file, turned from the pixels as stored by EXIF's number.

    Raises:
        ValueError: it is damaged, or has pixels without a fixed range.
    """
    import numpy as np

    with opened(data, max_pixels=None) as image:
        stored = np.asarray(rgb(image))
    return turned(stored.transpose(2, 0, 1), orientation).transpose(1, 2, 0)


def check_range(image: Image.Image) -> None:
    """That an opened picture's pixels have a black and a white.

    Raises:
        UnreadablePicture: they are 32-bit or floating point ones.
    """
    # Pillow gives sixteen bits of PGM as 32, brought to 0..65535 whatever its white is.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floating point" if image.mode == "F" else "32 bits"
        raise UnreadablePicture(f"pixels of {kind} have no fixed range", "scale them to 8 or 16 bits")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of more bits as eight; Pillow's own conversion would clip nearly all of it to white."""
    import numpy as np

    check_range(image)
    if not image.mode.startswith("I"):
        return image
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(_BITS, (16,))[0])  # TIFF has twelve, too, which Pillow leaves in the lower ones
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC, 1) == 0 else grey)  # 0: white is zero


def _open(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    with _LOCK:  # Pillow's limit counts pixels, not bytes, warns at half of it, and is one for the whole process
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _formats(data: bytes) -> tuple[str, ...]:
    """Pillow's names of what the file may be.

    Raises:
        UnreadablePicture: it is known to be something else.
    """
    if data.startswith(_LFS):
        raise UnreadablePicture("a Git LFS pointer in place of the file", "`git lfs pull` fetches it")
    if _PAGE.match(data[:200]):
        raise UnreadablePicture("a web page in place of the file", "download the picture itself")
    if _SVG.match(data[:2000]):
        raise _foreign("SVG")
    for offset, magic, name in _FOREIGN:
        if data.startswith(magic, offset):
            raise _foreign(name)
    if data[4:8] != b"ftyp":
        return FORMATS
    end = min(int.from_bytes(data[:4]), 200)
    listed = {data[i : i + 4] for i in range(8, end, 4)}
    name = next((name for brands, name in _BRANDS if brands & listed), "a video")
    if name == AVIF and importlib.util.find_spec("PIL._avif"):
        return (AVIF,)
    raise _foreign(name)


def _foreign(name: str) -> UnreadablePicture:
    return UnreadablePicture(f"{name}, which is not read", _CONVERT)
