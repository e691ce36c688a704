"""CRIS: CLIP-Driven Referring Image Segmentation (Wang, Lu, Li, Tao, Guo, Gong, Liu, CVPR 2022, arXiv:2111.15174).

Follows the official code (RN50 and RN101). What differs, and why:
- The paper's text-to-pixel contrastive loss is a dot product of sentence and pixel; the official code, and this file,
  have a 3x3 kernel made of the sentence in its place, under plain binary cross-entropy.
- A convolution over vision and language-aware maps side by side is split in two (`Join`), so that vision's half runs
  once an image. Language-free: CLIP's ResNet, its attention pool and vision's share of the neck, 42.9 % of
  the multiply-adds of one image with one phrase at 416 px (RN50; RN101: 51.9 %).
- The kernel's nine taps are nine dot products a pixel, shifted and summed: the official code's convolution in one group
  for each sample, in a form that exports.
- In the official schedule the encoders' first epoch has ten times their rate by accident; ours has 0.1 throughout.
- Left out of the parameters: `logit_scale` and the attention pool's position of the pooled token, which nothing reads.
- Parameters at full size: RN50 146.85 M (official 146.85 M), RN101 161.25 M (161.25 M).

Axes: i images, n expressions, l words, c channels, h w of a map, p pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.layers.attention import Attention, as_map, as_places, sine_axes, sine_waves, take
from refseg_cli.layers.clip import PhraseReader, text_rules, without_class_token
from refseg_cli.layers.encoders import EncoderConfig, build_clip_pool, build_text, build_vision
from refseg_cli.layers.keymap import Rule, attention_rules
from refseg_cli.layers.upsampling import doubled
from refseg_cli.layers.vision import conv_bn_relu
from refseg_cli.ranges import Count, Share, Weight
from refseg_cli.records import Batch, MapKind, Prediction


@dataclass(frozen=True, slots=True)
class CRISConfig(EncoderConfig):
    """Sources in brackets; "ours" where neither the official code nor the paper has it."""

    backbone: str = "resnet50_clip.openai"  # [official code]; RN101: resnet101_clip.openai
    text: Literal["gru", "transformer", "bert", "clip"] = "clip"
    text_name: str = "timm/resnet50_clip.openai"  # the same CLIP's text tower; RN101: timm/resnet101_clip.openai
    text_dim: Count = 512  # [CLIP]
    text_projection: Count = 1024  # of CLIP's joint space, and of the attention pool; RN101: 512 [CLIP]
    dim: Count = 512  # of the fused map and the decoder [official code]
    heads: Count = 8  # [official code]
    hidden: Count = 2048  # feed-forward width of the decoder [official code]
    layers: Count = 3  # of the decoder [official code]
    dropout: Share = 0.1  # of the decoder [official code]
    dice_weight: Weight = 0.0  # [ours]


class CRIS(nn.Module):
    """See the header. Built by `models.build_model`."""

    EXPLAIN: ClassVar[dict[str, MapKind]] = {"coarse_feature": "map", "fine_feature": "map"}

    def __init__(self, config: CRISConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        c = config.dim
        if c % 4:
            raise ValueError(f"dim {c} is no multiple of 4: sine and cosine, for rows and columns")
        self.backbone = build_vision(config, size=size)
        self.pool = build_clip_pool(config, self.backbone, outputs=config.text_projection)
        text = build_text(config, vocab_size=vocab_size, max_tokens=max_tokens, dim=c, heads=config.heads)
        self.reader = PhraseReader(text)
        maps = (*self.backbone.channels[:2], config.text_projection)
        self.neck = Neck(maps, self.reader.sentence_dim, dim=c)
        self.words = nn.Identity() if self.reader.dim == c else nn.Linear(self.reader.dim, c)
        self.decoder = Decoder(
            c, heads=config.heads, hidden=config.hidden, layers=config.layers, dropout=config.dropout
        )
        self.projector = Projector(c, self.reader.sentence_dim)

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, h, w) at stride 4; language enters in the neck.

        aux: `coarse_feature` and `fine_feature` (n, h, w), the strongest channel before and after the decoder.
        """
        fine, middle, coarse = self.backbone(batch.images)
        said = self.reader(batch.tokens, batch.attention_mask)
        fused = self.neck((fine, middle, self.pool(coarse)), said.sentence, batch.image_index)
        decoded = self.decoder(fused, self.words(said.words), batch.attention_mask)
        return Prediction(
            mask_logits=self.projector(decoded, said.sentence),
            aux={"coarse_feature": fused.amax(1), "fine_feature": decoded.amax(1)},
        )

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy against the mask's nearest pixels [official code]."""
        assert batch.masks is not None
        target = F.interpolate(batch.masks, prediction.mask_logits.shape[-2:], mode="nearest")
        terms = {"mask": losses.mask_bce(prediction.mask_logits, target)}
        if self.config.dice_weight:
            terms["dice"] = self.config.dice_weight * losses.dice(prediction.mask_logits, target)
        return terms

    def pretrained_modules(self) -> list[nn.Module]:
        """CLIP: the parts that a recipe may train at a lower rate."""
        return [self.backbone, self.reader.encoder, self.pool]


class Neck(nn.Module):
    """Cross-modal neck: the sentence multiplies the coarsest map, finer maps join from there on, all meet at stride 16.

    Args:
        channels: of the maps at strides 8, 16, 32; sentence: of the sentence feature.
    """

    def __init__(self, channels: tuple[int, ...], sentence: int, *, dim: int) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.sentence = nn.Sequential(nn.Linear(sentence, 2 * dim, bias=False), nn.BatchNorm1d(2 * dim), nn.ReLU())
        self.vision5 = conv_bn_relu(coarse, 2 * dim, kernel=1)
        self.norm5 = nn.Sequential(nn.BatchNorm2d(2 * dim), nn.ReLU())
        self.vision4, self.join4 = conv_bn_relu(middle, dim), Join(dim, 2 * dim, dim)
        self.vision3, self.join3 = conv_bn_relu(fine, dim // 2), Join(dim // 2, dim, dim)
        self.level5, self.level4, self.level3 = (
            conv_bn_relu(2 * dim, dim),
            conv_bn_relu(dim, dim),
            conv_bn_relu(dim, dim),
        )
        self.aggregate = conv_bn_relu(3 * dim, dim, kernel=1)
        self.coordinates = nn.Sequential(conv_bn_relu(dim + 2, dim), conv_bn_relu(dim, dim))

    def forward(self, maps: tuple[Tensor, Tensor, Tensor], sentence: Tensor, image_index: Tensor) -> Tensor:
        """(n, dim, h, w) at stride 16. maps: (i, c, h, w), finest first; sentence: (n, s)."""
        v3, v4, v5 = maps
        s = self.sentence(sentence)[:, :, None, None]
        f5 = self.norm5(take(self.vision5(v5), image_index) * s)
        f4 = self.join4(self.vision4(v4), doubled(f5), image_index)
        f3 = self.join3(F.avg_pool2d(self.vision3(v3), 2), f4, image_index)
        levels = [self.level3(f3), self.level4(f4), doubled(self.level5(f5))]
        return self.coordinates(with_coordinates(self.aggregate(torch.cat(levels, 1))))


def with_coordinates(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c + 2, h, w): x, then y, from -1 at one edge to 1 at the other."""
    n, _, h, w = x.shape
    column = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).expand(n, 1, h, w)
    row = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype)[:, None].expand(n, 1, h, w)
    return torch.cat([x, column, row], 1)


class Join(nn.Module):
    """1x1 convolution over vision and language-aware channels, with BatchNorm and ReLU; vision's half once an image."""

    def __init__(self, vision: int, fused: int, outputs: int) -> None:
        super().__init__()
        self.parts = (vision, fused)
        self.conv = nn.Conv2d(vision + fused, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, vision: Tensor, fused: Tensor, image_index: Tensor) -> Tensor:
        """vision (i, c, h, w), fused (n, c, h, w) -> (n, outputs, h, w)."""
        of_vision, of_fused = self.conv.weight.split(self.parts, 1)
        return torch.relu(self.norm(take(F.conv2d(vision, of_vision), image_index) + F.conv2d(fused, of_fused)))


class Decoder(nn.Module):
    """Vision-language decoder: pixels attend to each other and to the words."""

    def __init__(self, dim: int, *, heads: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads=heads, hidden=hidden, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, fused: Tensor, words: Tensor, keep: Tensor) -> Tensor:
        """fused (n, c, h, w), words (n, l, c), keep (n, l) bool -> (n, c, h, w)."""
        rows, columns = sine_axes(fused)
        places = torch.cat([columns, rows], 1)
        x = as_places(fused)
        order = sine_waves(words.shape[1], words.shape[2], like=words)
        for layer in self.layers:
            x = layer(x, places, words, words + order, keep)
        return as_map(self.norm(x), fused.shape[-2:])


class DecoderLayer(nn.Module):
    """Pre-norm, with one more LayerNorm on what each attention gives and one inside the feed-forward part."""

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, heads=heads, dropout=dropout)
        self.cross_attention = Attention(dim, heads=heads, dropout=dropout)
        self.self_norm, self.cross_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.LayerNorm(hidden), nn.Linear(hidden, dim)
        )
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, places: Tensor, words: Tensor, keys: Tensor, keep: Tensor) -> Tensor:
        """x (n, p, c); places (p, c) positions; words and the same with positions, keys (n, l, c)."""
        y = self.norm1(x)
        x = x + self.drop(self.self_norm(self.self_attention(y + places, y + places, y)))
        y = self.norm2(x)
        x = x + self.drop(self.cross_norm(self.cross_attention(y + places, keys, words, keep)))
        return x + self.drop(self.mlp(self.norm3(x)))


class Projector(nn.Module):
    """Pixels at stride 4 under a 3x3 kernel and a bias that the sentence makes."""

    def __init__(self, dim: int, sentence: int) -> None:
        super().__init__()
        self.stride8, self.stride4 = conv_bn_relu(dim, dim), conv_bn_relu(dim, dim // 2)
        self.pixels = nn.Conv2d(dim // 2, dim // 2, 1)
        self.kernel = nn.Linear(sentence, 9 * (dim // 2) + 1)

    def forward(self, decoded: Tensor, sentence: Tensor) -> Tensor:
        """(n, dim, h, w), (n, s) -> logits (n, 1, 4h, 4w)."""
        pixels = self.pixels(self.stride4(doubled(self.stride8(doubled(decoded)))))
        kernel, bias = self.kernel(sentence).split([9 * pixels.shape[1], 1], 1)
        return own_kernel_conv(pixels, kernel.unflatten(1, (-1, 9))) + bias[:, :, None, None]


def own_kernel_conv(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Each sample's 3x3 convolution by its own kernel: (n, c, h, w), (n, c, 9) -> (n, 1, h, w), zeros around."""
    taps = torch.einsum("nchw,nck->nkhw", pixels, kernels)  # what each tap would add, still where its pixel is
    shifts = torch.eye(9, device=pixels.device, dtype=pixels.dtype).view(1, 9, 3, 3)
    return F.conv2d(taps, shifts, padding=1)


# --- official checkpoints (trained by the official code; none was published) ------------------------------------------


def conv_rule(theirs: str, ours: str) -> Rule:
    """A convolution or linear layer with BatchNorm behind it: both sides number them 0 and 1."""
    return Rule(rf"{theirs}\.([01]\..*)", rf"{ours}.\1")


_VISUAL, _NET = r"backbone\.visual", "backbone.net"
_BLOCK = rf"{_VISUAL}\.layer{{}}\.(\d+)"
_KINDS = ("conv1_1x1", "conv2_kxk", "conv3_1x1")  # timm's names of a bottleneck's convolutions


def _resnet_rules() -> tuple[Rule, ...]:
    """OpenAI's modified ResNet to timm's, whose features_only form joins a module's path by underscores."""
    rules = [
        Rule(rf"{_VISUAL}\.conv([123])\.(.*)", rf"{_NET}.stem_conv\1.conv.\2"),
        Rule(rf"{_VISUAL}\.bn([123])\.(.*)", rf"{_NET}.stem_conv\1.bn.\2"),
    ]
    for stage in range(4):
        theirs, ours = _BLOCK.format(stage + 1), rf"{_NET}.stages_{stage}.\1"
        for k, kind in enumerate(_KINDS, start=1):
            rules.append(Rule(rf"{theirs}\.conv{k}\.(.*)", rf"{ours}.{kind}.conv.\2"))
            rules.append(Rule(rf"{theirs}\.bn{k}\.(.*)", rf"{ours}.{kind}.bn.\2"))
        rules.append(Rule(rf"{theirs}\.downsample\.0\.(.*)", rf"{ours}.shortcut.conv.conv.\2"))
        rules.append(Rule(rf"{theirs}\.downsample\.1\.(.*)", rf"{ours}.shortcut.conv.bn.\2"))
    return tuple(rules)


OFFICIAL_KEYS: tuple[Rule, ...] = (
    *_resnet_rules(),
    Rule(rf"{_VISUAL}\.attnpool\.positional_embedding", "pool.positions", convert=without_class_token),
    Rule(rf"{_VISUAL}\.attnpool\.([qkv])_proj\.(.*)", r"pool.attention.\1.\2"),
    Rule(rf"{_VISUAL}\.attnpool\.c_proj\.(.*)", r"pool.attention.out.\1"),
    conv_rule(rf"{_VISUAL}\.attnpool\.connect", "pool.connect"),
    Rule(r"backbone\.logit_scale", None, why="temperature of CLIP's own training"),
    *text_rules(r"backbone\.", "reader.encoder."),
    conv_rule(r"neck\.txt_proj", "neck.sentence"),
    conv_rule(r"neck\.f1_v_proj", "neck.vision5"),
    conv_rule(r"neck\.norm_layer", "neck.norm5"),
    conv_rule(r"neck\.f2_v_proj", "neck.vision4"),
    conv_rule(r"neck\.f3_v_proj", "neck.vision3"),
    Rule(r"neck\.f2_cat\.0\.(.*)", r"neck.join4.conv.\1"),
    Rule(r"neck\.f2_cat\.1\.(.*)", r"neck.join4.norm.\1"),
    Rule(r"neck\.f3_cat\.0\.(.*)", r"neck.join3.conv.\1"),
    Rule(r"neck\.f3_cat\.1\.(.*)", r"neck.join3.norm.\1"),
    conv_rule(r"neck\.f4_proj5", "neck.level5"),
    conv_rule(r"neck\.f4_proj4", "neck.level4"),
    conv_rule(r"neck\.f4_proj3", "neck.level3"),
    conv_rule(r"neck\.aggr", "neck.aggregate"),
    conv_rule(r"neck\.coordconv\.0\.conv1", "neck.coordinates.0"),
    conv_rule(r"neck\.coordconv\.1", "neck.coordinates.1"),
    *attention_rules(r"decoder\.layers\.(\d+)\.self_attn", r"decoder.layers.\1.self_attention"),
    *attention_rules(r"decoder\.layers\.(\d+)\.multihead_attn", r"decoder.layers.\1.cross_attention"),
    Rule(r"decoder\.layers\.(\d+)\.(self|cross)_attn_norm\.(.*)", r"decoder.layers.\1.\2_norm.\3"),
    Rule(r"decoder\.layers\.(\d+)\.norm([123])\.(.*)", r"decoder.layers.\1.norm\2.\3"),
    Rule(r"decoder\.layers\.(\d+)\.ffn\.(.*)", r"decoder.layers.\1.mlp.\2"),
    Rule(r"decoder\.norm\.(.*)", r"decoder.norm.\1"),
    conv_rule(r"proj\.vis\.1", "projector.stride8"),
    conv_rule(r"proj\.vis\.3", "projector.stride4"),
    Rule(r"proj\.vis\.4\.(.*)", r"projector.pixels.\1"),
    Rule(r"proj\.txt\.(.*)", r"projector.kernel.\1"),
)


def official_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The [model] table of an official file's weights: which of CLIP's ResNets, and its joint space."""
    deep = any(key.startswith("backbone.visual.layer3.6.") for key in weights)  # RN50 has six blocks there
    name = "resnet101_clip.openai" if deep else "resnet50_clip.openai"
    return {
        "backbone": name,
        "text_name": f"timm/{name}",
        "text_positions": len(weights["backbone.positional_embedding"]),
        "text_projection": weights["backbone.text_projection"].shape[1],
    }
