"""What a forward pass costs in this checkout and in another one: processor time, memory, and whether masks are equal.

    python benchmarks/forward.py --baseline OTHER_CHECKOUT --out benchmarks/forward.json
    python benchmarks/forward.py --precisions fp32 bf16 --recipes vlt-swin-b-refcoco --out FILE
    python benchmarks/forward.py --official FILE --phrases 1 7 --out benchmarks/forward_official.json

Each recipe's model gets the same random weights in a process of each build, which take turns: one image, with as many
phrases as asked, from tensors to logits, on one thread. Builds prepare a model as they do a loaded one. `seconds` is
the least of the rounds, since other programs only ever slow one down, and `ratio` that over the baseline's; `mib` what
a process held at most above what it held when the model was loaded. A mask is what lies above the median of the
baseline's logits, since those of random weights may all have one sign. `differing` is the share of its pixels that are
not the baseline's, `iou` the masks' intersection over union with the baseline's, `logits` the largest difference of a
logit in standard deviations. With --precisions, the first one is the baseline of the others.

--official FILE measures other code as one more side, in a process that nothing of ours prepares: gpu.py says what the
file has to give. A recipe that it does not know has no such side. Its weights are its own, so that outputs are not
compared; `official_ratio` and `official_memory` are a build's seconds and MiB over its.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from programs import checkouts, machine, options_of, save, tell, variables_of

RECIPES = (
    *("rela-swin-b-grefcoco", "cgformer-refcoco", "vlt-swin-b-refcoco", "lavt-refcoco"),
    *("vlt-tiny", "rela-tiny", "lavt-tiny", "cgformer-tiny", "isfp-tiny", "m3att-tiny", "asda-tiny"),
)
OFFICIAL = "official"
REPEATED = 0.3  # processor seconds of a round at least: small models pass several times

Asking = Callable[[int], Callable[[], Any]]  # from a number of phrases to a pass with as many


def _held(most: bool = False) -> float:
    """MiB that the process holds, or has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    name = "VmHWM:" if most else "VmRSS:"
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def of_build(recipe: str, precision: str, weights: Path) -> Asking:
    import torch
    from safetensors.torch import load_model, save_model

    from refseg_cli.config import load_recipe
    from refseg_cli.engine.bench import untrained
    from refseg_cli.segmenters.inference import pick_device

    torch.manual_seed(0)
    pick_device("cpu")  # which also prepares the process
    subject = untrained(load_recipe(recipe))
    if weights.exists():
        load_model(subject.model, weights)
    else:
        save_model(subject.model, str(weights))
    ask = subject.model
    if find_spec("refseg_cli.layers.folding"):  # a baseline may be older
        from refseg_cli.layers.folding import folded

        ask = folded(subject.model)
    if precision != "fp32":
        from refseg_cli.segmenters.precision import DTYPES, asked_at

        ask = asked_at(folded(subject.model, DTYPES[precision]), "cpu", precision)

    def asking(phrases: int) -> Callable[[], Any]:
        torch.manual_seed(1)
        return partial(ask, subject.batch(1, phrases))

    return asking


def of_official(recipe: str, file: Path) -> Asking | None:
    import torch
    from gpu import official

    from refseg_cli.config import load_recipe

    torch.manual_seed(0)
    size, device = load_recipe(recipe).data.size, torch.device("cpu")
    known = official(file, recipe, 1, 1, size, device)  # which makes the model
    return known and (lambda phrases: official(file, recipe, 1, phrases, size, device))


def work(asking: Asking | None, logits: Path | None, answers: TextIO) -> None:
    """Pass as often as a line with a number of phrases comes in; answer each with JSON."""
    import torch

    torch.set_num_threads(1)
    ctypes.CDLL(None).malloc_trim(0)  # else a pass would take what loading left over, and seem to need less
    loaded = _held()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the most that was held
    answers.write("ready\n" if asking else "unknown\n")
    answers.flush()
    for line in sys.stdin if asking else ():
        ask, passes, begun = asking(int(line)), 0, time.process_time()
        with torch.inference_mode():
            while not passes or time.process_time() - begun < REPEATED:
                prediction = ask()
                passes += 1
        seconds = (time.process_time() - begun) / passes
        if logits:
            np.save(logits, prediction.mask_logits.float().numpy())
        answers.write(json.dumps({"seconds": seconds, "mib": _held(most=True) - loaded}) + "\n")
        answers.flush()


@dataclass(frozen=True)
class What:
    """A build at a precision, or other code."""

    checkout: Path = checkouts(None)["this"]
    precision: str = "fp32"
    official: Path | None = None


@dataclass
class Side:
    """A process. known: it has a model for the recipe.  logits: of the last pass; none of other code."""

    process: subprocess.Popen[str]
    logits: Path
    known: bool = True

    @classmethod
    def start(cls, what: What, recipe: str, folder: Path, name: str) -> Side:
        logits = folder / f"{name}.npy"
        arguments = ["--official", str(what.official)] if what.official else []
        arguments += ["--work", recipe, what.precision, str(folder / "weights"), str(logits)]
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env=variables_of(what.checkout),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        side = cls(process, logits)
        side.known = side.answer() == "ready\n"
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


def compare(best: dict[str, dict[str, float]], logits: dict[str, Path]) -> None:
    """Tell in `best` how each build fares beside the first one and beside other code."""
    first, base = (best[next(iter(logits))], np.load(next(iter(logits.values()))))
    cut, official = np.median(base), best.get(OFFICIAL)
    for name, file in logits.items():
        one = best[name]
        if one is not first:
            found = np.load(file)
            one["ratio"], one["memory"] = one["seconds"] / first["seconds"], one["mib"] / first["mib"]
            ours, theirs = found > cut, base > cut
            one["differing"] = float((ours != theirs).mean())
            one["iou"] = float((ours & theirs).sum() / max(1, (ours | theirs).sum()))
            one["logits"] = float(np.abs(found - base).max() / base.std())
        if official:
            one["official_ratio"] = one["seconds"] / official["seconds"]
            one["official_memory"] = one["mib"] / official["mib"]


def measure(recipe: str, sides: dict[str, What], phrases: list[int], rounds: int) -> dict[str, Any]:
    """sides: the baseline first."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as folder:
        started = {name: Side.start(what, recipe, Path(folder), name) for name, what in sides.items()}
        known = {name: side for name, side in started.items() if side.known}
        for count in phrases:
            rows: dict[str, list[dict[str, float]]] = {name: [] for name in known}
            for _ in range(rounds):
                for name, side in known.items():
                    rows[name].append(side.passed(count))
            best = {
                name: {"seconds": min(row["seconds"] for row in of), "mib": of[-1]["mib"]} for name, of in rows.items()
            }
            compare(best, {name: side.logits for name, side in known.items() if name != OFFICIAL})
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
    parser.add_argument("--official", type=Path, metavar="FILE", help="other code to measure beside it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=4, metavar="ARGUMENT", help="be one of the processes")
    arguments = parser.parse_args()
    if arguments.work:
        recipe, precision, weights, logits = arguments.work
        answers, sys.stdout = sys.stdout, sys.stderr  # other code may print
        if arguments.official:
            work(of_official(recipe, arguments.official), None, answers)
        else:
            work(of_build(recipe, precision, Path(weights)), Path(logits), answers)
        return
    sides = {name: What(precision=name) for name in arguments.precisions}
    if arguments.baseline:
        sides = {"baseline": What(arguments.baseline.resolve()), **sides}
    if arguments.official:
        sides[OFFICIAL] = What(official=arguments.official)
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
