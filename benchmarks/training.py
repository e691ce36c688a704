"""What a phrase costs in training, from the shards to the moving average, by this build and by another one.

    cd OTHER_CHECKOUT && python -m refseg_cli prepare scenes --images train=200,val=1,testA=1,testB=1 --out SCENES
    python benchmarks/training.py --baseline OTHER_CHECKOUT --scenes SCENES --out benchmarks/training.json

The recipe's training on the same shards, each build in processes of its own, in turns, with one thread: steps 11 to 30,
without start and validation. Processor milliseconds a phrase, those of the loader's processes counted, the best of the
rounds; and the loss at the last step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from programs import checkouts, options_of, tell, variables_of

FIRST, LAST = 10, 30  # steps between which it is measured; a run reports every tenth


def measure(recipe: str, data: str) -> dict[str, float]:
    """Processor milliseconds a phrase, and the loss at step `LAST`."""
    import torch

    from refseg_cli.config import load_recipe
    from refseg_cli.engine.train import TrainRequest, train

    torch.set_num_threads(1)
    settings = (f"train.steps={LAST}", "train.eval_split=", "train.save_every_steps=1000")
    wanted = load_recipe(recipe, settings)
    used, losses = {}, {}

    def progress(stage: str, done: int, total: int, **figures: Any) -> None:
        if stage == "train":
            used[done], losses[done] = sum(os.times()[:4]), float(figures["loss"])

    with tempfile.TemporaryDirectory() as folder:
        train(TrainRequest(wanted, data, Path(folder) / "run", device="cpu"), progress=progress)
    phrases = (LAST - FIRST) * wanted.train.batch_images * wanted.data.phrases_per_image
    return {"milliseconds": round(1000 * (used[LAST] - used[FIRST]) / phrases, 2), "loss": losses[LAST]}


def ran(checkout: Path, recipe: str, data: str) -> dict[str, float]:
    words = [sys.executable, __file__, "--measure", "--recipe", recipe, "--scenes", data]
    found = subprocess.run(words, env=variables_of(checkout), check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--scenes", required=True, help="prepared scenes, in a format that both builds read")
    parser.add_argument("--recipe", default="vlt-tiny")
    parser.add_argument("--baseline", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", action="store_true", help="once, in this process")
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(options.recipe, options.scenes)) + "\n")
        return
    best: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for build, checkout in checkouts(options.baseline).items():
            found = ran(checkout, options.recipe, options.scenes)
            sys.stderr.write(f"{build}: {found}\n")
            best[build] = min(best.get(build, found), found, key=lambda one: one["milliseconds"])
    result = {"recipe": options.recipe, "builds": best}
    if "baseline" in best:
        result["times as many phrases"] = round(best["baseline"]["milliseconds"] / best["this"]["milliseconds"], 3)
    tell(result, options.out)


if __name__ == "__main__":
    main()
