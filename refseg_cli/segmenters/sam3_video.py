"""SAM 3 on clips (Carion et al., 2025, arXiv:2511.16719), `Sam3VideoModel` of transformers: what the detector finds in
a frame is followed through the frames behind it. About a picture it is asked as any SAM 3.

A frame is answered when it comes, without a look ahead. What was found long ago is forgotten, so that memory does not
grow with the clip's length.

Axes: k objects, h w pixels of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import Sam3Model, Sam3VideoModel

from refseg_cli.segmenters.base import Found, check_phrases
from refseg_cli.segmenters.pretrained import Opening, detections, load_model, logit, picture_of
from refseg_cli.segmenters.sam3 import Sam3

REMEMBERED = 32  # frames; the tracker looks back at the last 7, and at pointers to objects in the last 16


class Sam3Video(Sam3):
    """The tracker is loaded with the first clip."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening, Sam3Model)
        self.opening = opening
        self.video: Any = None

    def follow(self, frames: Iterable[np.ndarray], phrases: Sequence[str]) -> Iterator[list[Found]]:
        """The answers to all phrases about each frame of a clip, in the order of the frames.

        frames: pixels (3, h, w) uint8 RGB.

        Raises:
            RefsegError: a phrase is none, or the folder lacks the tracker's weights.
        """
        check_phrases(phrases)
        if self.video is None:
            self.video = load_model(Sam3VideoModel, self.opening, self.device)
            self.model = self.video.detector_model  # the same weights, once
        return self._track(frames, phrases)

    def _track(self, frames: Iterable[np.ndarray], phrases: Sequence[str]) -> Iterator[list[Found]]:
        session = self._session(phrases)
        for number, pixels in enumerate(frames):
            prepared = self.images(picture_of(pixels), return_tensors="pt").pixel_values.to(self.device)
            out = self.video(inference_session=session, frame=prepared, frame_idx=number)
            forget(session, number)
            yield [self._seen(session, out, phrase, pixels.shape[1:]) for phrase in phrases]

    def _session(self, phrases: Sequence[str]) -> Any:
        from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

        device = self.device
        session = Sam3VideoInferenceSession(
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=torch.float32,
        )
        for phrase in phrases:
            number = session.add_prompt(self.wording(phrase))
            tokens = self.tokens([phrase], padding="max_length")
            session.prompt_input_ids[number] = tokens["input_ids"]
            session.prompt_attention_masks[number] = tokens["attention_mask"]
        return session

    @torch.inference_mode()
    def _seen(self, session: Any, out: Any, phrase: str, size: Sequence[int]) -> Found:
        """The answer to one phrase: the union of the objects that it stands for."""
        hidden = {*(out.suppressed_obj_ids or ()), *(out.removed_obj_ids or ())}
        ids = [
            one
            for one in sorted(out.obj_id_to_mask)
            if session.prompts[session.obj_id_to_prompt_id[one]] == self.wording(phrase) and one not in hidden
        ]
        empty = np.zeros(tuple(size), dtype=bool)
        if not ids:
            return self.found(phrase, empty, 0.0, ())
        logits = torch.cat([out.obj_id_to_mask[one] for one in ids])[:, None]  # (k, 1, h', w')
        cut = logit(self.thresholds.mask)
        masks = F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)[:, 0] > cut
        scores = torch.tensor([float(out.obj_id_to_score[one]) for one in ids])
        seen = masks.flatten(1).any(1).cpu()
        masks, scores = masks[seen.to(masks.device)], scores[seen]
        if not len(scores):
            return self.found(phrase, empty, 0.0, ())
        told = tuple(detections(masks, boxes_of(masks), scores))
        return self.found(phrase, masks.any(0).cpu().numpy(), float(scores.max()), told)


def boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """(k, h, w) bool, none empty -> (k, 4): x0 y0 x1 y1 in pixels, between their edges."""
    from torchvision.ops import masks_to_boxes

    return masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1], device=masks.device)


def forget(session: Any, number: int) -> None:
    """Let go of a frame that was looked at, and of what was made of those long before it; how many there were stays."""
    session.processed_frames[number] = torch.empty(0)
    for outputs in session.output_dict_per_obj.values():
        old = outputs["non_cond_frame_outputs"]
        for frame in [frame for frame in old if frame < number - REMEMBERED]:
            del old[frame]
