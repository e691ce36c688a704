"""More photographs to train on, of objects cut from some and pasted into others:
`python -m refseg_cli.bundled.paste photos/instances.json photos/images photos OUT [--seed N --rounds N --crop --even]`.

A maintainer's script. Few photographs make a model that knows them by heart, and most of these show one large thing.
Copy-paste (Ghiasi et al., CVPR 2021, arXiv 2012.07177) shows each object in other company, and smaller. Only
photographs of the prepared set's `train` are cut up or pasted into. OUT gets all photographs, the new ones beside them
(one of each a round; with `--crop` from a part of it, in which objects are nearer, cut off and elsewhere),
`instances.json` and `splits.csv`, which `refseg prepare coco --phrases generate` takes. With `--even` all kinds are
pasted equally often, and only where phrases can speak of them: into photographs with all of the kind annotated.

Axes: h w pixels of a photograph.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from pyarrow import parquet

from refseg_cli.data import masks
from refseg_cli.data.formats import upright
from refseg_cli.data.orientation import AS_STORED

PASTED = (1, 4)  # objects in a picture
SIDE = (20.0, 150.0)  # of the square with as many pixels as the pasted object; uniform in the logarithm
SMALLEST_CUT = 48.0  # the same of an object that is cut out: what is smaller is a blur
SMALLEST_EVEN = 32.0  # with `--even`, which needs small kinds: 18 carrots and 4 spoons, where 48 leaves 3 and none
FULL = 8  # with `--even`: new pictures of a photo in which most kinds are annotated (an eighth are), for one of others
SEEN = 0.4  # share of an object that others must leave free
CROP = 0.55  # smallest share of a photo's height and width that is kept
CUT_OFF = 0.3  # share of an object that has to be left of it in a part of the photo, to be spoken of
TRIES = 20  # places for an object, before the picture does without it


@dataclass
class Cut:
    """An object without its surroundings. pixels: (h, w, 3) uint8.  mask: (h, w) bool.  complete: as in its photo."""

    pixels: np.ndarray
    mask: np.ndarray
    category: int
    complete: frozenset[int]


@dataclass
class Canvas:
    """A picture in the making.  objects: category, what is to be seen of it, (h, w) bool, and whether that is truth."""

    pixels: np.ndarray
    objects: list[tuple[int, np.ndarray, bool]]
    classes: dict[int, np.ndarray]
    complete: frozenset[int]


def main(
    annotations: str,
    images: str,
    prepared: str,
    out: str,
    *,
    seed: int = 0,
    rounds: int = 1,
    crop: bool = False,
    even: bool = False,
) -> None:
    table = json.loads(Path(annotations).read_text())
    splits = _splits(Path(prepared))
    (place := Path(out) / "images").mkdir(parents=True)
    source, rng = _Source(table, Path(images), splits, even=even), np.random.default_rng(seed)
    last = max(image["id"] for image in table["images"])
    new: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "class_masks": []}
    for image in table["images"]:
        name = image["file_name"]
        (place / name).symlink_to((Path(images) / name).resolve())
        if splits.get(name) != "train":
            continue
        for number in range(rounds * source.share(image)):
            if (canvas := source.canvas(image)) is None:
                break
            if crop:
                canvas = _part(canvas, rng)
            for _ in range(int(rng.integers(*PASTED, endpoint=True))):
                if (cut := source.cut(canvas, rng)) is not None:
                    _paste(canvas, cut, rng)
            pasted = f"pasted{number or ''}_{name}"
            Image.fromarray(canvas.pixels).save(place / pasted, quality=90)
            splits[pasted] = "train"
            h, w = canvas.pixels.shape[:2]
            about = {"id": last * (number + 1) + image["id"], "file_name": pasted, "coco_id": None}
            _add(new, canvas, {**image, **about, "height": h, "width": w})
    first = max(row["id"] for row in table["annotations"]) + 1
    for number, row in enumerate(new["annotations"]):
        row["id"] = first + number
    (Path(out) / "instances.json").write_text(json.dumps({**table, **{k: table[k] + new[k] for k in new}}))
    with (Path(out) / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "split"), *splits.items()])


class _Source:
    """The photographs to cut up."""

    def __init__(self, table: Mapping[str, Any], images: Path, splits: Mapping[str, str], *, even: bool) -> None:
        self._folder, self._even, self._kinds = images, even, len(table["categories"])
        self._images = {image["id"]: image for image in table["images"] if splits.get(image["file_name"]) == "train"}
        self._rows: dict[int, list[Any]] = defaultdict(list)
        self._classes: dict[int, list[Any]] = defaultdict(list)
        for row in table["annotations"]:
            self._rows[row["image_id"]].append(row)
        for row in table.get("class_masks", ()):
            self._classes[row["image_id"]].append(row)
        self._whole = [r for r in table["annotations"] if r["image_id"] in self._images and self._is_whole(r)]
        self._chances = cache(self._chances_in)

    def share(self, image: Mapping[str, Any]) -> int:
        """New pictures of this photo a round."""
        return FULL if self._even and 2 * len(image["complete"]) > self._kinds else 1

    def canvas(self, image: Mapping[str, Any]) -> Canvas | None:
        """A photo with all of its objects; None where a crowd would have to be cut."""
        rows = self._rows[image["id"]]
        if any(row.get("iscrowd") for row in rows):
            return None
        objects = [(row["category_id"], self._mask(row), bool(row.get("reliable", 1))) for row in rows]
        classes = {row["category_id"]: self._mask(row) for row in self._classes[image["id"]]}
        return Canvas(self._pixels(image["id"]).copy(), objects, classes, frozenset(image["complete"]))

    def cut(self, canvas: Canvas, rng: np.random.Generator) -> Cut | None:
        """An object for the canvas; None where there is nothing that phrases about it could speak of."""
        if (chances := self._chances(canvas.complete)) is None:
            return None
        row = self._whole[rng.choice(len(self._whole), p=chances)]
        mask = self._mask(row)
        y, x = np.nonzero(mask)
        box = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
        complete = frozenset(self._images[row["image_id"]]["complete"])
        return Cut(self._pixels(row["image_id"])[box], mask[box], row["category_id"], complete)

    def _chances_in(self, complete: frozenset[int]) -> np.ndarray | None:
        """Of each object to be cut out for a canvas that is complete in these kinds. Rare things more than they are."""
        fits = [not self._even or self._can_be_named(row, complete) for row in self._whole]
        often = Counter(row["category_id"] for row, fit in zip(self._whole, fits, strict=True) if fit)
        power = -1.0 if self._even else -0.5
        pairs = zip(self._whole, fits, strict=True)
        chances = np.array([often[row["category_id"]] ** power if fit else 0.0 for row, fit in pairs])
        return chances / chances.sum() if chances.any() else None

    def _can_be_named(self, row: Mapping[str, Any], complete: frozenset[int]) -> bool:
        """Whether all of its kind are annotated in the canvas, and in its own photo all that are in the canvas."""
        return row["category_id"] in complete and complete.issubset(self._images[row["image_id"]]["complete"])

    def _is_whole(self, row: Mapping[str, Any]) -> bool:
        """A sound object that the border of the photo does not cut."""
        smallest = SMALLEST_EVEN if self._even else SMALLEST_CUT
        if not row.get("reliable", 1) or row.get("iscrowd") or row["area"] < smallest**2:
            return False
        image, (x, y, w, h) = self._images[row["image_id"]], row["bbox"]
        return x > 2 and y > 2 and x + w < image["width"] - 2 and y + h < image["height"] - 2

    def _pixels(self, image_id: int) -> np.ndarray:
        return upright((self._folder / self._images[image_id]["file_name"]).read_bytes(), AS_STORED)

    def _mask(self, row: Mapping[str, Any]) -> np.ndarray:
        image = self._images[row["image_id"]]
        return masks.decode(masks.from_segmentation(row["segmentation"], image["height"], image["width"])).astype(bool)


def _part(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    """A part of the photo, of any shape. An object that is hardly in it is there, but its mask is no truth."""
    h, w = canvas.pixels.shape[:2]
    size = [round(side * rng.uniform(CROP, 1)) for side in (h, w)]
    top, left = (int(rng.integers(whole - kept + 1)) for whole, kept in zip((h, w), size, strict=True))
    box = slice(top, top + size[0]), slice(left, left + size[1])

    def spoken_of(mask: np.ndarray) -> bool:
        return bool(np.count_nonzero(mask[box]) >= CUT_OFF * np.count_nonzero(mask))

    objects = [(category, seen[box], sound and spoken_of(seen)) for category, seen, sound in canvas.objects]
    classes = {category: mask[box] for category, mask in canvas.classes.items()}
    return Canvas(canvas.pixels[box].copy(), objects, classes, canvas.complete)


def _paste(canvas: Canvas, cut: Cut, rng: np.random.Generator) -> None:
    """Put it where enough of every other object stays to be seen; nowhere if there is no such place."""
    side = float(np.exp(rng.uniform(*np.log(SIDE))))
    scale = min(side / np.sqrt(np.count_nonzero(cut.mask)), 1.5)
    size = max(1, round(cut.mask.shape[1] * scale)), max(1, round(cut.mask.shape[0] * scale))
    h, w = canvas.pixels.shape[:2]
    if size[0] > w or size[1] > h:
        return
    picture = Image.fromarray(np.dstack([cut.pixels, np.where(cut.mask, 255, 0).astype(np.uint8)]))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    alpha = np.asarray(picture.getchannel("A").filter(ImageFilter.GaussianBlur(0.7)), np.float32)[..., None] / 255
    colours = np.asarray(picture.convert("RGB"), np.float32) * rng.uniform(0.85, 1.15)
    for _ in range(TRIES):
        top, left = int(rng.integers(h - size[1] + 1)), int(rng.integers(w - size[0] + 1))
        box = slice(top, top + size[1]), slice(left, left + size[0])
        mask = np.zeros((h, w), bool)
        mask[box] = alpha[..., 0] >= 0.5
        if all(np.count_nonzero(seen & ~mask) >= SEEN * np.count_nonzero(seen) for _, seen, _ in canvas.objects):
            break
    else:
        return
    canvas.pixels[box] = (canvas.pixels[box] * (1 - alpha) + colours * alpha).clip(0, 255)
    canvas.objects = [(category, seen & ~mask, sound) for category, seen, sound in canvas.objects]
    canvas.objects.append((cut.category, mask, True))
    canvas.classes = {category: seen & ~mask for category, seen in canvas.classes.items()}
    if cut.category in canvas.classes:
        canvas.classes[cut.category] |= mask
    # What is not annotated on the object comes with it.
    canvas.complete &= cut.complete


def _add(new: Mapping[str, list[dict[str, Any]]], canvas: Canvas, image: dict[str, Any]) -> None:
    new["images"].append({**image, "complete": sorted(canvas.complete)})
    for category, seen, sound in canvas.objects:
        if seen.any():
            row = {"image_id": image["id"], "category_id": category, "iscrowd": 0, "reliable": int(sound)}
            y, x = np.nonzero(seen)
            box = [int(x.min()), int(y.min()), int(x.max() - x.min() + 1), int(y.max() - y.min() + 1)]
            new["annotations"].append({**row, **_segmentation(seen), "area": int(seen.sum()), "bbox": box})
    for category, seen in canvas.classes.items():
        new["class_masks"].append({"image_id": image["id"], "category_id": category, **_segmentation(seen)})


def _segmentation(mask: np.ndarray) -> dict[str, Any]:
    rle = masks.encode(mask)
    return {"segmentation": {"size": list(rle.size), "counts": rle.counts.decode()}}


def _splits(prepared: Path) -> dict[str, str]:
    """File name -> split, of a set that `refseg prepare` wrote."""
    files = sorted(prepared.glob("*.parquet"))
    rows = [row for file in files for row in parquet.read_table(file, columns=["file_name", "split"]).to_pylist()]
    return {row["file_name"]: row["split"] for row in rows}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("annotations", "images", "prepared", "out"):
        parser.add_argument(name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1, help="new pictures of each photograph")
    parser.add_argument("--crop", action="store_true", help="paste into a part of the photograph, anew in each round")
    parser.add_argument("--even", action="store_true", help="paste all kinds equally often, where phrases name them")
    return parser.parse_args()


if __name__ == "__main__":
    main(**vars(_arguments()))
