"""How many phrases of a picture to train on at once: scores at equal epochs, and at equal processor time.

    python benchmarks/architectures.py --work STUDY --only vlt --out vlt.json    # for its encoders, STUDY/align
    refseg prepare scenes --images train=1000,val=40,testA=90,testB=1 --out SCENES
    python benchmarks/phrases_per_image.py --init STUDY/align --scenes SCENES --out benchmarks/phrases_per_image.json
    python benchmarks/tables.py

`vlt-tiny` as the paper has it (no `detail`), from the encoders of `align-tiny`, with each number of phrases a picture.
A step has 48 phrases whatever that is, of fewer pictures or more, so that learning rate and noise are alike. First all
see each picture equally often; then each trains for as many steps as the processor time of the largest number pays for,
by the steps of the first runs. Each run is a process of its own with one thread, warms up in a tenth of its steps, and
is scored on testA with thresholds chosen on val. Seconds are the processor's, without start and validation. Rows that
`--out` has already are not made again, so the command can be stopped and repeated, with more numbers too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from programs import machine, options_of, save, variables_of

PHRASES = 48  # a step
RECIPE = "vlt-tiny"


def train(settings: list[str], init: str, data: str, out: Path) -> dict[str, float]:
    """Processor seconds a step, between the first report and the last."""
    import torch

    from refseg_cli.config import load_recipe
    from refseg_cli.engine.train import TrainRequest
    from refseg_cli.engine.train import train as run

    torch.set_num_threads(1)
    used: dict[int, float] = {}

    def progress(stage: str, done: int, total: int, **_: Any) -> None:
        if stage == "train":
            used[done] = sum(os.times()[:4])

    run(TrainRequest(load_recipe(RECIPE, settings), data, out, init=init, device="cpu"), progress=progress)
    first, last = min(used), max(used)
    return {"step_seconds": (used[last] - used[first]) / (last - first)}


def told(words: list[str]) -> Any:
    environment = variables_of(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, *words], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1] if "--measure" in words else done.stdout)


def trained(options: argparse.Namespace, k: int, epochs: int, steps: int) -> dict[str, Any]:
    """One run and its scores."""
    settings = [
        f"data.phrases_per_image={k}",
        f"train.batch_images={PHRASES // k}",
        f"train.epochs={epochs}",
        f"train.steps={steps}",
        f"train.warmup_steps={steps // 10}",
        "train.eval_split=",
        "train.save_every_steps=100000",
        "model.detail=0",
    ]
    with tempfile.TemporaryDirectory(prefix="refseg-phrases-") as folder:
        words = [__file__, "--init", options.init, "--scenes", options.scenes, "--measure", *settings]
        found = told([*words, "--run", f"{folder}/run"])
        scored = ["-m", "refseg_cli", "-q", "eval", "--json", "--split", "testA", "--calibrate", "val"]
        answer = told([*scored, "--data", options.scenes, "--model", f"{folder}/run/last"])
    scores = answer["splits"]["testA"]["protocols"]["refseg"]
    seconds = round(steps * found["step_seconds"], 1)
    row = {"phrases_per_image": k, "steps": steps, "phrases": steps * PHRASES, "seconds": seconds}
    return row | {metric: scores[metric] for metric in ("gIoU", "cIoU")}


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--scenes", required=True, help="prepared scenes")
    parser.add_argument("--init", required=True, help="run of align-tiny")
    parser.add_argument("--phrases", type=int, nargs="+", default=[1, 2, 4, 8], help="divisors of 48")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--measure", nargs="+", help="one run with these settings, in this process")
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(train(options.measure, options.init, options.scenes, options.run)) + "\n")
        return
    images = json.loads((Path(options.scenes) / "_manifest.json").read_text())["splits"]["train"]["images"]
    about = {"recipe": RECIPE, "images": images, "epochs": options.epochs, **machine("torch")}
    known = json.loads(options.out.read_text())["rows"] if options.out.exists() else []

    def row(k: int, steps: int) -> dict[str, Any]:
        found = [one for one in known if (one["phrases_per_image"], one["steps"]) == (k, steps)]
        if not found:
            found = [trained(options, k, steps * PHRASES // (k * images) + 1, steps)]
            known.extend(found)
            save({**about, "rows": known}, options.out)
        return found[0]

    steps = {k: options.epochs * -(-images * k // PHRASES) for k in sorted(options.phrases, reverse=True)}
    equal_epochs = {k: row(k, count) for k, count in steps.items()}
    seconds = equal_epochs[max(steps)]["seconds"]
    for k, count in steps.items():
        row(k, round(count * seconds / equal_epochs[k]["seconds"]))


if __name__ == "__main__":
    main()
