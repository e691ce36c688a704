"""Two models for one answer: the first finds boxes for a phrase, SAM 2 (Ravi et al., 2024, arXiv:2408.00714) of
transformers turns each box into a mask.

Axes: n phrases, k boxes, h w pixels of the picture. Boxes are (x0, y0, x1, y1) in pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Sam2Model, Sam2Processor

from refseg_cli.errors import quoted
from refseg_cli.records import Detection, Thresholds
from refseg_cli.segmenters.base import Found
from refseg_cli.segmenters.pretrained import Opening, Pretrained, detections, kept, load_model, load_processor, logit

MASK = 0.5  # a mask logit of 0, the default of Sam2Processor.post_process_masks
CHUNK = 16  # boxes that are brought to the picture's size at a time


class Boxes(NamedTuple):
    """What was found for one phrase: boxes (k, 4), and scores (k,) in [0, 1]."""

    boxes: Tensor
    scores: Tensor


class Detector(Protocol):
    """Finds boxes for phrases.

    score: the family's threshold for a box.  tokenizer, max_tokens: as `Pretrained` has them.
    """

    score: float
    tokenizer: Any
    max_tokens: int

    def wording(self, phrase: str) -> str:
        """The phrase as the model gets it."""

    def detect(self, picture: Image.Image, phrases: Sequence[str]) -> Iterator[Boxes]:
        """All boxes for each phrase, however low their score; none if its wording is empty.

        The picture goes through the encoder once.
        """


class BoxPrompted(Pretrained):
    """A detector, and SAM 2 for the boxes that are kept.

    opening: of SAM 2; its name is that of both.
    """

    def __init__(self, opening: Opening, detector: Detector) -> None:
        super().__init__(opening, Thresholds(mask=MASK, exists=detector.score))
        self.detector = detector
        self.tokenizer, self.max_tokens = detector.tokenizer, detector.max_tokens
        self.processor = load_processor(Sam2Processor, opening)
        self.model = load_model(Sam2Model, opening, self.device)

    def wording(self, phrase: str) -> str:
        return self.detector.wording(phrase)

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        unread = [phrase for phrase in phrases if not self.wording(phrase)]
        return [
            *(f"{quoted(phrase)}: the model reads nothing in it, and so finds nothing" for phrase in unread),
            *super().cautions(name, phrases),
        ]

    def answers(self, picture: Image.Image, phrases: Sequence[str]) -> Iterator[Found]:
        encoded = None  # a picture in which nothing is found costs SAM 2 nothing
        for phrase, found in zip(phrases, self.detector.detect(picture, phrases), strict=True):
            boxes, scores = _inside(found, picture)
            best = scores.max().item() if len(scores) else 0.0
            if not len(scores) or best < self.thresholds.exists:
                yield self.found(phrase, np.zeros((picture.height, picture.width), dtype=bool), best, ())
                continue
            encoded = encoded or self._encode(picture)
            order = kept(scores, self.detector.score)
            mask, told = self._masks(encoded, Boxes(boxes[order], scores[order]), picture)
            yield self.found(phrase, mask, best, told)

    @torch.inference_mode()
    def _encode(self, picture: Image.Image) -> list[Tensor]:
        pixels = self.processor(images=picture, return_tensors="pt").pixel_values.to(self.device)
        embeddings: list[Tensor] = self.model.get_image_embeddings(pixels)
        return embeddings

    @torch.inference_mode()
    def _masks(
        self, encoded: list[Tensor], found: Boxes, picture: Image.Image
    ) -> tuple[np.ndarray, tuple[Detection, ...]]:
        """(h, w) bool, the union over the boxes, and the objects in them; there must be one."""
        sizes = [[picture.height, picture.width]]
        asked = self.processor(input_boxes=[found.boxes.tolist()], original_sizes=sizes, return_tensors="pt")
        out = self.model(
            image_embeddings=encoded, input_boxes=asked.input_boxes.to(self.device), multimask_output=False
        )
        cut, union = logit(self.thresholds.mask), torch.zeros(sizes[0], dtype=torch.bool, device=self.device)
        told: list[Detection] = []
        for start in range(0, len(found.boxes), CHUNK):
            part = slice(start, start + CHUNK)
            masks = self.processor.post_process_masks(out.pred_masks[:, part], sizes, mask_threshold=cut)[0][:, 0]
            union |= masks.any(0)
            told += detections(masks, found.boxes[part], found.scores[part])
        return union.cpu().numpy(), tuple(told)


def _inside(found: Boxes, picture: Image.Image) -> Boxes:
    """Those boxes of which something lies inside the picture, cut at its edges."""
    limits = found.boxes.new_tensor([picture.width, picture.height, picture.width, picture.height])
    boxes = torch.minimum(found.boxes.clamp(min=0), limits)
    there = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return Boxes(boxes[there], found.scores[there])
