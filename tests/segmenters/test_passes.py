"""Passes that fit a budget, and what happens to one that does not."""

from __future__ import annotations

import pytest
import torch
from batches import batch_of

from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Prediction
from refseg_cli.segmenters import memory, passes
from refseg_cli.segmenters.passes import Passes

MIB = 2**20
PIXELS = 4 * 8


class Model:
    """Answers with each phrase's token plus its picture's only value; more phrases than `room` are too many for it."""

    def __init__(self, room: int = 1000, error: Exception | None = None, held: list[int] | None = None) -> None:
        self.room, self.asked = room, list[tuple[int, int]]()
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.held = held if held is not None else [0, 0]

    def __call__(self, batch: Batch) -> Prediction:
        self.asked.append((len(batch.images), len(batch)))
        if len(batch) > self.room:
            raise self.error
        self.held[1] = max(self.held[1], self.held[0] + len(batch) * MIB)
        values = batch.tokens[:, 0] + batch.images[batch.image_index][:, 0, 0, 0]
        return Prediction(values[:, None, None, None].expand(-1, 1, 4, 8))


def answered(ask: Passes, batch: Batch) -> list[float]:
    found = list(ask(batch))
    assert all(len(part) == len(prediction.mask_logits) for part, prediction in found)
    return [value for _, prediction in found for value in prediction.mask_logits[:, 0, 0, 0].tolist()]


def expected(batch: Batch) -> list[float]:
    return (batch.tokens[:, 0] + 1000.0 * batch.image_index).tolist()


def test_a_budget_is_kept_and_pictures_stay_whole_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phrase takes a MiB: the first pass supposes it, the next ones go by what the first took."""
    monkeypatch.setattr(passes, "SUPPOSED", 2 * MIB / PIXELS)
    model = Model(held=[100 * MIB, 100 * MIB])
    monkeypatch.setattr(passes, "resident", lambda: tuple(model.held))
    ask, batch = Passes(model, "cpu", budget=8 * MIB), batch_of(3, 4, 3, 4, 9)
    assert answered(ask, batch) == expected(batch)
    assert model.asked == [(1, 3), (2, 7), (1, 4), (1, 8), (1, 1)]
    assert ask.cost == MIB


def test_a_small_budget_is_a_phrase_at_a_time() -> None:
    model, batch = Model(), batch_of(2, 1)
    assert answered(Passes(model, "cpu", budget=1), batch) == expected(batch)
    assert model.asked == [(1, 1)] * 3


def test_without_a_budget_it_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "free_memory", lambda: 4 * memory.SUPPOSED * PIXELS)
    model, batch = Model(), batch_of(2, 2)
    monkeypatch.setattr(passes, "resident", lambda: (0, 0))  # a phrase takes nothing
    assert answered(Passes(model, "cpu"), batch) == expected(batch)
    assert model.asked == [(1, 2), (1, 2)]


def test_a_pass_on_a_cpu_takes_no_more_for_there_being_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "free_memory", lambda: 1 << 40)
    assert Passes(Model(), "cpu").budget == 4 << 30


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_pass_that_does_not_fit_is_split_not_lost(error: Exception) -> None:
    model, batch = Model(3, error), batch_of(8, 2)
    ask = Passes(model, "cpu", budget=2**40)
    assert answered(ask, batch) == expected(batch)
    assert model.asked == [(2, 10), (1, 5), (1, 2), (1, 2), (1, 1), (1, 2), (1, 1), (1, 2)]
    assert answered(ask, batch) == expected(batch)  # and what was learnt is kept
    assert max(phrases for _, phrases in model.asked[8:]) == 2


def test_one_phrase_that_does_not_fit_is_told() -> None:
    with pytest.raises(RefsegError, match="not enough memory on cpu for one phrase at 4 x 8 pixels"):
        list(Passes(Model(0), "cpu", budget=2**40)(batch_of(3)))


def test_other_errors_are_not_about_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        list(Passes(Model(0, RuntimeError("shapes do not match")), "cpu", budget=2**40)(batch_of(3)))


def test_a_part_has_its_own_pictures_and_all_that_is_of_its_phrases() -> None:
    batch = batch_of(2, 2, 2)
    part = batch.part(slice(3, 6))
    assert part.image_index.tolist() == [0, 1, 1]
    assert part.images[:, 0, 0, 0].tolist() == [1000, 2000]
    assert part.tokens[:, 0].tolist() == [3, 4, 5]
    assert part.masks is None
