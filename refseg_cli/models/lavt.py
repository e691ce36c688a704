"""LAVT: Language-Aware Vision Transformer (Yang, Wang, Tang, Chen, Zhao, Torr, CVPR 2022, arXiv:2112.02244).

What differs from the official code (`lavt` and `lavt_one`), and why:
- timm's Swin, with windows padded before they are rolled, and `transformers`' BERT: same numbers, maintained code.
- The official output has two channels, background and target. Softmax over two is the sigmoid of their difference, so
  `mask_logits` is target minus background: argmax becomes its sign, and weighted cross-entropy the binary one.
  Both channels stay in `aux`.
- What does not see language runs once per image, and tensors without influence are left out: see layers/pwam.py.
- The decoder convolves before it upsamples: the same sums, see layers/upsampling.py.
- Dice: the loss that made the published `lavt_one` files was never published; ours is Dice of both classes, averaged.
- Weight decay: the official code also decays biases of the backbone and batch normalisation of the decoder, but not
  the tables of relative positions; ours decays matrices alone, those tables among them.
- Parameters at full size (Swin-B): 225.64 M, the official 227.74 M without 2.10 M that have no influence: the last
  stage's gate (2,097,152) and biases (5,760); see layers/pwam.py.

Axes: i images, n expressions, l words, c channels, h w of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from refseg_cli import losses
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.keymap import Rule
from refseg_cli.layers.pwam import FusedBackbone, official_backbone, official_bert, official_swin
from refseg_cli.layers.upsampling import TopDown, upsample
from refseg_cli.ranges import Count, CountFrom0, CountOrAll, Share, check_multiple
from refseg_cli.records import Batch, MapKind, Prediction

CLASS_WEIGHTS = (0.9, 1.1)  # background, target [official code]


@dataclass(frozen=True, slots=True)
class LAVTConfig(EncoderConfig):
    """Sources in brackets; "ours" where neither the official code nor the paper has it."""

    backbone: str = "swin_base_patch4_window12_384.ms_in22k"  # [official code]
    drop_path: Share | None = 0.3  # [official code]
    text: Literal["gru", "transformer", "bert"] = "bert"  # [official code]
    text_trained: CountOrAll = 10  # the optimiser has BERT's layers 0 to 9 only [official code]
    text_dropout: bool = False  # in training; `lavt` never switches BERT to it, `lavt_one` does [official code]
    word_dim: Count = 64  # of the text encoders without a published size [ours]
    word_heads: Count = 4  # likewise
    pwam_heads: tuple[Count, Count, Count, Count] = (1, 1, 1, 1)  # [official code]
    dim: CountFrom0 = 0  # of the decoder; 0: four times the finest map's [official code]
    full_size: bool = True  # logits at the input's size, bilinear with aligned corners [official code]
    loss: Literal["cross_entropy", "dice"] = "cross_entropy"  # [lavt; lavt_one]

    def __post_init__(self) -> None:
        if self.text == "transformer":
            check_multiple(self, "word_dim", "word_heads")


class LAVT(nn.Module):
    """See the header. Built by `models.build_model`."""

    EXPLAIN: ClassVar[dict[str, MapKind]] = {"background": "map", "target": "map"}

    def __init__(self, config: LAVTConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        self.text = build_text(
            config, vocab_size=vocab_size, max_tokens=max_tokens, dim=config.word_dim, heads=config.word_heads
        )
        backbone = build_vision(config, size=size, maps=4)
        self.vision = FusedBackbone(backbone, word_dim=self.text.dim, heads=config.pwam_heads)
        dim = config.dim or 4 * self.vision.channels[0]
        self.decoder = TopDown(self.vision.channels, dim=dim, bias=False)
        self.classify = nn.Conv2d(dim, 2, 1)

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, H, W), or at a quarter of that without `full_size`; language enters after stage 1.

        aux: `background` and `target` (n, H/4, W/4), the two channels, and `classes` (n, 2, H/4, W/4), both.
        """
        words = self.text(batch.tokens, batch.attention_mask)
        maps = self.vision(batch.images, words, batch.attention_mask, batch.image_index)
        classes = self.classify(self.decoder(maps)[-1])
        background, target = classes.unbind(1)
        logits = (target - background)[:, None]
        if self.config.full_size:
            logits = upsample(logits, batch.images.shape[-2:])
        return Prediction(mask_logits=logits, aux={"background": background, "target": target, "classes": classes})

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """One term, whose target is the mask at the logits' size."""
        assert batch.masks is not None
        h, w = prediction.mask_logits.shape[-2:]
        target = losses.resize_targets(batch.masks, (h, w))
        return {"mask": LOSSES[self.config.loss](prediction.mask_logits.float(), target)}

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.vision.backbone, self.text]

    def train(self, mode: bool = True) -> LAVT:
        """Training mode; the text encoder takes part in it only with `text_dropout`."""
        super().train(mode)
        self.text.train(mode and self.config.text_dropout)
        return self


def weighted_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Two-class cross-entropy, averaged over the batch's pixels by their class's weight. Both (n, 1, h, w)."""
    return losses.weighted_bce(logits, target, CLASS_WEIGHTS)


def two_class_dice(logits: Tensor, target: Tensor) -> Tensor:
    """The mean of target's and background's soft Dice loss. logits, target: (n, 1, h, w)."""
    return (losses.dice(logits, target) + losses.dice(-logits, 1 - target)) / 2


LOSSES = {"cross_entropy": weighted_cross_entropy, "dice": two_class_dice}


# --- official files: `model` and, in `lavt` files, `bert_model`, whose names have no prefix there ---------------------


def _decoder_rules() -> tuple[Rule, ...]:
    parts = {"conv": "conv", "bn": "norm"}
    return tuple(
        Rule(rf"classifier\.{theirs}([12])_{level}\.(.*)", rf"decoder.steps.{4 - level}.{ours}\1.\2")
        for level in (4, 3, 2)
        for theirs, ours in parts.items()
    )


OFFICIAL_KEYS: tuple[Rule, ...] = (
    *official_backbone("vision", fusion="fusion", gate="res_gate"),
    *_decoder_rules(),
    Rule(r"classifier\.conv1_1\.(.*)", r"classify.\1"),
    *official_bert("text", prefix=r"(?:text_encoder\.)?"),
)


def official_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The [model] table of an official file's weights: which Swin, and whether BERT is inside (`lavt_one`) or apart."""
    one = any(key.startswith("text_encoder.") for key in weights)
    return {"backbone": official_swin(weights), "text_dropout": one, "loss": "dice" if one else "cross_entropy"}
