"""What the models of transformers share as segmenters: opened from a folder, asked, and their scores turned to answers.

Every family that finds objects first and segments them has its rule of which to keep: a score. Their masks' union is
the answer, and the best score says how probably there is a target. Of a phrase for which no object reaches that score
the best one alone is the candidate, which a lower no-target threshold then lets through.

Axes: n phrases, k objects, h w pixels of the picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

from refseg_cli import hub
from refseg_cli.data import masks
from refseg_cli.data.pictures import as_tensor
from refseg_cli.errors import RefsegError, quoted
from refseg_cli.records import Detection, Thresholds
from refseg_cli.segmenters.base import Found, check_phrases
from refseg_cli.segmenters.inference import pick_device

NAMED = 3  # tensors that a message spells out
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Opening:
    """How a model is opened.

    name: what its answers are signed with.  folder: where it lies.
    threshold, no_target_threshold: in place of the family's own, see `Thresholds`; None to keep these.
    """

    name: str
    folder: Path
    device: str = "auto"
    threshold: float | None = None
    no_target_threshold: float | None = None

    def thresholds(self, own: Thresholds) -> Thresholds:
        """The family's, with what was asked for in their place."""
        mask = own.mask if self.threshold is None else self.threshold
        exists = own.exists if self.no_target_threshold is None else self.no_target_threshold
        return replace(own, mask=mask, exists=exists)


class Pretrained(ABC):
    """A segmenter of which a family says how it answers.

    Args:
        defaults: the family's thresholds; its file says where they come from.

    Attributes:
        tokenizer, max_tokens: what reads phrases, and how many tokens of one.

    Raises:
        RefsegError: no such device, weights that are missing or do not fit, or a package that is not installed.
    """

    tokenizer: Any
    max_tokens: int

    def __init__(self, opening: Opening, defaults: Thresholds) -> None:
        self.name = opening.name
        self.thresholds = opening.thresholds(defaults)
        self.device = pick_device(opening.device)

    def predict(self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        """As `Segmenter.predict`."""
        check_phrases(phrases)
        return self.answers(picture_of(image), phrases)

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        """As `Segmenter.cautions`."""
        with quiet():  # the tokenizer warns of length by itself, once
            lengths = [len(self.tokenizer(self.wording(phrase))["input_ids"]) for phrase in phrases]
        return [
            f"{quoted(phrase)}: too long, the model reads its first {self.max_tokens} tokens"
            for phrase, length in zip(phrases, lengths, strict=True)
            if length > self.max_tokens
        ]

    def wording(self, phrase: str) -> str:
        """The phrase as the model gets it."""
        return phrase.strip()

    def reporting_all(self) -> Pretrained:
        """The same model, reporting a target wherever it has a candidate: what a no-target threshold is chosen from."""
        other = copy(self)
        other.thresholds = replace(self.thresholds, exists=0.0)
        return other

    @abstractmethod
    def answers(self, picture: Image.Image, phrases: Sequence[str]) -> Iterator[Found]:
        """An answer to each phrase, each when it is asked for; the picture goes through the encoder once."""

    def tokens(self, phrases: Sequence[str], **settings: Any) -> dict[str, Tensor]:
        """What the model's text encoder takes, (n, l) each, cut at `max_tokens`."""
        texts = [self.wording(phrase) for phrase in phrases]
        found = self.tokenizer(texts, return_tensors="pt", truncation=True, max_length=self.max_tokens, **settings)
        return dict(found.to(self.device))

    def found(
        self, phrase: str, mask: np.ndarray, p_target: float, instances: tuple[Detection, ...] | None = None
    ) -> Found:
        """The answer, by the no-target rule that holds for our own models: the probability, and enough pixels.

        mask: (h, w) bool.  instances: the objects that it is the union of, if the family tells them apart.
        """
        pixels = int(mask.sum())
        if p_target >= self.thresholds.exists and pixels >= max(1, self.thresholds.min_pixels):
            return Found(phrase, mask, True, p_target, pixels, instances=instances)
        return Found(phrase, np.zeros_like(mask), False, p_target, 0, instances=None if instances is None else ())


def picture_of(image: Path | bytes | np.ndarray | Tensor) -> Image.Image:
    """A file, its bytes, or pixels (3, h, w) uint8 RGB, as Pillow has them.

    Raises:
        RefsegError: it cannot be read.
    """
    return Image.fromarray(as_tensor(image).permute(1, 2, 0).numpy())


def kept(scores: Tensor, least: float) -> Tensor:
    """(k,) scores -> positions of those above the least, or of the best alone; best first."""
    order = scores.argsort(descending=True)
    return order[: max(1, int((scores > least).sum()))]


def above(probabilities: Tensor, cut: float, size: tuple[int, int]) -> Tensor:
    """(k, h', w') maps -> (k, h, w) bool: where each, brought to the size, is above the cut."""
    return F.interpolate(probabilities[None], size, mode="bilinear", align_corners=False)[0] > cut


def detections(found: Tensor, boxes: Tensor, scores: Tensor) -> Iterator[Detection]:
    """found: (k, h, w) bool.  boxes: (k, 4), x0 y0 x1 y1 in pixels, inside the picture.  scores: (k,)."""
    for mask, (left, top, right, bottom), score in zip(
        found.cpu().numpy(), boxes.tolist(), scores.tolist(), strict=True
    ):
        yield Detection((left, top, right - left, bottom - top), score, masks.encode(mask))


def logit(probability: float) -> float:
    """Minus or plus infinity for 0 and 1."""
    return float(torch.logit(torch.tensor(probability, dtype=torch.float64)))


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers neither warns nor draws bars."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_model(kind: Any, opening: Opening, device: torch.device) -> Any:
    """The model of a folder in eval mode, in float32; every weight of it must be there.

    Raises:
        RefsegError: it has no weights, or those of another model.
    """
    folder = opening.folder
    if not hub.has_weights(folder):
        raise RefsegError(
            f"{folder}: no weights ({' or '.join(hub.WEIGHTS)})", hint="copy or download the whole folder"
        )
    with explained(opening):
        model, report = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would fill them with random numbers
        more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise RefsegError(
            f"{folder}: its weights lack {', '.join(missing[:NAMED])}{more}",
            hint="are they of the model in config.json?",
        )
    return model.to(device).eval()


def load_processor(kind: Any, opening: Opening) -> Any:
    """What prepares pictures and phrases for a model.

    Raises:
        RefsegError: its files are missing or damaged, or it needs a package that is not installed.
    """
    folder = opening.folder
    # Without its files transformers makes one that knows no word, and reads all phrases alike.
    if "tokenizer" in kind.get_attributes() and not any((folder / file).is_file() for file in VOCABULARIES):
        raise RefsegError(
            f"{folder}: no tokenizer ({' or '.join(VOCABULARIES)})", hint="copy or download the whole folder"
        )
    with explained(opening):
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def explained(opening: Opening) -> Iterator[None]:
    """The many kinds of errors by which transformers refuses a folder, in one line."""
    try:
        with quiet():
            yield
    except ImportError as error:
        package = "torchvision" if "torchvision" in str(error).lower() else None
        hint = f"pip install {package}" if package else "install it"
        raise RefsegError(f"{opening.name}: needs a package: {_reason(error)}", hint=hint) from error
    except (MemoryError, RefsegError):
        raise
    except Exception as error:
        raise RefsegError(
            f"{opening.folder}: cannot be opened: {_reason(error)}",
            hint="is the folder complete, and of transformers 5?",
        ) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
