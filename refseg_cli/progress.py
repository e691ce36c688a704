"""How a long verb tells what it is doing, without knowing who watches."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a long verb calls as it goes on; a command supplies one that draws.

    stage: what is being done.  done, total: units so far and in all, 0 if unknown.  figures: named extras (loss, rate).
    """

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None: ...


def silent(stage: str, done: int, total: int, **figures: float | str) -> None:
    """The progress that nobody watches."""
