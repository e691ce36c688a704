"""How the process keeps its memory, how much that is, and how much it may have."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

# Bytes a phrase takes for each pixel of the network's input, until a pass was seen: of LAVT with Swin-B it is 950.
SUPPOSED = 2048
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP = 1 << 30  # bytes; a tensor beyond it, or as much free memory at the top of the heap, goes back to the system


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors instead of handing it back after every operation.

    By default it maps each large block anew, so that the system clears every page of every intermediate result on the
    CPU; where pages are dear (a virtual machine under load) a training step took ten times as long. Without glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEEP)
        mallopt(_TRIM_THRESHOLD, _KEEP)


def resident() -> tuple[int, int]:
    """Bytes of memory that the process holds, now and at most so far.

    Raises:
        OSError: the system has no proc(5).
    """
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    kib = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
    return int(kib["VmRSS"]) * 1024, int(kib["VmHWM"]) * 1024


def free_memory() -> int:
    """Bytes that the process may still take: what the machine or its container has left, shared with the processes
    that a launcher started beside it (LOCAL_WORLD_SIZE)."""
    import psutil

    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
