"""What it costs to be sure: page checksums, a comparison with the manifest, and a rerun of `refseg prepare`.

    python benchmarks/shard_checks.py --out benchmarks/shard_checks.json

Photos are those of `prepare_throughput.py`, in the page cache. Everything is measured in one run, in processor seconds;
rounds alternate, and the best of each counts, since other programs only ever slow one down.

* `groups`: every row group of the shards once, with and without verifying the checksums;
* `records`: one record after another, `Shards[i]`; `decoded`: with its photo decoded, the least that evaluation does;
* `shuffled`: decoded in a random order, as training reads: a whole row group for each record;
* `verify`: the files against the manifest's SHA-256, which eval and train do before they begin;
* `fresh`, `rerun`: `prepare` with nothing there, and with everything there and unchanged; `annotations`: the part of
  both that reads these.

What records would take without verification is what they take less the difference between the two kinds of `groups`.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prepare_throughput import clear, make_raw
from programs import options_of, tell

from refseg_cli.data.pictures import decode_image
from refseg_cli.data.shards import ROWS_PER_GROUP, Shards, open_shards
from refseg_cli.engine.prepare import Output, PrepareRequest, _read, prepare


def read_groups(out: Path, *, verify: bool) -> None:
    for path in out.glob("*.parquet"):
        file = pq.ParquetFile(pa.memory_map(str(path)), page_checksum_verification=verify)
        for group in range(file.metadata.num_row_groups):
            file.read_row_group(group, use_threads=False)


def read_records(split: Shards) -> None:
    for i in range(len(split)):
        split[i]


def decode_records(split: Shards, *, seed: int | None = None) -> None:
    order = np.arange(len(split)) if seed is None else np.random.default_rng(seed).permutation(len(split))
    for i in order.tolist():
        decode_image(split[i].image)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[[], object]) -> None:
        began = time.process_time()
        work()
        times[name].append((time.process_time() - began) / arguments.images * 1e3)

    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as temporary:
        root, out = Path(temporary) / "raw", Path(temporary) / "out"
        size = make_raw(root, arguments.images)
        request = PrepareRequest("refcoco", root, Output(str(out), shard_bytes=64 << 20))
        for _ in range(arguments.rounds):
            timed("fresh", lambda: prepare(request))
            timed("rerun", lambda: prepare(request))
            timed("annotations", lambda: _read(request))
            timed("groups_unverified", lambda: read_groups(out, verify=False))
            timed("groups", lambda: read_groups(out, verify=True))
            timed("records", lambda: read_records(open_shards(str(out), "train")))
            timed("decoded", lambda: decode_records(open_shards(str(out), "train")))
            timed("shuffled", lambda: decode_records(open_shards(str(out), "train"), seed=0))
            timed("verify", lambda: open_shards(str(out), "train").verify())
            clear(out)
    best = {name: min(values) for name, values in times.items()}
    checksums = best["groups"] - best["groups_unverified"]
    result = {
        "images": arguments.images,
        "photo_megabytes": round(size / 1e6, 1),
        "pyarrow": pa.__version__,
        "processor_milliseconds_per_image": {name: round(value, 3) for name, value in best.items()},
        "ratios": {
            "groups_verified_to_not": round(best["groups"] / best["groups_unverified"], 3),
            "records_verified_to_not": round(best["records"] / (best["records"] - checksums), 3),
            "decoded_verified_to_not": round(best["decoded"] / (best["decoded"] - checksums), 3),
            "shuffled_verified_to_not": round(best["shuffled"] / (best["shuffled"] - ROWS_PER_GROUP * checksums), 3),
            "verify_to_decoded": round(best["verify"] / best["decoded"], 3),
            "rerun_to_fresh": round(best["rerun"] / best["fresh"], 3),
        },
    }
    tell(result, arguments.out)


if __name__ == "__main__":
    main()
