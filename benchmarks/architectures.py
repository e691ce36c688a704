"""Every architecture in small, trained alike on generated scenes, each beside a copy that never learns language.

    python benchmarks/architectures.py --work runs --out benchmarks/architectures.json
    python benchmarks/tables.py

Prepares the scenes, trains `align-tiny`, then each architecture's `-tiny` recipe from its encoders: the same scenes,
steps, phrases a step, schedule and order for all. A blind copy is the same run with `--shuffle-phrases`: the phrases of
each batch are dealt out anew, so it can learn where things usually are but not what was asked for. All go through
`refseg train` and `refseg eval` as anybody runs them, `--jobs` at a time with one thread each; thresholds are chosen on
val, for blind copies too, whose best is often to say "no target" always (protocols other than refseg have their own).
What is finished in
`--work` is not made again, so the command can be stopped and repeated.

The result has each run's scores with 95 % intervals, and how far the first seed's seeing run is from its blind copy,
with the interval of `refseg compare`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from programs import machine, options_of, save

from refseg_cli.evaluation.answers import read_answers
from refseg_cli.metrics.curves import no_target_curve

ARCHITECTURES = ("isfp", "vlt", "m3att", "rela", "asda", "jmceln", "cgformer", "lavt", "cris", "caris", "deris")
SPLITS = ("testA", "testB")
KEPT = 0.95  # T-acc at which N-acc by the head and by the number of pixels are compared
PROTOCOLS = "refseg,thesis,thesis-50pix"
IMAGES = {"train": 8000, "val": 100, "testA": 300, "testB": 300}
# What is ours alone in a recipe is switched off: here VLT is the paper's network in small.
SETTINGS = {"vlt": ("model.detail=0",)}


@dataclass(frozen=True)
class Run:
    """One training. blind: its phrases are shuffled."""

    arch: str
    seed: int
    blind: bool

    @property
    def name(self) -> str:
        return f"{self.arch}-{self.seed}" + ("-blind" if self.blind else "")


@dataclass(frozen=True)
class Study:
    """Where everything lies, and what every training is given."""

    work: Path
    epochs: int
    jobs: int

    @property
    def data(self) -> str:
        return str(self.work / "scenes")

    def refseg(self, *arguments: object, threads: int = 1) -> str:
        """What the command prints on standard output; its messages go to `--work`/log.txt."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "refseg_cli", *map(str, arguments)]
        with (self.work / "log.txt").open("ab") as log:
            return subprocess.run(
                command, check=True, stdout=subprocess.PIPE, stderr=log, env=environment
            ).stdout.decode()

    def prepare(self) -> None:
        """The scenes and the encoders that every run starts from."""
        threads = os.cpu_count() or 1
        if not (self.work / "scenes").is_dir():
            images = ",".join(f"{split}={count}" for split, count in IMAGES.items())
            self.refseg("prepare", "scenes", "--images", images, "--seed", 0, "--out", self.data)
        self.train("align", ["--recipe", "align-tiny"], threads=threads)

    def train(self, name: str, arguments: Sequence[str], *, threads: int = 1) -> None:
        """Train to the end, from where an earlier call was stopped; a finished run stays as it is."""
        done = self.work / f"{name}.done"
        if done.is_file():
            return
        out = self.work / name
        again = ["--resume"] if (out / "last").is_dir() else []
        self.refseg("train", *arguments, *again, "--data", self.data, "--out", out, threads=threads)
        done.touch()

    def scored(self, run: Run) -> dict[str, Any]:
        """`refseg eval --json` of the run, which is trained first."""
        scores = self.work / f"{run.name}.json"
        if not scores.is_file():
            settings = [f"train.epochs={self.epochs}", f"train.seed={run.seed}", *SETTINGS.get(run.arch, ())]
            arguments = ["--recipe", f"{run.arch}-tiny", "--init", str(self.work / "align")]
            arguments += [word for setting in settings for word in ("--set", setting)]
            self.train(run.name, arguments + (["--shuffle-phrases"] if run.blind else []))
            told = self.refseg(
                *("eval", "--json", "--model", self.work / run.name, "--data", self.data, "--split", ",".join(SPLITS)),
                *("--calibrate", "val", "--protocol", PROTOCOLS, "--records", self.records(run)),
            )
            scores.write_text(told)
        return json.loads(scores.read_text())

    def records(self, run: Run) -> Path:
        return self.work / f"{run.name}.parquet"

    def gain(self, seeing: Run) -> dict[str, Any]:
        """Seeing less blind, by split: the differences of cIoU and gIoU."""
        blind, seeing = self.records(replace(seeing, blind=True)), self.records(seeing)
        told = json.loads(self.refseg("compare", "--json", blind, seeing))["differences"]
        return {split: {m: told[f"{split}/refseg"][m] for m in ("cIoU", "gIoU")} for split in SPLITS}

    def told_apart(self, run: Run) -> dict[str, Any]:
        """How well the head, and the number of pixels alone, tell no-target expressions, by split.

        area: under N-acc over T-acc, 0.5 for guessing.  n_acc: percent, at the threshold that keeps 95 % T-acc; 0 where
        none does.
        """
        answers = read_answers(str(self.records(run)))
        found: dict[str, Any] = {}
        for split in SPLITS:
            counts = answers.of_split(split).counts()
            rules = {"head": counts, "pixels": replace(counts, p_target=np.full(len(counts), np.nan))}
            curves = {
                rule: no_target_curve(table, exists=0.5, min_pixels=1, points=len(counts))
                for rule, table in rules.items()
                if rule == "pixels" or table.has_head.any()
            }
            found[split] = {
                rule: {"area": curve.area, "n_acc": 100 * float(curve.n_acc[curve.t_acc >= KEPT].max(initial=0.0))}
                for rule, curve in curves.items()
                if curve is not None
            }
        return found

    def cost(self, run: Run) -> dict[str, Any]:
        """Parameters and GFLOPs of the forward pass."""
        told = json.loads(
            self.refseg("bench", "--json", "--model", self.work / run.name, "--batch-sizes", 1, "--repeat", 1)
        )
        return {key: told[key] for key in ("parameters", "gflops_per_image", "gflops_per_phrase")}

    def phrases_per_second(self, run: Run) -> float:
        """The median over the run's log; of one thread, beside the other jobs."""
        lines = [json.loads(line) for line in (self.work / run.name / "metrics.jsonl").read_text().splitlines()]
        rates = sorted(line["rate"] for line in lines if "rate" in line)
        return rates[len(rates) // 2]

    def finished(self, arch: str) -> list[Run]:
        """Its runs that have scores, in this call or an earlier one; seeing first, then by seed."""
        names = (re.fullmatch(rf"{arch}-(\d+)(-blind)?", path.stem) for path in self.work.glob("*.json"))
        runs = [Run(arch, int(name[1]), name[2] is not None) for name in names if name]
        return sorted(runs, key=lambda run: (run.blind, run.seed))


def result_of(study: Study, arch: str) -> dict[str, Any]:
    """Everything measured of one architecture."""
    runs = study.finished(arch)
    [blind] = [run for run in runs if run.blind]
    seeing = replace(blind, blind=False)
    return {
        **study.cost(seeing),
        "phrases_per_second": round(study.phrases_per_second(seeing), 1),
        "runs": [
            {
                "seed": run.seed,
                "blind": run.blind,
                "scores": {split: part["protocols"] for split, part in study.scored(run)["splits"].items()},
                "no_target": study.told_apart(run),
            }
            for run in runs
        ],
        "gain_over_blind": study.gain(seeing),
    }


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes and runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="+", default=ARCHITECTURES, metavar="ARCH", help="train these; --out keeps the others"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="the first has a blind copy")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    study = Study(options.work.resolve(), options.epochs, options.jobs)
    study.prepare()
    first, *others = options.seeds
    runs = [Run(arch, first, blind) for arch in options.only for blind in (False, True)]
    runs += [Run(arch, seed, blind=False) for seed in others for arch in options.only]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(study.scored, runs))
    known = json.loads(options.out.read_text())["results"] if options.out.exists() else {}
    known |= {arch: result_of(study, arch) for arch in ARCHITECTURES if study.finished(arch)}
    result = {
        "benchmark": "architectures",
        **machine("torch"),
        "jobs": options.jobs,
        "images": IMAGES,
        "epochs": options.epochs,
        "results": {arch: known[arch] for arch in ARCHITECTURES if arch in known},
    }
    save(result, options.out)


if __name__ == "__main__":
    main()
