"""Work spread over a Ray cluster by Ray Data, which starts the processes, feeds them, and replaces those that are lost.

`ray.init` finds the cluster by RAY_ADDRESS, and starts one on this machine where that is not set.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from refseg_cli.errors import RefsegError, first_line

Item = TypeVar("Item")
Made = TypeVar("Made")


class _Worker:
    """One process of the cluster. begin: gives what it does to an item, with whatever that needs loaded once."""

    def __init__(self, begin: Callable[[], Callable[[Any], Any]]) -> None:
        self.begin = begin
        self.work: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        made: Any
        try:
            self.work = self.work or self.begin()  # here, where what is wrong with the model can be told
            made = self.work(pickle.loads(row["item"]))
        except RefsegError as error:
            made = error
        return {"number": row["number"], "made": pickle.dumps(made)}


def spread(
    begin: Callable[[], Callable[[Item], Made]], items: Sequence[Item], *, workers: int, threads: int
) -> Iterator[tuple[Item, Made | RefsegError]]:
    """Each item with what was made of it, or why nothing was, as they are finished.

    Args:
        begin: see `_Worker`; it and the items are pickled.
        workers: processes at most.  threads: cores that each of them takes.

    Raises:
        RefsegError: there is no Ray, or the cluster failed.
    """
    if not items:
        return
    ray = _ray()
    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    workers = min(workers, len(items))
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Worker, fn_constructor_args=[begin], concurrency=(1, workers) if workers > 1 else 1, num_cpus=threads
    )
    try:
        for row in made.iter_rows():
            yield items[row["number"]], pickle.loads(row["made"])
    except ray.exceptions.RayError as error:
        raise RefsegError(f"the Ray cluster failed: {first_line(error)}", hint="start it again") from error


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RefsegError("--engine ray needs Ray Data", hint="pip install 'refseg[ray]'") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not ray.is_initialized():
        alone: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **alone)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray
