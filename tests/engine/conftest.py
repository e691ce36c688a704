"""What the tests of `refseg prepare` share."""

from __future__ import annotations

from pathlib import Path

import pytest
import raw_layout

from refseg_cli.engine import sharding


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """RefCOCO and gRefCOCO in their raw layout."""
    root = tmp_path / "raw"
    raw_layout.write_refcoco(root)
    raw_layout.write_grefcoco(root)
    return root


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as many processes as are asked for, however small the work."""
    monkeypatch.setattr(sharding, "IMAGES_FOR_A_PROCESS", 1)
