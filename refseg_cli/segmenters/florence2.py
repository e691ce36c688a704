"""Florence-2 (Xiao et al., CVPR 2024, arXiv:2311.06242) of transformers: writes the mask's outlines as text.

What it writes has neither probabilities nor scores: there is a target if there is an outline, and thresholds change
nothing.

Axes: h w pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from refseg_cli.errors import RefsegError, Unread
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.base import Found
from refseg_cli.segmenters.pretrained import Opening, Pretrained, load_model, load_processor, quiet

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"
# As the model's card has it: https://huggingface.co/microsoft/Florence-2-large
BEAMS, MAX_NEW_TOKENS = 3, 1024
CORNERS = 3  # that an outline has at least


class Florence2(Pretrained):
    def __init__(self, opening: Opening) -> None:
        for option, threshold in (
            ("--threshold", opening.threshold),
            ("--no-target-threshold", opening.no_target_threshold),
        ):
            if threshold is not None:
                raise Unread(f"{opening.name}: has no thresholds: it writes outlines", option=option)
        super().__init__(opening, Thresholds())
        self.processor = load_processor(Florence2Processor, opening)
        if "polygons" not in (self.processor.post_processor_config or {}):
            raise RefsegError(
                f"{opening.folder}: processor_config.json has no post_processor_config for polygons",
                hint="take it from a conversion for transformers 5, e.g. hf:florence-community/Florence-2-base",
            )
        self.model = load_model(Florence2ForConditionalGeneration, opening, self.device)
        self.tokenizer = self.processor.tokenizer
        config = self.model.config.text_config
        self.max_new_tokens = min(MAX_NEW_TOKENS, config.max_position_embeddings)
        prompt = len(self.tokenizer(self._prompt(""), add_special_tokens=False)["input_ids"])
        self.max_tokens = int(config.max_position_embeddings) - prompt

    def answers(self, picture: Image.Image, phrases: Sequence[str]) -> Iterator[Found]:
        encoded = self._encode(picture)
        for phrase in phrases:
            outlines = self._outlines(encoded, phrase, picture.size)
            yield self.found(phrase, _filled(outlines, picture), float(bool(outlines)))

    @torch.inference_mode()
    def _encode(self, picture: Image.Image) -> Any:
        pixels = self.processor.image_processor(picture, return_tensors="pt").pixel_values.to(self.device)
        return self.model.get_image_features(pixels)

    @torch.inference_mode()
    def _outlines(self, encoded: Any, phrase: str, size: tuple[int, int]) -> list[list[float]]:
        """Closed outlines, each x0, y0, x1, y1, ... in pixels; size: (width, height)."""
        text = self.tokenizer(self._prompt(self._short(phrase)), add_special_tokens=False, return_tensors="pt")
        with quiet():
            written = self.model.generate(
                **text.to(self.device),
                mm_encoder_outputs={"image": encoded},
                max_new_tokens=self.max_new_tokens,
                num_beams=BEAMS,
                do_sample=False,
            )
        answer = self.processor.batch_decode(written, skip_special_tokens=False)[0]
        parsed = self.processor.post_process_generation(text=answer, task=TASK, image_size=size)[TASK]
        return [outline for each in parsed["polygons"] for outline in each if len(outline) >= 2 * CORNERS]

    def _prompt(self, phrase: str) -> str:
        """As the processor words it, with the places of the picture's tokens before it."""
        task = self.processor.task_prompts_with_input[TASK].format(input=phrase)
        marks = self.processor.image_token * self.processor.num_image_tokens
        return f"{marks}{self.tokenizer.bos_token}{task}{self.tokenizer.eos_token}"

    def _short(self, phrase: str) -> str:
        """The phrase's first tokens; the prompt goes on behind it, and so cannot be cut itself."""
        words = self.wording(phrase)
        read = self.tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return words if len(read) <= self.max_tokens else words[: read[self.max_tokens - 1][1]]


def _filled(outlines: Sequence[Sequence[float]], picture: Image.Image) -> np.ndarray:
    """(h, w) bool."""
    mask = Image.new("1", picture.size)
    for outline in outlines:
        ImageDraw.Draw(mask).polygon(list(outline), fill=1)
    return np.array(mask)
