"""A loss that is not finite, noticed without reading the device at every step."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from refseg_cli.engine.faults import Faults


def figures(loss: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "dice": torch.tensor(2 * loss)}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_the_first_of_several_faults_is_told(wrong: float) -> None:
    faults = Faults()
    assert not faults
    for step, loss in enumerate([1.0, 2.0, wrong, 4.0, math.nan], start=1):
        faults.note(step, figures(loss))
        assert bool(faults) == (step >= 3)
    assert faults.first(Accelerator(cpu=True)) == (3, f"loss={wrong:.4g}, dice={wrong:.4g}")


def test_a_part_that_is_not_finite_is_none_where_the_loss_is() -> None:
    faults = Faults()
    faults.note(1, {"loss": torch.tensor(1.0), "shown": torch.tensor(math.nan)})
    assert not faults


def test_noting_a_step_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*_: object) -> None:
        raise AssertionError("the device was read")

    for name in ("__bool__", "item", "tolist", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    faults = Faults()
    for step in range(1, 4):
        faults.note(step, figures(1.0))
