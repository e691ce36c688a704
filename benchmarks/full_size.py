"""What each architecture of the papers costs at full size, and what reading an image once for all its phrases saves.

    python benchmarks/full_size.py --out benchmarks/full_size.json
    python benchmarks/tables.py

For the recipe of each paper's main row, at the paper's input size, in float32 with random weights:

    parameters, GFLOPs   as `refseg bench` counts them: of an image without language, and of each phrase
    grouped              CPU seconds of one image with 1, 4 and 8 phrases
    ungrouped            the same phrases, each with a copy of the image: what a model without groups does

Times are medians over rounds of the CPU seconds of one thread, which other programs on the machine disturb little; both
forms alternate.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from programs import machine, options_of, save

from refseg_cli.config import load_recipe
from refseg_cli.engine.bench import untrained
from refseg_cli.engine.stages import Subject, count_flops
from refseg_cli.segmenters.memory import keep_freed_memory

RECIPES = (
    "isfp-darknet53-refcoco",
    "vlt-darknet53-refcoco",
    "vlt-swin-b-refcoco",
    "m3att-darknet53-refcoco",
    "rela-swin-b-grefcoco",
    "asda-refcoco",
    "jmceln-rn101-refcoco",
    "cgformer-refcoco",
    "lavt-refcoco",
    "cris-r50-refcoco",
    "caris-refcoco",
    "deris-b-refcoco",
)
PHRASES = (1, 4, 8)


def seconds(subject: Subject, images: int, phrases: int) -> float:
    """CPU seconds of a forward pass of so many images with so many phrases each."""
    batch = subject.batch(images, phrases)
    begun = time.process_time()
    with torch.inference_mode():
        subject.model(batch)
    return time.process_time() - begun


def measure(recipe: str, *, rounds: int) -> dict[str, Any]:
    """Count, and time both forms in turn, after the count's two unmeasured passes."""
    subject = untrained(load_recipe(recipe))
    per_image, per_phrase = count_flops(subject)
    times: dict[int, dict[str, list[float]]] = {k: {"grouped": [], "ungrouped": []} for k in PHRASES}
    for _ in range(rounds):
        for k in PHRASES:
            times[k]["grouped"].append(seconds(subject, 1, k))
            times[k]["ungrouped"].append(seconds(subject, k, 1) if k > 1 else times[k]["grouped"][-1])
    return {
        "size": list(subject.recipe.data.size),
        "rounds": rounds,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "gflops_per_image": round(per_image / 1e9, 2),
        "gflops_per_phrase": round(per_phrase / 1e9, 2),
        "cpu_seconds": {
            str(k): {form: round(median(found), 2) for form, found in forms.items()} for k, forms in times.items()
        },
    }


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="NAME", help="the others' results stay")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    known = json.loads(options.out.read_text())["results"] if options.out.exists() else {}
    result: dict[str, Any] = {
        "benchmark": "full_size",
        **machine("torch"),
        "threads": 1,
        "results": {recipe: known[recipe] for recipe in RECIPES if recipe in known},
    }
    for recipe in options.recipes:
        result["results"][recipe] = measure(recipe, rounds=options.rounds)
        save(result, options.out)  # after each: nothing measured is lost


if __name__ == "__main__":
    main()
