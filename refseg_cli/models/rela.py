"""ReLA: GRES, Generalized Referring Expression Segmentation (Liu, Ding, Jiang, CVPR 2023; C. Liu's thesis, 2024,
chapter 6, whose equation numbers are used here).

The default is the official implementation (branch main), whose weights can be imported; `decoder = "thesis"` with
`encoder = "plain"` is the network that the thesis describes. Official against thesis:
- Language enters the Swin behind every stage (LAVT's attention and gates), not after it; the R50 has no language.
- RIA is nine 8-head attentions to the pixel decoder's three memories by turns, with positions, each kept to the
  region's mask of the layer before; not one attention to F_i with GeLU on keys and values (Eq. 6.2).
- RLA: the words once, in layer 0, times 0.1 sigmoid(lang_weight), padding among them; the regions in every layer. Not
  both at once, summed and sent through an MLP (Eq. 6.3).
- The region filter comes of the features after RLA, not of F'_r before it.
- x_r is two logits a region, background and target, and so is the mask; not a probability. Ours is their difference,
  which is the same argmax.
- Only the last layer's outputs are supervised, with no loss on region masks; the thesis says no other.

What differs from both:
- What no language has touched is computed once per image, keys and values of the region decoder among it.
- Region masks are never formed at full size: the sum of x_r (f_r . F_m) over the regions is (the sum of x_r f_r) . F_m,
  and a resized mask is a filter on resized mask features.
- A pixel is blocked where the logit is negative; the official float32 sigmoid rounds those above -1e-7 to 0.5, visible.
- Padding has token 0 whatever it was, as in the official data: layer 0 sees what BERT makes of it.
- Gates start at random: no gradient reaches them if both their matrices start at zero, as in the official code. The
  R50's batch normalisation learns where the official one is frozen; weight decay spares biases.
- E empties no mask in here; segmenters/decisions.py decides by it.
- Parameters at full size (Swin-B): 225.52 M, the official 225,521,469 without 5,760 biases that have no influence, see
  layers/pwam.py. The R50 has 153.42 M, Swin-T 162.56 M; nothing published.
- Where the thesis is silent: F_i is the map at stride 16 behind the pixel decoder's 1x1 convolution, the pixel decoder
  is the official one, padding is masked in Eq. 6.3, the MLPs are C wide, VLT's encoder ends in layers/pyramids.py.
- Ours, for small models that read a picture once for all its phrases: the settings marked so in `ReLAConfig`.

Axes: i images, n expressions, m maps (one an image, or one an expression where language has entered), l words,
q = P*P regions, c channels, h w of a map, k pixels of a memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.errors import RefsegError
from refseg_cli.layers.attention import Attention, as_map, as_places, take
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.keymap import Rule, attend_and_norm_rules, feed_forward_rules
from refseg_cli.layers.pixel_decoder import (
    DeformablePixelDecoder,
    DensePixelDecoder,
    Pixels,
    Sharpen,
    pixel_decoder_rules,
)
from refseg_cli.layers.pwam import official_backbone, official_bert, official_swin
from refseg_cli.layers.pyramids import FusedPyramid, PlainPyramid, TiledPyramid, VltPyramid, tile_size
from refseg_cli.layers.region_decoder import MaskedRegionDecoder, Regions, mlp, region_masks
from refseg_cli.layers.upsampling import resized, upsampled_dot
from refseg_cli.ranges import Count, CountOrAll, Share, Weight
from refseg_cli.records import Batch, MapKind, Prediction

CLASS_WEIGHTS = (0.9, 1.1)  # background, target; and target, no target [official code]


@dataclass(frozen=True, slots=True)
class ReLAConfig(EncoderConfig):
    """Sources in brackets; "ours" where neither the official code nor the thesis has it."""

    backbone: str = "swin_base_patch4_window12_384.ms_in22k"  # [official code]
    drop_path: Share | None = 0.3  # [official code]
    text: Literal["gru", "transformer", "bert"] = "bert"  # [6.3.1]
    text_trained: CountOrAll = 10  # the optimiser has BERT's layers 0 to 9 only [official code]
    encoder: Literal["lavt", "plain", "vlt", "tiles"] = "lavt"  # [official code; thesis; table 6.5; table 6.2, row 1]
    vlt_dim: Count = 512  # C of VLT's encoder [table 4.1]
    vlt_layers: Count = 2  # [4.2.6]
    pixel_decoder: Literal["deformable", "dense"] = "deformable"  # [official code; ours, for small pictures]
    pixel_layers: Count = 6  # [official code]
    pixel_hidden: Count = 1024  # [official code]
    mask_stride: Literal[4, 2] = 4  # of the mask features; 2 takes details from the image itself [official code; ours]
    dim: Count = 256  # C [official code]
    heads: Count = 8  # [official code]
    regions: Count = 10  # P [table 6.4]
    reach: Literal["all", "near"] = "all"  # of a region's mask over the picture [Eq. 6.1; ours]
    decoder: Literal["official", "thesis"] = "official"
    layers: Count = 9  # of the official decoder [official code]
    hidden: Count = 2048  # its feed-forward width [official code]
    masked: bool = True  # its regions attend to their own mask only [official code]
    language: Literal["first", "every"] = "first"  # its layers that see the words [official code; ours]
    start: Literal["learned", "pooled"] = "learned"  # its queries; `pooled`: plus what the cell holds [ours]
    exists: Literal["mean", "peak"] = "mean"  # how its regions agree on the no-target label [official code; ours]
    ria: Literal["attention", "pooled"] = "attention"  # of the thesis' decoder [table 6.2]
    rla: Literal["both", "language", "region", "product"] = "both"  # of the thesis' decoder [table 6.3]
    minimap: Literal["centre", "cover"] = "centre"  # how the true mask becomes P x P [official code; ours]
    loss_scale: Weight = 5.0  # of all terms [official code]
    minimap_weight: Weight = 0.1  # [official code]; 0: table 6.2, row 3
    exists_weight: Weight = 0.1  # [official code]
    dice_weight: Weight = 0.0  # [ours]


class ReLA(nn.Module):
    """See the header. Built by `models.build_model`."""

    EXPLAIN: ClassVar[dict[str, MapKind]] = {"minimap": "logits", "region_masks": "logits"}

    def __init__(self, config: ReLAConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        c = config.dim
        self.text = build_text(config, vocab_size=vocab_size, max_tokens=max_tokens, dim=c, heads=config.heads)
        self.encoder = build_encoder(config, word_dim=self.text.dim, size=size)
        self.pixel_decoder = PIXEL_DECODERS[config.pixel_decoder](
            self.encoder.channels, dim=c, heads=config.heads, hidden=config.pixel_hidden, layers=config.pixel_layers
        )
        self.sharpen = Sharpen(c) if config.mask_stride == 2 else None
        self.region_decoder = build_region_decoder(config, word_dim=self.text.dim)

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, h, w) at `mask_stride`.

        aux: minimap (n, P, P) logits; region_filters (n, q, c) and mask_features (m, c, h, w), whose products are the
        region masks M_r at full size; of the official decoder minimap_channels (n, q, 2), background and target, and
        absent_channels (n, 2), target and none.
        """
        return self._answer(batch)[0]

    def explained(self, batch: Batch) -> Prediction:
        """As `forward`, for showing: aux has besides region_masks (n, q, h', w'), the region masks M_r at stride 8."""
        answer, finest, rows = self._answer(batch)
        filters, F_m = answer.aux["region_filters"], answer.aux["mask_features"]
        answer.aux["region_masks"] = region_masks(filters, resized(F_m, finest), rows)
        return answer

    def _answer(self, batch: Batch) -> tuple[Prediction, Tensor, Tensor | None]:
        """The answer, the finest memory, and each expression's row of it."""
        keep = batch.attention_mask
        words = self.text(batch.tokens.masked_fill(~keep, 0), keep)
        maps, rows = self.encoder(batch.images, words, keep, batch.image_index)
        pixels = self.pixel_decoder(maps)
        if self.sharpen is not None:
            images = batch.images if rows is not None else batch.images[batch.image_index]
            pixels = pixels._replace(mask_features=self.sharpen(pixels.mask_features, images))
        regions, F_m = self.region_decoder(pixels, rows, words, keep), pixels.mask_features
        mask_logits = MASKS[self.config.reach](regions, F_m, rows)
        aux = {
            "minimap": regions.minimap.unflatten(1, (self.config.regions, self.config.regions)),
            "region_filters": regions.filters,
            "mask_features": F_m,
            **regions.aux,
        }
        return Prediction(mask_logits[:, None], regions.exists, aux), pixels.memory[-1], rows

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of mask, minimap and no-target label [6.3.1], weighted as in the official code."""
        config = self.config
        assert batch.masks is not None
        assert batch.has_target is not None
        assert prediction.exists_logit is not None
        logits = resized(prediction.mask_logits.float(), batch.masks)
        terms = {"mask": weighted_bce(logits, batch.masks)}
        if config.dice_weight:
            terms["dice"] = config.dice_weight * losses.dice(logits, batch.masks)
        if config.minimap_weight:
            target = MINIMAPS[config.minimap](batch.masks, config.regions)
            terms["minimap"] = config.minimap_weight * weighted_bce(prediction.aux["minimap"].float(), target)
        absent = (~batch.has_target).float()
        terms["exists"] = config.exists_weight * weighted_bce(-prediction.exists_logit.float(), absent)
        return {name: config.loss_scale * term for name, term in terms.items()}

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.encoder.backbone, self.text]


def masks_of_all_reach(regions: Regions, F_m: Tensor, rows: Tensor | None) -> Tensor:
    """Eq. 6.1: every region's mask covers the whole picture. F_m (m, c, h, w) -> (n, h, w) logits; see header."""
    target_filter = torch.einsum("nq,nqc->nc", regions.weight, regions.filters)
    return torch.einsum("nc,nchw->nhw", target_filter, take(F_m, rows))


def masks_of_near_reach(regions: Regions, F_m: Tensor, rows: Tensor | None) -> Tensor:
    """Ours: a region speaks for the pixels near its cell, M(p) = sum over r of w_r(p) (x_r + f_r . F_m(p)).

    w_r(p) are the weights of bilinear interpolation among the P x P cells: `minimap` is the mask's coarse form, and
    where a pixel is may decide without being written into its features. F_m (m, c, h, w) -> (n, h, w) logits.
    """
    side = math.isqrt(regions.minimap.shape[1])
    field = as_map(regions.filters, (side, side))
    coarse = regions.minimap.view(-1, 1, side, side)
    owners = torch.arange(F_m.shape[0], device=F_m.device) if rows is None else rows
    return (resized(coarse, F_m) + upsampled_dot(field, F_m, owners))[:, 0]


MASKS = {"all": masks_of_all_reach, "near": masks_of_near_reach}


# --- parts by setting -------------------------------------------------------------------------------------------------

PIXEL_DECODERS = {"deformable": DeformablePixelDecoder, "dense": DensePixelDecoder}


def build_encoder(
    config: ReLAConfig, *, word_dim: int, size: tuple[int, int]
) -> PlainPyramid | FusedPyramid | VltPyramid | TiledPyramid:
    """The image encoder, see layers/pyramids.py."""
    if config.encoder == "tiles":
        tile = tile_size(size, config.regions)
        return TiledPyramid(build_vision(config, size=tile, maps=4), side=config.regions)
    backbone = build_vision(config, size=size, maps=4)
    if config.encoder == "plain":
        return PlainPyramid(backbone)
    if config.encoder == "lavt":
        return FusedPyramid(backbone, word_dim=word_dim)
    return VltPyramid(
        backbone,
        word_dim=word_dim,
        inner=config.vlt_dim,
        dim=config.dim,
        heads=config.heads,
        hidden=2 * config.vlt_dim,
        layers=config.vlt_layers,
    )


def build_region_decoder(config: ReLAConfig, *, word_dim: int) -> nn.Module:
    c, heads, side = config.dim, config.heads, config.regions
    if config.decoder == "thesis":
        return ThesisDecoder(dim=c, word_dim=word_dim, heads=heads, side=side, ria=config.ria, rla=config.rla)
    return MaskedRegionDecoder(
        dim=c,
        word_dim=word_dim,
        heads=heads,
        hidden=config.hidden,
        layers=config.layers,
        side=side,
        masked=config.masked,
        language=config.language,
        pooled=config.start == "pooled",
        exists=config.exists,
    )


# --- the thesis' relationship modelling [6.3.2] -----------------------------------------------------------------------


class ThesisDecoder(nn.Module):
    """RIA, region filter, RLA, and what is read off them. All before RLA sees the image alone, so once per map."""

    def __init__(self, *, dim: int, word_dim: int, heads: int, side: int, ria: str, rla: str) -> None:
        super().__init__()
        self.F_t = nn.Linear(word_dim, dim)
        self.ria = RIAS[ria](dim, side=side)
        self.filter = mlp(dim, dim, dim, dim)
        self.rla = RegionLanguage(
            dim, heads=heads, regions=rla in ("both", "region"), words=rla in ("both", "language")
        )
        self.x_r = nn.Linear(dim, 1)
        self.exists = mlp(dim, dim, 1)

    def forward(self, pixels: Pixels, rows: Tensor | None, words: Tensor, keep: Tensor) -> Regions:
        collected = self.ria(pixels.image)  # F'_r (m, q, c)
        F_f = take(self.filter(collected), rows)
        F_r = self.rla(take(collected, rows), self.F_t(words), keep)
        minimap = self.x_r(F_r)[..., 0]
        return Regions(F_f, minimap.sigmoid(), minimap, self.exists(F_r.mean(1))[:, 0], {})


class RegionImageAttention(nn.Module):
    """RIA: each region collects what belongs to it from the whole image."""

    def __init__(self, dim: int, *, side: int) -> None:
        super().__init__()
        # The softmax has no scale: queries that short keep its input near 1.
        self.Q_r = nn.Parameter(torch.randn(side * side, dim) / math.sqrt(dim))
        self.W_ik, self.W_iv = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        F_i = as_places(image)
        A_ri = (self.Q_r @ F.gelu(self.W_ik(F_i)).transpose(1, 2)).softmax(-1)  # Eq. 6.2: (m, q, h*w)
        return A_ri @ F.gelu(self.W_iv(F_i))  # F'_r


class RegionPooling(nn.Module):
    """In RIA's place: the average over each of P x P cells [table 6.2, rows 1 and 2]."""

    def __init__(self, dim: int, *, side: int) -> None:
        super().__init__()
        self.side = side
        self.W_iv = nn.Linear(dim, dim, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        values = F.gelu(self.W_iv(image.movedim(1, -1))).movedim(-1, 1)
        return as_places(F.adaptive_avg_pool2d(values, self.side))


RIAS = {"attention": RegionImageAttention, "pooled": RegionPooling}


class RegionLanguage(nn.Module):
    """RLA, F_r = MLP(F'_r + F_r1 + F_r2); where one of the two attentions is missing, or both [table 6.3], F'_r is
    multiplied by the average word instead."""

    def __init__(self, dim: int, *, heads: int, regions: bool, words: bool) -> None:
        super().__init__()
        self.regions = Attention(dim, heads=heads) if regions else None
        self.words = WordAttention(dim) if words else None
        self.fuse = mlp(dim, dim, dim)

    def forward(self, collected: Tensor, F_t: Tensor, keep: Tensor) -> Tensor:
        x = collected
        if self.regions is None or self.words is None:
            x = x * ((F_t * keep[..., None]).sum(1) / keep.sum(1, keepdim=True))[:, None]
        if self.regions is not None:
            x = x + self.regions(collected, collected, collected)  # F_r1
        if self.words is not None:
            x = x + self.words(collected, F_t, keep)  # F_r2
        return self.fuse(x)


class WordAttention(nn.Module):
    """Each region's sum of the words, by how well they fit it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.W_lq, self.W_lk = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, collected: Tensor, F_t: Tensor, keep: Tensor) -> Tensor:
        scores = F.gelu(self.W_lq(collected)) @ F.gelu(self.W_lk(F_t)).transpose(1, 2)
        A_l = scores.masked_fill(~keep[:, None], float("-inf")).softmax(-1)  # Eq. 6.3: (n, q, l)
        return A_l @ F_t


# --- losses -----------------------------------------------------------------------------------------------------------


def weighted_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Two-class cross-entropy with `CLASS_WEIGHTS`, averaged by weight. logits: class 1 minus class 0, any shape;
    target: in [0, 1], the same shape."""
    return losses.weighted_bce(logits, target, CLASS_WEIGHTS)


def centre_minimap(masks: Tensor, side: int) -> Tensor:
    """(n, 1, H, W) -> (n, P, P): 1 where all pixels (usually four) around a cell's centre are in the mask.

    The official code resizes without antialiasing and cuts off what is behind the point.
    """
    around = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)[:, 0]
    return (around > 1 - 1e-4).to(masks.dtype)


def cover_minimap(masks: Tensor, side: int) -> Tensor:
    """(n, 1, H, W) -> (n, P, P): the share of each cell that the mask covers. Small objects count too."""
    return F.adaptive_avg_pool2d(masks, side)[:, 0]


MINIMAPS = {"centre": centre_minimap, "cover": cover_minimap}


# --- official files: `model`, branch main -----------------------------------------------------------------------------


def _pixel_decoder_rules() -> tuple[Rule, ...]:
    theirs, ours = r"sem_seg_head\.pixel_decoder", "pixel_decoder"
    return (
        *pixel_decoder_rules(theirs),
        Rule(rf"{theirs}\.adapter_1\.weight", f"{ours}.fine.0.weight"),
        Rule(rf"{theirs}\.adapter_1\.norm\.(.*)", rf"{ours}.fine.1.\1"),
        Rule(rf"{theirs}\.layer_1\.weight", f"{ours}.smooth.0.weight"),
        Rule(rf"{theirs}\.layer_1\.norm\.(.*)", rf"{ours}.smooth.1.\1"),
    )


def _region_decoder_rules() -> tuple[Rule, ...]:
    theirs, ours = r"sem_seg_head\.predictor", "region_decoder"
    return (
        *attend_and_norm_rules(rf"{theirs}\.RIA_layers\.(\d+)", "multihead_attn", rf"{ours}.layers.\1.image"),
        *attend_and_norm_rules(rf"{theirs}\.RLA_vision\.(\d+)", "self_attn", rf"{ours}.layers.\1.region"),
        *attend_and_norm_rules(rf"{theirs}\.RLA_lang_att", "multihead_attn", f"{ours}.layers.0.language.attend"),
        Rule(rf"{theirs}\.lang_weight", f"{ours}.layers.0.language.weight"),
        *feed_forward_rules(rf"{theirs}\.transformer_ffn_layers\.(\d+)", rf"{ours}.layers.\1"),
        Rule(rf"{theirs}\.transformer_ffn_layers\.(\d+)\.norm\.(.*)", rf"{ours}.layers.\1.norm.\2"),
        Rule(rf"{theirs}\.(?:query_feat|static_query)\.weight", f"{ours}.query_feat"),  # the latter: an older name
        Rule(rf"{theirs}\.(query_embed|level_embed)\.weight", rf"{ours}.\1"),
        Rule(rf"{theirs}\.lang_proj\.weight", f"{ours}.lang_proj.weight"),
        Rule(rf"{theirs}\.decoder_norm\.(.*)", rf"{ours}.heads.norm.\1"),
        Rule(rf"{theirs}\.minimap_embed\.(.*)", rf"{ours}.heads.minimap.\1"),
        *(Rule(rf"{theirs}\.nt_embed\.layers\.{k}\.(.*)", rf"{ours}.heads.absent.{2 * k}.\1") for k in range(2)),
        *(Rule(rf"{theirs}\.mask_embed\.layers\.{k}\.(.*)", rf"{ours}.heads.filter.{2 * k}.\1") for k in range(3)),
    )


def _resnet_rules() -> tuple[Rule, ...]:
    """detectron2's ResNet, whose normalisation is frozen and counts no steps, to timm's."""
    net = "encoder.backbone.net"
    stages = [(rf"backbone\.res{k + 1}\.(\d+)", rf"{net}.layer{k}.\1") for k in range(1, 5)]
    return (
        Rule(r"backbone\.stem\.conv1\.weight", f"{net}.conv1.weight"),
        Rule(r"backbone\.stem\.conv1\.norm\.(.*)", rf"{net}.bn1.\1"),
        *(Rule(rf"{a}\.conv(\d)\.weight", rf"{b}.conv\2.weight") for a, b in stages),
        *(Rule(rf"{a}\.conv(\d)\.norm\.(.*)", rf"{b}.bn\2.\3") for a, b in stages),
        *(Rule(rf"{a}\.shortcut\.weight", rf"{b}.downsample.0.weight") for a, b in stages),
        *(Rule(rf"{a}\.shortcut\.norm\.(.*)", rf"{b}.downsample.1.\2") for a, b in stages),
    )


OFFICIAL_KEYS: tuple[Rule, ...] = (
    *_resnet_rules(),
    *official_backbone("encoder", fusion="fusion", gate="res_gate"),
    *_pixel_decoder_rules(),
    *_region_decoder_rules(),
    *official_bert("text", prefix=r"text_encoder\."),
)


def official_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The [model] table of an official file's weights: which backbone, P, and how many layers.

    Raises:
        RefsegError: the file is of the branch `original`, whose decoder is another graph, or of no known backbone.
    """
    predictor = "sem_seg_head.predictor"
    if any(key.startswith((f"{predictor}.RIA_cross_attention", f"{predictor}.RLA_gate")) for key in weights):
        raise RefsegError(
            "the file is of ReLA's branch `original`, whose decoder cannot be turned into that of branch main",
            hint="take one of the released files, which are of main",
        )
    side = math.isqrt(weights[f"{predictor}.query_embed.weight"].shape[0])
    layers = sum(key.startswith(f"{predictor}.RIA_layers.") and key.endswith(".norm.weight") for key in weights)
    shape = {"regions": side, "layers": layers}
    if "backbone.stem.conv1.weight" in weights:
        return {"backbone": "resnet50", "encoder": "plain", "drop_path": 0.0, **shape}
    return {"backbone": official_swin(weights), "encoder": "lavt", **shape}
