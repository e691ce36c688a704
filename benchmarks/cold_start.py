"""What one cold `refseg predict PHOTO PHRASE` costs: whole processes, interleaved, medians.

    python benchmarks/cold_start.py [PHOTO [RUNS]]    (writes benchmarks/cold_start.json)

Each round starts every command once, in turn, so that whatever else the machine does falls on all of them. `seconds` is
wall time, `cpu` what the process and its children used of the processor, `mib` their largest resident memory.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from refseg_cli import bundled

HERE = Path(__file__).parent
DEMO = Path(bundled.__file__).parent / "demo" / "scene_people.jpg"
BASE = "import torch"
PACKAGES = ("torch", "onnxruntime", "numpy", "pillow", "tokenizers", "typer")


def commands(photo: str) -> dict[str, list[str]]:
    """What is measured, by name."""
    predict = ["-m", "refseg_cli", "predict", photo, "two people on left", "--no-target-ok", "-o", os.devnull]
    return {
        BASE: ["-c", BASE],
        "predict": predict,
        "predict on torch": [*predict, "--explain"],
        "predict --json": [*predict[:-2], "--json", "-q", "-o", os.devnull],
        "refseg --version": ["-m", "refseg_cli", "--version"],
        "import numpy, onnxruntime": ["-c", "import numpy, onnxruntime"],
    }


def run(arguments: list[str], folder: str) -> tuple[float, float, float]:
    """(wall seconds, processor seconds, MiB at the peak) of one process.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments],
        os.environ | {"TMPDIR": folder},
        file_actions=[(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)],
    )
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{arguments} failed: {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(photo: str, runs: int) -> None:
    wanted = commands(photo)
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs + 1):  # the first round fills the disk's cache
            for name, arguments in wanted.items():
                found = run(arguments, folder)
                if number:
                    seen[name].append(found)
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in seen.items()}
    base = medians[BASE]
    rows = {
        name: {
            "seconds": round(seconds, 3),
            "of_import_torch": round(seconds / base[0], 3),
            "cpu": round(cpu, 3),
            "cpu_of_import_torch": round(cpu / base[1], 3),
            "mib": round(mib, 1),
        }
        for name, (seconds, cpu, mib) in medians.items()
    }
    about = {
        "runs": runs,
        "photo": Path(photo).name,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        **{name: version(name) for name in PACKAGES},
    }
    text = json.dumps({"about": about, "medians": rows}, indent=2)
    (HERE / "cold_start.json").write_text(text + "\n", encoding="utf-8")
    print(text)  # noqa: T201 - a program for the terminal


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(DEMO), int(sys.argv[2]) if len(sys.argv) > 2 else 15)
