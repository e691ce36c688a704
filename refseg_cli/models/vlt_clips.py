"""VLT for clips: referring video segmentation (C. Liu's thesis, 2024, 4.3.5 and table 4.8; Ding et al., TPAMI 2022).

VLT (models/vlt.py, whose parts, weights and symbols these are) on every frame, with two changes:
- The query generation module sees the average of all frames' vision features, so that the queries are the same
  throughout a clip.
- S_DO of the contrastive loss also comes from the neighbouring frames.
`temporal_shift` is ours, off by default: an average tells no direction, and the thesis' backbone sees several frames.

A batch of pictures is one of clips of one frame, on which this is VLT. What the thesis leaves open, and how it is here:
the average is of F_vr, the feature that the module sees of a picture; a phrase is read once for the clip, and its
queries are made once; the word that MCL erases is drawn for each frame.

Axes: i images, b clips, f frames of a clip (i = b f), p phrases about a clip, n expressions (p phrases, each about
every frame of its clip), t language features, q queries, c channels, h w feature grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from refseg_cli.layers.language import Language
from refseg_cli.models.vlt import VLT, QueryGeneration, TransformerBody, VLTConfig, contrastive_loss
from refseg_cli.ranges import CountFrom0
from refseg_cli.records import Batch, Prediction


@dataclass(frozen=True, slots=True)
class VLTClipsConfig(VLTConfig):
    # frames before and behind that give S_DO [4.3.5]; 0: the frame alone, 63.5 against 63.8 J&F
    neighbours: CountFrom0 = 2
    # only for `convnet`: see layers/convnet.py [ours; 8 in TSM]; 0: it sees frames one by one
    temporal_shift: CountFrom0 = 0


class VLTClips(VLT):
    """See the header. Built by `models.build_model`; arguments as of `VLT`.

    Raises:
        ValueError: without a query generation module there is nothing that a clip could have in common.
    """

    config: VLTClipsConfig

    def __init__(self, config: VLTClipsConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__(config, vocab_size=vocab_size, max_tokens=max_tokens, size=size)
        if not isinstance(self.body, TransformerBody) or not isinstance(self.body.queries, QueryGeneration):
            raise ValueError("clips need body = 'transformer' and queries = 'qgm'")
        if config.temporal_shift:
            self.vision.backbone.shift(config.temporal_shift)

    def forward(self, batch: Batch) -> Prediction:
        """As `VLT.forward`, of each frame."""
        assert isinstance(self.body, TransformerBody)
        phrase, first = phrases_of(batch)
        maps = self.vision.backbone.of_clips(batch.images, batch.frames)
        vision = self.vision.sum(maps)  # F_vr (i, c, h, w)
        spoken = self.language(batch.tokens[first], batch.attention_mask[first])  # of p phrases
        language = Language(spoken.features[phrase], spoken.keep[phrase])  # of n expressions
        memory = self.body.encode(self.fusion(vision, language, batch.image_index))
        average = vision.unflatten(0, (-1, batch.frames)).mean(1)  # (b, c, h, w) [4.3.5]
        assert isinstance(self.body.queries, QueryGeneration)
        guide = self.body.queries.guide(average)[batch.image_index[first] // batch.frames]  # (p, q, c)
        F_q, A_qd, _ = self.body.queries(guide, spoken)
        understood = self.body.respond(memory, F_q[phrase], A_qd[phrase], None)
        return self.decode(understood, maps, batch, self.masked(memory, guide[phrase], language, understood))

    def contrast(self, aux: dict[str, Tensor], batch: Batch) -> Tensor:
        near = within(len(batch.images), batch.frames, self.config.neighbours, device=batch.images.device)
        return contrastive_loss(aux, batch, self.config.temperature, near)


def phrases_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """(n,) each expression's phrase, and (p,) each phrase's first expression."""
    numbers = torch.arange(batch.tokens.shape[0], device=batch.tokens.device)
    if batch.phrase_index is None:
        return numbers, numbers
    last = int(batch.phrase_index[-1]) + 1
    first = torch.full((last,), len(batch), device=numbers.device).scatter_reduce(
        0, batch.phrase_index, numbers, "amin"
    )
    return batch.phrase_index, first


def within(images: int, frames: int, reach: int, *, device: torch.device) -> Tensor:
    """(i, i) bool: pairs of images that are frames of one clip and at most `reach` apart."""
    number = torch.arange(images, device=device)
    same = number[:, None] // frames == number // frames
    return same & ((number[:, None] - number).abs() <= reach)
