"""How the process keeps its memory."""

from __future__ import annotations

import ctypes

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
