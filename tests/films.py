"""Videos in the layouts of Ref-YouTube-VOS, MeViS and Ref-DAVIS17, small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from raw_layout import jpeg

from refseg_cli.data import masks

HEIGHT, WIDTH, LENGTH = 24, 32, 3
FRAMES = [f"{5 * i:05d}" for i in range(LENGTH)]
Json = dict[str, Any]


def numbers(frame: int) -> np.ndarray:
    """(h, w) uint8: thing 1 moves to the right, thing 2 stands and is gone in the last frame."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    if frame < LENGTH - 1:
        pixels[12:20, 20:30] = 2
    pixels[2:6, 4 * frame : 4 * frame + 6] = 1
    return pixels


def palette_png(path: Path, pixels: np.ndarray) -> None:
    """A PNG with a palette, as DAVIS has them."""
    image = Image.fromarray(pixels, "P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def photos(folder: Path, videos: tuple[str, ...], frames: list[str] = FRAMES) -> None:
    for v, video in enumerate(videos):
        (folder / video).mkdir(parents=True)
        for i, name in enumerate(frames):
            (folder / video / f"{name}.jpg").write_bytes(jpeg(10 * v + i, (HEIGHT, WIDTH)))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def change(path: Path, *keys: str, to: Any) -> None:
    """Set a value of a JSON file that the keys lead to."""
    table = json.loads(path.read_text())
    row = table
    for key in keys[:-1]:
        row = row[key]
    row[keys[-1]] = to
    write(path, table)


def meta(videos: tuple[str, ...], expressions: Json) -> Json:
    return {"videos": {video: {"expressions": expressions, "frames": FRAMES} for video in videos}}


def youtube_vos(root: Path) -> Path:
    """Two videos to train on, one of `valid` without masks, and one that is listed there and is of `test`."""
    said = {"0": {"exp": "The moving  thing", "obj_id": "1"}, "1": {"exp": "a thing that stands", "obj_id": "2"}}
    asked = {"0": {"exp": "a thing"}}
    write(root / "meta_expressions/train/meta_expressions.json", meta(("aa1", "bb2"), said))
    write(root / "meta_expressions/valid/meta_expressions.json", meta(("cc3", "dd4"), asked))
    write(root / "meta_expressions/test/meta_expressions.json", meta(("dd4",), asked))
    objects = {"objects": {"1": {"category": "dog"}, "2": {"category": "person"}}}
    write(root / "train/meta.json", {"videos": {"aa1": objects, "bb2": objects}})
    photos(root / "train/JPEGImages", ("aa1", "bb2"))
    photos(root / "valid/JPEGImages", ("cc3", "dd4"))
    for video in ("aa1", "bb2"):
        for i, name in enumerate(FRAMES):
            palette_png(root / f"train/Annotations/{video}/{name}.png", numbers(i))
    return root


def tracks() -> Json:
    """mask_dict.json: thing 1 is "7", thing 2 is "8"."""

    def track(thing: int) -> list[Json | None]:
        found = [numbers(i) == thing for i in range(LENGTH)]
        return [masks.coco_json(masks.encode(mask)) if mask.any() else None for mask in found]

    return {"7": track(1), "8": track(2)}


def mevis(root: Path) -> Path:
    """One video to train on, and one of `valid` without masks."""
    said = {
        "0": {"exp": "both things", "obj_id": [0, 1], "anno_id": [7, 8]},
        "1": {"exp": "the one that leaves", "obj_id": [1], "anno_id": [8]},
        "3": {"exp": "a horse", "obj_id": [], "anno_id": []},
    }
    write(root / "train/meta_expressions.json", meta(("aa1",), said))
    write(root / "train/mask_dict.json", tracks())
    photos(root / "train/JPEGImages", ("aa1",))
    write(root / "valid/meta_expressions.json", meta(("bb2",), {"0": {"exp": "a thing"}}))
    photos(root / "valid/JPEGImages", ("bb2",))
    return root


def davis(root: Path) -> Path:
    """One video in each split, whose names the text files misspell; phrases of two annotators, one line in Latin-1."""
    for split, video in (("train", "classic-car"), ("val", "bear")):
        (root / "DAVIS/ImageSets/2017").mkdir(parents=True, exist_ok=True)
        (root / f"DAVIS/ImageSets/2017/{split}.txt").write_text(f"{video}\n")
        photos(root / "DAVIS/JPEGImages/480p", (video,))
        for i, name in enumerate(FRAMES):
            pixels = numbers(i)
            pixels[0, 0] = 255
            palette_png(root / f"DAVIS/Annotations_unsupervised/480p/{video}/{name}.png", pixels)
    (root / "davis_text_annotations").mkdir()
    for name in ("annot1", "annot1_full_video", "annot2", "annot2_full_video"):
        lines = [f'{video} {i} "thing {i} by {name}"' for video in ("clasic-car", "bear") for i in (1, 2)]
        text = "\n".join([*lines, ""]).replace("thing 2 by annot2", "caf\xe9 by annot2")
        (root / f"davis_text_annotations/Davis17_{name}.txt").write_bytes(text.encode("latin-1"))
    return root
