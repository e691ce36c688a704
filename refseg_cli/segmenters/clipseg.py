"""CLIPSeg (Lüddecke, Ecker, CVPR 2022, arXiv:2112.10003) of transformers: one map for each phrase.

The model has no word for "nothing of the kind is there". The rule here: the map's highest probability says how probably
there is a target.

Axes: n phrases, h w pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from refseg_cli.records import Thresholds
from refseg_cli.segmenters.base import Found, check_phrases
from refseg_cli.segmenters.pretrained import Opening, Pretrained, load_model, load_processor, logit, picture_of

DEFAULTS = Thresholds(mask=0.5, exists=0.5)  # ours: the library and the model leave both open
CHUNK = 64  # phrases in one pass through the decoder: 32 MB of maps


class ClipSeg(Pretrained):
    def __init__(self, opening: Opening) -> None:
        super().__init__(opening, DEFAULTS)
        processor = load_processor(CLIPSegProcessor, opening)
        self.model = load_model(CLIPSegForImageSegmentation, opening, self.device)
        self.images, self.tokenizer = processor.image_processor, processor.tokenizer
        self.max_tokens = int(self.model.config.text_config.max_position_embeddings)

    def soften(self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        """As `predict`, with the probability of each pixel."""
        check_phrases(phrases)
        return self._answers(picture_of(image), phrases, soft=True)

    def answers(self, picture: Image.Image, phrases: Sequence[str]) -> Iterator[Found]:
        return self._answers(picture, phrases, soft=False)

    def _answers(self, picture: Image.Image, phrases: Sequence[str], *, soft: bool) -> Iterator[Found]:
        encoded = self._encode(picture)
        for start in range(0, len(phrases), CHUNK):
            chunk = phrases[start : start + CHUNK]
            for phrase, logits in zip(chunk, self._decode(encoded, chunk), strict=True):
                yield self._found(phrase, logits, (picture.height, picture.width), soft=soft)

    @torch.inference_mode()
    def _encode(self, picture: Image.Image) -> list[Tensor]:
        """The activations that the decoder reads, (1, t, c) each."""
        pixels: Any = self.images(picture, return_tensors="pt").pixel_values.to(self.device)
        states = self.model.clip.get_image_features(
            pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True
        ).hidden_states
        return [states[layer + 1] for layer in self.model.extract_layers]  # before the first one the embeddings

    @torch.inference_mode()
    def _decode(self, encoded: list[Tensor], phrases: Sequence[str]) -> Tensor:
        """(n, h', w') logits."""
        n = len(phrases)
        sentences = self.model.clip.get_text_features(**self.tokens(phrases, padding=True)).pooler_output
        logits: Tensor = self.model.decoder([part.expand(n, -1, -1) for part in encoded], sentences).logits
        return logits.view(n, *logits.shape[-2:])

    @torch.inference_mode()
    def _found(self, phrase: str, logits: Tensor, size: tuple[int, int], *, soft: bool) -> Found:
        full = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        mask = (full > logit(self.thresholds.mask)).cpu().numpy()
        found = self.found(phrase, mask, float(full.max().sigmoid()))
        return replace(found, soft=full.sigmoid().cpu().numpy()) if soft else found
