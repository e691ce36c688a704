"""ASDA: Adaptive Selection based Referring Image Segmentation (Adaptive Selection with Dual Alignment, ACM MM 2024);
sections, equations and tables are those of the paper.

The official code departs from the paper in many places. Its choices are the defaults, so that its checkpoints load;
the paper's text stands beside them as values of the same settings. What differs from both, and why:
- The official selection passes through argmax alone, so its three layers never learn. Ours takes the same layer but
  hands the gradient to the softmax behind it (`gradient`, straight-through); evaluation is the same.
- BatchNorm keeps torch's momentum: the official 0.999 makes the stored statistics those of the last batch.
- The official data path also jitters saturation and moves pictures by small affine maps; ours flips and jitters.
- Parameters at full size: 180.80 M, the official 193.09 M without 12.29 M that nothing reads (asda_official.py); the
  recipes' text tower has CLIP's whole table of 77 positions, not the 17 that a phrase uses, 30,720 numbers more.

Language-free: the image encoder and vision's side of the fusion, 37.0 % of the multiply-adds of one image with one
phrase at 416 px. From the selection on everything depends on the phrase.

Axes: i images, n expressions, l words, k layers to select from, c channels, h w of a map, p pixels, q masks (N_c).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.layers.attention import Attention, EncoderLayer, as_map, as_places, feed_forward, sine_axes, take
from refseg_cli.layers.clip import Phrase, PhraseReader
from refseg_cli.layers.encoders import EncoderConfig, build_layers, build_text
from refseg_cli.layers.vision import SLOPE, conv_bn_leaky, conv_bn_relu
from refseg_cli.ranges import Count, CountFrom0, Counts, Number, Range, Share, Weight
from refseg_cli.records import Batch, MapKind, Prediction

THIN = 32  # channels of Eq. 5's lateral and upsampled maps

Groups = tuple[tuple[int, ...], ...]
Layers = Mapping[int, tuple[Tensor, Tensor]]  # from 1: a layer's class token (i, c) and map (i, c, h, w)


@dataclass(frozen=True, slots=True)
class ASDAConfig(EncoderConfig):
    """Sources in brackets; "ours" where neither the official code nor the paper has it."""

    backbone: str = "vit_base_patch16_clip_quickgelu_224.openai"  # [4.2]
    text: Literal["gru", "transformer", "bert", "clip"] = "clip"  # [4.2]
    text_name: str = "openai/clip-vit-base-patch16"
    text_dim: Count = 512  # [CLIP]
    stride: Count = 16  # of the grid, where the backbone is no vision transformer [ours]
    low_layers: Counts = (4, 5, 6)  # [3.1]; one layer: manual assignment [table 2, b]
    mid_layers: Counts = (7, 8, 9)  # [3.1]
    high_layer: Count = 12  # [3.1]
    scorer: Literal["linear", "conv", "mlp"] = "linear"  # Phi_as [table 5]
    scored_with: Literal["layers", "sentence"] = "layers"  # end states of the text layers [official code]; f_E [Eq. 3]
    gradient: Literal["straight-through", "soft", "none"] = "straight-through"  # of the selection [ours]; see header
    aggregator: Literal["pyramid", "eq5", "concat", "high"] = "pyramid"  # [official code; Eq. 5; table 2, b and a]
    pyramid_dim: CountFrom0 = 0  # of its maps; 0: `dim` [official code]
    aligner: Literal["dual", "single", "none"] = "dual"  # [table 2, f, e, d]
    dim: Count = 512  # C [official code]
    heads: Count = 8  # [official code]
    attention_layers: Count = 2  # n [table 3]
    hidden: Count = 512  # feed-forward width of the visual attention [official code]
    word_hidden: Count = 2048  # of the word attention [official code]
    word_padding: bool = True  # only for `clip`: the word attention sees padding too [official code]
    dropout: Share = 0.1  # [official code]
    masks: Count = 32  # N_c [table 4]
    mask_dim: CountFrom0 = 0  # of the segmentation decoder; 0: half of `dim` [official code]
    upsamplings: Count = 3  # in the segmentation decoder, by two each [Eq. 7]
    mask_activation: Literal["relu", "sigmoid"] = "relu"  # [official code; Eq. 7]
    background: Number = 0.0  # where a learned constant in the logits starts [ours]; 0: there is none; see `DualBranch`
    coefficients: Literal["linear", "mean"] = "linear"  # from the last map to N_c [official code; Eq. 9, ours]
    focal_gamma: Weight = 0.0  # 0: cross-entropy [official code]; the paper's focal loss: 2 [Lin et al. 2017]
    # weight of target pixels; negative: none [official code]; else 0.25 [Lin et al.]
    focal_alpha: Annotated[float, Range(most=1)] = -1.0
    dice_weight: Weight = 1.0  # [official code]


class ASDA(nn.Module):
    """See the header. Built by `models.build_model`."""

    EXPLAIN: ClassVar[dict[str, MapKind]] = {
        "low_weights": "weights",
        "mid_weights": "weights",
        "coarse_feature": "map",
        "fine_feature": "map",
        "response_masks": "map",
        "coefficients": "weights",
    }

    def __init__(self, config: ASDAConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        c, groups = config.dim, (config.low_layers, config.mid_layers) if config.aggregator != "high" else ()
        layers = tuple(sorted({config.high_layer, *(n for group in groups for n in group)}))
        self.vision = build_layers(config, size=size, layers=layers, dim=c, stride=config.stride)
        if c % 4:
            raise ValueError(f"dim {c} is no multiple of 4: sine and cosine, for rows and columns")
        encoder = build_text(config, vocab_size=vocab_size, max_tokens=max_tokens, dim=c, heads=config.heads)
        self.reader = PhraseReader(encoder)
        by_layer = config.scored_with == "layers"
        if by_layer and config.text != "clip" and groups:
            raise ValueError("scored_with = 'layers' needs the states of CLIP's text tower, text = 'clip'")
        text = self.reader.dim if by_layer else self.reader.sentence_dim
        self.selection = LayerSelection(
            self.vision.dim, text, groups=groups, scorer=config.scorer, by_layer=by_layer, gradient=config.gradient
        )
        self.fusion = GlobalFusion(self.vision.dim, self.reader.sentence_dim)
        self.aggregate = AGGREGATORS[config.aggregator](self.vision.dim, config.pyramid_dim or c, dim=c)
        self.aligner = build_aligner(config, words=self.reader.dim, grid=self.vision.grid)

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, h s, w s) with s = 2^upsamplings; language enters at the selection.

        aux: where there is a choice, `low_weights`, `mid_weights` (n, last candidate) what the selection would give
        each layer, from layer 1, 0 for those it may not take, and `low_layer`, `mid_layer` (n,) which it took, from 1;
        `coarse_feature`, `fine_feature` (n, h, w), the strongest channel before and after the words are seen;
        `response_masks` (n, q, h s, w s), `coefficients` (n, q).
        """
        layers = dict(zip(self.vision.layers, self.vision(batch.images), strict=True))
        said = self.reader(batch.tokens, batch.attention_mask)
        maps, aux = self.selection(layers, said, batch.image_index)
        fused = self.fusion(layers[self.config.high_layer][1], said.sentence, batch.image_index)  # F_G
        coarse = self.aggregate(fused, *maps)
        hides_padding = self.config.text != "clip" or not self.config.word_padding
        logits, seen = self.aligner(coarse, said.words, batch.attention_mask if hides_padding else None)
        return Prediction(mask_logits=logits, aux={**aux, "coarse_feature": coarse.amax(1), **seen})

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Focal and Dice loss [3.4] against the mask's nearest pixels [official code]."""
        config, logits = self.config, prediction.mask_logits
        assert batch.masks is not None
        target = F.interpolate(batch.masks, logits.shape[-2:], mode="nearest")
        return {
            "focal": focal_loss(logits, target, gamma=config.focal_gamma, alpha=config.focal_alpha),
            "dice": config.dice_weight * losses.dice(logits, target),
        }

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.vision.backbone, self.reader.encoder]


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """Mean over pixels of cross-entropy times (1 - p_t)^gamma and, from alpha 0 up, its class's weight (Lin et al.)."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    if gamma:
        loss = loss * (1 - torch.exp(-loss)) ** gamma  # exp(-loss) is p_t, the probability of the truth
    if alpha >= 0:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss.mean()


# --- Adaptive Feature Selection [3.3] ---------------------------------------------------------------------------------


def build_scorer(kind: str, dim: int) -> nn.Module:
    """Phi_as [table 5]: products (n, k, c) -> scores (n, k); none with a bias, which would be the same for all k."""
    if kind == "conv":  # sees the layers beside each; kernel of 3 [ours]
        convolution = nn.Conv2d(1, 1, (3, dim), padding=(1, 0), bias=False)
        return nn.Sequential(nn.Unflatten(0, (-1, 1)), convolution, nn.Flatten(1))
    hidden = [nn.Linear(dim, dim), nn.ReLU()] if kind == "mlp" else []  # width ours
    return nn.Sequential(*hidden, nn.Linear(dim, 1, bias=False), nn.Flatten(1))


class LayerSelection(nn.Module):
    """AFS: of each group of layers the one that suits the phrase.

    Args:
        vision, text: channels of class tokens, and of what they are compared with.
        groups: layers to select from, low and mid; a group of one leaves no choice, and costs nothing.
        by_layer: image and text are compared layer by layer, else every layer with the whole sentence.
    """

    def __init__(self, vision: int, text: int, *, groups: Groups, scorer: str, by_layer: bool, gradient: str) -> None:
        super().__init__()
        self.groups, self.by_layer, self.gradient = groups, by_layer, gradient
        choices = [len(group) > 1 for group in groups]
        self.project = nn.Linear(vision, text, bias=False) if any(choices) else None  # Phi_T
        self.scorers = nn.ModuleList(build_scorer(scorer, text) if choice else nn.Identity() for choice in choices)
        if gradient == "none":
            self.requires_grad_(False)

    def forward(self, layers: Layers, said: Phrase, image_index: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """A map (n, c, h, w) of each group; and, where there is a choice, weights and layer by name."""
        picked: list[Tensor] = []
        aux: dict[str, Tensor] = {}
        for name, group, scorer in zip(("low", "mid"), self.groups, self.scorers, strict=False):
            maps = [layers[n][1] for n in group]
            if len(group) == 1:
                picked.append(take(maps[0], image_index))
                continue
            weights = scorer(self.products(layers, group, said, image_index)).softmax(1)  # Eq. 3: Phi_as
            picked.append(self.pick(maps, weights, image_index))
            numbers = torch.tensor(group, device=weights.device)
            every = weights.new_zeros(weights.shape[0], max(group))
            aux[f"{name}_weights"] = every.index_copy(1, numbers - 1, weights)
            aux[f"{name}_layer"] = numbers[weights.argmax(1)]
        return picked, aux

    def products(self, layers: Layers, group: tuple[int, ...], said: Phrase, image_index: Tensor) -> Tensor:
        """(n, k, c): text times class token; Eq. 3's score is their sum over channels, a scorer's a weighted one."""
        assert self.project is not None
        tokens = take(self.project(torch.stack([layers[n][0] for n in group], 1)), image_index)
        if self.by_layer:
            return torch.stack([said.ends[n - 1] for n in group], 1) * tokens
        return said.sentence[:, None] * tokens

    def pick(self, maps: list[Tensor], weights: Tensor, image_index: Tensor) -> Tensor:
        """The map of largest weight, or their weighted mean (`soft`). maps: k times (i, c, h, w); weights: (n, k)."""
        if self.gradient == "soft":
            return mixture(maps, weights, image_index)
        best = torch.stack(maps, 1)[image_index, weights.argmax(1)]
        if self.training and self.gradient == "straight-through":
            return best + mixture(maps, weights - weights.detach(), image_index)  # adds 0, and the softmax's gradient
        return best


def mixture(maps: list[Tensor], weights: Tensor, image_index: Tensor) -> Tensor:
    """(n, c, h, w): each phrase's own weighted sum of its image's maps."""
    parts = [w[:, None, None, None] * take(m, image_index) for m, w in zip(maps, weights.unbind(1), strict=True)]
    return torch.stack(parts).sum(0)


# --- Scale-Wise Feature Aggregator [3.3] ------------------------------------------------------------------------------


class GlobalFusion(nn.Module):
    """F_G: the sentence times every place of the highest layer's map [Eq. 4]."""

    def __init__(self, vision: int, sentence: int) -> None:
        super().__init__()
        self.vision = conv_bn_leaky(vision, vision, kernel=1)
        self.sentence = nn.Sequential(nn.Linear(sentence, vision), nn.BatchNorm1d(vision), nn.LeakyReLU(SLOPE))
        self.norm = nn.Sequential(nn.BatchNorm2d(vision), nn.LeakyReLU(SLOPE))

    def forward(self, high: Tensor, sentence: Tensor, image_index: Tensor) -> Tensor:
        f_H, f_E = take(self.vision(high), image_index), self.sentence(sentence)
        return self.norm(f_H * f_E[:, :, None, None])  # Eq. 4


class Pyramid(nn.Module):
    """SFA of the official code: the selected maps are enlarged, by two and by four, added top-down at the finest size,
    and max-pooled back to the grid. (Eq. 5 makes them smaller instead: `EquationFive`.)"""

    def __init__(self, vision: int, width: int, *, dim: int) -> None:
        super().__init__()
        half, quarter = vision // 2, vision // 4
        double = partial(nn.ConvTranspose2d, kernel_size=2, stride=2)
        self.high = nn.Sequential(conv_bn_leaky(vision, width, kernel=1), conv_bn_leaky(width, width))
        self.mid = nn.Sequential(
            double(vision, half), conv_bn_leaky(half, width, kernel=1), conv_bn_leaky(width, width)
        )
        enlarged = (double(vision, half), nn.BatchNorm2d(half), nn.GELU(), double(half, quarter))
        self.low = nn.Sequential(*enlarged, conv_bn_leaky(quarter, width, kernel=1), conv_bn_leaky(width, width))
        self.lateral = nn.ModuleList(conv_bn_leaky(width, width, kernel=1) for _ in range(3))  # high, mid, low
        self.out = conv_bn_leaky(width, dim)

    def forward(self, fused: Tensor, low: Tensor, mid: Tensor) -> Tensor:
        high = self.lateral[0](self.high(fused))
        middle = self.lateral[1](self.mid(mid)) + F.interpolate(high, scale_factor=2.0, mode="nearest")
        fine = self.lateral[2](self.low(low)) + F.interpolate(middle, scale_factor=2.0, mode="nearest")
        return F.max_pool2d(self.out(fine), 4)


class EquationFive(nn.Module):
    """SFA of the paper's text, in 32 channels. "Downsample" is an average [ours]; the width is fixed by the paper."""

    def __init__(self, vision: int, width: int, *, dim: int) -> None:
        super().__init__()
        self.low, self.mid, self.high = (conv_bn_relu(vision, THIN, kernel=1) for _ in range(3))
        self.aggregate = conv_bn_relu(THIN, dim)

    def forward(self, fused: Tensor, low: Tensor, mid: Tensor) -> Tensor:
        h, w = fused.shape[-2:]
        halved, quartered = (-(-h // 2), -(-w // 2)), (-(-h // 4), -(-w // 4))
        up = partial(F.interpolate, mode="bilinear", align_corners=False)
        F_L = up(self.low(F.adaptive_avg_pool2d(low, quartered)), halved)  # Eq. 5: F'_L
        F_M = self.mid(F.adaptive_avg_pool2d(mid, halved)) + F_L  # Eq. 5: F'_M
        return self.aggregate(self.high(fused) + up(F_M, (h, w)))  # Eq. 5: F_coarse


class Projection(nn.Module):
    """The maps side by side, projected [table 2, b and c]; the highest layer's alone [table 2, a]."""

    def __init__(self, vision: int, width: int, *, dim: int, maps: int) -> None:
        super().__init__()
        self.project = conv_bn_leaky(maps * vision, dim, kernel=1)

    def forward(self, *maps: Tensor) -> Tensor:
        return self.project(torch.cat(maps, 1))


# (vision's channels, channels inside, dim=) -> a module of F_G and the selected low and mid maps (n, vision, h, w) that
# gives F_coarse (n, dim, h, w).
AGGREGATORS: dict[str, Callable[..., nn.Module]] = {
    "pyramid": Pyramid,
    "eq5": EquationFive,
    "concat": partial(Projection, maps=3),
    "high": partial(Projection, maps=1),
}


# --- Word Guided Dual-Branch Aligner [3.4] ----------------------------------------------------------------------------


def build_aligner(config: ASDAConfig, *, words: int, grid: tuple[int, int]) -> nn.Module:
    """A module of F_coarse (n, c, h, w), words (n, l, words) and which of them to keep, (n, l) bool or None for all;
    it gives logits (n, 1, h s, w s) and its maps by name [table 2: dual f, single e, none a to d]."""
    c, width = config.dim, config.mask_dim or config.dim // 2
    decoder = partial(SegmentationDecoder, c, width=width, upsamplings=config.upsamplings)
    if config.aligner == "none":
        return SingleBranch(None, None, decoder(outputs=1))
    layers, heads, dropout = config.attention_layers, config.heads, config.dropout
    visual = VisualAttention(c, layers=layers, heads=heads, hidden=config.hidden, dropout=dropout)
    reading = WordAttention(c, words=words, heads=heads, hidden=config.word_hidden, dropout=dropout)
    if config.aligner == "single":
        return SingleBranch(visual, reading, decoder(outputs=1))
    activation = nn.ReLU() if config.mask_activation == "relu" else nn.Sigmoid()
    masks = nn.Sequential(decoder(outputs=config.masks), activation)
    coefficients = Coefficients(c, masks=config.masks, grid=grid if config.coefficients == "linear" else None)
    return DualBranch(visual, reading, masks, coefficients, background=config.background)


class DualBranch(nn.Module):
    """WGDA: CFS makes response masks from vision alone, WCG their coefficients with the words' help.

    At high learning rates the many background pixels drive every coefficient to tanh's lower end, where it stays, and
    no pixel gets past probability 0.5. `background` gives them a constant to move in the coefficients' place.
    """

    def __init__(
        self, visual: nn.Module, words: nn.Module, masks: nn.Module, coefficients: nn.Module, *, background: float
    ) -> None:
        super().__init__()
        self.visual, self.words, self.masks, self.coefficients = visual, words, masks, coefficients
        self.background = nn.Parameter(torch.tensor(background)) if background else None

    def forward(self, coarse: Tensor, words: Tensor, keep: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        F_A = self.visual(coarse)  # Eq. 6
        masks = self.masks(F_A)  # Eq. 7: M'
        F_fine = self.words(F_A, words, keep)  # Eq. 8
        f_coef = self.coefficients(F_fine)  # Eq. 9
        logits = torch.einsum("nq,nqhw->nhw", f_coef, masks)[:, None]  # Eq. 10
        if self.background is not None:
            logits = logits + self.background
        return logits, {"fine_feature": F_fine.amax(1), "response_masks": masks, "coefficients": f_coef}


class SingleBranch(nn.Module):
    """Words go into the coarse feature, which is decoded then [figure 3]; without the two, decoded as it is."""

    def __init__(self, visual: nn.Module | None, words: nn.Module | None, decoder: nn.Module) -> None:
        super().__init__()
        self.visual, self.words, self.decoder = visual, words, decoder

    def forward(self, coarse: Tensor, words: Tensor, keep: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        if self.visual is None or self.words is None:
            return self.decoder(coarse), {}
        fine = self.words(self.visual(coarse), words, keep)
        return self.decoder(fine), {"fine_feature": fine.amax(1)}


class VisualAttention(nn.Module):
    """Local Visual Attention [Eq. 6], with LayerNorm behind each part as in the official code."""

    def __init__(self, dim: int, *, layers: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads=heads, hidden=hidden, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, coarse: Tensor) -> Tensor:
        """(n, c, h, w) -> the same."""
        places = torch.cat(sine_axes(coarse, first=1), 1)
        x = as_places(torch.relu(coarse))
        for layer in self.layers:
            x = layer(x, positions=places)
        return as_map(self.norm(x), coarse.shape[-2:])


class WordAttention(nn.Module):
    """Visual and Language Local Attention [Eq. 8]: every place looks at the words. ReLUs as in the official code."""

    def __init__(self, dim: int, *, words: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(words, dim, bias=False)
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attention = Attention(dim, heads=heads, dropout=dropout)
        self.mlp = feed_forward(dim, hidden=hidden, dropout=dropout)
        self.norm1, self.norm2, self.drop = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.Dropout(dropout)

    def forward(self, vision: Tensor, words: Tensor, keep: Tensor | None) -> Tensor:
        """vision (n, c, h, w), words (n, l, words), keep (n, l) bool -> (n, c, h, w)."""
        F_A, f_T = as_places(vision), torch.relu(self.project(words))
        q, k, v = (torch.relu(part(x)) for part, x in ((self.q, F_A), (self.k, f_T), (self.v, f_T)))
        F_K = self.norm1(F_A + self.drop(self.attention(q, k, v, keep)))
        F_fine = self.norm2(F_K + self.drop(self.mlp(F_K)))
        return as_map(F_fine, vision.shape[-2:])


class SegmentationDecoder(nn.Module):
    """Two convolutions, one behind each upsampling by two, and one to `outputs` channels [Eq. 7; official code]."""

    def __init__(self, dim: int, *, width: int, upsamplings: int, outputs: int) -> None:
        super().__init__()
        widths = (dim, *[width] * (2 + upsamplings))
        self.convs = nn.ModuleList(conv_bn_leaky(a, b) for a, b in pairwise(widths))
        self.out = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs[1](self.convs[0](x))
        for block in self.convs[2:]:
            x = block(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.out(x)


class Coefficients(nn.Module):
    """Gated Coefficient Generation [Eq. 9]: one number in (-1, 1) a mask.

    Args:
        grid: places of F_fine, each read by weights of its own [official code]; None: their mean [Eq. 9, ours].
    """

    def __init__(self, dim: int, *, masks: int, grid: tuple[int, int] | None) -> None:
        super().__init__()
        last = nn.Conv2d(dim, masks, 1) if grid is None else nn.Conv2d(dim, masks, 3, padding=1)
        self.map = nn.Sequential(conv_bn_leaky(dim, dim), conv_bn_leaky(dim, dim), last)
        self.gather = None if grid is None else nn.Linear(grid[0] * grid[1] * masks, masks, bias=False)

    def forward(self, fine: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, q)."""
        places = as_places(self.map(fine))  # (n, h*w, q)
        return torch.tanh(places.mean(1) if self.gather is None else self.gather(places.flatten(1)))
