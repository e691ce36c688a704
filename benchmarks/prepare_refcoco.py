"""What `refseg prepare refcoco` takes at RefCOCO's size, by this checkout and by another one.

    python benchmarks/prepare_refcoco.py --baseline OTHER_CHECKOUT --out benchmarks/prepare_refcoco.json

20,000 photos of about 145 kB with 197,000 annotations of one polygon each, and 50,000 references with 120,000 sentences
under REFER's keys, in a temporary folder: a pickle of protocol 0, as Python 2 writes it. Each build prepares them in
one process of its own, in turns: processor seconds and the most memory that it held, of the quickest round.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from prepare_throughput import POLYGONS, annotation, make_raw
from programs import checkouts, in_a_process, options_of, tell, variables_of

SPLITS = (*["train"] * 8, "val", "testA", "testB")
WORDS = ("man", "woman", "left", "right", "red", "blue", "shirt", "guy", "closest", "camera", "chair", "with", "hat")


def make(root: Path, images: int) -> dict[str, int]:
    """Write photos, refs(unc).p and instances.json; how many there are of what."""
    make_raw(root, images)
    rng = np.random.default_rng(1)
    instances = root / "refcoco/instances.json"
    table = json.loads(instances.read_text())
    table["images"] = [{**row, "license": 1} for row in table["images"]]
    first = len(table["annotations"])
    table["annotations"] += [annotation(first + i, i % images, rng) for i in range(images * 37 // 20)]  # ten, or nine
    instances.write_text(json.dumps(table))
    refs, sentences = list[dict[str, object]](), 0
    for image_id in range(images):
        for k in range(2 + image_id % 2):  # six sentences to a photo
            said = [sentence(sentences + i, rng) for i in range(2 if image_id % 2 else 3)]
            sentences += len(said)
            refs.append(
                {
                    "sent_ids": [one["sent_id"] for one in said],
                    "file_name": f"COCO_train2014_{image_id:012d}_{k}.jpg",
                    "ann_id": image_id * POLYGONS + k,
                    "ref_id": len(refs),
                    "image_id": image_id,
                    "split": SPLITS[image_id % len(SPLITS)],
                    "sentences": said,
                    "category_id": 1,
                }
            )
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    return {"photos": images, "annotations": len(table["annotations"]), "refs": len(refs), "sentences": sentences}


def sentence(sent_id: int, rng: np.random.Generator) -> dict[str, object]:
    tokens = [str(WORDS[i]) for i in rng.integers(0, len(WORDS), 4)]
    return {"tokens": tokens, "raw": " ".join(tokens), "sent_id": sent_id, "sent": " ".join(tokens)}


def measured(checkout: Path, root: Path) -> dict[str, float]:
    """Processor seconds and MiB of one `refseg prepare`."""
    with tempfile.TemporaryDirectory(prefix="refseg-prepared-") as out:
        words = ["-m", "refseg_cli", "-q", "prepare", "refcoco", "--root", str(root), "--workers", "1", "--out", out]
        # In its folder, which Python looks for modules in before all others.
        process = subprocess.Popen(
            [sys.executable, *words], cwd=checkout, env=variables_of(checkout), stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{checkout}: refseg prepare failed")
    return {"seconds": round(usage.ru_utime + usage.ru_stime, 2), "mebibytes": round(usage.ru_maxrss / 1024, 1)}


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--baseline", type=Path, help="another checkout")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    builds = checkouts(arguments.baseline)
    with tempfile.TemporaryDirectory(prefix="refseg-raw-") as temporary:
        size = in_a_process(make, Path(temporary), arguments.images)
        rounds = [
            {name: measured(path, Path(temporary)) for name, path in builds.items()} for _ in range(arguments.rounds)
        ]
    best = {name: min((one[name] for one in rounds), key=lambda found: found["seconds"]) for name in builds}
    ratios = {what: round(best["this"][what] / value, 3) for what, value in best.get("baseline", {}).items()}
    tell({"size": size, "load": round(os.getloadavg()[0], 1)} | best | {"ratios": ratios}, arguments.out)


if __name__ == "__main__":
    main()
