"""What a training run leaves behind while it goes on, and how it hears that it should stop."""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch


class RunLog:
    """metrics.jsonl: one JSON object a line. On resume the lines beyond the saved step go, since they come again."""

    def __init__(self, path: Path, step: int, *, active: bool) -> None:
        self.path, self.active, self.began = path, active, time.time()
        if not active:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in whole_lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")

    def write(self, figures: dict[str, Any], **more: float) -> None:
        if self.active:
            line = json.dumps({**figures, **more, "seconds": round(time.time() - self.began, 1)})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def whole_lines(path: Path) -> Iterator[str]:
    """The whole lines of a log; a line cut by a kill is dropped."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from (line for line in file if line.endswith("}\n"))


@contextmanager
def stop_signals() -> Iterator[Callable[[], str | None]]:
    """SIGINT and SIGTERM ask the loop to save and stop; a second one stops at once."""
    asked: list[str] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)

    before = {}
    with suppress(ValueError):  # not the main thread: the caller's own handlers stay
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def peak_memory(device: torch.device) -> str:
    """Peak memory so far, on the accelerator or of this process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}GiB"
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f}GiB"


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b` names with plain values, as trackers want them."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
