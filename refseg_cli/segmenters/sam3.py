"""SAM 3 (Carion et al., 2025, arXiv:2511.16719) of transformers, and the one with a light text encoder: objects of a
concept, each with a mask and a score.

Whether the concept is in the picture at all is decided once (presence); an object's score is its own times that.

Axes: n phrases, q queries, h w pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Sam3Processor

from refseg_cli.records import Thresholds
from refseg_cli.segmenters.base import Found
from refseg_cli.segmenters.pretrained import Opening, Pretrained, above, detections, kept, load_model, load_processor

# The defaults of Sam3Processor.post_process_instance_segmentation, transformers 5.24.
SCORE, MASK = 0.3, 0.5
MAX_TOKENS = 32  # Sam3Processor pads to it, and the released text encoder has as many positions
CHUNK = 4  # phrases in one pass: at the released size 270 MB of masks


class Sam3(Pretrained):
    """kind: Sam3Model or Sam3LiteTextModel."""

    max_tokens = MAX_TOKENS

    def __init__(self, opening: Opening, kind: Any) -> None:
        super().__init__(opening, Thresholds(mask=MASK, exists=SCORE))
        processor = load_processor(Sam3Processor, opening)
        self.model = load_model(kind, opening, self.device)
        self.images, self.tokenizer = processor.image_processor, processor.tokenizer

    def answers(self, picture: Image.Image, phrases: Sequence[str]) -> Iterator[Found]:
        encoded = self._encode(picture)
        for start in range(0, len(phrases), CHUNK):
            chunk = phrases[start : start + CHUNK]
            for phrase, scores, boxes, masks in zip(chunk, *self._decode(encoded, chunk), strict=True):
                yield self._found(phrase, scores, boxes, masks, (picture.height, picture.width))

    @torch.inference_mode()
    def _encode(self, picture: Image.Image) -> Any:
        pixels = self.images(picture, return_tensors="pt").pixel_values.to(self.device)
        return self.model.get_vision_features(pixel_values=pixels)

    @torch.inference_mode()
    def _decode(self, encoded: Any, phrases: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (n, q), boxes (n, q, 4), x0 y0 x1 y1 as shares of the picture, and mask logits (n, q, h', w')."""
        n = len(phrases)
        repeated = type(encoded)(
            fpn_hidden_states=tuple(part.expand(n, -1, -1, -1) for part in encoded.fpn_hidden_states),
            fpn_position_encoding=tuple(part.expand(n, -1, -1, -1) for part in encoded.fpn_position_encoding),
        )
        out = self.model(vision_embeds=repeated, **self.tokens(phrases, padding="max_length"))
        return out.pred_logits.sigmoid() * out.presence_logits.sigmoid(), out.pred_boxes, out.pred_masks

    @torch.inference_mode()
    def _found(self, phrase: str, scores: Tensor, boxes: Tensor, masks: Tensor, size: tuple[int, int]) -> Found:
        best = kept(scores, SCORE)
        found = above(masks[best].sigmoid(), self.thresholds.mask, size)
        inside = boxes[best].clamp(0, 1) * boxes.new_tensor([size[1], size[0]] * 2)
        told = tuple(detections(found, inside, scores[best]))
        return self.found(phrase, found.any(0).cpu().numpy(), float(scores[best[0]]), told)
