"""The constants of docs/scale.md: what a picture costs to prepare and to answer.

    python benchmarks/scale.py --images 120 --out benchmarks/scale.json

Scenes are drawn first, unmeasured. Then `refseg prepare` makes shards of them and `refseg predict --data` answers all
their phrases, each in this process on one thread. Seconds are the processor's.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from programs import machine, options_of, save

from refseg_cli.data import scenes
from refseg_cli.engine.bulk import BulkRequest, answer_shards
from refseg_cli.engine.measuring import device_name
from refseg_cli.engine.prepare import Output, PrepareRequest, prepare


def bytes_in(folder: Path, ending: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"*{ending}"))


def measure(images: int, model: str, folder: Path) -> dict[str, Any]:
    scenes.generate(folder / "raw", images={"val": images}, seed=0)
    prepare(PrepareRequest("grefcoco", folder / "raw", Output(f"{folder}/cold")))  # imports, and what is read once
    begun = time.process_time()
    prepare(PrepareRequest("grefcoco", folder / "raw", Output(str(folder / "data"))))
    prepared = time.process_time()
    answer_shards(BulkRequest(f"{folder}/data", "val", f"{folder}/warm", model, device="cpu", threads=1))
    warm = time.process_time()
    request = BulkRequest(f"{folder}/data", "val", f"{folder}/out", model, device="cpu", threads=1)
    answered = answer_shards(request).answered
    done = time.process_time()
    return {
        "model": model,
        "images": answered.pictures,
        "phrases": answered.phrases,
        "prepare_s_per_image": (prepared - begun) / images,
        "answer_s_per_phrase": (done - warm) / answered.phrases,
        "shard_bytes_per_image": bytes_in(folder / "data", ".parquet") / images,
        "answer_bytes_per_phrase": bytes_in(folder / "out", ".jsonl") / answered.phrases,
    }


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--models", nargs="+", default=["scenes", "photos"])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="refseg-scale-") as folder:
            rows.append(measure(options.images, model, Path(folder)))
    result = {
        "benchmark": "scale",
        **machine("torch"),
        "cpu": device_name(torch.device("cpu")),
        "rows": rows,
    }
    save(result, options.out)


if __name__ == "__main__":
    main()
