"""How fast `refseg prepare` is beside a plain copy of the same photos into Parquet, and how much memory it takes.

    python benchmarks/prepare_throughput.py --out benchmarks/prepare_throughput.json

Makes a dataset of COCO's proportions (photos of about 150 kB; eight polygons and seven phrases each) in a temporary
folder. `copy` reads each photo and writes it by pyarrow into a file of the same layout, with nothing else done: no
check of the JPEG, no hash, no masks. `prepare` is the whole command, from the annotation files to the manifest.
They are compared

* cached: photos in the page cache, and nobody waits for the disk, so a copy is but a few moves in memory;
* durable: until the written files are on the disk (fsync), which is what a data set of many gigabytes comes to.

Rounds alternate, and the best of each counts, since other programs only ever slow one down. The processor seconds
say what both cost whatever else the machine is doing.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from programs import machine, options_of, tell

from refseg_cli.data.shards import ROWS_PER_GROUP
from refseg_cli.engine.prepare import Output, PrepareRequest, prepare

HEIGHT, WIDTH = 480, 640
DISTINCT = 500  # photos; the others are links to them, which read and write alike
POLYGONS, POINTS, PHRASES = 8, 24, 7  # per image, per polygon, per image


def make_raw(root: Path, images: int) -> int:
    """Write photos, refs(unc).p and instances.json; returns the bytes of the photos."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "refcoco").mkdir()
    rows, annotations, refs, total = [], [], [], 0
    for image_id in range(images):
        path = root / f"images/COCO_train2014_{image_id:012d}.jpg"
        if image_id < DISTINCT:
            path.write_bytes(photo(rng))
        else:
            os.link(root / f"images/COCO_train2014_{image_id % DISTINCT:012d}.jpg", path)
        total += path.stat().st_size
        rows.append({"id": image_id, "file_name": path.name, "height": HEIGHT, "width": WIDTH})
        for k in range(POLYGONS):
            ann_id = image_id * POLYGONS + k
            annotations.append(annotation(ann_id, image_id, rng))
        refs.append(reference(image_id))
    categories = [{"id": 1, "name": "thing"}]
    (root / "refcoco/instances.json").write_text(
        json.dumps({"images": rows, "annotations": annotations, "categories": categories})
    )
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return total


def photo(rng: np.random.Generator) -> bytes:
    """A JPEG of about 150 kB: smooth colours with the noise of a camera."""
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    noisy = np.asarray(coarse, np.float32) + rng.normal(0, 9, (HEIGHT, WIDTH, 1))
    data = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=92, optimize=True)
    return data.getvalue()


def annotation(ann_id: int, image_id: int, rng: np.random.Generator) -> dict[str, object]:
    """A blob of `POINTS` corners."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, POINTS))
    radius = rng.uniform(30, 90, POINTS)
    x = (rng.uniform(90, WIDTH - 90) + radius * np.cos(angle)).round(2)
    y = (rng.uniform(90, HEIGHT - 90) + radius * np.sin(angle)).round(2)
    box = [float(v) for v in (x.min(), y.min(), np.ptp(x), np.ptp(y))]
    segmentation = [np.stack([x, y], 1).ravel().tolist()]
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": box,
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def reference(image_id: int) -> dict[str, object]:
    sentences = [
        {"sent_id": image_id * PHRASES + i, "sent": f"the thing {i} on the left of the other", "tokens": ["the"] * 8}
        for i in range(PHRASES)
    ]
    return {
        "ref_id": image_id,
        "image_id": image_id,
        "ann_id": image_id * POLYGONS,
        "split": "train",
        "sentences": sentences,
    }


def copy(photos: list[Path], out: Path, shard_bytes: int) -> None:
    """Copy the photos into Parquet files of `shard_bytes`."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind)])
    settings = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_index": True}
    out.mkdir()
    writer, filled, number = None, 0, 0
    for i in range(0, len(photos), ROWS_PER_GROUP):
        data = [path.read_bytes() for path in photos[i : i + ROWS_PER_GROUP]]
        if writer is None or filled > shard_bytes:
            if writer:
                writer.close()
            writer = pq.ParquetWriter(out / f"{number:05d}.parquet", schema, **settings)
            filled, number = 0, number + 1
        names = [path.name for path in photos[i : i + ROWS_PER_GROUP]]
        column = pa.StructArray.from_arrays([pa.array(data, pa.binary()), pa.array(names)], fields=list(kind))
        writer.write_batch(pa.RecordBatch.from_arrays([column], schema=schema))
        filled += sum(map(len, data))
    if writer:
        writer.close()


def timed(work: Callable[[], object], out: Path, times: dict[str, list[float]]) -> None:
    """Add the seconds that `work` takes to write into `out`, and remove what it wrote."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    times["cached"].append(time.perf_counter() - wall)
    times["processor"].append(time.process_time() - processor)
    for file in out.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    times["durable"].append(time.perf_counter() - wall)
    clear(out)


def clear(folder: Path) -> None:
    for file in folder.glob("*"):
        file.unlink()
    folder.rmdir()


def peak_memory(root: Path, out: Path, workers: int) -> float:
    """MiB of the largest process of a `refseg prepare`, as the system counts them."""
    command = [sys.executable, "-m", "refseg_cli", "-q", "prepare", "refcoco", "--root", str(root), "--out", str(out)]
    subprocess.run([*command, "--workers", str(workers)], check=True, stderr=subprocess.DEVNULL)
    clear(out)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def rounded(times: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {kind: [round(value, 3) for value in seconds] for kind, seconds in times.items()}


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--shard-mb", type=int, default=64)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shard_bytes, load = arguments.shard_mb << 20, os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as temporary:
        root, out = Path(temporary) / "raw", Path(temporary) / "out"
        size = make_raw(root, arguments.images)
        photos = sorted((root / "images").iterdir())
        runs = {name: defaultdict(list) for name in ("copy", "one", "several")}
        request = PrepareRequest("refcoco", root, Output(str(out), shard_bytes=shard_bytes))
        several = replace(request, output=replace(request.output, workers=arguments.workers))
        for _ in range(arguments.rounds):
            timed(lambda: copy(photos, out, shard_bytes), out, runs["copy"])
            timed(lambda: prepare(request), out, runs["one"])
            timed(lambda: prepare(several), out, runs["several"])
        del runs["several"]["processor"]  # that of the children is not in it
        memory = peak_memory(root, out, arguments.workers)
    best = {name: {kind: min(seconds) for kind, seconds in times.items()} for name, times in runs.items()}
    result = {
        "images": arguments.images,
        "photo_megabytes": round(size / 1e6, 1),
        "cores": len(os.sched_getaffinity(0)),
        "workers": arguments.workers,
        "load_before": round(load, 2),
        **machine("pyarrow"),
        "seconds": {
            "copy": rounded(runs["copy"]),
            "prepare_1_worker": rounded(runs["one"]),
            # The processor seconds of the children are not in it.
            f"prepare_{arguments.workers}_workers": rounded(
                {k: v for k, v in runs["several"].items() if k != "processor"}
            ),
        },
        "ratio_of_rates": {
            kind: {
                "1_worker": round(best["copy"][kind] / best["one"][kind], 3),
                f"{arguments.workers}_workers": round(best["copy"][kind] / best["several"][kind], 3),
            }
            for kind in ("cached", "durable")
        },
        "processor_milliseconds_per_image": {
            "copy": round(best["copy"]["processor"] / arguments.images * 1e3, 3),
            "prepare": round(best["one"]["processor"] / arguments.images * 1e3, 3),
        },
        "peak_process_mebibytes": round(memory, 1),
    }
    tell(result, arguments.out)


if __name__ == "__main__":
    main()
