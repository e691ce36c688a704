"""What a phrase costs in training, from the shards to the moving average, by this build and by another one.

    cd OTHER_CHECKOUT && python -m refseg_cli prepare scenes --images train=200,val=1,testA=1,testB=1 --out SCENES
    python benchmarks/training.py --baseline OTHER_CHECKOUT --scenes SCENES --out benchmarks/training.json
    python benchmarks/training.py --baseline OTHER_CHECKOUT --scenes SCENES --threads 2
    python benchmarks/training.py --baseline OTHER_CHECKOUT --scenes SCENES --processes 2
    python benchmarks/training.py --baseline OTHER_CHECKOUT --scenes SCENES --precision bf16 --recipe lavt-tiny

The recipe's training on the same shards, each build in processes of its own, in turns: steps 11 to 30, without start
and validation. Processor milliseconds a phrase, those of all its processes counted, and phrases a second by the clock,
the best of the rounds; and the loss at the last step. Where several processes train, they share the recipe's batch.
`--precision` is this build's; the other one stays in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from programs import checkouts, options_of, tell, variables_of

FIRST, LAST = 10, 30  # steps between which it is measured; a run reports every tenth


def measure(recipe: str, data: str, out: Path, precision: str) -> dict[str, float]:
    """Processor milliseconds a phrase, phrases a second, and the loss at step `LAST`, of a run in `out`."""
    from refseg_cli.config import load_recipe
    from refseg_cli.engine.train import TrainRequest, train

    processes, batch = int(os.environ.get("WORLD_SIZE", 1)), load_recipe(recipe).train.batch_images
    share = f"train.batch_images={batch // processes}"
    settings = (share, f"train.steps={LAST}", "train.eval_split=", "train.save_every_steps=1000")
    settings += (f"train.precision={precision}",)
    wanted = load_recipe(recipe, settings)
    used, clock, losses = {}, {}, {}

    def progress(stage: str, done: int, total: int, **figures: Any) -> None:
        if stage == "train":
            used[done], clock[done], losses[done] = sum(os.times()[:4]), time.perf_counter(), float(figures["loss"])

    train(TrainRequest(wanted, data, out, device="cpu"), progress=progress)
    phrases = (LAST - FIRST) * batch * wanted.data.phrases_per_image
    return {
        "milliseconds": round(1000 * processes * (used[LAST] - used[FIRST]) / phrases, 2),
        "phrases a second": round(phrases / (clock[LAST] - clock[FIRST]), 1),
        "loss": losses[LAST],
    }


def ran(checkout: Path, options: argparse.Namespace, precision: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(options.processes)]
        words = [sys.executable, *(launcher if options.processes > 1 else []), __file__, "--measure", f"{folder}/run"]
        asked = ["--recipe", options.recipe, "--scenes", options.scenes, "--precision", precision]
        threads = {"OMP_NUM_THREADS": str(options.threads)}
        found = subprocess.run(
            words + asked, env=variables_of(checkout) | threads, check=True, stdout=subprocess.PIPE, text=True
        )
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--scenes", required=True, help="prepared scenes, in a format that both builds read")
    parser.add_argument("--recipe", default="vlt-tiny")
    parser.add_argument("--baseline", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--processes", type=int, default=1, help="that share the batch, with gloo")
    parser.add_argument("--precision", default="fp32", help="of this build's training")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=Path, metavar="RUN", help="once, in this process")
    options = parser.parse_args()
    if options.measure:
        found = measure(options.recipe, options.scenes, options.measure, options.precision)
        if os.environ.get("RANK", "0") == "0":
            sys.stdout.write(json.dumps(found) + "\n")
        return
    best: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for build, checkout in checkouts(options.baseline).items():
            found = ran(checkout, options, options.precision if build == "this" else "fp32")
            sys.stderr.write(f"{build}: {found}\n")
            best[build] = max(best.get(build, found), found, key=lambda one: one["phrases a second"])
    result = {name: getattr(options, name) for name in ("recipe", "threads", "processes", "precision")} | {
        "builds": best
    }
    if "baseline" in best:
        rates = {build: one["phrases a second"] for build, one in best.items()}
        result["times as many phrases"] = round(rates["this"] / rates["baseline"], 3)
    tell(result, options.out)


if __name__ == "__main__":
    main()
