"""The demo of `refseg predict`: the bundled pictures' phrases answered and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refseg_cli import files
from refseg_cli.data.pictures import read_pixels
from refseg_cli.drawing.overlay import overlay_png
from refseg_cli.engine.questions import demo_pictures
from refseg_cli.segmenters.base import Found
from refseg_cli.segmenters.choice import open_segmenter


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the demo: what was found in `image`, and the overlay that shows it."""

    image: str
    found: Found
    path: Path


def demo(out: Path, *, folder: str | Path | None = None, device: str = "auto") -> list[Shown]:
    """Answer the bundled pictures' phrases and write an overlay PNG of each answer into `out`.

    Args:
        folder: one model for all of them, in place of those that know each picture.

    Raises:
        RefsegError: the package is damaged, or `out` cannot be written.
    """
    wanted, shown = demo_pictures(), list[Shown]()
    segmenters = {name: open_segmenter(name, device=device) for name in {folder or one.model for one in wanted}}
    for one in wanted:
        pixels = read_pixels(one.file)
        picture = pixels.transpose(1, 2, 0)
        for found in segmenters[folder or one.model].predict(pixels, one.phrases):
            path = out / f"{len(shown) + 1:02}-{files.safe_name(found.phrase)}.png"
            drawn = overlay_png(picture, found.mask, found.phrase, exists=found.exists, p_target=found.p_target)
            files.write(path, drawn)
            shown.append(Shown(str(one.file), found, path))
    return shown
