"""Cut the sprites that catalogue.toml names out of the emoji artwork into atlas.png and atlas.json.

A maintainer's script, needed only after the catalogue's sprites changed. The artwork is the npm package
`emoji-datasource-google` (64 px renderings of Noto Emoji, Apache-2.0), unpacked by `npm pack` and `tar`:

    python -m refseg_cli.data.scenes.build_atlas PATH_TO_NPM_PACKAGE
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from refseg_cli.data.scenes.catalogue import HERE, catalogue

SHEET_WIDTH = 1024  # pixels
GAP = 1  # pixels between sprites


def build(package: Path) -> None:
    """Write atlas.png and atlas.json beside this file."""
    names = sorted({sprite.name for category in catalogue().categories for sprite in category.sprites})
    files = image_files(package)
    sprites = {name: cut(package / "img/google/64" / files[name]) for name in names}
    boxes = shelves({name: sprite.size for name, sprite in sprites.items()})
    sheet = Image.new("RGBA", (SHEET_WIDTH, max(y + h for _, y, _, h in boxes.values())))
    for name, sprite in sprites.items():
        sheet.paste(sprite, boxes[name][:2])
    sheet.save(HERE / "atlas.png", optimize=True)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(box)}" for name, box in sorted(boxes.items()))
    source = json.dumps(source_of(package))
    (HERE / "atlas.json").write_text(f'{{"source": {source},\n "sprites": {{\n{rows}\n}}}}\n', "utf-8")


def image_files(package: Path) -> dict[str, str]:
    """Emoji short name -> file name, with `name~TONE` for the variants that have one skin tone."""
    files = {}
    for emoji in json.loads((package / "emoji.json").read_text("utf-8")):
        files[emoji["short_name"]] = emoji["image"]
        for tone, variant in emoji.get("skin_variations", {}).items():
            files[f"{emoji['short_name']}~{tone}"] = variant["image"]
    return files


def source_of(package: Path) -> dict[str, str]:
    """Where the artwork comes from, for atlas.json."""
    meta = json.loads((package / "package.json").read_text("utf-8"))
    return {
        "package": meta["name"],
        "version": meta["version"],
        "artwork": "Noto Emoji",
        "license": "Apache-2.0",
    }


def cut(file: Path) -> Image.Image:
    """The sprite, cropped to what is visible, with the colour of invisible pixels cleared (they only cost bytes)."""
    with Image.open(file) as picture:
        sprite = picture.convert("RGBA")
    sprite = sprite.crop(sprite.getchannel("A").getbbox())
    blank = Image.new("RGBA", sprite.size)
    return Image.composite(sprite, blank, sprite.getchannel("A").point(lambda alpha: 255 * (alpha > 0)))


def shelves(sizes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int, int, int]]:
    """Pack (width, height) boxes in rows, tallest first: name -> (x, y, width, height) in pixels."""
    boxes = {}
    x = y = shelf = 0
    for name, (w, h) in by_height(sizes):
        if x + w > SHEET_WIDTH:
            x, y, shelf = 0, y + shelf + GAP, 0
        boxes[name] = (x, y, w, h)
        x, shelf = x + w + GAP, max(shelf, h)
    return boxes


def by_height(sizes: dict[str, tuple[int, int]]) -> Iterable[tuple[str, tuple[int, int]]]:
    return sorted(sizes.items(), key=lambda item: (-item[1][1], item[0]))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
