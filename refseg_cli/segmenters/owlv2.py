"""OWLv2 (Minderer et al., NeurIPS 2023, arXiv:2306.09683) of transformers: boxes for a phrase.

Language enters last, as the other side of a scalar product: boxes are the same for all phrases, their scores are not.

Axes: n phrases, k patches, h w pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Owlv2ForObjectDetection, Owlv2Processor
from transformers.image_transforms import center_to_corners_format

from refseg_cli.segmenters.boxes import Boxes
from refseg_cli.segmenters.pretrained import Opening, load_model, load_processor

SCORE = 0.1  # the default of Owlv2Processor.post_process_grounded_object_detection, transformers 5.24


class Owlv2:
    """A detector."""

    score = SCORE

    def __init__(self, opening: Opening, device: torch.device) -> None:
        processor = load_processor(Owlv2Processor, opening)
        self.model, self.device = load_model(Owlv2ForObjectDetection, opening, device), device
        self.images, self.tokenizer = processor.image_processor, processor.tokenizer
        self.max_tokens = int(self.model.config.text_config.max_position_embeddings)

    def wording(self, phrase: str) -> str:
        return phrase.strip()

    @torch.inference_mode()
    def detect(self, picture: Image.Image, phrases: Sequence[str]) -> Iterator[Boxes]:
        patches = self.model.image_embedder(self.images(picture, return_tensors="pt").pixel_values.to(self.device))[0]
        features = patches.flatten(1, 2)  # (1, k, c)
        scores = self.model.class_predictor(features, self._sentences(phrases)[None])[0][0].sigmoid()  # (k, n)
        # The picture was padded to a square, below or to the right, and boxes are of that.
        boxes: Any = center_to_corners_format(self.model.box_predictor(features, patches)[0])
        return (Boxes(boxes * max(picture.size), one) for one in scores.T)

    def _sentences(self, phrases: Sequence[str]) -> Tensor:
        """(n, c)"""
        text = self.tokenizer(
            [self.wording(phrase) for phrase in phrases],
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
        ).to(self.device)
        sentences: Tensor = self.model.owlv2.get_text_features(**text).pooler_output
        return sentences
