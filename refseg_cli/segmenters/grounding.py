"""Grounding DINO (Liu et al., ECCV 2024, arXiv:2303.05499) and MM-Grounding-DINO (Zhao et al., 2024, arXiv:2401.02361)
of transformers: boxes for a phrase.

Text and picture meet early, and phrases given together are read as one prompt whose parts see each other's scores: so
each has a pass of its own, behind a backbone that has seen the picture once.

Axes: k queries, h w pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import GroundingDinoProcessor
from transformers.image_transforms import center_to_corners_format

from refseg_cli.segmenters.boxes import Boxes
from refseg_cli.segmenters.pretrained import Opening, load_model, load_processor

# The default of GroundingDinoProcessor.post_process_grounded_object_detection, transformers 5.24.
SCORE = 0.25
SEPARATORS = ".?"  # end a part of the prompt, as the official code has it (its list of special tokens)


class Grounding:
    """A detector.

    kind: GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection.
    """

    score = SCORE

    def __init__(self, opening: Opening, kind: Any, device: torch.device) -> None:
        processor = load_processor(GroundingDinoProcessor, opening)
        self.model, self.device = load_model(kind, opening, device), device
        self.model.model.backbone = _Once(self.model.model.backbone)
        self.images, self.tokenizer = processor.image_processor, processor.tokenizer
        self.max_tokens = int(self.model.config.max_text_len)

    def wording(self, phrase: str) -> str:
        """In lower case, with one full stop, at its end; empty if there is nothing but such marks."""
        words = phrase.lower().translate(dict.fromkeys(map(ord, SEPARATORS), " ")).split()
        return " ".join(words) + "." if words else ""

    @torch.inference_mode()
    def detect(self, picture: Image.Image, phrases: Sequence[str]) -> Iterator[Boxes]:
        seen = self.images(picture, return_tensors="pt").to(self.device)
        return (self._boxes(seen, picture, phrase) for phrase in phrases)

    @torch.inference_mode()
    def _boxes(self, seen: Any, picture: Image.Image, phrase: str) -> Boxes:
        if not self.wording(phrase):
            return Boxes(torch.zeros(0, 4), torch.zeros(0))
        text = self.tokenizer(
            self.wording(phrase),
            return_tensors="pt",
            return_token_type_ids=True,
            truncation=True,
            max_length=self.max_tokens,
        ).to(self.device)
        out = self.model(pixel_values=seen.pixel_values, pixel_mask=seen.pixel_mask, **text)
        size = torch.tensor([picture.width, picture.height] * 2, device=self.device)
        boxes: Any = center_to_corners_format(out.pred_boxes[0])
        return Boxes(boxes * size, out.logits[0].sigmoid().amax(-1))


class _Once(nn.Module):
    """A backbone that keeps the features of the picture that it saw last."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.seen: tuple[Tensor, Any] | None = None

    @property
    def position_embedding(self) -> Any:
        return self.backbone.position_embedding

    def forward(self, pixels: Tensor, mask: Tensor) -> Any:
        if self.seen is None or self.seen[0] is not pixels:
            self.seen = (pixels, self.backbone(pixels, mask))
        return self.seen[1]
