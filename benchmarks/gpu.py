"""What a GPU makes of the models at the papers' size: see gpu.sh, which starts this.

Parts, each in a process of its own with a time of its own, so that one that fails or hangs loses nothing else:

    models/NAME    a forward pass and a step of training in fp32 and bf16, of 1, 4 and 8 phrases an image: milliseconds,
                   expressions a second, peak memory, MFU
    compiled/NAME  the forward pass compiled, in bf16, and how long compiling takes
    scenes         pictures of 480 px for the following two, made on the CPU while the models are measured
    train          `refseg train` of VLT Swin-B on them in bf16 (target: 500 expressions a second, 35 % MFU)
    eval           `refseg eval` of 1,500 pictures with 10,834 phrases (target: 15 s after the start; where the scenes
                   have other numbers, scaled by the phrases)

MFU is the share of the card's peak at that precision: operations by torch.utils.flop_counter, a step of training
counted as three forward passes. --official FILE measures other code beside it: a Python file with
`forward(recipe, images, phrases, size, device)`, which gives a function that asks once as many phrases about each of as
many images of that (height, width), or None for the name of a recipe that it does not know. It may be called several
times, for other numbers, and does well to keep its model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

Row = dict[str, Any]
Tell = Callable[[Row], None]

MODELS = {
    "vlt-swin-b": ("vlt-swin-b-refcoco", "vlt-tiny"),
    "rela": ("rela-swin-b-grefcoco", "rela-tiny"),
    "lavt": ("lavt-refcoco", "lavt-tiny"),
    "cgformer": ("cgformer-refcoco", "cgformer-tiny"),
}  # recipe of the paper's main row, and for a dry run
SECONDS = {"models": 40, "compiled": 45, "scenes": 150, "train": 70, "eval": 60}  # of a part at most, starts included
WHOLE = 470  # seconds of all
TRAINED, ASKED = (640, 1500), (6, 3)  # pictures to train on and to ask about; in a dry run
PHRASES = 10_834  # of gRefCOCO's val, on 1,500 pictures
# Dense operations a second by the makers' data sheets, bf16 and fp32 without tensor cores
PEAKS = {
    "H200": (989.4e12, 66.9e12),
    "H100 PCIe": (756e12, 51.2e12),
    "H100": (989.4e12, 66.9e12),
    "A100": (312e12, 19.5e12),
}


@dataclass(frozen=True)
class Size:
    """dry: on the CPU, with tiny models.  seconds: of each figure about.  folder: of what the parts share."""

    dry: bool
    seconds: float
    folder: Path
    official: Path | None = None

    def recipe(self, name: str) -> Any:
        from refseg_cli.config import load_recipe

        return load_recipe(MODELS[name][self.dry])

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu" if self.dry else "cuda")


def peak(card: str, precision: str) -> float | None:
    """Operations a second that a card has at most, if it is known."""
    found = next((peaks for name, peaks in PEAKS.items() if all(word in card for word in name.split())), None)
    return None if found is None else found[precision != "bf16"]


def share_of_peak(operations: float, seconds: float, card: str, precision: str) -> float | None:
    most = peak(card, precision)
    return None if most is None else operations / seconds / most


def timings(run: Callable[[], object], seconds: float) -> list[float]:
    """Of a call that waits for its device: three at least, after two others, for as long."""
    from refseg_cli.engine.measuring import timed

    for _ in range(2):
        run()
    found: list[float] = []
    while len(found) < 3 or (sum(found) < seconds and len(found) < 50):
        found.append(timed(run))
    return found


def measured(run: Callable[[], object], size: Size, row: Row, operations: float | None) -> Row:
    """The row with its figures, or why there are none: not enough memory, say."""
    from refseg_cli.engine.measuring import device_name, peak_memory

    try:
        found = timings(run, size.seconds)
        memory = peak_memory(run, size.device)
    except RuntimeError as error:
        return {**row, "error": str(error).splitlines()[0]}
    middle = median(found)
    rate = row["images"] * row["phrases"] / middle
    figures = {"p50_ms": 1000 * middle, "expressions_per_s": rate, "peak_mib": memory / 2**20, "runs": len(found)}
    if operations is not None:
        used = share_of_peak(operations, middle, device_name(size.device), row["precision"])
        figures |= {"tflops": operations / middle / 1e12, "mfu": used}
    return {**row, **figures}


def models(name: str, size: Size, tell: Tell) -> None:
    """Passes and steps of one model."""
    from refseg_cli.engine import stages
    from refseg_cli.engine.bench import untrained

    subject = untrained(size.recipe(name))
    picture, phrase = stages.count_flops(subject)
    subject.model.to(size.device)
    for stage, make, times in (("forward", stages.forward, 1), ("train", stages.train, 3)):
        for precision in ("bf16", "fp32"):
            for images, phrases in ((1, 1), (4, 1), (4, 4), (4, 8)) if not size.dry else ((2, 1), (2, 4)):
                row = {"model": name, "stage": stage, "precision": precision, "images": images, "phrases": phrases}
                operations = times * images * (picture + phrases * phrase)
                run = make(subject, size.device, precision, images, phrases)
                tell(measured(run, size, row, operations))
                if stage == "forward" and size.official:
                    recipe, pixels = MODELS[name][size.dry], subject.recipe.data.size
                    if other := official(size.official, recipe, images, phrases, pixels, size.device):
                        run = beside(other, size, precision)
                        tell(measured(run, size, {**row, "model": f"{name}, official"}, operations))


@cache
def other_code(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("official", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official(
    file: Path, recipe: str, images: int, phrases: int, size: tuple[int, int], device: Any
) -> Callable[[], Any] | None:
    """A pass of other code; None if it does not know the recipe."""
    return other_code(file).forward(recipe, images, phrases, size, device)


def beside(other: Callable[[], Any], size: Size, precision: Any) -> Callable[[], None]:
    import torch

    from refseg_cli.engine.measuring import wait_for
    from refseg_cli.engine.stages import autocast

    def run() -> None:
        with torch.inference_mode(), autocast(size.device, precision):
            other()
        wait_for(size.device)

    return run


def compiled(name: str, size: Size, tell: Tell) -> None:
    """Passes of a compiled model."""
    from refseg_cli.engine import stages
    from refseg_cli.engine.bench import untrained
    from refseg_cli.engine.measuring import timed

    subject = untrained(size.recipe(name))
    picture, phrase = stages.count_flops(subject)
    subject.model.to(size.device)
    if not size.dry:  # there it would take longer than everything else
        subject.model.compile()
    for images, phrases in ((4, 1), (4, 8)):
        run = stages.forward(subject, size.device, "bf16", images, phrases)
        row = {"model": name, "stage": "forward, compiled", "precision": "bf16", "images": images, "phrases": phrases}
        row["compile_s"] = timed(run)
        tell(measured(run, size, row, images * (picture + phrases * phrase)))


def scenes(size: Size, tell: Tell) -> None:
    """Pictures with phrases: `train`, and `val` for the evaluation."""
    from refseg_cli.engine.prepare import prepare_scenes

    trained, asked = ASKED if size.dry else TRAINED
    begun = time.perf_counter()
    prepare_scenes(str(size.folder / "scenes"), images={"train": trained, "val": asked}, seed=0)
    tell({"images": trained + asked, "seconds": time.perf_counter() - begun})


def data(size: Size) -> str:
    """The scenes, once they are there."""
    from refseg_cli.data.shards import MANIFESTS

    folder, begun = size.folder / "scenes", time.monotonic()
    while not any((folder / name).is_file() for name in MANIFESTS):
        if time.monotonic() - begun > SECONDS["train"]:
            raise RuntimeError("no scenes in time")
        time.sleep(0.5)
    return str(folder)


def train(size: Size, tell: Tell) -> None:
    """The real loop: loader, augmentation, steps, logs."""
    import torch

    from refseg_cli.engine import train as engine
    from refseg_cli.engine.bench import untrained
    from refseg_cli.engine.measuring import device_name
    from refseg_cli.engine.stages import count_flops

    recipe = size.recipe("vlt-swin-b")
    picture, phrase = count_flops(untrained(recipe))
    images, steps = (2, 4) if size.dry else (16, 80)
    settings = replace(recipe.train, batch_images=images, steps=steps, epochs=10_000, precision="bf16")
    settings = replace(settings, eval_split="", save_every_steps=10**9, same_object=-1, accumulate=1)
    loading = replace(recipe.data, phrases_per_image=4, workers=0 if size.dry else min(14, os.cpu_count() or 1))
    recipe = replace(recipe, train=settings, data=loading, model={**recipe.model, "pretrained": False})
    seen: list[tuple[float, int]] = []

    def watch(stage: str, done: int, total: int, **how: object) -> None:
        if stage == "train":
            seen.append((time.perf_counter(), done))

    if size.dry:
        engine.LOG_EVERY = 1
    engine.train(engine.TrainRequest(recipe, data(size), size.folder / "run", device=size.device.type), progress=watch)
    (begun, first), (ended, last) = seen[len(seen) // 2 - 1], seen[-1]  # the first half warms up
    seconds = (ended - begun) / (last - first)
    operations = 3 * images * (picture + loading.phrases_per_image * phrase)
    row: Row = {"steps": last, "images": images, "phrases": loading.phrases_per_image, "ms_per_step": 1000 * seconds}
    row["expressions_per_s"] = images * loading.phrases_per_image / seconds
    row["mfu"] = share_of_peak(operations, seconds, device_name(size.device), "bf16")
    row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20 if not size.dry else None
    tell(row)


def evaluation(size: Size, tell: Tell) -> None:
    """Pictures and phrases as `refseg eval` asks them, with random weights."""
    from refseg_cli import checkpoint
    from refseg_cli.data.shards import open_shards
    from refseg_cli.data.text import build_tokenizer
    from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
    from refseg_cli.models import build_model

    place = data(size)
    recipe = checkpoint.without_downloads(size.recipe("vlt-swin-b"))
    split = open_shards(place, "val")
    tokenizer = build_tokenizer(
        recipe.text, (e.phrase(recipe.text.field) for r in split.phrases() for e in r.expressions)
    )
    model = build_model(recipe, vocab_size=tokenizer.vocab_size)
    checkpoint.save(size.folder / "random", model, recipe, tokenizer)
    request = EvalRequest(place, ("val",), str(size.folder / "random"), size.device.type, batch_images=16)
    begun = time.perf_counter()
    report = evaluate(request).evaluations["val"]
    seconds, asked = time.perf_counter() - begun, len(report.answers)
    figures = {"images": report.images, "expressions": asked, "seconds": seconds, "expressions_per_s": asked / seconds}
    tell({**figures, f"seconds_for_{PHRASES}": seconds * PHRASES / asked})


def work(part: str, size: Size, tell: Tell) -> None:
    kind, _, name = part.partition("/")
    of_models = {"models": models, "compiled": compiled}
    if kind in of_models:
        of_models[kind](name, size, tell)
    else:
        {"scenes": scenes, "train": train, "eval": evaluation}[kind](size, tell)


def parts(*, dry: bool) -> list[str]:
    names = list(MODELS)[:1] if dry else list(MODELS)
    each = [f"{kind}/{name}" for kind in ("models", "compiled") for name in names]
    return ["scenes", *each[: len(names)], "train", "eval", *each[len(names) :]]


@dataclass
class Started:
    """A part in a process of its own, which writes a line for each row."""

    process: subprocess.Popen[bytes]
    rows: Path
    seconds: float
    begun: float

    @classmethod
    def of(cls, command: list[str], rows: Path, seconds: float) -> Started:
        errors = rows.with_suffix(".err").open("wb")
        return cls(subprocess.Popen(command, stdout=errors, stderr=errors), rows, seconds, time.monotonic())

    def ended(self) -> Row:
        """What it told before it ended, failed or was ended."""
        error = None
        try:
            status = self.process.wait(max(0.0, self.begun + self.seconds - time.monotonic()))
            if status:
                lines = self.rows.with_suffix(".err").read_text("utf-8", "replace").strip().splitlines()
                error = f"status {status}: {lines[-1] if lines else ''}"
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            error = f"ended after {self.seconds:.0f} s"
        told = self.rows.read_text("utf-8").splitlines() if self.rows.exists() else []
        found: Row = {"seconds": time.monotonic() - self.begun, "rows": [json.loads(line) for line in told]}
        return found | ({"error": error} if error else {})


def all_parts(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Row]]:
    """Each part's end. The scenes are made beside the others, since they need the CPU only."""
    begun, beside_them = time.monotonic(), dict[str, Started]()
    common = ["--folder", str(folder), *(["--official", str(options.official)] if options.official else [])]
    common += ["--dry-run"] if options.dry_run else []
    for part in options.parts or parts(dry=options.dry_run):
        left = WHOLE - (time.monotonic() - begun)
        if left < 1:
            yield part, {"rows": [], "error": "no time left"}
            continue
        command = [sys.executable, __file__, "--part", part, *common]
        rows = folder / f"{part.replace('/', '-')}.jsonl"
        started = Started.of(command, rows, min(left, SECONDS[part.partition("/")[0]]))
        if part == "scenes" and not options.dry_run:
            beside_them[part] = started
        else:
            yield part, started.ended()
    for part, started in beside_them.items():
        yield part, started.ended()


def all_here(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Row]]:
    """The same in this process, for a dry run: the start of each would take longer than its work."""
    size = Size(True, 0.0, folder, options.official)
    for part in options.parts or parts(dry=True):
        rows: list[Row] = []
        try:
            work(part, size, rows.append)
            yield part, {"rows": rows}
        except Exception as error:
            yield part, {"rows": rows, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--official", type=Path, metavar="FILE", help="other code to measure beside it")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="these only")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or Path(__file__).parent) / "gpu.json")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        rows = options.folder / f"{options.part.replace('/', '-')}.jsonl"

        def tell(row: Row) -> None:
            with rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

        work(options.part, Size(options.dry_run, 1.0, options.folder, options.official), tell)
        return
    from refseg_cli import files
    from refseg_cli.engine.measuring import device_name, environment

    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="refseg-gpu-") as place:
        size = Size(options.dry_run, 0.0, Path(place))
        card = device_name(size.device)
        result: Row = {"benchmark": "gpu", "card": card, "dry_run": options.dry_run, "environment": environment()}
        result |= {"peak_flops": {p: peak(card, p) for p in ("bf16", "fp32")}, "parts": {}}
        for part, found in (all_here if options.dry_run else all_parts)(options, Path(place)):
            result["parts"][part] = found
            result["seconds"] = time.monotonic() - begun
            files.write(options.out, (json.dumps(result, indent=1) + "\n").encode())  # after each: nothing is lost
            sys.stderr.write(f"{part}: {len(found['rows'])} rows {found.get('error', '')}\n")
    sys.stdout.write(f"{options.out}\n")


if __name__ == "__main__":
    main()
