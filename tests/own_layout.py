"""One's own data: a COCO file with photos and objects of known places, and a table of phrases beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refseg_cli.data import masks

Json = dict[str, Any]
HEIGHT, WIDTH = 40, 60
CATEGORIES = {1: "dog", 2: "cat", 3: "car"}


def block(left: int, top: int, side: int = 10, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """(h, w) bool: a square."""
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def rle(mask: np.ndarray) -> Json:
    encoded = masks.encode(mask)
    return {"size": list(encoded.size), "counts": encoded.counts.decode("ascii")}


def annotation(ann_id: Any, image_id: Any, left: int, category_id: Any = 1, **more: Any) -> Json:
    """A square of 10 pixels, 20 below the top, as a polygon without a box."""
    x, y = left, 20
    polygon = [x, y, x + 10, y, x + 10, y + 10, x, y + 10]
    row = {"id": ann_id, "image_id": image_id, "category_id": category_id, "segmentation": [polygon]}
    return {**row, **more}


def photo(color: tuple[int, int, int] = (120, 120, 120), size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (size[1], size[0]), color).save(data, "JPEG", quality=95)
    return data.getvalue()


def write_coco(
    root: Path, annotations: Sequence[Json] | None = None, images: Sequence[Json] | None = None, **more: Any
) -> None:
    """ROOT/instances.json and ROOT/photos: by default three photos with two dogs, a dog and a cat, and nothing."""
    (root / "photos").mkdir(parents=True, exist_ok=True)
    listed = [{"id": n, "file_name": f"photo_{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in (1, 2, 3)]
    rows = [annotation(11, 1, 5), annotation(12, 1, 45), annotation(21, 2, 5), annotation(22, 2, 45, 2)]
    table = {
        "images": list(images or listed),
        "annotations": list(rows if annotations is None else annotations),
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
        **more,
    }
    (root / "instances.json").write_text(json.dumps(table))
    for image in table["images"]:
        (root / "photos" / image["file_name"]).write_bytes(photo(size=(image["height"], image["width"])))
