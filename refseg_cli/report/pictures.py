"""Pictures as a browser shows them: upright as stored, since masks lie on the stored pixels, and in a format it knows.

A file goes as it is where that holds; anything else is decoded and written as JPEG.
"""

from __future__ import annotations

import io

from PIL import Image

WEB = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
MIME = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}
BROWSER_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}  # CMYK and sixteen bits look different in every browser
LONGEST = 1024  # pixels; larger pictures are reduced, no screen shows more of them in the gallery
ORIENTATION = 0x0112  # EXIF
QUALITY = 85


def for_web(data: bytes) -> tuple[bytes, str]:
    """The picture's bytes for a page and their file ending; `data` is an image that Pillow reads.

    One that it cannot read, which a prepared set does not hold, becomes a grey pixel: a report of thousands does not
    fail for it.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            if image.format in WEB and image.mode in BROWSER_MODES and max(image.size) <= LONGEST and not turned:
                return data, WEB[image.format]
            image.thumbnail((LONGEST, LONGEST))
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        picture = Image.new("RGB", (1, 1), "grey")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue(), "jpg"
