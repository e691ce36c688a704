"""CGFormer: Contrastive Grouping with Transformer (Tang, Zheng, Shi, Yang, CVPR 2023). Query tokens read the words
("load"), share the pixels out among themselves ("group"), level by level; the referent token is the mask's kernel.

The defaults are the official release, which its author calls a simplified one: two tokens, no contrastive loss, the
last token is the referent. What the paper has besides is set in recipes/cgformer-full.toml; its equations are
numbered here as in the slides that we have of it, and where they are silent the choice is marked "ours" below.

What differs from the official code, and why:
- Gumbel noise in training alone; official evaluation samples too, so its masks differ from run to run (`noise`).
- tau is fixed at 1: the official parameter is clamped where it starts, gets no gradient and stays 1 (`learnable_tau`).
- The mask head does the same with 4.4 times fewer multiply-adds, 170 G for 740 G at 480 px: `upsampled_conv` convolves
  before it upsamples; the last 1x1 convolution, 512 to 512 at 480 x 480, is folded into the token's kernel. The fusions
  upsample late too, and values are projected after they were grouped, not before. benchmarks/cgformer_head.py measures.
- What does not see language runs once per image, and tensors without influence are left out: see layers/pwam.py.
- Parameters at full size: 249.50 M, the official 253.71 M without 4.21 M that have no influence: the last stage's gate
  (2,097,152), norms and MLPs that nothing reads (2,102,272), biases (5,760), and the two tau. The paper's model, as
  recipes/cgformer-full.toml has it: 254.37 M; nothing published.

Axes: n expressions, l words, t tokens, c channels, h w of a map, p = h*w pixels; levels 1 to 3 from coarse to fine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.errors import RefsegError
from refseg_cli.layers.attention import as_places, attend
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.keymap import Rule
from refseg_cli.layers.language import mean_of_words
from refseg_cli.layers.pwam import FusedBackbone, official_backbone, official_bert, official_swin
from refseg_cli.layers.upsampling import TopDown, upsampled_conv, upsampled_parts
from refseg_cli.ranges import Count, CountFrom0, Positive, Share, Weight, check_multiple
from refseg_cli.records import Batch, MapKind, Prediction

STRIDES = (16, 8, 4)  # of the three levels
LEVELS = {"consecutive": (0, 1, 2), "parallel": (0, 1, 2), "single": (2,)}


@dataclass(frozen=True, slots=True)
class CGFormerConfig(EncoderConfig):
    """Sources in brackets: the official code unless it says otherwise; "ours" where code and slides are silent."""

    backbone: str = "swin_base_patch4_window12_384.ms_in22k"
    drop_path: Share | None = 0.3
    text: Literal["gru", "lstm", "transformer", "bert", "clip"] = "bert"
    word_dim: Count = 64  # of the text encoders without a published size [ours]
    word_heads: Count = 4  # likewise [ours]
    pwam_heads: tuple[Count, Count, Count, Count] = (8, 8, 8, 8)
    dim: Count = 512
    hidden: Count = 1024  # of every MLP
    dropout: Share = 0.1
    head_dims: tuple[Count, Count] = (512, 512)  # of the mask head's two convolutions
    tokens: CountFrom0 = 2  # N; 0: the expression's feature is the kernel [table 3, row 1]
    levels: Literal["consecutive", "parallel", "single"] = "consecutive"  # [table 3: rows 7, 6, 5]
    # which group block serves which level; paper: one each
    group_layers: tuple[CountFrom0, CountFrom0, CountFrom0] = (0, 1, 1)
    load: tuple[bool, bool, bool] = (False, True, True)  # at which levels tokens read the words; paper: all
    readers: Literal["referent", "all"] = "referent"  # which tokens do; paper: all
    assignment: Literal["attention", "soft", "hard"] = "hard"  # [table 3: rows 3, 4, 5]
    similarity: Literal["cosine", "dot"] = "cosine"  # [Eq. 1; table 3, row 9]
    learnable_tau: bool = False  # [paper: True; table 3, row 10]
    noise: Literal["training", "always", "never"] = "training"  # official code: always
    referent: Literal["last", "first", "similar"] = "last"  # whose mask it is; `similar`: see `CGFormer.referent`
    # of the referent's pixels against the mask, by level
    hit_weights: tuple[Weight, Weight, Weight] = (0.001, 0.01, 0.1)
    contrast_weight: Weight = 0.0  # paper has the loss, not its weight; 0.1 in the recipes [ours]
    temperature: Positive = 0.07  # of that loss [ours]

    def __post_init__(self) -> None:
        if self.text == "transformer":
            check_multiple(self, "word_dim", "word_heads")


class CGFormer(nn.Module):
    """See the header. Built by `models.build_model`.

    Args:
        size: (height, width) of the network input in pixels; the position tables fix it.
    """

    EXPLAIN: ClassVar[dict[str, MapKind]] = {
        f"{name}{level}": "map" for level in (1, 2, 3) for name in ("similarity", "groups", "hits")
    }

    def __init__(self, config: CGFormerConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        if config.referent == "similar" and not config.contrast_weight:
            raise ValueError("referent 'similar' compares what only the contrastive loss makes comparable")
        self.config, c = config, config.dim
        self.text = build_text(
            config, vocab_size=vocab_size, max_tokens=max_tokens, dim=config.word_dim, heads=config.word_heads
        )
        backbone = build_vision(config, size=size, maps=4)
        self.vision = FusedBackbone(backbone, word_dim=self.text.dim, heads=config.pwam_heads)
        self.pyramid = TopDown(self.vision.channels, dim=c, bias=True)
        self.tokens = Tokens(config, word_dim=self.text.dim, size=size) if config.tokens else None
        uses_expression = config.contrast_weight or not config.tokens
        self.expression = nn.Linear(self.text.dim, c) if uses_expression else None
        self.head = MaskHead(c, dims=config.head_dims)

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, H, W); language enters after stage 1 of the backbone.

        aux: `tokens` (n, t, c) and `expression` (n, c), as far as there are such; for each level k that groups
        `similarity{k}` and `groups{k}` (n, t, h, w), the latter 1 at each token's own pixels and 0 elsewhere, and
        `hits{k}` (n, 1, h, w), the referent's.
        """
        words = self.text(batch.tokens, batch.attention_mask)
        maps = self.pyramid(self.vision(batch.images, words, batch.attention_mask, batch.image_index))
        aux: dict[str, Tensor] = {}
        if self.expression is not None:
            aux["expression"] = self.expression(mean_of_words(words, batch.attention_mask))
        if self.tokens is not None:
            tokens, seen = self.tokens(maps, words, batch.attention_mask)
            index = self.referent(tokens, aux.get("expression"))
            referent = pick(tokens, index)
            aux |= seen | {"tokens": tokens}
            aux |= {f"hits{k[-1]}": pick(seen[k], index)[:, None] for k in seen if k.startswith("groups")}
        else:
            referent = aux["expression"]
        return Prediction(mask_logits=self.head(maps[-1], referent, batch.images.shape[-2:]), aux=aux)

    def referent(self, tokens: Tensor, expression: Tensor | None) -> Tensor:
        """(n,) whose mask it is. `similar`: the first token's in training, the one's most like the phrase at test."""
        if self.config.referent == "similar" and not self.training:
            assert expression is not None
            return torch.einsum("ntc,nc->nt", F.normalize(tokens, dim=-1), expression).argmax(1)
        position = tokens.shape[1] - 1 if self.config.referent == "last" else 0
        return tokens.new_full(tokens.shape[:1], position, dtype=torch.long)

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is the training loss."""
        assert batch.masks is not None
        config, aux = self.config, prediction.aux
        logits = prediction.mask_logits.float()
        terms = {"mask": losses.mask_bce(logits, batch.masks), "dice": losses.dice(logits, batch.masks)}
        for k, weight in enumerate(config.hit_weights, start=1):
            hits = aux.get(f"hits{k}")
            if hits is not None and weight:
                # The sigmoid that `dice` takes of what is 0 or 1 already is in the official code.
                target = F.interpolate(batch.masks, hits.shape[-2:], mode="nearest")
                terms[f"hits{k}"] = weight * losses.dice(hits, target)
        if config.contrast_weight:
            position = -1 if config.referent == "last" else 0
            terms["contrast"] = config.contrast_weight * contrastive_loss(aux, batch, position, config.temperature)
        return terms

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.vision.backbone, self.text]


def pick(x: Tensor, index: Tensor) -> Tensor:
    """(n, t, ...) -> (n, ...): of each row its own token."""
    return x[torch.arange(x.shape[0], device=x.device), index]


class Tokens(nn.Module):
    """The query tokens on their way through the levels."""

    def __init__(self, config: CGFormerConfig, *, word_dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        c, used = config.dim, LEVELS[config.levels]
        self.parallel = config.levels == "parallel"
        self.start = nn.Parameter(nn.init.trunc_normal_(torch.empty(config.tokens, c), std=0.02))
        reader = {"all": None, "referent": config.tokens - 1 if config.referent == "last" else 0}[config.readers]
        self.levels = nn.ModuleDict()
        self.groups = nn.ModuleDict()
        for k in used:
            pixels = (size[0] // STRIDES[k]) * (size[1] // STRIDES[k])
            block = None
            if config.load[k]:
                block = LoadBlock(c, word_dim=word_dim, hidden=config.hidden, dropout=config.dropout, reader=reader)
            group = str(config.group_layers[k])
            self.levels[str(k)] = Level(c, pixels=pixels, load=block, group=group)
            if group not in self.groups:
                self.groups[group] = GroupBlock(c, hidden=config.hidden, dropout=config.dropout, assign=_assign(config))

    def forward(self, maps: list[Tensor], words: Tensor, keep: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens (n, t, c), and the maps `similarity{k}` and `groups{k}` (n, t, h, w) of each level that groups."""
        start = self.start.repeat(words.shape[0], 1, 1)
        x, outcomes, seen = start, [], {}
        for k, level in self.levels.items():
            assert isinstance(level, Level)
            fused = maps[int(k)]
            pixels = as_places(fused) + level.positions
            loaded = level.load(start if self.parallel else x, words, keep)
            x, shares = self.groups[level.group](loaded, pixels)
            outcomes.append(x)
            if shares.groups is not None:
                seen[f"similarity{int(k) + 1}"] = shares.similarity.unflatten(2, fused.shape[-2:])
                seen[f"groups{int(k) + 1}"] = shares.groups.unflatten(2, fused.shape[-2:])
        return (torch.stack(outcomes).mean(0) if self.parallel else x), seen


class Level(nn.Module):
    """What a level has of its own: places, and maybe a load block.  group: which group block serves it."""

    def __init__(self, dim: int, *, pixels: int, load: nn.Module | None, group: str) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(pixels, dim) / math.sqrt(dim))
        self.load = load if load is not None else Untouched()
        self.group = group


class Untouched(nn.Module):
    """No load block: the tokens as they were."""

    def forward(self, tokens: Tensor, words: Tensor, keep: Tensor) -> Tensor:
        return tokens


class LoadBlock(nn.Module):
    """Tokens read the words: cross-attention with one head, then an MLP without shortcut.

    reader: the one token that does; None: all do. The MLP is for all either way.
    """

    def __init__(self, dim: int, *, word_dim: int, hidden: int, dropout: float, reader: int | None) -> None:
        super().__init__()
        self.reader = reader
        self.norm_token, self.norm_word = nn.LayerNorm(dim), nn.LayerNorm(word_dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key, self.value = nn.Linear(word_dim, dim, bias=False), nn.Linear(word_dim, dim, bias=False)
        self.out, self.drop = nn.Linear(dim, dim), nn.Dropout(dropout)
        self.norm, self.mlp = nn.LayerNorm(dim), mlp(dim, hidden)

    def forward(self, tokens: Tensor, words: Tensor, keep: Tensor) -> Tensor:
        """tokens (n, t, c), words (n, l, d), keep (n, l) -> (n, t, c)."""
        r, t = self.reader, tokens.shape[1]
        before, reading, behind = (tokens[:, :0], tokens, tokens[:, t:])
        if r is not None:
            before, reading, behind = tokens[:, :r], tokens[:, r : r + 1], tokens[:, r + 1 :]
        W = self.norm_word(words)
        q, k, v = self.query(self.norm_token(reading)), self.key(W), self.value(W)
        q, k, v = (t[:, None] for t in (q, k, v))  # one head, spelt out: torch.onnx takes 4 axes alone
        read = attend(q, k, v, keep[:, None, None])[:, 0]
        x = torch.cat([before, reading + self.drop(self.out(read)), behind], 1)
        return self.mlp(self.norm(x))


class Shares(NamedTuple):
    """Each (n, t, p).  groups: whose pixel each one is; None for attention.  weights: with which pixels are summed."""

    similarity: Tensor
    groups: Tensor | None
    weights: Tensor


class GroupBlock(nn.Module):
    """Each token gathers its own pixels."""

    def __init__(self, dim: int, *, hidden: int, dropout: float, assign: nn.Module) -> None:
        super().__init__()
        self.norm_token, self.norm_pixel = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.assign = assign
        self.out, self.drop = nn.Linear(dim, dim), nn.Dropout(dropout)
        self.norm, self.mlp = nn.LayerNorm(dim), mlp(dim, hidden)

    def forward(self, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Shares]:
        """tokens (n, t, c), pixels (n, p, c) -> tokens (n, t, c), and who got what."""
        D = self.norm_pixel(pixels)
        shares = self.assign(self.query(self.norm_token(tokens)), self.key(D))
        # The weighted sum of values is the value of the weighted sum: t projections in place of p.
        total = shares.weights.sum(-1, keepdim=True)
        gathered = F.linear(shares.weights @ D, self.value.weight) + total * self.value.bias
        return self.mlp(self.norm(tokens + self.drop(self.out(gathered)))), shares  # Eq. 5


def _assign(config: CGFormerConfig) -> nn.Module:
    if config.assignment == "attention":
        return PixelAttention()
    hard = config.assignment == "hard"
    return Grouping(hard=hard, cosine=config.similarity == "cosine", learnable=config.learnable_tau, noise=config.noise)


class Grouping(nn.Module):
    """Every pixel goes to one token (hard) or is divided among them (soft). [Eq. 1 to 4; table 3, rows 5 and 4]"""

    def __init__(self, *, hard: bool, cosine: bool, learnable: bool, noise: str) -> None:
        super().__init__()
        self.hard, self.cosine, self.noise = hard, cosine, noise
        self.log_tau = nn.Parameter(torch.zeros(())) if learnable else None

    def forward(self, T: Tensor, D: Tensor) -> Shares:
        if self.cosine:
            S_pixel = F.normalize(T, dim=-1) @ F.normalize(D, dim=-1).transpose(1, 2)  # Eq. 1
        else:
            S_pixel = T @ D.transpose(1, 2) / math.sqrt(T.shape[-1])  # scaled so that softmax keeps a gradient [ours]
        noisy = S_pixel
        if self.hard and (self.noise == "always" or (self.noise == "training" and self.training)):
            noisy = S_pixel - torch.empty_like(S_pixel).exponential_().log()  # G, Gumbel(0, 1)
        if self.log_tau is not None:
            noisy = noisy / self.log_tau.exp()
        S_gumbel = noisy.softmax(1)  # Eq. 2, over the tokens
        groups = S_gumbel
        if self.hard:
            S_onehot = torch.zeros_like(S_gumbel).scatter_(1, S_gumbel.max(1, keepdim=True).indices, 1.0)  # Eq. 3
            groups = S_onehot - S_gumbel.detach() + S_gumbel if self.training else S_onehot  # Eq. 4
        return Shares(S_pixel, groups, groups / (groups.sum(-1, keepdim=True) + 1))


class PixelAttention(nn.Module):
    """Ordinary attention: a softmax over the pixels, in which tokens do not compete. [table 3, rows 2 and 3]"""

    def forward(self, T: Tensor, D: Tensor) -> Shares:
        S = T @ D.transpose(1, 2) / math.sqrt(T.shape[-1])
        return Shares(S, None, S.softmax(-1))


def mlp(dim: int, hidden: int) -> nn.Sequential:
    """Two linear layers, GELU between."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class MaskHead(nn.Module):
    """The finest map, upsampled twice by two, in one product with a kernel made of the referent token."""

    normed = (("conv1", "norm1"), ("conv2", "norm2"))  # see folding.py

    def __init__(self, dim: int, *, dims: tuple[int, int]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(dim, dims[0], 3, padding=1, bias=False), nn.BatchNorm2d(dims[0])
        self.conv2, self.norm2 = nn.Conv2d(dims[0], dims[1], 3, padding=1, bias=False), nn.BatchNorm2d(dims[1])
        self.project = nn.Conv2d(dims[1], dim, 1)
        self.kernel = nn.Linear(dim, dim + 1)

    def forward(self, x: Tensor, referent: Tensor, size: tuple[int, ...]) -> Tensor:
        """x (n, c, h, w), referent (n, c) -> logits (n, 1, *size).

        The official 1x1 convolution by the kernel pads its input by one pixel, which leaves a ring of the bias alone.
        """
        kernel = self.kernel(referent)  # (n, c + 1), weights then bias
        weights, bias = kernel[:, :-1], kernel[:, -1]
        assert self.project.bias is not None
        folded = weights @ self.project.weight[:, :, 0, 0]  # k . (P y + q) = (P^T k) . y + k . q
        inside = self.products(x, folded) + (weights @ self.project.bias)[:, None, None]
        raw = (F.pad(inside, (1, 1, 1, 1)) + bias[:, None, None])[:, None]
        return F.interpolate(raw, size, mode="bilinear", align_corners=True)

    def products(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Each pixel of the finest map times the kernel (n, d) -> (n, 4h, 4w).

        The finest map of an expression takes 472 MB at 480 x 480 pixels: where nothing is learnt it is made in parts.
        """
        convs = ((self.conv1, self.norm1), (self.conv2, self.norm2))
        sizes = [(k * x.shape[2], k * x.shape[3]) for k in (2, 4)]
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():  # statistics are of all pixels
            for (conv, norm), size in zip(convs, sizes, strict=True):
                x = activated(upsampled_conv(x, conv.weight, size, align_corners=False), conv, norm)
            return torch.einsum("nd,ndhw->nhw", kernel, x)
        if x.is_cpu:  # interpolation takes 0.54 of the time where a pixel's channels lie side by side
            x = x.contiguous(memory_format=torch.channels_last)

        def parts(y: Tensor, k: int) -> Iterator[Tensor]:
            conv, norm = convs[k]
            of = upsampled_parts(y, conv.weight, sizes[k], align_corners=False)
            return (activated(part, conv, norm) for part in of)

        found = []
        for one, folded in zip(x.split(1), kernel.split(1), strict=True):
            finer = torch.cat(list(parts(one, 0)), 2)
            found.append(torch.cat([torch.einsum("nd,ndhw->nhw", folded, y) for y in parts(finer, 1)], 1))
        return torch.cat(found)


def activated(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """What follows a convolution, whose bias is there where its norm was folded into it."""
    return torch.relu_(norm(x) if conv.bias is None else x + conv.bias[:, None, None])


def contrastive_loss(aux: Mapping[str, Tensor], batch: Batch, referent: int, temperature: float) -> Tensor:
    """InfoNCE: an expression's feature picks its referent among its own tokens and the batch's other referents. [ours]

    Other expressions for the same target are no negatives. Expressions without a target count for nothing as anchors.
    """
    assert batch.target_id is not None
    assert batch.has_target is not None
    expression = F.normalize(aux["expression"].float(), dim=-1)
    tokens = F.normalize(aux["tokens"].float(), dim=-1)
    own = torch.einsum("nc,ntc->nt", expression, tokens)
    others = expression @ tokens[:, referent].T
    synonyms = batch.target_id[:, None] == batch.target_id  # every expression is one of its own
    logits = torch.cat([own, others.masked_fill(synonyms, float("-inf"))], 1) / temperature
    wanted = own.new_full((len(own),), referent % own.shape[1], dtype=torch.long)
    each = F.cross_entropy(logits, wanted, reduction="none")
    present = batch.has_target.to(each.dtype)
    return (each * present).sum() / present.sum().clamp(min=1)


# --- official files ---------------------------------------------------------------------------------------------------


def _decoder_rules() -> tuple[Rule, ...]:
    group, level = r"decoder\.cgattention", r"decoder\.layers\.(\d)"
    names = {"norm_t": "norm_token", "norm_v": "norm_pixel", "q_proj": "query", "k_proj": "key", "v_proj": "value"}
    names |= {"proj": "out", "norm": "norm", r"mlp\.fc1": "mlp.0", r"mlp\.fc2": "mlp.2"}
    load = {"normq": "norm_token", "normk": "norm_word", r"cross_attn\.q_proj": "query", r"cross_attn\.k_proj": "key"}
    load |= {r"cross_attn\.v_proj": "value", r"cross_attn\.proj": "out"}
    own = {"norm": "norm", r"mlp\.fc1": "mlp.0", r"mlp\.fc2": "mlp.2"}
    fuse = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}
    head = {r"vis\.1\.0": "conv1", r"vis\.1\.1": "norm1", r"vis\.3\.0": "conv2", r"vis\.3\.1": "norm2"}
    head |= {r"vis\.4": "project", "txt": "kernel"}
    return (
        Rule(rf"{group}\d\.tau", None, why="is clamped to 1, whatever it holds"),
        Rule(rf"{level}\.loadtoken\.(norm|mlp)\..*", None, why="nothing reads it"),
        Rule(r"decoder\.tokens\.weight", "tokens.start"),
        Rule(rf"{level}\.positional_embedding", r"tokens.levels.\1.positions"),
        *(Rule(rf"{group}{k + 1}\.{a}\.(\w+)", rf"tokens.groups.{k}.{b}.\1") for k in (0, 1) for a, b in names.items()),
        *(Rule(rf"{level}\.loadtoken\.{a}\.(\w+)", rf"tokens.levels.\1.load.{b}.\2") for a, b in load.items()),
        *(Rule(rf"{level}\.{a}\.(\w+)", rf"tokens.levels.\1.load.{b}.\2") for a, b in own.items()),
        *(Rule(rf"decoder\.fuses\.(\d)\.fusion\.{a}\.(\w+)", rf"pyramid.steps.\1.{b}.\2") for a, b in fuse.items()),
        *(Rule(rf"decoder\.proj\.{a}\.(\w+)", rf"head.{b}.\1") for a, b in head.items()),
    )


OFFICIAL_KEYS: tuple[Rule, ...] = (
    *official_backbone("vision", fusion="pwam_fusion", gate="pwam_gate"),
    *_decoder_rules(),
    *official_bert("text", prefix=r"text_encoder\."),
)


def official_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The [model] table of an official file's weights. Heads cannot be told from them, nor the picture's shape."""
    tokens = weights.get("decoder.tokens.weight")
    if tokens is None:
        raise RefsegError("the file has no query tokens under `decoder.tokens`")
    return {"backbone": official_swin(weights), "tokens": tokens.shape[0], "dim": tokens.shape[1]}
