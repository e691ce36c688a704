"""Work that several processes share: each asks about its own run of images.

torchrun --standalone --nproc-per-node 4 -m refseg_cli eval --data refcoco --model runs/lavt
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from refseg_cli.errors import ERROR, RefsegError

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.evaluation.answers import About, Answer

Value = TypeVar("Value")


class Part(NamedTuple):
    """The k-th of n processes."""

    k: int = 0
    n: int = 1

    def of(self, images: np.ndarray) -> np.ndarray:
        """Its run of them, so that the runs of all, in turn, are all of them in their order."""
        import numpy as np

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
        with self._together():
            distributed.all_gather_object(found, value)
        return found

    def collected(self, value: Value) -> list[Value]:
        """Each process's value, in their order, in the first one; nothing in the others.

        Raises:
            RefsegError: another process ended.
        """
        if self.n == 1:
            return [value]
        from torch import distributed

        found: list[Any] | None = None if self.k else [None] * self.n
        with self._together():
            distributed.gather_object(value, found)
        return found or []

    def decided(self, decide: Callable[[], Value]) -> Value:
        """What the first process decides, in all of them. Where it fails, it says why, and all end.

        Raises:
            RefsegError: it failed, or another process ended.
        """
        said: Value | RefsegError | None = None
        if self.k == 0:
            try:
                said = decide()
            except RefsegError as error:
                said = error
        said = self.gathered(said)[0]
        if isinstance(said, RefsegError):
            raise said if self.k == 0 else SystemExit(ERROR)
        return said  # type: ignore[return-value]

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RefsegError(
                f"another of the {self.n} processes of this command ended",
                hint="its own message says why; run the command again",
            ) from error


ALL = Part()


@contextmanager
def sharing() -> Iterator[Part]:
    """The part of this process, where a launcher such as torchrun started several; else all of it.

    Batch systems set some of the variables for jobs that know nothing of each other, and have no place to meet.
    Within another `sharing` it is the part that is known.
    """
    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    part = Part(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if launched else ALL
    if part.n == 1:
        yield ALL
        return
    from torch import distributed

    if distributed.is_initialized():
        yield part
        return
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
    from refseg_cli.evaluation.answers import writing_records

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
