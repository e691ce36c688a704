"""An evaluation that several processes share: each asks about its own run of images, and all get all answers.

torchrun --standalone --nproc-per-node 4 -m refseg_cli eval --data refcoco --model runs/lavt
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import About, Answer, writing_records

Value = TypeVar("Value")


class Part(NamedTuple):
    """The k-th of n processes."""

    k: int = 0
    n: int = 1

    def of(self, images: np.ndarray) -> np.ndarray:
        """Its run of them, so that the runs of all, in turn, are all of them in their order."""
        return np.array_split(images, self.n)[self.k]

    def gathered(self, value: Value) -> list[Value]:
        """Each process's value, in their order, in all of them.

        Raises:
            RefsegError: another process ended.
        """
        if self.n == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.n
        try:
            distributed.all_gather_object(found, value)
        except RuntimeError as error:
            raise RefsegError(
                f"another of the {self.n} processes of this evaluation ended", hint="what it says tells why; start anew"
            ) from error
        return found


ALL = Part()


@contextmanager
def sharing() -> Iterator[Part]:
    """The part of this process, where a launcher such as torchrun started several; else all of it.

    Batch systems set some of the variables for jobs that know nothing of each other, and have no place to meet.
    """
    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    part = Part(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if launched else ALL
    if part.n == 1:
        yield ALL
        return
    from torch import distributed

    distributed.init_process_group("gloo")
    try:
        yield part
    finally:
        distributed.destroy_process_group()


@dataclass(frozen=True, slots=True)
class Kept:
    """Where answers with their masks go. take: of this process.  pass_on: to the file, those of all."""

    take: Callable[[Sequence[Answer]], None]
    pass_on: Callable[[], None]


@contextmanager
def writing_shared(uri: str | None, about: About, part: Part) -> Iterator[Kept | None]:
    """The file of records that the processes write together: the first one does, in the order of the images.

    Raises:
        RefsegError: it cannot be written.
    """
    if uri is None:
        yield None
    elif part.n == 1:
        with writing_records(uri, about) as append:
            yield Kept(append, lambda: None)
    else:
        rows: list[Answer] = []
        with writing_records(uri, about) if part.k == 0 else nullcontext() as write:

            def pass_on() -> None:
                for given in part.gathered(rows):
                    if write is not None:
                        write(given)
                rows.clear()

            yield Kept(rows.extend, pass_on)
