"""Forward passes that fit into memory: as many phrases at a time as a budget holds, and fewer where that was too much.

Axes: n phrases of a batch, H W network input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import torch

from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Prediction
from refseg_cli.segmenters.memory import SUPPOSED, free_memory, resident

ON_CPU = 4 << 30  # bytes of a pass at most, unless it may have more: 14 phrases of LAVT at full size, 50 of CRIS
NO_MEMORY = ("can't allocate memory", "not enough memory")  # of torch's allocator on CPUs


class Passes:
    """A model, asked in passes that fit.

    What a phrase takes is measured at each pass that has more of them than any before, the picture's share included,
    and supposed before the first.

    Args:
        model: answers a batch on the device.
        budget: bytes that a pass may take; None for half of what is free, on a CPU `ON_CPU` at most.
        measured: whether what the process takes is the passes' alone; with a compiler in it, it is supposed.
    """

    def __init__(
        self,
        model: Callable[[Batch], Prediction],
        device: torch.device | str,
        *,
        budget: int | None = None,
        measured: bool = True,
    ) -> None:
        self.model, self.device = model, torch.device(device)
        self.budget = _usual_budget(self.device) if budget is None else budget
        self.before = _held(self.device) if measured else None
        self.cost: float | None = None  # bytes of a phrase, measured
        self.seen = 0  # phrases of the largest pass
        self.limit: int | None = None  # phrases, after a pass that was too much

    def __call__(self, batch: Batch) -> Iterator[tuple[Batch, Prediction]]:
        """Parts of the batch in its order, as they came, and what the model says of each, on the device.

        Raises:
            RefsegError: not even one phrase fits.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            if len(part) > (most := self.most(part)) and not is_whole(part):
                waiting += reversed(halves(part, most))
                continue
            try:
                prediction = self._ask(part)
            except (RuntimeError, MemoryError) as error:
                if not is_lack_of_memory(error):
                    raise
                if is_whole(part):
                    raise _too_large(part, self.device) from error
                self.limit = len(part) // 2
                waiting.append(part)
            else:
                yield part, prediction
            if self.device.type == "cuda" and self.limit is not None:
                torch.cuda.empty_cache()  # pieces of the pass that failed

    def most(self, batch: Batch) -> int:
        """Phrases of such a batch that a pass may have."""
        cost = self.cost or SUPPOSED * batch.images.shape[-2] * batch.images.shape[-1]
        fitting = max(1, int(self.budget // cost))
        return fitting if self.limit is None else min(fitting, self.limit)

    def _ask(self, part: Batch) -> Prediction:
        if self.device.type == "cuda" and len(part) > self.seen:
            torch.cuda.reset_peak_memory_stats(self.device)
        prediction = self.model(part.to(self.device))
        if len(part) > self.seen:
            after = _held(self.device)
            if self.before and after:
                self.cost = max(1, after[1] - self.before[0]) / len(part)
            self.seen = len(part)
        return prediction


def is_whole(batch: Batch) -> bool:
    """Whether it cannot be cut: one expression, or one phrase about the frames of a clip."""
    return len(batch) == 1 or (batch.phrase_index is not None and not int(batch.phrase_index[-1]))


def halves(batch: Batch, most: int) -> list[Batch]:
    """The first `most` phrases of a batch or fewer, so that no picture is cut if that can be, and the others. Of clips
    phrases are parted, never frames.
    """
    if batch.phrase_index is not None:
        first = batch.phrase_index < max(1, min(most // batch.frames, int(batch.phrase_index[-1])))
        return [batch.part(torch.nonzero(rows)[:, 0]) for rows in (first, ~first)]
    index, cut = batch.image_index[: most + 1].tolist(), most
    while cut and index[cut - 1] == index[most]:
        cut -= 1
    return [batch.part(slice(cut or most)), batch.part(slice(cut or most, None))]


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several without annotations, in their order."""
    starts = [sum(len(batch.images) for batch in batches[:place]) for place in range(len(batches))]
    return Batch(
        images=torch.cat([batch.images for batch in batches]),
        small=None if batches[0].small is None else torch.cat([b.small for b in batches if b.small is not None]),
        tokens=torch.cat([batch.tokens for batch in batches]),
        attention_mask=torch.cat([batch.attention_mask for batch in batches]),
        image_index=torch.cat([batch.image_index + start for batch, start in zip(batches, starts, strict=True)]),
        sizes=torch.cat([batch.sizes for batch in batches if batch.sizes is not None]),
        content=torch.cat([batch.content for batch in batches if batch.content is not None]),
        normalisation=[one for batch in batches for one in batch.normalisation],
    )


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether Python, a GPU or torch's allocator on CPUs had none left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in NO_MEMORY)


def _too_large(part: Batch, device: torch.device) -> RefsegError:
    height, width = part.images.shape[-2:]
    return RefsegError(
        f"not enough memory on {device} for one phrase at {height} x {width} pixels",
        hint="free some, or choose another --device or a smaller model",
    )


def _usual_budget(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return min(free_memory() // 2, ON_CPU)


def _held(device: torch.device) -> tuple[int, int] | None:
    """Bytes in use, now and at most; None where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        return resident() if device.type == "cpu" else None
    return None
