"""What batches for training cost beyond decoding and resizing their pictures.

    cd OTHER_CHECKOUT && python -m refseg_cli prepare scenes --images train=246,val=1,testA=1,testB=1 --out SCENES
    python benchmarks/loader.py --baseline OTHER_CHECKOUT --scenes SCENES --photos PHOTOS --out benchmarks/loader.json

The same shards are read by this checkout and by another one, in processes of their own, in turns: an epoch of 600
pictures, or of all where there are fewer, in shuffled order, through `StepDataset`, against the bare `decode_image` and
`interpolate` of the same pictures. Scenes at 128 pixels with eight phrases a picture, as the tiny recipes have them;
photos at 480 with one. `device` is what comes after the loader: `Batch.to`, which makes floats of bytes on the model's
device, here on the processor. Processor milliseconds a picture, the best of the rounds; the process keeps freed memory,
as in training.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from programs import checkouts, options_of, tell, variables_of

PICTURES = 600
BATCHES = 10  # that are brought to the device
MEASURES = {  # name -> data, pixels, phrases a picture
    "scenes at 128": ("scenes", 128, 8),
    "photos at 480": ("photos", 480, 1),
}


def measure(data: str, size: int, phrases: int) -> dict[str, float]:
    """Milliseconds a picture: decoded and resized, as part of a batch, and of that on the device."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from refseg_cli.config import load_recipe
    from refseg_cli.data import loader
    from refseg_cli.data.pictures import decode_image
    from refseg_cli.data.shards import open_shards
    from refseg_cli.data.text import build_tokenizer
    from refseg_cli.segmenters.inference import pick_device

    pick_device("cpu")  # which lets the process keep freed memory
    torch.set_num_threads(1)
    recipe = load_recipe("rela-tiny")
    shards = open_shards(data, "train")
    tokenizer = build_tokenizer(recipe.text, (e.text for record in shards.annotations() for e in record.expressions))
    counts = np.array(shards.expression_counts)
    counts[PICTURES:] = 0
    groups = (shards.row_groups(),) if hasattr(shards, "row_groups") else ()
    steps = loader.grouped_steps(counts, *groups, batch_images=6, phrases=phrases, rng=np.random.default_rng(0))
    pictures = [shards[pick.image].image for step in steps for pick in step]
    config = replace(recipe.data, size=(size, size), phrases_per_image=phrases)
    best: dict[str, float] = {}
    for _ in range(3):
        began = time.process_time()
        for picture in pictures:
            F.interpolate(decode_image(picture)[None], config.size, mode="bilinear", antialias=True)
        decoded = time.process_time()
        read = open_shards(data, "train")
        read = read.for_training() if hasattr(read, "for_training") else read
        dataset = loader.StepDataset(read, tokenizer, config, augment=(0, 0))
        for step in steps:
            dataset[step]
        ended = time.process_time()
        batches = [dataset[step] for step in steps[:BATCHES]]
        loaded = time.process_time()
        for batch in batches:
            batch.to("cpu")
        found = {
            "decoding": (decoded - began) / len(pictures),
            "loader": (ended - decoded) / len(pictures),
            "device": (time.process_time() - loaded) / sum(len(batch.images) for batch in batches),
        }
        best = {name: min(1000 * seconds, best.get(name, float("inf"))) for name, seconds in found.items()}
    return best


def ran(name: str, checkout: Path, data: str) -> dict[str, float]:
    words = [sys.executable, __file__, "--measure", name, "--scenes", data, "--photos", data]
    found = subprocess.run(words, env=variables_of(checkout), check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--scenes", required=True, help="prepared scenes, in a format that both builds read")
    parser.add_argument("--photos", help="prepared photos, likewise")
    parser.add_argument("--baseline", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", choices=MEASURES, help="one of them, in this process")
    arguments = parser.parse_args()
    folders = {"scenes": arguments.scenes, "photos": arguments.photos}
    if arguments.measure:
        kind, size, phrases = MEASURES[arguments.measure]
        sys.stdout.write(json.dumps(measure(folders[kind], size, phrases)))
        return
    result: dict[str, dict[str, dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for name, (kind, _, _) in MEASURES.items():
            for build, checkout in checkouts(arguments.baseline).items() if folders[kind] else ():
                found = ran(name, checkout, folders[kind])
                known = result.setdefault(name, {}).setdefault(build, found)
                for what, value in found.items():
                    known[what] = min(known[what], value)
                known["ratio"] = known["loader"] / known["decoding"]
                sys.stderr.write(f"{name}, {build}: {found}\n")
    rounded = {
        name: {build: {what: round(value, 3) for what, value in one.items()} for build, one in builds.items()}
        for name, builds in result.items()
    }
    tell({"milliseconds a picture": rounded}, arguments.out)


if __name__ == "__main__":
    main()
