"""Align: pixels and sentences in one space, a mask by their dot product. No paper's model: the floor of every table.

It is the cheapest thing that can refer: one dot product per pixel and phrase, after the image and the phrase have been
encoded apart. It knows categories, colours and places; it cannot compare objects. Its encoders are VLT's, parameter
for parameter, so that `refseg train --init` can start a small VLT from them at a fraction of the cost of learning to
see inside the full model. Text-to-pixel alignment as a loss is CRIS's idea (Wang et al., CVPR 2022, section 3.4).

Axes: i images, n expressions, c channels, h w feature grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.errors import RefsegError
from refseg_cli.layers.attention import as_places, sine_positions_2d
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.language import WordsAndSentence
from refseg_cli.layers.vision import PyramidSum
from refseg_cli.ranges import Count, CountFrom0, Share, Weight
from refseg_cli.records import Batch, Prediction


@dataclass(frozen=True, slots=True)
class AlignConfig(EncoderConfig):
    """Everything here is ours."""

    backbone_channels: tuple[Count, ...] = (24, 32, 64, 128, 192)
    dim: Count = 64
    heads: Count = 4
    dropout: Share = 0.0
    stride: Count = 8
    positive_weight: Weight = 5.0  # of target pixels in the cross-entropy: they are few, and the start is slow without
    categories: CountFrom0 = 0  # classify every pixel among category ids below this too; needs data.category_map; 0: no
    category_weight: Weight = 0.5


class Align(nn.Module):
    """See the header. Built by `models.build_model`."""

    def __init__(self, config: AlignConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        grid = (size[0] // config.stride, size[1] // config.stride)
        self.vision = PyramidSum(build_vision(config, size=size), dim=config.dim, grid=grid)
        encoder = build_text(
            config,
            vocab_size=vocab_size,
            max_tokens=max_tokens,
            dim=config.dim,
            heads=config.heads,
            dropout=config.dropout,
        )
        self.language = WordsAndSentence(encoder, dim=config.dim, dropout=config.dropout)
        self.pixel = nn.Sequential(
            nn.Linear(config.dim, 2 * config.dim), nn.ReLU(), nn.Linear(2 * config.dim, 2 * config.dim)
        )
        self.phrase = nn.Sequential(
            nn.Linear(config.dim, 2 * config.dim), nn.ReLU(), nn.Linear(2 * config.dim, 2 * config.dim + 1)
        )
        self.category = nn.Linear(2 * config.dim, config.categories) if config.categories else None

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, h, w) at the grid's resolution; language enters at the last operation."""
        vision = self.vision(batch.images)
        h, w = vision.shape[-2:]
        places = sine_positions_2d(h, w, vision.shape[1], device=vision.device, dtype=vision.dtype)
        pixels = self.pixel(as_places(vision) + places)  # (i, h*w, 2c)
        sentence = self.language(batch.tokens, batch.attention_mask).features[:, -1]
        query, bias = self.phrase(sentence).split([pixels.shape[-1], 1], 1)
        logits = torch.einsum("npc,nc->np", pixels[batch.image_index], query) / pixels.shape[-1] ** 0.5 + bias
        aux = {} if self.category is None else {"category_logits": self.category(pixels).transpose(1, 2)}
        return Prediction(mask_logits=logits.view(-1, 1, h, w), aux=aux)

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy against the share of each cell that the target covers, and each cell's category."""
        assert batch.masks is not None
        logits = prediction.mask_logits.float()
        h, w = logits.shape[-2:]
        cover = F.adaptive_avg_pool2d(batch.masks, (h, w))
        weight = logits.new_tensor(self.config.positive_weight)
        terms = {"mask": F.binary_cross_entropy_with_logits(logits, cover, pos_weight=weight)}
        if self.category is not None:
            terms["category"] = self.config.category_weight * self._category_loss(prediction, batch)
        return terms

    def _category_loss(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Cross-entropy of each cell's centre pixel; objects and background count half each."""
        if batch.categories is None:
            raise RefsegError("align: model.categories needs the category map", hint="set data.category_map=true")
        size = prediction.mask_logits.shape[-2:]
        labels = F.interpolate(batch.categories[:, None].float(), size, mode="nearest-exact").long().flatten(1)
        if int(labels.max()) >= self.config.categories:
            raise RefsegError(
                f"align: the data has category {int(labels.max())}, the model {self.config.categories} categories",
                hint="raise model.categories",
            )
        per_cell = F.cross_entropy(prediction.aux["category_logits"].float(), labels, reduction="none")
        objects = labels > 0
        shares = [per_cell[rows].mean() for rows in (objects, ~objects) if bool(rows.any())]
        return torch.stack(shares).mean()

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.vision.backbone, self.language.encoder]
