"""Phrases about several pictures, in the same passes where a segmenter can. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from refseg_cli.errors import RefsegError, Unread
from refseg_cli.segmenters.base import Found, Segmenter

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    Questions = Sequence[tuple[Path | bytes | np.ndarray | Tensor, Sequence[str]]]  # pictures, each with its phrases
    Several = Callable[[Questions], Iterator[Iterator[Found]]]


def several(segmenter: Segmenter, batch_images: int) -> Several:
    """What answers `batch_images` pictures with their phrases: for each picture, in order, what `predict` gives.

    A picture's answers are to be taken before the next one's are asked for.

    Raises:
        RefsegError: not even one, or more than one and the segmenter has no method `predict_many`.
    """
    if batch_images < 1:
        raise RefsegError(f"batches of {batch_images} pictures", hint="a batch has at least 1")
    return one_by_one(segmenter.predict) if batch_images == 1 else together(segmenter)


def one_by_one(answer: Callable[[Any, Sequence[str]], Iterator[Found]]) -> Several:
    """As `several`, by what answers phrases about one picture."""
    return lambda questions: (answer(image, phrases) for image, phrases in questions)


def together(segmenter: Segmenter) -> Callable[..., Iterator[Iterator[Found]]]:
    """The segmenter's method `predict_many`, see `trained.Predictor`.

    Raises:
        Unread: it has none.
    """
    many: Callable[..., Iterator[Iterator[Found]]] | None = getattr(segmenter, "predict_many", None)
    if many is None:
        raise Unread(
            f"{segmenter.name}: this model takes one picture at a time",
            option="--batch-images",
            hint="omit --batch-images; checkpoints take several, and so do bundled models on a GPU",
        )
    return many
