"""Clocks and memory: how long a call takes, what it holds at its peak, and on what machine."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from refseg_cli import __version__

SAMPLING = 0.002  # seconds between looks at the process's memory
PACKAGES = ("torch", "onnxruntime", "transformers", "numpy")


def timed(run: Callable[[], object]) -> float:
    """Seconds; `run` waits for its device."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Until it has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes at the peak of one run that is not timed: on a GPU allocated there, else resident in the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    if _forget_peak():
        run()
        return _resident_peak()
    return sampled_peak(run)


def _forget_peak() -> bool:
    """Let Linux count this process's peak of resident memory anew; whether it does."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    except OSError:  # another system, or a kernel built without it
        return False
    return True


def _resident_peak() -> int:
    """Bytes of resident memory at the most since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) * 1024


def sampled_peak(run: Callable[[], object]) -> int:
    """Bytes of resident memory at the most of what was seen, every `SAMPLING` seconds."""
    process, finished = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not finished.wait(SAMPLING):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        finished.set()
        watcher.join()
    return max(seen)


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's own name, as far as the system knows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and Path("/proc/cpuinfo").is_file():  # platform.processor() is empty on Linux
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return f"cpu, {names[0]}"
    return f"{device}, {platform.machine()}"


def environment() -> dict[str, Any]:
    """What a time depends on besides the model: versions, the machine, and what else it was doing."""
    found: dict[str, Any] = {"refseg": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return found | {
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": None if load is None else round(load, 2),
    }
