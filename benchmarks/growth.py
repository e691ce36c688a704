"""How time and memory grow with the number of expressions: prepare, eval, `eval --from`, its report, and compare.

    python benchmarks/growth.py --expressions 1000 10000 100000 --out benchmarks/growth.json
    python benchmarks/growth.py --steps prepare eval --expressions 500 1000 2000 --out benchmarks/growth_eval.json

Each step is one `refseg` process, on data of COCO's proportions with seven phrases a picture; predictions are JSON
lines of masks; eval is that of the bundled model of scenes. Processor seconds, start of the program included, and
the most memory that the process held. The exponent is that of what the last two sizes add to the smallest one, over
what they add of expressions: 1 is linear, and the fixed costs of starting do not hide what grows faster.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from prepare_throughput import make_raw
from programs import in_a_process, options_of, tell
from scoring import PHRASES, make

USUAL = ("prepare", "eval --from lines", "eval --from records", "report", "compare")


def steps(folder: Path) -> dict[str, list[str]]:
    """The words behind `refseg` of each step, in their order."""
    raw, lines, records = (str(folder / name) for name in ("raw", "lines.jsonl", "records.parquet"))
    scored = ["eval", "--data", str(folder), "--split", "val", "--from"]
    return {
        "prepare": ["prepare", "refcoco", "--root", raw, "--workers", "1", "--out", f"{folder}/out"],
        "eval": ["eval", "--model", "scenes", "--data", f"{folder}/out", "--split", "train", "--json"],
        "eval --from lines": [*scored, lines, "--json"],
        "eval --from records": [*scored, records, "--json"],
        "report": [*scored, records, "--report", f"{folder}/report.html", "--json"],
        "compare": ["compare", records, records, "--json"],
    }


def measured(words: list[str]) -> tuple[float, float]:
    """Processor seconds and MiB of a process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "refseg_cli", *words, "-q"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"refseg {' '.join(words)}: {said}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def exponent(sizes: list[int], values: list[float]) -> float | None:
    """Of what the last two sizes add to the first; None where that is lost in noise."""
    before, after = (value - values[0] for value in values[-2:])
    more = (sizes[-1] - sizes[0]) / (sizes[-2] - sizes[0])
    return math.log(after / before) / math.log(more) if before > 0 < after else None


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--expressions", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--steps", nargs="+", default=USUAL, choices=[*USUAL, "eval"], help="eval: behind prepare")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sizes = sorted(arguments.expressions)
    found: dict[str, dict[str, list[float]]] = {}
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="refseg-growth-") as temporary:
            folder = Path(temporary)
            if set(arguments.steps) - {"prepare", "eval"}:
                in_a_process(make, folder, count)
            if "prepare" in arguments.steps:
                in_a_process(make_raw, folder / "raw", count // PHRASES)
            words = steps(folder)
            for name in arguments.steps:
                seconds, mebibytes = measured(words[name])
                of_step = found.setdefault(name, {"seconds": [], "mebibytes": []})
                of_step["seconds"].append(round(seconds, 2))
                of_step["mebibytes"].append(round(mebibytes, 1))
                sys.stderr.write(f"{count}, {name}: {seconds:.2f} s, {mebibytes:.0f} MiB\n")
    exponents = {
        name: {what: exponent(sizes, values) for what, values in of_step.items()} if len(sizes) > 2 else {}
        for name, of_step in found.items()
    }
    tell({"expressions": sizes, "steps": found, "exponents": exponents}, arguments.out)


if __name__ == "__main__":
    main()
