"""What `refseg prepare refcoco` takes at RefCOCO's size, by this checkout and by another one.

    python benchmarks/prepare_refcoco.py --baseline OTHER_CHECKOUT --out benchmarks/prepare_refcoco.json

20,000 photos of about 145 kB with 197,000 annotations of one polygon each, and 50,000 references with 120,000 sentences
under REFER's keys, in a temporary folder: a pickle of protocol 0, as Python 2 writes it. Each build prepares them in
one process of its own: processor seconds, and the most memory that it held.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from prepare_throughput import HEIGHT, WIDTH, annotation, photo

DISTINCT = 300  # photos; the others are links to them
SPLITS = (*["train"] * 8, "val", "testA", "testB")
WORDS = ("man", "woman", "left", "right", "red", "blue", "shirt", "guy", "closest", "camera", "chair", "with", "hat")


def make_raw(root: Path, images: int) -> dict[str, int]:
    """Write photos, refs(unc).p and instances.json; how many there are of what."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "refcoco").mkdir()
    rows, annotations, refs = list[dict[str, object]](), list[dict[str, object]](), list[dict[str, object]]()
    sentences = 0
    for image_id in range(images):
        path = root / f"images/COCO_train2014_{image_id:012d}.jpg"
        if image_id < DISTINCT:
            path.write_bytes(photo(rng))
        else:
            os.link(root / f"images/COCO_train2014_{image_id % DISTINCT:012d}.jpg", path)
        rows.append({"id": image_id, "file_name": path.name, "height": HEIGHT, "width": WIDTH, "license": 1})
        first = len(annotations)
        annotations += [annotation(first + k, image_id, rng) for k in range(9 + (image_id % 20 < 17))]
        for k in range(2 + image_id % 2):  # six sentences to a photo
            said = [sentence(sentences + i, rng) for i in range(2 if image_id % 2 else 3)]
            sentences += len(said)
            refs.append(
                {
                    "sent_ids": [one["sent_id"] for one in said],
                    "file_name": f"{path.stem}_{k}.jpg",
                    "ann_id": first + k,
                    "ref_id": len(refs),
                    "image_id": image_id,
                    "split": SPLITS[image_id % len(SPLITS)],
                    "sentences": said,
                    "category_id": 1,
                }
            )
    table = {"images": rows, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "refcoco/instances.json").write_text(json.dumps(table))
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    return {"photos": images, "annotations": len(annotations), "refs": len(refs), "sentences": sentences}


def sentence(sent_id: int, rng: np.random.Generator) -> dict[str, object]:
    tokens = [str(WORDS[i]) for i in rng.integers(0, len(WORDS), 4)]
    return {"tokens": tokens, "raw": " ".join(tokens), "sent_id": sent_id, "sent": " ".join(tokens)}


def measured(checkout: Path, root: Path) -> dict[str, float]:
    """Processor seconds and MiB of one `refseg prepare`."""
    with tempfile.TemporaryDirectory(prefix="refseg-prepared-") as out:
        words = ["-m", "refseg_cli", "-q", "prepare", "refcoco", "--root", str(root), "--workers", "1", "--out", out]
        process = subprocess.Popen(
            [sys.executable, *words], env={**os.environ, "PYTHONPATH": str(checkout)}, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{checkout}: refseg prepare failed")
    return {"seconds": round(usage.ru_utime + usage.ru_stime, 2), "mebibytes": round(usage.ru_maxrss / 1024, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--baseline", type=Path, help="another checkout")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    checkouts = {"this": Path(__file__).parents[1].resolve()}
    if arguments.baseline:
        checkouts["baseline"] = arguments.baseline.resolve()
    with tempfile.TemporaryDirectory(prefix="refseg-raw-") as temporary:
        size = make_raw(Path(temporary), arguments.images)
        result = {"size": size, **{name: measured(path, Path(temporary)) for name, path in checkouts.items()}}
    text = json.dumps(result, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
