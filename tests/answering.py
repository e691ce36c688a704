"""What every made segmenter has beside its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refseg_cli.records import Thresholds


class Answering:
    """A segmenter but for `predict`: opened with whatever options, with the usual thresholds, unsure of nothing."""

    name, thresholds = "fake", Thresholds()

    def __init__(self, model: str | None = None, **options: Any) -> None: ...

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        return []
