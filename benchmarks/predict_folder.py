"""What a folder of photos costs beyond the model: `refseg predict FOLDER` beside the model alone, in one process.

    python benchmarks/predict_folder.py PHOTOS [OUT]    (writes benchmarks/predict_folder.json unless OUT is given)

PHOTOS is a folder of photos; its first 200 are taken, and of fewer some twice. Two phrases are asked of each. A round
answers ten photos in each way, in turn, so that whatever else the machine does falls on all of them:

    model      `Segmenter.predict` on photos that are decoded already, every mask taken
    predict    photos read and decoded, asked of the same model, and the answers written, as `refseg predict` does it

`ratio` is the median over rounds of the model's wall time by that of predict: 1 if everything else hides behind the
model. `cpu_ratio` is the same of the process' time on all processors, which nothing can hide from.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from refseg_cli.commands._forms import draw, written_as
from refseg_cli.commands._many import each
from refseg_cli.commands._places import Places
from refseg_cli.commands.predict import PICTURES
from refseg_cli.console import console
from refseg_cli.data.pictures import read_pixels
from refseg_cli.segmenters.choice import open_segmenter

HERE = Path(__file__).parent
PHOTOS, A_ROUND = 200, 10
PHRASES = ("the person on the left", "a dog")
PACKAGES = ("onnxruntime", "numpy", "pillow")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall time, and of all processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(folder: str, out: Path) -> None:
    names = sorted(str(path) for path in Path(folder).iterdir() if path.suffix.lower() in PICTURES)[:PHOTOS]
    photos = list(islice(cycle(names), PHOTOS))
    console.quiet = True
    segmenter = open_segmenter()
    pixels = {name: read_pixels(Path(name)) for name in names}
    seconds: dict[str, list[tuple[float, float]]] = {"model": [], "predict to PNG": [], "predict to JSON lines": []}

    def alone(part: Sequence[str]) -> None:
        for name in part:
            for _ in segmenter.predict(pixels[name], PHRASES):
                pass

    def predict(part: Sequence[str], format: str, output: str) -> None:
        places = Places(format, output, PHRASES, force=True)  # type: ignore[arg-type]

        def read(name: str) -> tuple[str, object]:
            return name, read_pixels(Path(name))

        def run(write: object) -> None:
            each(part, read, lambda asked: segmenter.predict(asked.pixels, PHRASES), write)  # type: ignore[arg-type]

        if places.is_drawn:
            run(lambda asked, answers: draw(places.of(asked.argument), places.format, asked, answers))
        else:
            with written_as(places.format, segmenter, None).into(places.of(part[0])[0]) as write:
                run(write)

    with tempfile.TemporaryDirectory() as folder_out:
        ways: dict[str, Callable[[Sequence[str]], None]] = {
            "model": alone,
            "predict to PNG": lambda part: predict(part, "png", folder_out),
            "predict to JSON lines": lambda part: predict(part, "json", f"{folder_out}/all.jsonl"),
        }
        alone(photos[:2])  # the first runs are slower
        for start in range(0, len(photos), A_ROUND):
            part = photos[start : start + A_ROUND]
            order = list(ways) if start // A_ROUND % 2 else list(reversed(ways))
            for name in order:
                seconds[name].append(timed(lambda way=ways[name], part=part: way(part)))  # type: ignore[misc]
    rows = {
        name: {
            "photos_per_second": round(len(photos) / sum(wall for wall, _ in found), 2),
            "ratio": round(median(m[0] / f[0] for m, f in zip(seconds["model"], found, strict=True)), 3),
            "cpu_ratio": round(median(m[1] / f[1] for m, f in zip(seconds["model"], found, strict=True)), 3),
        }
        for name, found in seconds.items()
    }
    about = {
        "photos": f"{len(photos)}, of {len(names)} files",
        "pixels": round(sum(pixels[name][0].size for name in names) / len(names)),  # of a photo, on average
        "phrases": list(PHRASES),
        "model": segmenter.name,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        **{name: version(name) for name in PACKAGES},
    }
    text = json.dumps({"about": about, "rows": rows}, indent=2)
    out.write_text(text + "\n", encoding="utf-8")
    print(text)  # noqa: T201 - a program for the terminal


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "predict_folder.json")
