"""Made photos of a yard with crates and cones, annotated as people have it: photos, a COCO file, a table of phrases."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIZE = (96, 128)  # height, width
COLOURS = {"blue": (40, 60, 220), "red": (210, 40, 40), "green": (30, 150, 60)}
CONE = (240, 130, 20)
KINDS = {1: "crate", 2: "cone"}
COLUMNS = ("image", "phrase", "ann_id", "no_target")


def make(folder: Path, *, pictures: int) -> None:
    """Write photos/, instances.json and phrases.csv into `folder`."""
    (folder / "photos").mkdir(parents=True)
    table: dict[str, list[dict[str, Any]]] = {
        "categories": [{"id": number, "name": name} for number, name in KINDS.items()],
        "images": [],
        "annotations": [],
    }
    rows = []
    for number in range(1, pictures + 1):
        name = f"yard_{number:03}.jpg"
        image, objects = _picture(np.random.default_rng(number), 10 * number)
        image.save(folder / "photos" / name, quality=92)
        table["images"].append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        table["annotations"] += [{**one, "image_id": number} for one in objects]
        rows += [(name, *row) for row in _phrases(objects)]
    (folder / "instances.json").write_text(json.dumps(table), "utf-8")
    with (folder / "phrases.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def _picture(rng: np.random.Generator, first_id: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A yard with a crate and two cones, and its annotations; their colours are kept for the phrases."""
    ground = rng.integers(90, 140, 3)
    pixels = np.clip(ground + rng.normal(0, 6, (*SIZE, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    colour = str(rng.choice(list(COLOURS)))
    objects = []
    for i, (slot, category) in enumerate(zip(rng.permutation(3).tolist(), (1, 2, 2), strict=True)):
        x, y = 6 + 42 * slot + int(rng.integers(0, 10)), int(rng.integers(10, 56))
        if category == 1:
            corners = [x, y, x + 28, y, x + 28, y + 24, x, y + 24]
            draw.polygon(corners, fill=COLOURS[colour])
        else:
            corners = [x + 10, y, x + 20, y + 28, x, y + 28]
            draw.polygon(corners, fill=CONE)
        segmentation = [[float(v) for v in corners]]
        about = {"colour": colour, "x": x} if category == 1 else {"x": x}
        objects.append(
            {"id": first_id + i, "category_id": category, "iscrowd": 0, "segmentation": segmentation, **about}
        )
    return image, objects


def _phrases(objects: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Phrase, ann_id and no_target of five rows: one object, by colour and by place, several, and none."""
    crate, *cones = objects
    left, right = sorted(cones, key=lambda one: one["x"])
    other = next(colour for colour in COLOURS if colour != crate["colour"])
    return [
        (f"the {crate['colour']} crate", str(crate["id"]), ""),
        ("the cone on the left", str(left["id"]), ""),
        ("the cone on the right", str(right["id"]), ""),
        ("both cones", f"{left['id']} {right['id']}", ""),
        (f"a {other} crate", "", "true"),
    ]
