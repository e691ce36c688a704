"""ISFP: Instance-Specific Feature Propagation for Referring Segmentation (Liu, Jiang, Ding, IEEE TMM 2022; C. Liu's
thesis, 2024, chapter 3). Numbers of equations, tables and sections are the journal's unless they begin with a 3.

Where journal and thesis differ, and what is taken:
- Eq. 2 adds v itself in every direction, Eq. 3 shows W_1 before the first direction's ISF, Eq. 3.2 has W_1 in front of
  the vector of either direction. The journal's worked example (Eq. 3) is taken, `second_projection` is the thesis.
- RefCOCO val of the full model: 65.19 (tables I, III), 65.67 (table IV), 66.19 (tables 3.1, 3.3). 66.19 is taken: only
  it has the gain of 13.79 over the baseline and the gaps 10.13 and 14.22 that both texts state. The last row of table
  3.1 agrees with that of table I otherwise; IEM + RM without FPM, and masks without language [IV-E], are the journal's.
- The Feature Propagation Module (FPM) is the thesis' Relationship Analyze Module (RAM).

Where both are silent, our choice stands beside the field in `ISFPConfig`. Further:
- "Convolution with Leaky ReLU and batch normalisation" is convolution, normalisation, activation, as in Darknet.
- The ASPP's pooled branch has no batch normalisation: a batch of one expression has one value of it.
- Losses: sums over cells, and over the pixels of the coarse masks (`refine` is the mean over the fine pixels times the
  number of coarse ones), averaged over expressions. With these the three weights of the paper are of one order at the
  start: 1171, 506 and 937 at 416 px; with means they would be 6.9, 0.02 and 0.35.
- Parameters at full size: 65.06 M without word embeddings, of which Darknet-53 has 40.58 M; none published.
- An expression with several targets has one centre of gravity, one without a target only negative cells;
  `no_target_head` (ours) takes the highest cell of the Identifying Map for the probability that there is a target.

`FeaturePropagation` steps over anti-diagonals, all their cells in all four paths at once: 2 (2S - 1) = 50 steps instead
of 8 S^2 = 1352. At S = 13, C = 256 and two expressions that is 3.3 times as fast as loops over cells forward, 5.1 times
forward and backward (CPU time of one thread, medians of 5 and 3 runs).

Axes: i images, n expressions, c channels, h w of a map, s = Sh * Sw grid cells (row by row), p paths, d diagonals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.layers.attention import take
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.upsampling import doubled_conv
from refseg_cli.layers.vision import SLOPE, conv_bn_leaky
from refseg_cli.models.isfp_cells import (
    annotated_map,
    annotated_masks,
    identify_loss,
    iou,
    positive_cells,
    refine_loss,
    segment_loss,
)
from refseg_cli.ranges import Count, Number, Share, Weight
from refseg_cli.records import Batch, MapKind, Prediction

CELL = 32  # pixels a side of a grid cell: 13 x 13 of 416 x 416 [IV-A]


@dataclass(frozen=True, slots=True)
class ISFPConfig(EncoderConfig):
    """Sources in brackets; "ours" where both texts are silent; "VLT's" as in the same authors' official code of VLT."""

    backbone: str = "darknet53"  # [IV-A]; from ImageNet, since the paper's detector weights are not distributed
    frozen: bool = True  # [VLT's]
    text: Literal["gru", "lstm", "transformer", "bert"] = "gru"  # [III-A: bi-directional GRU]
    embedding_dim: Count = 300  # [IV-A: GloVe 840B]
    language_dim: Count = 1024  # C_l [VLT's]
    heads: Count = 8  # only for `transformer`
    dropout: Share = 0.1  # of word embeddings [VLT's]
    pyramid_dim: Count = 256  # C_v [FPN]
    fused_dim: Count = 512  # C_f [VLT's]
    instance_dim: Count = 256  # C of the ISF [ours]
    mask_dim: Count = 256  # of the Segmentation Branch [ours]
    grid: tuple[Count, ...] = ()  # rows and columns of cells; (): one for each 32 x 32 pixels, S = 13 at 416 [IV-A]
    identification: Literal["fpm", "conv", "none"] = "fpm"  # `conv`: IEM alone, `none`: the baseline [table I]
    alpha: Number = 1 / 3  # Eq. 2 [ours: a mean of three; with 1 the states of 13 x 13 cells grow to 1e11]
    second_projection: bool = False  # W_1 in the second direction too [Eq. 3.2]
    language_in_masks: bool = True  # [IV-E: without it 0.48 IoU less]
    rates: tuple[Count, ...] = (6, 12, 18)  # of the ASPP's dilated branches [DeepLabv3]
    refinement: bool = True  # RM [table I]
    refine_dim: Count = 32  # [ours]
    refine_stride: Count = 4  # of image and coarse mask as RM takes them; its output has a fourth of it [ours]
    identify_weight: Weight = 10.0  # w_ide [IV-A]
    segment_weight: Weight = 0.03  # w_seg [IV-A]
    refine_weight: Weight = 0.5  # w_ref [IV-A]
    theta: Share = 0.3  # least coarse IoU that refinement learns from [IV-A]
    oracle: Literal["none", "location", "mask"] = "none"  # table II, in evaluation only; needs annotated data
    no_target_head: bool = False  # [ours]


class ISFP(nn.Module):
    """See the header. Built by `models.build_model`.

    Args:
        size: (height, width) of the network input in pixels, which lays out the grid.
    """

    EXPLAIN: ClassVar[dict[str, MapKind]] = {"identifying": "logits", "cell_masks": "logits", "coarse": "logits"}

    def __init__(self, config: ISFPConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.grid = config, grid_of(config, size)
        c_l, c_f, cells = config.language_dim, config.fused_dim, self.grid[0] * self.grid[1]
        self.backbone = build_vision(config, size=size)
        self.text = build_text(
            config, vocab_size=vocab_size, max_tokens=max_tokens, dim=c_l, heads=config.heads, dropout=config.dropout
        )
        self.sentence = WordAttention(self.text.dim)
        self.pyramid = FeaturePyramid(self.backbone.channels, dim=config.pyramid_dim)
        self.fusion = DenseMultiplication(config.pyramid_dim, self.text.dim, dim=c_f)
        self.up = Pathway(c_f, resize=twice)
        self.plain: nn.ModuleList | None = None
        if not config.language_in_masks:
            self.plain = nn.ModuleList(conv(config.pyramid_dim, c_f, kernel=1) for _ in range(3))
        instances = config.identification != "none"
        outputs = cells if instances else 1
        self.segmentation = SegmentationBranch(c_f, config.mask_dim, rates=config.rates, outputs=outputs)
        self.identification = None
        if instances:
            self.identification = IdentificationBranch(c_f, config.instance_dim, self.grid, exchange_of(config, cells))
        self.refinement = Refinement(config.refine_dim, stride=config.refine_stride) if config.refinement else None

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, 4H/r, 4W/r) with r = `refine_stride`, or without RM (n, 1, H/8, W/8).

        aux: `cell_masks` (n, s, h, w), the Segmentation Branch's logits at stride 8, of which `coarse` (n, 1, h, w) is
        the chosen one; `identifying` (n, Sh, Sw), the Identifying Map's logits.

        Raises:
            RefsegError: `oracle` is set in evaluation, and the batch has no annotations.
        """
        of = batch.image_index
        pyramid = self.pyramid(self.backbone(batch.images))
        F_t = self.sentence(self.text(batch.tokens, batch.attention_mask), batch.attention_mask)
        fused = self.fusion(pyramid, F_t, of)
        masks = self._cell_masks(pyramid, fused, of)
        if self.identification is None:
            return Prediction(self._refined(masks, batch), aux={"cell_masks": masks, "coarse": masks})
        identifying = self.identification(fused)
        oracle = "none" if self.training else self.config.oracle
        if oracle == "location":
            identifying = annotated_map(batch, self.grid)
        cell = identifying.flatten(1).argmax(1)
        coarse = lookup(masks, cell)
        return Prediction(
            mask_logits=annotated_masks(cell, batch, self.grid) if oracle == "mask" else self._refined(coarse, batch),
            exists_logit=identifying.flatten(1).amax(1) if self.config.no_target_head else None,
            aux={"identifying": identifying, "cell_masks": masks, "coarse": coarse},
        )

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is the training loss (Eq. 4)."""
        config, aux = self.config, prediction.aux
        assert batch.masks is not None
        h, w = aux["coarse"].shape[-2:]
        target = losses.resize_targets(batch.masks, (h, w))
        positive = torch.ones_like(aux["cell_masks"][:, :, 0, 0], dtype=torch.bool)  # the baseline's only mask
        terms = {}
        if self.identification is not None:
            positive = positive_cells(batch.masks, self.grid)
            terms["identify"] = config.identify_weight * identify_loss(aux["identifying"].flatten(1), positive)
        terms["segment"] = config.segment_weight * segment_loss(aux["cell_masks"], target, positive)
        if self.refinement is not None:
            logits = prediction.mask_logits
            fine = losses.resize_targets(batch.masks, (logits.shape[2], logits.shape[3]))
            learns = iou(aux["coarse"], target) >= config.theta
            terms["refine"] = config.refine_weight * (h * w) * refine_loss(logits, fine, learns)
        return terms

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.backbone, self.text]

    def _cell_masks(self, pyramid: Sequence[Tensor], fused: Sequence[Tensor], image_index: Tensor) -> Tensor:
        if self.plain is None:
            return self.segmentation(self.up(fused[::-1]))
        plain = [convolution(level) for convolution, level in zip(self.plain, pyramid, strict=True)]
        return take(self.segmentation(self.up(plain[::-1])), image_index)

    def _refined(self, coarse: Tensor, batch: Batch) -> Tensor:
        return coarse if self.refinement is None else self.refinement(coarse, batch.images, batch.image_index)


def grid_of(config: ISFPConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells.

    Raises:
        ValueError: `grid` is no pair of counts, or settings need the branch that `identification` leaves out.
    """
    if len(config.grid) not in (0, 2) or any(count < 1 for count in config.grid):
        raise ValueError(f"grid must be [rows, columns], not {list(config.grid)}")
    if config.identification == "none" and (config.no_target_head or config.oracle != "none"):
        raise ValueError("no_target_head and oracle need the Identification Branch (identification)")
    return (config.grid[0], config.grid[1]) if config.grid else (size[0] // CELL, size[1] // CELL)


def exchange_of(config: ISFPConfig, cells: int) -> nn.Module:
    """What makes the Identifying Map of the ISFs, starting at the prior: FPM or, in its place, a convolution [IV-B]."""
    p = min(9 / cells, 0.5)  # nine cells of all are positive
    bias, dim = math.log(p / (1 - p)), config.instance_dim
    if config.identification == "conv":
        return last_conv(dim, 1, kernel=3, bias=bias)
    return FeaturePropagation(dim, alpha=config.alpha, second_projection=config.second_projection, bias=bias)


# --- Backbone [III-A] -------------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, *, kernel: int = 3, rate: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, Leaky ReLU [IV-A], at the same size."""
    block = conv_bn_leaky(inputs, outputs, kernel=kernel, dilation=rate)
    nn.init.kaiming_normal_(next(block.parameters()), a=SLOPE)  # the convolution's
    return block


def last_conv(inputs: int, outputs: int, *, kernel: int = 1, bias: float = 0.0) -> nn.Conv2d:
    """The output layer of a module: no normalisation, no activation [IV-A], and near `bias` at the start."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.constant_(convolution.bias, bias)  # type: ignore[arg-type]
    return convolution


def twice(x: Tensor) -> Tensor:
    """Twice the size, nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class WordAttention(nn.Module):
    """F_t = W_w^T F_w: one weight for each word, by a small network on its feature, softmax over real words."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))

    def forward(self, words: Tensor, keep: Tensor) -> Tensor:
        W_w = self.score(words).masked_fill(~keep[..., None], float("-inf")).softmax(1)  # (n, l, 1)
        return (W_w * words).sum(1)


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017): the backbone's three maps to `dim` channels, each joined by the coarser ones."""

    def __init__(self, channels: Sequence[int], *, dim: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv(c, dim, kernel=1) for c in channels)
        self.smooth = nn.ModuleList(conv(dim, dim) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """F_vl, F_vm, F_vs (i, dim, h, w), finest first."""
        levels = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for k in reversed(range(len(levels) - 1)):
            levels[k] = levels[k] + twice(levels[k + 1])
        return [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]


class DenseMultiplication(nn.Module):
    """Eq. 1, on every level: a linear layer on F_t, a 1x1 convolution on each of the three maps, their product."""

    def __init__(self, vision: int, language: int, *, dim: int) -> None:
        super().__init__()
        self.w_v = nn.ModuleList(nn.Conv2d(vision, dim, 1, bias=False) for _ in range(3))
        self.w_t = nn.Linear(language, dim, bias=False)
        self.norm = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(dim), nn.LeakyReLU(SLOPE)) for _ in range(3))

    def forward(self, pyramid: Sequence[Tensor], F_t: Tensor, image_index: Tensor) -> list[Tensor]:
        language = self.w_t(F_t)[:, :, None, None]
        products = [take(w_v(F_v), image_index) * language for w_v, F_v in zip(self.w_v, pyramid, strict=True)]  # Eq. 1
        return [norm(f) for norm, f in zip(self.norm, products, strict=True)]


class Pathway(nn.Module):
    """One direction through the three levels [Fig. 3]: resize, project, join with the next level."""

    def __init__(self, dim: int, *, resize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.resize = resize
        self.project = nn.ModuleList(conv(dim, dim, kernel=1) for _ in range(2))
        self.join = nn.ModuleList(conv(2 * dim, dim, kernel=1) for _ in range(2))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """levels: in the pathway's direction; the result has the size of the last."""
        x = levels[0]
        for project, join, lateral in zip(self.project, self.join, levels[1:], strict=True):
            x = join(torch.cat([project(self.resize(x)), lateral], 1))
        return x


# --- Instance Extraction Module [III-B] -------------------------------------------------------------------------------


class IdentificationBranch(nn.Module):
    """F_ide at S x S, four 3x3 convolutions to the ISFs, and the exchange between these: the Identifying Map."""

    def __init__(self, inputs: int, dim: int, grid: tuple[int, int], propagation: nn.Module) -> None:
        super().__init__()
        self.grid = grid
        self.down = Pathway(inputs, resize=nn.AvgPool2d(2))
        self.body = nn.Sequential(*(conv(a, dim) for a in (inputs, dim, dim, dim)))
        self.propagation = propagation

    def forward(self, fused: Sequence[Tensor]) -> Tensor:
        """Three fused maps, finest first -> logits (n, Sh, Sw)."""
        F_ide = F.interpolate(self.down(fused), self.grid, mode="bilinear", align_corners=False)
        return self.propagation(self.body(F_ide))[:, 0]


class SegmentationBranch(nn.Module):
    """F_seg to a mask for each cell: four 3x3 convolutions, ASPP, and one to the masks; cell (i, j) has i S + j."""

    def __init__(self, inputs: int, dim: int, *, rates: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(conv(a, dim) for a in (inputs, dim, dim, dim)))
        self.branches = nn.ModuleList([conv(dim, dim, kernel=1), *(conv(dim, dim, rate=rate) for rate in rates)])
        self.pooled = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.LeakyReLU(SLOPE))
        self.join = conv(dim * (len(rates) + 2), dim, kernel=1)
        self.out = last_conv(dim, outputs)

    def forward(self, F_seg: Tensor) -> Tensor:
        x = self.body(F_seg)
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand_as(x)
        return self.out(self.join(torch.cat([*(branch(x) for branch in self.branches), pooled], 1)))


# --- Feature Propagation Module [III-C] -------------------------------------------------------------------------------

# Where a path begins, as the axes of (n, c, h, w) to flip so that its first direction becomes DR: DR, DL, UR, UL.
PATHS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))


class FeaturePropagation(nn.Module):
    """FPM: four paths, each a direction over the grid and its opposite, summed with the ISFs; then 1x1 to the map."""

    def __init__(self, dim: int, *, alpha: float, second_projection: bool, bias: float) -> None:
        super().__init__()
        self.alpha = alpha
        std = math.sqrt(2 / (1 + SLOPE**2) / dim)  # Kaiming's
        self.w1 = nn.Parameter(torch.randn(2 if second_projection else 1, len(PATHS), dim, dim) * std)
        self.w2 = nn.Parameter(torch.randn(2, len(PATHS), dim, dim) * std)
        self.norm = nn.BatchNorm2d(dim)
        self.identify = last_conv(dim, 1, bias=bias)

    def forward(self, F_ins: Tensor) -> Tensor:
        """(n, c, Sh, Sw) -> logits (n, 1, Sh, Sw)."""
        v = torch.stack([F_ins.flip(axes) for axes in PATHS])  # (p, n, c, Sh, Sw)
        h = propagate(project(v, self.w1[0]), self.w2[0], alpha=self.alpha)
        v = h.flip((3, 4))  # Eq. 2: the opposite direction goes on from the first one's hidden states
        if len(self.w1) == 2:
            v = project(v, self.w1[1])  # Eq. 3.2
        h = propagate(v, self.w2[1], alpha=self.alpha).flip((3, 4))
        paths = [path.flip(axes) for path, axes in zip(h.unbind(0), PATHS, strict=True)]
        return self.identify(self.norm(F_ins + paths[0] + paths[1] + paths[2] + paths[3]))


def project(v: Tensor, W: Tensor) -> Tensor:
    """W v of every path (p, n, c, h, w) by its own matrix (p, c, c)."""
    return torch.einsum("pdc,pnchw->pndhw", W, v)


def propagate(v: Tensor, W_2: Tensor, *, alpha: float) -> Tensor:
    """Eq. 2 from the top left to the bottom right: v (p, n, c, h, w), W_2 (p, c, c) -> hidden states like v.

    Cells of one anti-diagonal do not see each other, so a step takes a whole diagonal: `skewed` puts cell (i, j) in
    slot i of step i + j. A slot beyond the grid's right edge gets values too, but only slots beyond it ever read them.
    """
    paths, n, c, _, width = v.shape
    W = W_2.transpose(1, 2).contiguous()
    steps = skewed(v).permute(4, 0, 3, 1, 2).flatten(2, 3)  # (d, p, slots * n, c)
    wall = v.new_zeros(paths, n, c)  # above slot 0
    last = before_last = F.pad(torch.zeros_like(steps[0]), (0, 0, n, 0))
    states = []
    for step in steps.unbind(0):
        # Left, up and diagonal neighbour: slot i of the last step, slot i - 1 of it, slot i - 1 of the one before.
        incoming = last[:, n:] + (last + before_last)[:, :-n]
        h = F.leaky_relu(torch.baddbmm(step, incoming, W, alpha=alpha), SLOPE)  # Eq. 2
        last, before_last = torch.cat([wall, h], 1), last
        states.append(h)
    return unskewed(torch.stack(states).unflatten(2, (-1, n)).permute(1, 3, 4, 2, 0), width)


def skewed(x: Tensor) -> Tensor:
    """(..., h, w) -> (..., h, h + w - 1) with row i moved i places to the right, zeros elsewhere."""
    h, w = x.shape[-2:]
    rows = F.pad(x, (0, h)).flatten(-2)  # rows of h + w places, read again as rows of one place less
    return rows[..., : h * (h + w - 1)].unflatten(-1, (h, h + w - 1))


def unskewed(x: Tensor, width: int) -> Tensor:
    """The inverse of `skewed`."""
    h, d = x.shape[-2:]
    return F.pad(x.flatten(-2), (0, h)).unflatten(-1, (h, d + 1))[..., :width]


# --- Refinement Module [III-D] ----------------------------------------------------------------------------------------


def lookup(masks: Tensor, cell: Tensor) -> Tensor:
    """Channel Lookup: mask `cell` (n,) of each expression's masks (n, s, h, w) -> (n, 1, h, w)."""
    return masks.gather(1, cell[:, None, None, None].expand(-1, 1, *masks.shape[-2:]))


class Refinement(nn.Module):
    """RM: image and coarse mask, three 3x3 convolutions with an upsampling between any two, plus the coarse mask.

    The first convolution is split in two, so that the image's half runs once an image.
    """

    def __init__(self, dim: int, *, stride: int) -> None:
        super().__init__()
        if stride < 4 or stride & (stride - 1):
            raise ValueError(f"refine_stride must be a power of two from 4 on, not {stride}")
        self.stride = stride
        self.image = nn.Conv2d(3, dim, 3, padding=1, bias=False)
        self.mask = nn.Conv2d(1, dim, 3, padding=1, bias=False)
        self.first = nn.Sequential(nn.BatchNorm2d(dim), nn.LeakyReLU(SLOPE))
        self.second = conv(dim, dim)
        self.out = last_conv(dim, 1, kernel=3)

    def forward(self, coarse: Tensor, images: Tensor, image_index: Tensor) -> Tensor:
        small = F.avg_pool2d(images, self.stride)
        mask = F.interpolate(coarse, small.shape[-2:], mode="bilinear", align_corners=False)
        x = self.first(take(self.image(small), image_index) + self.mask(mask))
        x = doubled_conv(self.second(twice(x)), self.out)
        return x + F.interpolate(coarse, x.shape[-2:], mode="bilinear", align_corners=False)
