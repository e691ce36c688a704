"""Put a run's best checkpoint here as a bundled model: `python -m refseg_cli.bundled.build RUN photos vlt-photos`.

A maintainer's script. Weights are stored in half precision, which halves the package and moves the scores by less than
a hundredth of a point; they are computed with in single precision as ever.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from refseg_cli import checkpoint


def build(run: str, place: str, name: str) -> None:
    """Copy `best` of `run` to one of `checkpoint.BUNDLED`, to be called `name` in what the commands print."""
    from safetensors.torch import save_model

    source, here = checkpoint.load(run), checkpoint.bundled(place)
    here.mkdir(exist_ok=True)
    save_model(source.model.half(), str(here / checkpoint.WEIGHTS))
    (here / checkpoint.WEIGHTS).chmod(0o644)
    shutil.copy(Path(source.folder) / "tokenizer.json", here)
    info = {"format": checkpoint.FORMAT, "name": name, **{k: v for k, v in source.info.items() if k != "format"}}
    (here / checkpoint.CONFIG).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build(*sys.argv[1:])
