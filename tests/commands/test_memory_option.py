"""--memory: amounts, and that they reach the passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from refseg_cli.commands._options import choose_memory
from refseg_cli.errors import RefsegError
from refseg_cli.segmenters.choice import open_segmenter, refuse_of_zero_shot


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("500MB", 500_000_000), ("1.5 G", 1_500_000_000), ("64kib", 65536), ("1000", 1000), ("9b", 9)],
)
def test_amounts(text: str, size: int) -> None:
    assert choose_memory(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "0", "4GiBs", "4 Gi B"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(RefsegError, match="not an amount of memory"):
        choose_memory(text)


def test_it_reaches_the_passes(untrained: Path) -> None:
    assert open_segmenter(untrained, device="cpu", memory=12345).passes.budget == 12345  # type: ignore[attr-defined]


def test_a_zero_shot_model_has_no_use_for_it() -> None:
    refuse_of_zero_shot("hf:org/name", memory=None, precision="auto")
    with pytest.raises(RefsegError, match="no use for --memory"):
        refuse_of_zero_shot("hf:org/name", memory=12345, precision="fp32")
    with pytest.raises(RefsegError, match="no use for --precision"):
        refuse_of_zero_shot("hf:org/name", memory=None, precision="bf16")
