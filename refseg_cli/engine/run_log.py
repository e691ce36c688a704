"""What a training run leaves behind while it goes on, and how it hears that it should stop."""

from __future__ import annotations

import errno
import fcntl
import json
import os
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

from refseg_cli import files
from refseg_cli.errors import RefsegError

LOCK = ".lock"  # in a run folder


class RunLog:
    """metrics.jsonl: one JSON object a line. On resume the lines beyond the saved state go, since they come again.

    Args:
        step, validated: the saved step, and whether its validation is done, if one was due.
        active: whether this process writes.

    Raises:
        RefsegError: there is something else in the file.
    """

    def __init__(self, path: Path, step: int, *, validated: bool, active: bool) -> None:
        self.path, self.active, self.began = path, active, time.time()
        if not active:
            return
        kept = []
        for number, line in enumerate(whole_lines(path), start=1):
            try:
                table = files.parse_json(line)
                if table["step"] < step or (table["step"] == step and (validated or "loss" in table)):
                    kept.append(line)
            except (ValueError, KeyError, TypeError) as error:
                raise RefsegError(
                    f"{path}: line {number} is not a line of a run's log", hint="remove the line, or move the file away"
                ) from error
        files.write(path, "".join(kept).encode())

    def write(self, figures: dict[str, Any], **more: float) -> None:
        """Append a line.

        Raises:
            RefsegError: disk full and the like.
        """
        if self.active:
            line = json.dumps({**figures, **more, "seconds": round(time.time() - self.began, 1)})
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:
                raise files.unwritable(self.path, error) from error


def whole_lines(path: Path) -> Iterator[str]:
    """The whole lines of a log; a line cut by a kill is dropped."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from (line for line in file if line.endswith("}\n"))


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep a run folder to this process. The system lets go of it however the process ends.

    Raises:
        RefsegError: another one trains there, or the folder cannot be written to.
    """
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("a")
    except OSError as error:
        raise files.unwritable(out, error) from error
    with file:
        try:
            # Of the process, not of the open file: the loader's workers, which may outlive a kill, do not inherit it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise RefsegError(
                    f"{out}: another process trains here", hint="wait for it, or name another --out"
                ) from error
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
                raise RefsegError(f"{out}: cannot lock: {os.strerror(error.errno or 0)}") from error
        try:
            yield
        finally:
            if new and [path.name for path in out.iterdir()] == [LOCK]:  # the run failed before it began
                (out / LOCK).unlink()
                out.rmdir()


@contextmanager
def stop_signals(*, patience: int = 1) -> Iterator[Callable[[], str | None]]:
    """SIGINT and SIGTERM ask the loop to save and stop; one more than `patience` stops at once."""
    asked: list[str] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if len(asked) >= patience:
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
