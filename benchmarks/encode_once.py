"""What grouping by image gains: evaluation of all phrases of an image together, beside one call per phrase.

    python benchmarks/encode_once.py --out benchmarks/encode_once.json

Scenes are generated, and each recipe's model is evaluated on them with random weights (they do not change the time) in
three ways, all through the same `evaluate_model`:

    grouped     an image with all its phrases, `--batch-images` images a call
    ungrouped   as many phrases a call, but each with a copy of its image: how evaluators without groups make batches
    one by one  one phrase and its image a call

The rounds alternate. What is reported is the median over rounds of each way's time, and their ratio, in CPU time of one
thread, which other programs on the machine disturb little; the wall time stands beside it. `network` is the time in the
model's forward pass alone; `all` has decoding, resizing masks and counting too. Models of full size, their forward pass
alone: full_size.py.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from programs import machine, options_of, save

from refseg_cli.config import Recipe, load_recipe
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.engine.prepare import prepare_scenes
from refseg_cli.evaluation.scoring import Evaluation, evaluate_model
from refseg_cli.models import build_model
from refseg_cli.records import Record, Thresholds

DEFAULT_CASES = ("vlt-tiny:40:5",)


class OnePhraseRows(Sequence[Record]):
    """A split where each expression has a row of its own, with its image: what a dataset without groups is."""

    def __init__(self, split: Shards, images: int) -> None:
        self.split = split
        self.rows = [(i, e) for i in range(images) for e in range(int(split.expression_counts[i]))]
        self.expression_counts = np.ones(len(self.rows), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        image, expression = self.rows[index]
        record = self.split[image]
        return replace(record, expressions=(record.expressions[expression],))


@dataclass
class Times:
    """Seconds of each round; network: those within the forward pass."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    network: list[float] = field(default_factory=list)


class Clock:
    """CPU seconds and calls of a model's forward passes, by its hooks, and images that its vision backbone saw."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.reset()
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self._stop)
        model.vision.backbone.register_forward_hook(self._saw)  # type: ignore[union-attr]

    def reset(self) -> None:
        self.seconds, self.calls, self.images = 0.0, 0, 0

    def _start(self, *_: Any) -> None:
        self._begun = time.process_time()

    def _stop(self, *_: Any) -> None:
        self.seconds += time.process_time() - self._begun
        self.calls += 1

    def _saw(self, module: Any, inputs: Any, output: Any) -> None:
        self.images += len(inputs[0])


def measure(recipe: Recipe, split: Shards, *, images: int, rounds: int, batch_images: int) -> dict[str, Any]:
    """Time the three ways on the first `images` images of `split`, `rounds` times each after one unmeasured round."""
    rows = OnePhraseRows(split, images)
    tokenizer = build_tokenizer(recipe.text, [rows[i].expressions[0].text for i in range(len(rows))])
    model = build_model(recipe, vocab_size=tokenizer.vocab_size).eval()
    clock = Clock(model)
    per_call = round(batch_images * len(rows) / images)
    ways = {"grouped": (split, batch_images), "ungrouped": (rows, per_call), "one by one": (rows, 1)}
    times = {name: Times() for name in ways}
    facts: dict[str, dict[str, int]] = {}
    for turn in range(rounds + 1):
        for name, (source, size) in ways.items():
            clock.reset()
            wall, cpu = time.perf_counter(), time.process_time()
            evaluation = run(model, tokenizer, recipe, source, images if source is split else 0, size)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            assert len(evaluation.counts) == len(rows)
            assert evaluation.image_encodings == clock.images
            facts[name] = {"image_encodings": clock.images, "calls": clock.calls}
            if turn:
                times[name].wall.append(wall)
                times[name].cpu.append(cpu)
                times[name].network.append(clock.seconds)
    return {
        "images": images,
        "expressions": len(rows),
        "batch_images": batch_images,
        "rounds": rounds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "ways": {name: {**facts[name], **medians(times[name])} for name in ways},
        "speed_up": {
            f"over {name}": {
                part: round(median(getattr(times[name], key)) / median(getattr(times["grouped"], key)), 2)
                for part, key in (("all", "cpu"), ("network", "network"))
            }
            for name in ("ungrouped", "one by one")
        },
    }


def run(
    model: torch.nn.Module, tokenizer: Tokenizer, recipe: Recipe, source: Any, limit: int, batch_images: int
) -> Evaluation:
    # A no-target head with random weights must not spare the masks' work: with 0 every mask is kept.
    always = Thresholds(exists=0.0)
    return evaluate_model(
        model, tokenizer, recipe, always, source, device="cpu", batch_images=batch_images, limit=limit, workers=0
    )


def medians(times: Times) -> dict[str, float]:
    return {
        "cpu_seconds": round(median(times.cpu), 4),
        "wall_seconds": round(median(times.wall), 4),
        "network_cpu_seconds": round(median(times.network), 4),
    }


def without_downloads(recipe: Recipe) -> Recipe:
    """The recipe with random weights."""
    return replace(recipe, model={**recipe.model, "pretrained": False, "text_pretrained": False})


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument(
        "--case",
        action="append",
        metavar="RECIPE:IMAGES:ROUNDS",
        help=f"what to measure, can be repeated; {' '.join(DEFAULT_CASES)} if not given",
    )
    parser.add_argument("--batch-images", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = [case.split(":") for case in arguments.case or DEFAULT_CASES]
    with tempfile.TemporaryDirectory() as folder:
        prepare_scenes(folder, images={"val": max(int(images) for _, images, _ in cases)}, seed=1)
        split = open_shards(folder, "val")
        results = {
            name: measure(
                without_downloads(load_recipe(name)),
                split,
                images=int(images),
                rounds=int(rounds),
                batch_images=min(arguments.batch_images, int(images)),
            )
            for name, images, rounds in cases
        }
    result = {
        "benchmark": "encode_once",
        **machine("torch"),
        "threads": 1,
        "data": "scenes, seed 1",
        "results": results,
    }
    save(result, arguments.out)


if __name__ == "__main__":
    main()
