"""JMCELN: Referring Image Segmentation via Joint Mask Contextual Embedding Learning and Progressive Alignment Network
(Huang, Satoh, EMNLP 2023), whose equation numbers are used here.

The paper names a repository of code (github.com/toyotttttt/referring-segmentation), which was not to be had. Where its
text is silent the choice stands beside the field in `JMCELNConfig` or here:
- The text tower's sentence feature, the end token's projected state, is F_s; the words F_t are in no equation.
- Window attention (figure 2b): pre-norm with residual and relative positions as in Swin, no shift.
- The four relations: 1x1, and 3x3 at three dilations, a quarter of the channels each.
- Stages share nothing. What is attended to is layer-normalised, as six steps of Eq. 3 and 4 would not hold still
  otherwise; F_m's pixels carry sine positions there.
- The alignment network's third product is followed by a 1x1 convolution (HorNet's last projection).
- Twenty embeddings face 2704 pixels: the projections of keys, values and queries in Eq. 3 and 4 are applied on the
  embeddings' side, to the same result for a sixth of the multiply-adds.
- W_m of Eq. 2 is 1x1 and so commutes with Up: it runs before it, and on vision's half once an image. Language-free are
  the ResNet and vision's share of the neck, 12.5 % of the multiply-adds of one image with one phrase at 416 px (37.3 of
  297.9 G).
- Two-class cross-entropy with argmax is one logit, the difference of the two, with cross-entropy and sign.
- The printed learning rate, 6e-6, looks low for layers that start from nothing; the recipes keep it.
- Parameters at full size: 247.86 M, of which CLIP RN101 42.52 M and text 63.43 M; none published.

Axes: i images, n expressions, q embeddings, p pixels (h w), c channels, m heads, d channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.layers.attention import as_map, as_places, attend, sine_positions_2d, take
from refseg_cli.layers.clip import PhraseReader
from refseg_cli.layers.decoding import MaskDecoder, NoTargetHead
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.vision import SLOPE, conv_bn_leaky
from refseg_cli.ranges import Count, CountFrom0, Counts, Weight
from refseg_cli.records import Batch, MapKind, Prediction


@dataclass(frozen=True, slots=True)
class JMCELNConfig(EncoderConfig):
    """Sources in brackets; "ours" where the paper is silent."""

    backbone: str = "resnet101_clip.openai"  # [4: ResNet-101, CLIP]
    text: Literal["gru", "lstm", "transformer", "bert", "clip"] = "clip"  # [4: CLIP]
    text_name: str = "timm/resnet101_clip.openai"  # the same CLIP's text tower
    text_dim: Count = 512  # [CLIP]
    text_projection: Count = 512  # [CLIP]
    dim: Count = 1024  # C [4]
    heads: Count = 8  # [4]
    relation: Literal["lsran", "none"] = "lsran"  # [table 2, rows 1 and 3]
    window: Count = 13  # pixels a side; 52 = 4 x 13 [ours: figure 2b's w is not in the text]
    dilations: tuple[Count, ...] = (6, 12, 18)  # of the 3x3 convolutions beside a 1x1 [ours: ASPP's]
    stages: CountFrom0 = 6  # n; 0: no cascade [4; table 2, rows 1 and 2]
    embeddings: Count = 20  # Q [4]
    adaptive: bool = True  # Eq. 3 reads each stage's output, not the first one's [table 2, row 6]
    alignment: Literal["pan", "none"] = "pan"  # [table 2, row 4]
    mask_dims: Counts = (512, 256, 128)  # 3x3 convolutions, each before an upsampling [3.5; widths ours]
    dice_weight: Weight = 0.0  # [the paper: cross-entropy only]
    no_target_head: bool = False  # [ours]
    exists_weight: Weight = 0.1  # [ours]


class JMCELN(nn.Module):
    """See the header. Built by `models.build_model`."""

    EXPLAIN: ClassVar[dict[str, MapKind]] = {
        "stage_masks": "logits",
        "stage_attention": "map",
        "stage_change": "map",
    }

    def __init__(self, config: JMCELNConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        c, heads = config.dim, config.heads
        self.backbone = build_vision(config, size=size)
        self.reader = PhraseReader(build_text(config, vocab_size=vocab_size, max_tokens=max_tokens, dim=c, heads=heads))
        self.neck = Neck(self.backbone.channels, self.reader.sentence_dim, dim=c)
        self.relation: nn.Module = nn.Identity()
        if config.relation == "lsran":
            self.relation = LongShortRelations(c, heads=heads, window=config.window, dilations=config.dilations)
        self.cascade = Cascade(config) if config.stages else None
        self.mask_decoder = MaskDecoder(c, dims=config.mask_dims)
        self.exists = NoTargetHead(c, dim=c) if config.no_target_head else None

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, h s, w s), s = 2^len(mask_dims), h w at stride 8; language enters in the neck.

        aux, where there is a cascade: `stage_attention` (n, stages, h, w), how much the embeddings read of each pixel,
        summing to 1; `stage_change` (n, stages, h, w), how far each stage moved a pixel's feature.
        """
        return self._answer(batch, None)

    def explained(self, batch: Batch) -> Prediction:
        """As `forward`, for showing.

        aux has besides `stage_masks` (n, stages, h s, w s), what the mask decoder makes of each stage's map, logits of
        which the last are the answer; a decoding for each stage.
        """
        return self._answer(batch, self.mask_decoder)

    def _answer(self, batch: Batch, decode: nn.Module | None) -> Prediction:
        said = self.reader(batch.tokens, batch.attention_mask)
        F_m = self.neck(self.backbone(batch.images), said.sentence, batch.image_index)  # (n, c, h, w)
        F_mt = self.relation(F_m)
        aux: dict[str, Tensor] = {}
        if self.cascade is not None:
            F_mt, aux = self.cascade(F_m, F_mt, decode)
        exists = None if self.exists is None else self.exists(F_mt.mean((2, 3)), F_mt)
        return Prediction(self.mask_decoder(F_mt), exists, aux)

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is the training loss: cross-entropy at the logits' resolution [3.5]."""
        return losses.mask_and_existence(
            prediction, batch, dice_weight=self.config.dice_weight, exists_weight=self.config.exists_weight
        )

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.backbone, self.reader.encoder]


# --- 3.2 Encoders and neck --------------------------------------------------------------------------------------------


class Neck(nn.Module):
    """F_m: the sentence multiplies the coarsest map, the finer ones join on the way to stride 8.

    Args:
        channels: of the maps at strides 8, 16, 32; sentence: of F_s.
    """

    def __init__(self, channels: tuple[int, ...], sentence: int, *, dim: int) -> None:
        super().__init__()
        self.sentence = nn.Linear(sentence, dim, bias=False)  # W_s
        self.sentence_norm = SentenceNorm(dim)
        self.vision = nn.ModuleList(conv_bn_leaky(k, dim, kernel=1) for k in channels)  # W_v1, W_v2, W_v3
        self.joins = nn.ModuleList(Join(dim) for _ in channels[1:])  # W_m1, W_m2

    def forward(self, maps: list[Tensor], sentence: Tensor, image_index: Tensor) -> Tensor:
        """maps: (i, channels[k], ...), finest first; sentence: (n, s). Gives (n, dim, h, w) at the finest's size."""
        v1, v2, v3 = (project(x) for project, x in zip(self.vision, maps, strict=True))  # sigma(F_vi W_vi)
        s = F.leaky_relu(self.sentence_norm(self.sentence(sentence)), SLOPE)
        F_m2 = s[:, :, None, None] * take(v3, image_index)  # Eq. 1
        F_m1 = self.joins[1](F_m2, v2, image_index)  # Eq. 2, i = 2
        return self.joins[0](F_m1, v1, image_index)  # Eq. 2, i = 1


class SentenceNorm(nn.BatchNorm1d):
    """Batch normalisation that takes its stored statistics where a training batch has a single sentence."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class Join(nn.Module):
    """sigma(W_m [Up(F_m), vision]) of Eq. 2, with W_m in two halves: before Up, and once an image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fused = nn.Conv2d(dim, dim, 1, bias=False)
        self.vision = nn.Conv2d(dim, dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, fused: Tensor, vision: Tensor, image_index: Tensor) -> Tensor:
        up = F.interpolate(self.fused(fused), vision.shape[-2:], mode="bilinear", align_corners=False)
        return F.leaky_relu(self.norm(up + take(self.vision(vision), image_index)), SLOPE)


# --- 3.3 Long-Short Relation-Aware Network ----------------------------------------------------------------------------


class LongShortRelations(nn.Module):
    """LSRAN [3.3, figure 2b]: what is in each window, how windows near and far relate, times the map's boundaries."""

    def __init__(self, dim: int, *, heads: int, window: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        part = dim // (1 + len(dilations))
        self.window = WindowAttention(dim, heads=heads, side=window)
        self.relations = nn.ModuleList([conv_bn_leaky(dim, part, kernel=1)])
        self.relations.extend(conv_bn_leaky(dim, part, kernel=3, dilation=d) for d in dilations)
        self.mix = conv_bn_leaky(part * (1 + len(dilations)), dim, kernel=1)
        self.boundary = conv_bn_leaky(dim, dim, kernel=3)

    def forward(self, F_m: Tensor) -> Tensor:
        inside = self.window(F_m)
        return self.boundary(F_m) * self.mix(torch.cat([relate(inside) for relate in self.relations], 1))


class WindowAttention(nn.Module):
    """Self-attention within windows of `side` x `side` pixels (Swin, Liu et al. 2021), pre-norm, with residual.

    A map that is no multiple of the window is padded; padding is never attended to.
    """

    index: Tensor

    def __init__(self, dim: int, *, heads: int, side: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is no multiple of heads {heads}")
        self.heads, self.side = heads, side
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads) * 0.02)  # by the offset of two pixels
        y, x = (t.flatten() for t in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
        dy, dx = y[:, None] - y + side - 1, x[:, None] - x + side - 1
        self.register_buffer("index", dy * (2 * side - 1) + dx, persistent=False)  # (side^2, side^2)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        down, right = -h % self.side, -w % self.side
        y = F.pad(self.norm(x.permute(0, 2, 3, 1)), (0, 0, 0, right, 0, down))
        q, k, v = self._windows(self.qkv(y)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias[self.index].permute(2, 0, 1)  # (m, side^2, side^2)
        if down or right:
            real = F.pad(torch.ones(1, h, w, 1, dtype=torch.bool, device=x.device), (0, 0, 0, right, 0, down))
            seen = torch.where(self._windows(real)[:, None, None, :, 0], 0.0, float("-inf")).to(bias.dtype)
            bias = (bias + seen).repeat(x.shape[0], 1, 1, 1)  # (b, m, side^2, side^2)
        # (b, m, side^2, d), all windows of all maps on one axis: torch.onnx takes attention of 4 axes alone.
        attended = attend(q, k, v, bias)
        # Heads joined by a copy: the layout differs between kernels, and torch.onnx does not trace with the one in use.
        z = self.out(torch.cat(attended.unbind(1), -1)).unflatten(1, (self.side, self.side))
        z = z.unflatten(0, (-1, (h + down) // self.side, (w + right) // self.side))
        z = z.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (n, c, padded h, padded w)
        return x + z[..., :h, :w]

    def _windows(self, x: Tensor) -> Tensor:
        """(n, h, w, c) -> (b, side^2, c), b the windows of one map after the other; both row by row."""
        x = x.unflatten(2, (-1, self.side)).unflatten(1, (-1, self.side))
        return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


# --- 3.4 Joint Mask Contextual Embedding Learning ---------------------------------------------------------------------


class Cascade(nn.Module):
    """n stages that read the map into contextual embeddings and write the embeddings back [3.4, figure 2a]."""

    def __init__(self, config: JMCELNConfig) -> None:
        super().__init__()
        c = config.dim
        self.adaptive = config.adaptive
        self.embeddings = nn.Parameter(nn.init.trunc_normal_(torch.empty(config.embeddings, c), std=0.02))  # q^0
        self.norm = nn.LayerNorm(c)
        self.stages = nn.ModuleList(
            Stage(c, heads=config.heads, alignment=config.alignment) for _ in range(config.stages)
        )

    def forward(self, F_m: Tensor, F_mt: Tensor, decode: nn.Module | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """F_mt^n, and the aux maps that `JMCELN.forward` and, with `decode`, `explained` describe.

        Args:
            F_m, F_mt: (n, c, h, w).
            decode: makes a mask of a stage's map.
        """
        n, c, h, w = F_m.shape
        keys = self.norm(as_places(F_m)) + sine_positions_2d(h, w, c, device=F_m.device, dtype=F_m.dtype)
        q, first, looks, changes, masks = self.embeddings.expand(n, -1, -1), F_mt, [], [], []
        for stage in self.stages:
            before = F_mt
            q, F_mt, look = stage(q, keys, F_mt if self.adaptive else first, F_mt)
            looks.append(look.unflatten(1, (h, w)))
            changes.append((F_mt - before).square().mean(1).sqrt())
            if decode is not None:
                masks.append(decode(F_mt))
        aux = {"stage_attention": torch.stack(looks, 1), "stage_change": torch.stack(changes, 1)}
        return F_mt, aux if decode is None else {**aux, "stage_masks": torch.cat(masks, 1)}


class Stage(nn.Module):
    """Contextual embedding learning [3.4.1], then mask predicting [3.4.2]."""

    def __init__(self, dim: int, *, heads: int, alignment: str) -> None:
        super().__init__()
        self.learn = EmbeddingLearning(dim, heads=heads)
        self.predict = MaskPredicting(dim, heads=heads)
        self.align = ProgressiveAlignment(dim) if alignment == "pan" else Unaligned()

    def forward(self, q: Tensor, keys: Tensor, values: Tensor, F_mt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q^{i+1} (n, q, c), F_mt^{i+1} (n, c, h, w), and the mean attention on the pixels (n, p).

        keys: (n, p, c), of F_m; values: (n, c, h, w), what Eq. 3 reads; F_mt: the stage before's output.
        """
        q, look = self.learn(q, keys, as_places(values))
        current = as_map(self.predict(as_places(F_mt), q), F_mt.shape[-2:])
        return q, self.align(F_mt, current), look


class EmbeddingLearning(nn.Module):
    """q^{i+1} = softmax(q^i F_m^T / sqrt(d_k)) F_mt^i + q^i, with several heads (Eq. 3).

    As (W_q q)^T (W_k k) = (W_k^T W_q q)^T k, the few embeddings are projected in place of the many pixels. Keys need no
    bias, which softmax would not see.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.v, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """q: (n, q, c); keys, values: (n, p, c). Also gives the mean attention (n, p) of heads and embeddings."""
        Q = self.q(self.norm(q)).unflatten(2, (self.heads, -1))  # (n, q, m, d)
        W_k, W_v = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.k, self.v))  # (m, d, c)
        Q = torch.einsum("nqmd,mdc->nmqc", Q * Q.shape[-1] ** -0.5, W_k).flatten(1, 2)
        A = (Q @ keys.transpose(1, 2)).softmax(-1)  # (n, m q, p)
        read = torch.einsum("nmqc,mdc->nqmd", (A @ values).unflatten(1, (self.heads, -1)), W_v)
        return q + self.out(read.flatten(2) + self.v.bias), A.mean(1)  # Eq. 3


class MaskPredicting(nn.Module):
    """F_mt'^{i+1} = softmax(F_mt^i (q^{i+1})^T / sqrt(d_k)) q^{i+1} + F_mt^i, with several heads (Eq. 4).

    Projections on the embeddings' side as in `EmbeddingLearning`: the pixels' W_q, and the output projection.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.pixel_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, pixels: Tensor, q: Tensor) -> Tensor:
        """pixels: (n, p, c); q: (n, q, c)."""
        K, V = (layer(self.norm(q)).unflatten(2, (self.heads, -1)) for layer in (self.k, self.v))  # (n, q, m, d)
        K = K * K.shape[-1] ** -0.5
        W_q, b_q = (t.unflatten(0, (self.heads, -1)) for t in (self.q.weight, self.q.bias))  # (m, d, c), (m, d)
        W_o = self.out.weight.unflatten(1, (self.heads, -1))  # (c, m, d)
        folded = torch.einsum("nqmd,mdc->nmqc", K, W_q).flatten(1, 2)
        offset = torch.einsum("nqmd,md->nmq", K, b_q).flatten(1)
        scores = self.pixel_norm(pixels) @ folded.transpose(1, 2) + offset[:, None]  # (n, p, m q)
        A = scores.unflatten(2, (self.heads, -1)).softmax(-1).flatten(2)
        return pixels + A @ torch.einsum("nqmd,cmd->nmqc", V, W_o).flatten(1, 2) + self.out.bias  # Eq. 4


class ProgressiveAlignment(nn.Module):
    """PAN [3.4.2, figure 2c]: the stage before filters what this one says, three times at growing width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.parts = (dim // 4, dim // 2, dim)
        total = sum(self.parts)
        self.expand = nn.Conv2d(dim, total, 1)
        self.depthwise = nn.Conv2d(total, total, 7, padding=3, groups=total)
        self.first = nn.Conv2d(dim, dim // 4, 1)
        self.second = nn.Conv2d(dim // 4, dim // 2, 3, padding=1)
        self.third = nn.Conv2d(dim // 2, dim, 3, padding=1)
        self.out = nn.Conv2d(dim, dim, 1)
        self.norm = SwitchNorm(dim)

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """F_mt^{i+1} of F_mt^i and F_mt'^{i+1}, all (n, c, h, w)."""
        F_1, F_2, F_3 = self.depthwise(self.expand(current)).split(self.parts, 1)
        x = self.first(previous) * F_1
        x = self.second(x) * F_2
        x = self.third(x) * F_3
        return previous + self.norm(self.out(x))


class Unaligned(nn.Module):
    """What this stage says, as it is [table 2, row 4]."""

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        return current


MOMENTUM, EPS = 0.1, 1e-5  # PyTorch's of batch normalisation


class SwitchNorm(nn.Module):
    """Switchable normalisation (Luo et al., ICLR 2019): means and variances of instance, layer and batch
    normalisation, mixed with learned weights.

    Batch statistics are those of this process; in evaluation their running averages.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.mean_mix, self.var_mix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w); computed in at least float32."""
        y = x if x.dtype == torch.float64 else x.float()
        mean_in = y.mean((2, 3))  # (n, c)
        var_in = y.var((2, 3), correction=0)
        square = var_in + mean_in.square()
        mean_ln = mean_in.mean(1, keepdim=True)
        var_ln = square.mean(1, keepdim=True) - mean_ln.square()
        mean_bn, var_bn = self._batch(mean_in, square)
        a, b = self.mean_mix.softmax(0), self.var_mix.softmax(0)
        mean = a[0] * mean_in + a[1] * mean_ln + a[2] * mean_bn
        var = b[0] * var_in + b[1] * var_ln + b[2] * var_bn
        scale = self.weight * (var + EPS).rsqrt()
        return (y * scale[..., None, None] + (self.bias - mean * scale)[..., None, None]).to(x.dtype)

    def _batch(self, mean_in: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        """(c,) each."""
        if not self.training:
            return self.running_mean, self.running_var
        mean = mean_in.mean(0)
        var = square.mean(0) - mean.square()
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), MOMENTUM)
            self.running_var.lerp_(var.to(self.running_var.dtype), MOMENTUM)
        return mean, var
