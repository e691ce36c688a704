"""What a segmenter is: pictures and phrases in, `Found` out. Knows no torch.

Axes: h w pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from refseg_cli.errors import RefsegError, quoted
from refseg_cli.records import Detection, Explanation, Thresholds

if TYPE_CHECKING:
    from torch import Tensor


def schema_of(kind: str) -> str:
    """What a line of answers calls its form, by the name of the format; "json" is `predict`."""
    return f"refseg.{'predict' if kind == 'json' else kind}/1"


SCHEMA = schema_of("json")


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to one phrase.

    mask: (h, w) bool, all False where nothing is found.  exists: whether there is a target.  p_target: its probability.
    pixels: how many the mask has.  maps: what the model shows of how it got there, if it was asked to.
    instances: the objects that the mask is of; None where the model does not tell them apart.
    soft: (h, w) float32, the probability of each pixel, before the no-target rule, if it was asked for.
    """

    phrase: str
    mask: np.ndarray
    exists: bool
    p_target: float
    pixels: int
    maps: tuple[Explanation, ...] = ()
    instances: tuple[Detection, ...] | None = None
    soft: np.ndarray | None = None


class Segmenter(Protocol):
    """Answers phrases about pictures, and encodes a picture once for all its phrases."""

    @property
    def name(self) -> str:
        """What its answers are signed with."""

    @property
    def thresholds(self) -> Thresholds:
        """What turns its probabilities into decisions."""

    def predict(self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        """An answer to each phrase, in their order, each when it is asked for: masks are large, and phrases many.

        image: a file, its bytes, or pixels (3, h, w) uint8 RGB.

        Raises:
            RefsegError: the image cannot be read, or a phrase is none (see `check_phrases`).
        """

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        """What a user should know before relying on the answers, a sentence each; name: the picture's file name."""


def check_phrases(phrases: Sequence[str]) -> None:
    """What a segmenter asks of phrases.

    Raises:
        RefsegError: one is empty, or holds bytes that are no UTF-8 text.
    """
    for phrase in phrases:
        if not phrase.strip():
            raise RefsegError("a phrase is empty", hint="say what to look for")
        if not phrase.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in phrase):
            raise RefsegError(
                f"{quoted(phrase)}: not UTF-8 text", hint="is the terminal or script in another encoding?"
            )


def record(segmenter: Segmenter, image: str, found: Found) -> dict[str, Any]:
    """The answer as a `refseg.predict/1` object, ready for JSON; image: the picture's name."""
    from refseg_cli.data import masks  # pycocotools, which a mask as a PNG does without

    height, width = found.mask.shape
    rle = masks.encode(found.mask)
    told = {} if found.instances is None else {"instances": [_instance(one) for one in found.instances]}
    return {
        "schema": SCHEMA,
        "image": image,
        "width": width,
        "height": height,
        "phrase": found.phrase,
        "no_target": not found.exists,
        "p_target": round(found.p_target, 6),
        "pixels": found.pixels,
        "bbox": [int(side) for side in masks.box(rle)],
        "mask": masks.coco_json(rle),
        **told,
        "model": segmenter.name,
        "threshold": segmenter.thresholds.mask,
        "no_target_threshold": segmenter.thresholds.exists,
        "error": None,
    }


def _instance(found: Detection) -> dict[str, Any]:
    from refseg_cli.data import masks

    mask = {} if found.rle is None else {"mask": masks.coco_json(found.rle)}
    return {"box": [round(value, 3) for value in found.box], "score": round(found.score, 6), **mask}
