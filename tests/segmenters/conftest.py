"""Tiny models of other projects, built once in a test run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_zero_shot


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The `--model` of a family: a folder, or for a detector two."""
    root = tmp_path_factory.mktemp("zero-shot")
    built: dict[str, Path] = {}

    def name_of(family: str) -> str:
        parts = [family, "sam2"] if family in ("grounding-dino", "mm-grounding-dino", "owlv2") else [family]
        for part in parts:
            built[part] = built.get(part) or tiny_zero_shot.build(part, root)
        return "+".join(str(built[part]) for part in parts)

    return name_of
