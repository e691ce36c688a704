"""Pictures as a browser shows them: turned as their masks are, and in a format it knows.

A file goes as it is where that holds; anything else is decoded and written as JPEG.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from refseg_cli.data import formats
from refseg_cli.data.orientation import AS_STORED, turned

WEB = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
MIME = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}
BROWSER_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}  # CMYK and sixteen bits look different in every browser
LONGEST = 1024  # pixels; larger pictures are reduced, no screen shows more of them in the gallery
QUALITY = 85


def for_web(data: bytes, orientation: int = AS_STORED) -> tuple[bytes, str]:
    """The picture's bytes for a page and their file ending; `data` is a picture of prepared data.

    One that cannot be read, which a prepared set does not hold, becomes a grey pixel: a report of thousands does not
    fail for it.

    Args:
        orientation: EXIF's number, by which the stored pixels are turned to lie as the masks do.
    """
    try:
        with formats.opened(data, max_pixels=None) as image:
            as_it_is = formats.orientation(image) == orientation == AS_STORED
            if image.format in WEB and image.mode in BROWSER_MODES and max(image.size) <= LONGEST and as_it_is:
                return data, WEB[image.format]
            reduced = formats.rgb(image)
            reduced.thumbnail((LONGEST, LONGEST))
            channels = turned(np.asarray(reduced).transpose(2, 0, 1), orientation)
            picture = Image.fromarray(np.array(channels.transpose(1, 2, 0), order="C"))
    except formats.UnreadablePicture:
        picture = Image.new("RGB", (1, 1), "grey")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue(), "jpg"
