"""What a forward pass costs in this checkout and in another one: processor time, memory, and whether masks are equal.

    python benchmarks/forward.py --baseline OTHER_CHECKOUT --out benchmarks/forward.json
    python benchmarks/forward.py --precisions fp32 bf16 --recipes vlt-swin-b-refcoco --out FILE

Each recipe's model gets the same random weights in a process of each build, which take turns: one image, with as many
phrases as asked, from tensors to logits, on one thread. Builds prepare a model as they do a loaded one. `seconds` is
the least of the rounds, since other programs only ever slow one down, and `ratio` that over the baseline's; `mib` what
a process held at most above what it held when the model was loaded. A mask is what lies above the median of the
baseline's logits, since those of random weights may all have one sign. `differing` is the share of its pixels that are
not the baseline's, `iou` the masks' intersection over union with the baseline's, `logits` the largest difference of a
logit in standard deviations. With --precisions, the first one is the baseline of the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from programs import checkouts, machine, options_of, save, tell, variables_of

RECIPES = (
    *("rela-swin-b-grefcoco", "cgformer-refcoco", "vlt-swin-b-refcoco", "lavt-refcoco"),
    *("vlt-tiny", "rela-tiny", "lavt-tiny", "cgformer-tiny", "isfp-tiny", "m3att-tiny", "asda-tiny"),
)
REPEATED = 0.3  # processor seconds of a round at least: small models pass several times


def _held(most: bool = False) -> float:
    """MiB that the process holds, or has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    name = "VmHWM:" if most else "VmRSS:"
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def work(recipe: str, precision: str, weights: Path, logits: Path) -> None:
    """Load the model, then pass as often as a line with a number of phrases comes in; answer each with JSON."""
    import torch
    from safetensors.torch import load_model, save_model

    from refseg_cli.config import load_recipe
    from refseg_cli.engine.bench import untrained
    from refseg_cli.segmenters.inference import pick_device

    torch.set_num_threads(1)
    torch.manual_seed(0)
    pick_device("cpu")  # which also prepares the process
    subject = untrained(load_recipe(recipe))
    if weights.exists():
        load_model(subject.model, weights)
    else:
        save_model(subject.model, str(weights))
    ask = subject.model
    if precision != "fp32":
        from refseg_cli.segmenters.precision import asked_at

        ask = asked_at(subject.model, "cpu", precision)
    loaded = _held()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the most that was held
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        torch.manual_seed(1)
        batch, passes, begun = subject.batch(1, int(line)), 0, time.process_time()
        with torch.inference_mode():
            while not passes or time.process_time() - begun < REPEATED:
                prediction = ask(batch)
                passes += 1
        seconds = (time.process_time() - begun) / passes
        np.save(logits, prediction.mask_logits.float().numpy())
        sys.stdout.write(json.dumps({"seconds": seconds, "mib": _held(most=True) - loaded}) + "\n")
        sys.stdout.flush()


@dataclass
class Side:
    """A process of one build at one precision."""

    process: subprocess.Popen[str]
    logits: Path

    @classmethod
    def start(cls, checkout: Path, recipe: str, precision: str, folder: Path, name: str) -> Side:
        logits = folder / f"{name}.npy"
        process = subprocess.Popen(
            [sys.executable, __file__, "--work", recipe, precision, str(folder / "weights"), str(logits)],
            env=variables_of(checkout),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        side = cls(process, logits)
        side.answer()
        return side

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return line

    def passed(self, phrases: int) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{phrases}\n")
        self.process.stdin.flush()
        return json.loads(self.answer())


def measure(recipe: str, sides: dict[str, tuple[Path, str]], phrases: list[int], rounds: int) -> dict[str, Any]:
    """sides: checkout and precision of each, the baseline first."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as folder:
        started = {name: Side.start(c, recipe, p, Path(folder), name) for name, (c, p) in sides.items()}
        for count in phrases:
            rows: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
            for _ in range(rounds):
                for name, side in started.items():
                    rows[name].append(side.passed(count))
            best = {
                name: {"seconds": min(row["seconds"] for row in of), "mib": of[-1]["mib"]} for name, of in rows.items()
            }
            base, *others = (np.load(side.logits) for side in started.values())
            first, cut = next(iter(best.values())), np.median(base)
            for one, logits in zip(list(best.values())[1:], others, strict=True):
                one["ratio"], one["memory"] = one["seconds"] / first["seconds"], one["mib"] / first["mib"]
                ours, theirs = logits > cut, base > cut
                one["differing"] = float((ours != theirs).mean())
                one["iou"] = float((ours & theirs).sum() / max(1, (ours | theirs).sum()))
                one["logits"] = float(np.abs(logits - base).max() / base.std())
            found[str(count)] = {n: {k: float(f"{v:.4g}") for k, v in one.items()} for n, one in best.items()}
            sys.stderr.write(f"{recipe}, {count}: {json.dumps(found[str(count)])}\n")
        for side in started.values():
            side.process.communicate()  # closes what it reads from, at which it ends
    return found


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--baseline", type=Path, help="another checkout")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="NAME", help="the others' results stay")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--phrases", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=4, metavar="ARGUMENT", help="be one of the processes")
    arguments = parser.parse_args()
    if arguments.work:
        recipe, precision, weights, logits = arguments.work
        work(recipe, precision, Path(weights), Path(logits))
        return
    builds = checkouts(arguments.baseline)
    sides = {name: (builds["this"], name) for name in arguments.precisions}
    if arguments.baseline:
        sides = {"baseline": (builds["baseline"], "fp32"), **sides}
    out: Path | None = arguments.out
    known = json.loads(out.read_text())["results"] if out and out.exists() else {}
    for recipe in arguments.recipes:
        known.setdefault(recipe, {}).update(measure(recipe, sides, arguments.phrases, arguments.rounds))
        result = {"benchmark": "forward", **machine("torch"), "threads": 1, "results": known}
        if out:
            save(result, out)  # after each: nothing measured is lost
    tell(result, out)


if __name__ == "__main__":
    main()
