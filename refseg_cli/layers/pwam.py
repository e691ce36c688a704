"""A backbone that language enters stage by stage: LAVT's Pixel-Word Attention Module and language gate (Yang et al.,
CVPR 2022, arXiv:2112.02244).

Users: models/lavt.py (1 head), models/rela.py (1 head), models/cgformer.py (8 heads); of the names of official weights
also models/caris.py, models/deris_official.py.

What differs from the official code, all of it without effect on the result:
- Patch embedding, the blocks of stage 1, and stage 1's projections of pixels see no language: once per image.
- No biases where InstanceNorm (query, output) or softmax (key) takes them away again; no gate in the last stage, whose
  gated map nobody reads. Official files have these tensors: `official_backbone` drops them by name.
- Padding words are masked in the softmax alone; zeroing their keys and values as well changes nothing.

Axes: i images, n expressions, p pixels of a map, l words, c channels of a stage, h w of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.errors import RefsegError
from refseg_cli.layers.attention import as_map, as_places, attend, join_heads, split_heads, take
from refseg_cli.layers.keymap import Rule
from refseg_cli.layers.vision import Backbone


class FusedBackbone(nn.Module):
    """images and words -> four maps (n, c, h, w), finest first, each made of vision and language.

    Every stage's map x is fused with the words, and what came of it goes two ways: normalised, it is that stage's
    output; gated, it is added to x, which the next stage reads.

    Args:
        backbone: as `build_vision(config, size=size, maps=4)` gives it; stays in here as `backbone`.
        word_dim: channels of a word.
        heads: of the pixel-word attention, for each stage.
    """

    def __init__(self, backbone: Backbone, *, word_dim: int, heads: tuple[int, ...]) -> None:
        super().__init__()
        if not backbone.staged:
            raise RefsegError(
                "language enters between the stages of the backbone, and this one has no stages",
                hint="set model.backbone to a Swin, or `convnet`",
            )
        self.backbone, self.channels, self.strides = backbone, backbone.channels, backbone.strides
        self.fusions = nn.ModuleList(
            PixelWordAttention(c, word_dim=word_dim, heads=h) for c, h in zip(self.channels, heads, strict=True)
        )
        self.gates = nn.ModuleList(LanguageGate(c) for c in self.channels[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)

    def forward(self, images: Tensor, words: Tensor, keep: Tensor, image_index: Tensor) -> list[Tensor]:
        """images (i, 3, H, W), words (n, l, word_dim), keep (n, l) bool, image_index (n,)."""
        x, maps = images, []
        for k, (fusion, norm) in enumerate(zip(self.fusions, self.norms, strict=True)):
            x = self.backbone.stage(k, x)  # stage 1 is of i images, the later ones are of n expressions
            grid, pixels = x.shape[-2:], as_places(x)
            gather = None if k else image_index
            fused = fusion(pixels, words, keep, gather)  # (n, p, c)
            maps.append(as_map(norm(fused), grid))
            if k < len(self.gates):
                x = as_map(self.gates[k](take(pixels, gather), fused), grid)
        return maps


class PixelWordAttention(nn.Module):
    """PWAM: each pixel gathers the words that concern it; the product of both is the fused map. [LAVT 3.1]"""

    def __init__(self, dim: int, *, word_dim: int, heads: int = 1) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise RefsegError(
                f"{heads} heads do not divide the {dim} channels of a stage",
                hint="see model.pwam_heads and model.backbone_channels",
            )
        self.heads = heads
        self.vision = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(word_dim, dim, bias=False)
        self.value = nn.Linear(word_dim, dim)
        self.out = nn.Linear(dim, dim, bias=False)
        self.join = nn.Linear(dim, dim)

    def forward(self, x: Tensor, words: Tensor, keep: Tensor, gather: Tensor | None = None) -> Tensor:
        """x (n, p, c), or (i, p, c) and `gather` (n,) its row of each expression -> (n, p, c)."""
        V, Q = F.gelu(self.vision(x)), instance_norm(self.query(x))
        V, Q = take(V, gather), take(Q, gather)
        # The norm below takes away what all pixels have alike; the first word's values go here already. A phrase of
        # one word says the same everywhere, and would leave the norm rounding alone, to divide by the root of 1e-5.
        values = self.value(words)
        values = values - values[:, :1].detach()
        # The scale is of all channels, not of one head's [official code].
        q, k, v = (split_heads(t, self.heads) for t in (Q, self.key(words), values))
        mask, scale = keep[:, None, None], x.shape[-1] ** -0.5
        G = attend(q, k, v, mask, scale=scale)
        G = instance_norm(self.out(join_heads(G)))
        return F.gelu(self.join(V * G))


class LanguageGate(nn.Module):
    """How much of each channel of the fused map goes into the next stage, pixel by pixel. [LAVT 3.2]"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, dim, bias=False), Tanh())

    def forward(self, x: Tensor, fused: Tensor) -> Tensor:
        """x, fused (n, p, c) -> (n, p, c)."""
        return x + self.gate(fused) * fused


class Tanh(nn.Tanh):
    """Without gradients by the logistic function, 2 s(2x) - 1, in float32: in a third of the time on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() or input.dtype == torch.float64:
            return super().forward(input)
        return (2 * input.float()).sigmoid_().mul_(2).sub_(1).to(input.dtype)


def instance_norm(x: Tensor) -> Tensor:
    """(n, p, c) with mean 0 and variance 1 over the pixels of each channel (Ulyanov et al. 2016), nothing learned."""
    if not torch.compiler.is_compiling() and x.is_cpu and x.shape[1] > 1:  # PyTorch refuses one pixel
        if not torch.is_grad_enabled():  # a batch norm of pixels is the same, and reads their channels as they lie
            return torch.stack([F.batch_norm(one, None, None, training=True) for one in x])
        if x.dtype in (torch.float32, torch.float64):
            return _InstanceNorm.apply(x)
    return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)


class _InstanceNorm(torch.autograd.Function):
    """As PyTorch's, which wants channels first: here those of a pixel lie side by side, before and after."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        y = x - x.mean(1, keepdim=True)
        scale = torch.rsqrt(y.square().mean(1, keepdim=True) + 1e-5)
        y.mul_(scale)
        context.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        y, scale = context.saved_tensors
        along = (gradient * y).mean(1, keepdim=True)
        return (gradient - gradient.mean(1, keepdim=True)).addcmul_(y, along, value=-1).mul_(scale)


def official_backbone(ours: str, *, fusion: str, gate: str) -> tuple[Rule, ...]:
    """The rules for the `backbone.` keys of official files (LAVT, ReLA, CGFormer), whose Swin is timm's by other names.

    Args:
        ours: where the FusedBackbone stands in the model.
        fusion, gate: what the official code calls the two.
    """
    stage = r"backbone\.layers\.(\d)"
    pwam = rf"{stage}\.{fusion}"
    dead = f"{pwam}\\.image_lang_att\\.(f_query|f_key|W)\\.0\\.bias"
    return (
        Rule(dead, None, why="the normalisation or softmax behind it takes it away"),
        Rule(rf"backbone\.layers\.3\.{gate}\..*", None, why="nothing reads the last stage's gated map"),
        *official_stages(f"{ours}.backbone", prefix=r"backbone\."),
        Rule(rf"{pwam}\.vis_project\.0\.(.*)", rf"{ours}.fusions.\1.vision.\2", convert=as_linear),
        Rule(rf"{pwam}\.project_mm\.0\.(.*)", rf"{ours}.fusions.\1.join.\2", convert=as_linear),
        Rule(rf"{pwam}\.image_lang_att\.f_query\.0\.(.*)", rf"{ours}.fusions.\1.query.\2", convert=as_linear),
        Rule(rf"{pwam}\.image_lang_att\.f_key\.0\.(.*)", rf"{ours}.fusions.\1.key.\2", convert=as_linear),
        Rule(rf"{pwam}\.image_lang_att\.f_value\.0\.(.*)", rf"{ours}.fusions.\1.value.\2", convert=as_linear),
        Rule(rf"{pwam}\.image_lang_att\.W\.0\.(.*)", rf"{ours}.fusions.\1.out.\2", convert=as_linear),
        Rule(rf"{stage}\.{gate}\.(.*)", rf"{ours}.gates.\1.gate.\2"),
        Rule(r"backbone\.norm(\d)\.(.*)", rf"{ours}.norms.\1.\2"),
    )


def official_stages(ours: str, *, prefix: str) -> tuple[Rule, ...]:
    """The rules for a Swin's own tensors in official files. Other user: models/caris.py.

    Args:
        ours: where the timm backbone stands in the model.
        prefix: what stands before the Swin's names, a regular expression.
    """
    swin, layers = f"{ours}.net", rf"{prefix}layers"
    return (
        Rule(rf"{prefix}.*\.relative_position_index", None, why="follows from the window's size"),
        Rule(rf"{prefix}patch_embed\.(.*)", rf"{swin}.patch_embed.\1"),
        Rule(rf"{layers}\.(\d)\.blocks\.(.*)", rf"{swin}.layers_\1.blocks.\2"),
        # timm counts the merging of patches to the stage after it, the official code to the one before.
        *(Rule(rf"{layers}\.{k}\.downsample\.(.*)", rf"{swin}.layers_{k + 1}.downsample.\1") for k in range(3)),
    )


def official_bert(ours: str, *, prefix: str) -> tuple[Rule, ...]:
    """The rules for BERT in official files, which is `transformers`' by the same names.

    Args:
        ours: where the text encoder stands in the model.
        prefix: what stands before BERT's own names, a regular expression.
    """
    return (
        Rule(rf"{prefix}embeddings\.position_ids", None, why="counts from 0; older `transformers` stored it"),
        Rule(rf"{prefix}pooler\..*", None, why="nothing reads the pooled feature"),
        Rule(rf"{prefix}((?:embeddings|encoder)\..*)", rf"{ours}.bert.\1"),
    )


def as_linear(weight: Tensor) -> Tensor:
    """A convolution's weight over one position (c, d, 1) as a linear layer's (c, d); biases as they are."""
    return weight.flatten(1) if weight.ndim > 1 else weight


# (channels of stage 1, blocks of stage 3, window) -> timm's name
SWINS = {
    (96, 6, 7): "swin_tiny_patch4_window7_224",
    (96, 18, 7): "swin_small_patch4_window7_224",
    (128, 18, 7): "swin_base_patch4_window7_224",
    (128, 18, 12): "swin_base_patch4_window12_384",
    (192, 18, 7): "swin_large_patch4_window7_224",
    (192, 18, 12): "swin_large_patch4_window12_384",
}


def official_swin(weights: Mapping[str, Tensor], *, prefix: str = "backbone.") -> str:
    """timm's name of the Swin whose weights an official file holds under `prefix`.

    Raises:
        RefsegError: there is none, or of no published size.
    """
    table = weights.get(f"{prefix}layers.0.blocks.0.attn.relative_position_bias_table")
    if table is None:
        raise RefsegError(f"the file has no Swin backbone under `{prefix}`")
    width = weights[f"{prefix}patch_embed.proj.weight"].shape[0]
    depth = sum(1 for key in weights if key.startswith(f"{prefix}layers.2.blocks.") and key.endswith(".norm1.bias"))
    window = (round(table.shape[0] ** 0.5) + 1) // 2  # the table has (2 window - 1)^2 rows
    if (width, depth, window) not in SWINS:
        raise RefsegError(f"no published Swin has {width} channels, {depth} blocks in stage 3 and windows of {window}")
    return SWINS[width, depth, window]
