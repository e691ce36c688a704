"""CARIS: Context-Aware Referring Image Segmentation (Liu, Zhang, Qiu, Xie, Zhang, Yao, ACM MM 2023,
doi 10.1145/3581783.3612117).

The Swin never sees language. Pooled tokens of its last map join the words inside BERT ("prompts" of the text), and in
the decoder words and pixels change each other in every layer, beside learned prompts that become the background.

We have the official code, not the paper; every default is the code's. What differs from it, and why:
- What does not see language runs once per image: the Swin, its prompts for BERT, the decoder's input, and, of images
  with several phrases, the finest map's half of the last convolution. At 448 px an image costs 140 GFLOPs and each of
  its phrases 58; the official code has 243 for a phrase, image and all.
- The decoder's dense attentions and last 1x1 convolution are taken in another order, and the 3x3 convolution is done
  before its input is upsampled: the same sums, see models/caris_decoder.py and layers/upsampling.py.
- Two channels, background and target, are one logit, target minus background: argmax becomes its sign, and weighted
  cross-entropy the binary one. Both channels stay in `aux`.
- timm's Swin, with windows padded before they are rolled, and `transformers`' BERT: same numbers, maintained code.
- No key biases in the decoder: softmax takes them away (unless a score passes 50,000, where the official code cuts).
- Weight decay spares biases, GroupNorm and the gammas, which the official code decays; it decays the tables of
  embeddings, prompts and relative positions, which the official one spares.
- The first step has the warm-up's rate; by a slip of the official scheduler it has the full one. Behind the warm-up the
  poly curve starts at the full rate; the official one has gone 1500 steps along it.
- Parameters at full size (Swin-B): 226.55 M, the official 226.57 M without 18,432 key biases.

Axes: i images, n expressions, l words, t tokens of the decoder (words, then prompts), c channels, h w of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.errors import RefsegError
from refseg_cli.layers.attention import as_places
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.keymap import Rule
from refseg_cli.layers.pwam import official_bert, official_stages, official_swin
from refseg_cli.layers.pyramids import NormedMaps
from refseg_cli.layers.upsampling import upsample
from refseg_cli.models.caris_decoder import Decoder, MaskHead, Scene, Stage
from refseg_cli.ranges import Count, Counts, Share, check_multiple
from refseg_cli.records import Batch, MapKind, Prediction

CLASS_WEIGHTS = (0.9, 1.1)  # background, target [official code]


@dataclass(frozen=True, slots=True)
class CARISConfig(EncoderConfig):
    """All defaults are the official code's, but for those marked "ours"."""

    backbone: str = "swin_base_patch4_window7_224.ms_in22k"
    drop_path: Share | None = 0.3
    text: Literal["transformer", "bert"] = "bert"
    word_dim: Count = 64  # of the text encoder without a published size [ours]
    word_heads: Count = 4  # likewise [ours]
    pools: Counts = (1, 2)  # sides of the grids whose cells are the text's prompts
    dim: Count = 256  # of the decoder
    heads: Count = 8
    attention_width: Count = 1024  # of the dense attentions inside
    hidden: Count = 1024  # of the feed-forward parts
    layers: Count = 6
    prompts: Count = 5  # of the decoder

    def __post_init__(self) -> None:
        if self.text == "transformer":
            check_multiple(self, "word_dim", "word_heads")


class CARIS(nn.Module):
    """See the header. Built by `models.build_model`."""

    EXPLAIN: ClassVar[dict[str, MapKind]] = {
        "reads": "word_map",
        "heeds": "word_map",
        "stage_masks": "logits",
        "background": "map",
        "target": "map",
    }

    def __init__(self, config: CARISConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config, c = config, config.dim
        self.text = build_text(
            config, vocab_size=vocab_size, max_tokens=max_tokens, dim=config.word_dim, heads=config.word_heads
        )
        self.vision = NormedMaps(build_vision(config, size=size, maps=4))
        self.text_prompts = ImagePrompts(self.vision.channels[-1], dim=self.text.dim, sides=config.pools)
        self.words = nn.Sequential(nn.Linear(self.text.dim, c), nn.LayerNorm(c))
        self.prompts = nn.Parameter(torch.randn(config.prompts, c))
        self.decoder = Decoder(
            self.vision.channels,
            dim=c,
            heads=config.heads,
            width=config.attention_width,
            hidden=config.hidden,
            layers=config.layers,
        )
        self.head = MaskHead(c)

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, H, W); language enters after all of the backbone.

        aux: `background` and `target` (n, H/4, W/4), the two channels, and `classes` (n, 2, H/4, W/4), both.
        """
        scene, tokens, keep = self._encode(batch)
        last = self.decoder(scene, tokens, keep, batch.image_index)
        return self._answer(batch, self._classes(scene, last, batch))

    def explained(self, batch: Batch) -> Prediction:
        """As `forward`, for showing.

        aux has besides `reads` and `heeds` (n, l, H/8, W/8): in the last layer, how much each word reads of each pixel
        and how much each pixel heeds each word, means over the heads; and `stage_masks` (n, layers, H/4, W/4), the
        logits that each layer's pixels and tokens give, of which the last are the answer.
        """
        scene, tokens, keep = self._encode(batch)
        stages = list(self.decoder.stages(scene, tokens, keep, batch.image_index))
        classes = [self._classes(scene, stage, batch) for stage in stages]
        answer, words = self._answer(batch, classes[-1]), batch.tokens.shape[1]
        answer.aux["reads"] = scene.finest(stages[-1].reads.mean(1)[:, :words].transpose(1, 2))
        answer.aux["heeds"] = scene.finest(stages[-1].heeds.mean(2)[..., :words])
        answer.aux["stage_masks"] = torch.stack(
            [target - background for background, target in map(by_class, classes)], 1
        )
        return answer

    def _encode(self, batch: Batch) -> tuple[Scene, Tensor, Tensor]:
        """What the decoder starts from: of the images alone, tokens (n, t, c), and which of them are real (n, t)."""
        maps, keep = self.vision(batch.images), batch.attention_mask
        text = self.text.prompted(batch.tokens, keep, self.text_prompts(maps[-1])[batch.image_index])
        words = self.words(text[:, : keep.shape[1]])  # the text's prompts have done their work
        tokens = torch.cat([words, self.prompts.expand(words.shape[0], -1, -1)], 1)
        return self.decoder.scene(maps), tokens, F.pad(keep, (0, self.config.prompts), value=True)

    def _classes(self, scene: Scene, stage: Stage, batch: Batch) -> Tensor:
        """Background and target (n, 2, H/4, W/4)."""
        fine = self.decoder.fine(stage.pixels, scene, batch.image_index)
        return self.head(fine, stage.tokens, words=batch.tokens.shape[1])

    def _answer(self, batch: Batch, classes: Tensor) -> Prediction:
        background, target = by_class(classes)
        logits = upsample((target - background)[:, None], batch.images.shape[-2:])
        return Prediction(mask_logits=logits, aux={"background": background, "target": target, "classes": classes})

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """One term: cross-entropy of two classes at the input's size."""
        assert batch.masks is not None
        return {"mask": losses.weighted_bce(prediction.mask_logits.float(), batch.masks, CLASS_WEIGHTS)}

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate, the norms behind the Swin among them."""
        return [self.vision.backbone, self.text, self.vision.norms]


def by_class(classes: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 2, h, w) -> background and target (n, h, w)."""
    background, target = classes.unbind(1)
    return background, target


class ImagePrompts(nn.Module):
    """A map (i, c, h, w) -> tokens for the text encoder (i, p, dim): means over the cells of some grids, row by row.

    Args:
        sides: of the grids. Cells overlap where a side of the map is no multiple.
    """

    def __init__(self, channels: int, *, dim: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, dim), nn.ReLU(), nn.Linear(dim, dim)) for _ in sides
        )
        self.table = nn.Parameter(torch.randn(sum(side**2 for side in sides), dim))
        self.norm = nn.LayerNorm(dim)
        for layer in self.mlps.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        cells = [as_places(F.adaptive_avg_pool2d(x, side)) for side in self.sides]
        found = torch.cat([mlp(level) for mlp, level in zip(self.mlps, cells, strict=True)], 1)
        return self.norm(found + self.table)


# --- official files ---------------------------------------------------------------------------------------------------


def _decoder_rules() -> tuple[Rule, ...]:
    layer, ours = r"pixel_decoder\.encoder\.(\d+)", r"decoder.layers.\1"
    dense = {"v2l_cross_attn": "read", "lang_self_attn": "talk", "l2v_cross_attn": "heed"}
    parts = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
    sampled = {"sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "value"}
    sampled |= {"output_proj": "out"}
    norms = {"l_norm1": "read", "l_norm2": "talk", "l_norm3": "token"}
    norms |= {"v_norm2": "heed", "v_norm1": "look", "v_norm3": "pixel"}  # in the order in which they are applied
    gains, mlps = {"gamma_v2l": "read", "gamma_l2v": "heed"}, {"lang_mlp": "token", "vis_mlp": "pixel"}
    places = {"fc1": 0, "fc2": 3}
    return (
        Rule(rf"{layer}\.\w+_attn\.k_proj\.bias", None, why="softmax takes it away"),
        *(
            Rule(rf"{layer}\.{a}\.{p}\.(\w+)", rf"{ours}.{b}.{q}.\2")
            for a, b in dense.items()
            for p, q in parts.items()
        ),
        *(Rule(rf"{layer}\.vis_self_attn\.{a}\.(\w+)", rf"{ours}.look.{b}.\2") for a, b in sampled.items()),
        *(Rule(rf"{layer}\.{a}\.(\w+)", rf"{ours}.{b}_norm.\2") for a, b in norms.items()),
        *(Rule(rf"{layer}\.{a}", rf"{ours}.{b}_gain", convert=torch.flatten) for a, b in gains.items()),
        *(
            Rule(rf"{layer}\.{a}\.{p}\.(\w+)", rf"{ours}.{b}_mlp.{q}.\2")
            for a, b in mlps.items()
            for p, q in places.items()
        ),
        Rule(r"pixel_decoder\.input_convs\.(\d)\.conv\.(\w+)", r"decoder.project.\1.0.\2"),
        Rule(r"pixel_decoder\.input_convs\.(\d)\.gn\.(\w+)", r"decoder.project.\1.1.\2"),
        Rule(r"pixel_decoder\.level_encoding\.weight", "decoder.level"),
        Rule(r"pixel_decoder\.lateral_convs\.0\.conv\.(\w+)", r"decoder.lateral.0.\1"),
        Rule(r"pixel_decoder\.lateral_convs\.0\.gn\.(\w+)", r"decoder.lateral.1.\1"),
        Rule(r"pixel_decoder\.output_convs\.0\.conv\.(\w+)", r"decoder.smooth.\1"),
        Rule(r"pixel_decoder\.output_convs\.0\.gn\.(\w+)", r"decoder.smooth_norm.\1"),
        Rule(r"pixel_decoder\.mask_feature\.([02])\.(\w+)", r"head.pixels.\1.\2"),
        Rule(r"pixel_decoder\.mask_feature\.4\.(\w+)", r"head.features.\1"),
        Rule(r"pixel_decoder\.lang_embed\.(\d)\.(\w+)", r"head.tokens.\1.\2"),
        Rule(r"pixel_decoder\.lang_in_linear\.(\w+)", r"words.0.\1"),
        Rule(r"pixel_decoder\.lang_in_norm\.(\w+)", r"words.1.\1"),
        Rule(r"pixel_decoder\.vis_prompts\.weight", "prompts"),
    )


SWIN, CONDITIONAL = "backbone.vis_encoder.", r"backbone\.conditional_prompts"
OFFICIAL_KEYS: tuple[Rule, ...] = (
    Rule(r"criterion\.seg_criterion\.weight", None, why="the loss's weights of the classes"),
    *official_stages("vision.backbone", prefix=r"backbone\.vis_encoder\."),
    Rule(r"backbone\.vis_encoder\.norm(\d)\.(\w+)", r"vision.norms.\1.\2"),
    *official_bert("text", prefix=r"backbone\.lang_encoder\."),
    Rule(rf"{CONDITIONAL}\.in_linears\.(\d)\.(\w+)", r"text_prompts.mlps.\1.0.\2"),
    Rule(rf"{CONDITIONAL}\.out_linears\.(\d)\.(\w+)", r"text_prompts.mlps.\1.2.\2"),
    Rule(rf"{CONDITIONAL}\.lang_prompts\.weight", "text_prompts.table"),
    Rule(rf"{CONDITIONAL}\.lang_prompts_norm\.(\w+)", r"text_prompts.norm.\1"),
    *_decoder_rules(),
)


def official_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The [model] table of an official file's weights. Heads cannot be told from them, nor the grids of the prompts."""
    backbone, prompts = official_swin(weights, prefix=SWIN), weights.get("pixel_decoder.vis_prompts.weight")
    if prompts is None:
        raise RefsegError("the file has no prompts under `pixel_decoder.vis_prompts`")
    layers = sum(1 for key in weights if key.startswith("pixel_decoder.encoder.") and key.endswith(".v_norm1.weight"))
    return {"backbone": backbone, "prompts": prompts.shape[0], "dim": prompts.shape[1], "layers": layers}
