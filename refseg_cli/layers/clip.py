"""CLIP's parts that are not a plain backbone (Radford et al. 2021): the text tower, the sentence feature that it gives,
and the attention pool of its ResNets as a map.

Users: models/cris.py, models/asda.py, models/jmceln.py; layers/encoders.py, which builds the text tower. The towers'
pretrained weights come through language.py and vision.py.

Axes: i images, n expressions, l tokens, c channels, h w feature grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.errors import RefsegError
from refseg_cli.layers.attention import Attention, as_map, as_places
from refseg_cli.layers.keymap import Rule, attention_rules, rename
from refseg_cli.layers.language import SentencePooling, TextEncoder, pretrained_clip

POSITIONS = 77  # rows of a released text tower's position table
POOL_GRID = 7  # places a side of a released ResNet's attention pool (224 px)


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), the GELU of OpenAI's towers."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    """Causal self-attention and feed-forward, each with a LayerNorm before it (pre-norm)."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads=heads, causal=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), QuickGelu(), nn.Linear(4 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y)
        return x + self.mlp(self.norm2(x))


class ClipText(TextEncoder):
    """CLIP's text tower: words see themselves and those before them, so padding behind them never matters.

    Rows of padding are what the tower makes of id 0 at their places, as in the official code that reads them (ASDA).

    Args:
        dim, layers: 512 and 12 in every tower used here; heads have 64 channels.
        positions: rows of the position table, as many as a phrase may have tokens.
        projection: channels of the sentence feature; 0: the end token's state itself, without a projection.
        pretrained: where the weights are, see `language.pretrained_clip`; empty for fresh ones.

    Raises:
        RefsegError: the weights cannot be fetched, or are of another size.
    """

    def __init__(
        self, vocab_size: int, *, dim: int, layers: int, positions: int, projection: int = 0, pretrained: str = ""
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = nn.Parameter(torch.randn(positions, dim) * 0.01)
        self.blocks = nn.ModuleList(ClipBlock(dim, heads=max(1, dim // 64)) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, projection, bias=False) if projection else None
        nn.init.normal_(self.embedding.weight, std=0.02)
        if pretrained:
            self._take(pretrained_clip(pretrained), pretrained)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        return self.norm(self.states(tokens, keep)[-1])

    def with_sentence(self, tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """words, and the end token's among them (n, dim), without the projection."""
        words = self(tokens, keep)
        return words, at_end(words, keep)

    def states(self, tokens: Tensor, keep: Tensor) -> list[Tensor]:
        """(n, l, dim) after each block, before the final norm."""
        x = self.embedding(tokens.masked_fill(~keep, 0)) + self.positions[: tokens.shape[1]]
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return states

    def _take(self, weights: Mapping[str, Tensor], name: str) -> None:
        ours = rename(weights, (*text_rules(), *HUB_TEXT_RULES)).weights
        own = self.state_dict()
        ours = {key: tensor for key, tensor in ours.items() if key in own}  # a tower may have layers to spare
        if "positions" in ours:
            ours["positions"] = ours["positions"][: len(self.positions)]
        wrong = next((key for key in own if key not in ours or ours[key].shape != own[key].shape), None)
        if wrong is not None:
            found = list(ours[wrong].shape) if wrong in ours else "missing"
            raise RefsegError(
                f"CLIP text tower {name!r}: {wrong} is {found}, the recipe wants {list(own[wrong].shape)}",
                hint="check model.text_dim, text_layers, text_positions, text_projection and the tokenizer",
            )
        self.load_state_dict(ours)


def at_end(states: Tensor, keep: Tensor) -> Tensor:
    """(n, l, c) -> (n, c): the state of each phrase's last token, which is CLIP's end mark."""
    last = keep.sum(1) - 1
    return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]


class Phrase(NamedTuple):
    """words (n, l, c); sentence (n, s).  ends: the end token's state (n, c) after each of CLIP's blocks, else ()."""

    words: Tensor
    sentence: Tensor
    ends: tuple[Tensor, ...]


class PhraseReader(nn.Module):
    """Words and a sentence feature: CLIP's own, the projected state of the end token; of other encoders a pooled one.

    dim, sentence_dim: channels of the two.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder, self.dim, self.sentence_dim = encoder, encoder.dim, encoder.dim
        self.pool: SentencePooling | None = None
        if not isinstance(encoder, ClipText):
            self.pool = SentencePooling(encoder.dim, dropout=0.0)
        elif encoder.projection is not None:
            self.sentence_dim = encoder.projection.out_features

    def forward(self, tokens: Tensor, keep: Tensor) -> Phrase:
        if self.pool is not None:
            words = self.encoder(tokens, keep)
            return Phrase(words, self.pool(words, keep), ())
        assert isinstance(self.encoder, ClipText)
        states = self.encoder.states(tokens, keep)
        words = self.encoder.norm(states[-1])
        end = at_end(words, keep)
        sentence = end if self.encoder.projection is None else self.encoder.projection(end)
        return Phrase(words, sentence, tuple(at_end(x, keep) for x in states))


class SpatialAttentionPool(nn.Module):
    """The attention pool of CLIP's ResNets kept as a map (CRIS, 3.1 and official code): every place attends to all
    places, without the pooled one, beside a new branch that starts from nothing (`connect`).

    Args:
        inputs, outputs: channels; heads have 64 of the first, as in CLIP.
        grid: places a side of the position table, which is resized to the map.
    """

    def __init__(self, inputs: int, outputs: int, *, grid: int = POOL_GRID) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(grid * grid, inputs) / inputs**0.5)
        self.attention = Attention(inputs, heads=max(1, inputs // 64), outputs=outputs)
        self.connect = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Start from the pool of a CLIP ResNet, under timm's names."""
        self.load_state_dict(rename(weights, TIMM_POOL_RULES).weights, strict=False)  # `connect` is not CLIP's

    def forward(self, vision: Tensor) -> Tensor:
        """(i, inputs, h, w) -> (i, outputs, h, w)."""
        h, w = vision.shape[-2:]
        x = as_places(vision + self._positions(h, w))
        attended = as_map(self.attention(x, x, x), (h, w))
        return torch.relu(attended + self.connect(vision))

    def _positions(self, height: int, width: int) -> Tensor:
        side = round(len(self.positions) ** 0.5)
        table = self.positions.T.unflatten(1, (side, side))[None]
        return F.interpolate(table, (height, width), mode="bicubic", align_corners=False)


# --- names of CLIP's weights ------------------------------------------------------------------------------------------


def block_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """One residual block of OpenAI's towers. theirs: pattern before the block's own names; ours: our name of it."""
    return (
        *attention_rules(rf"{theirs}\.attn", f"{ours}.attention"),
        Rule(rf"{theirs}\.ln_([12])\.(weight|bias)", rf"{ours}.norm\2.\3"),
        Rule(rf"{theirs}\.mlp\.c_fc\.(weight|bias)", rf"{ours}.mlp.0.\2"),
        Rule(rf"{theirs}\.mlp\.c_proj\.(weight|bias)", rf"{ours}.mlp.2.\2"),
    )


def text_rules(theirs: str = "", ours: str = "") -> tuple[Rule, ...]:
    """The text tower in a whole CLIP of OpenAI's naming. theirs: pattern, ours: name before every key, with the dot."""
    return (
        Rule(rf"{theirs}token_embedding\.weight", f"{ours}embedding.weight"),
        Rule(rf"{theirs}positional_embedding", f"{ours}positions"),
        Rule(rf"{theirs}ln_final\.(weight|bias)", rf"{ours}norm.\1"),
        Rule(rf"{theirs}text_projection", f"{ours}projection.weight", convert=lambda t: t.T.contiguous()),
        *block_rules(rf"{theirs}transformer\.resblocks\.(\d+)", rf"{ours}blocks.\1"),
    )


def vit_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The vision transformer to timm's, positions and what lies behind the last block aside."""
    block, timms = rf"{theirs}\.transformer\.resblocks\.(\d+)", rf"{ours}.blocks.\1"
    return (
        Rule(rf"{theirs}\.class_embedding", f"{ours}.cls_token", convert=lambda t: t.view(1, 1, -1)),
        Rule(rf"{theirs}\.conv1\.weight", f"{ours}.patch_embed.proj.weight"),
        Rule(rf"{theirs}\.ln_pre\.(weight|bias)", rf"{ours}.norm_pre.\1"),
        Rule(rf"{block}\.attn\.in_proj_(weight|bias)", rf"{timms}.attn.qkv.\2"),
        Rule(rf"{block}\.attn\.out_proj\.(weight|bias)", rf"{timms}.attn.proj.\2"),
        Rule(rf"{block}\.ln_([12])\.(weight|bias)", rf"{timms}.norm\2.\3"),
        Rule(rf"{block}\.mlp\.c_fc\.(weight|bias)", rf"{timms}.mlp.fc1.\2"),
        Rule(rf"{block}\.mlp\.c_proj\.(weight|bias)", rf"{timms}.mlp.fc2.\2"),
    )


# transformers' CLIPTextModel(WithProjection), whose names lost a prefix in version 5.
HUB_TEXT_RULES = (
    Rule(r"(?:text_model\.)?embeddings\.token_embedding\.weight", "embedding.weight"),
    Rule(r"(?:text_model\.)?embeddings\.position_embedding\.weight", "positions"),
    Rule(r"(?:text_model\.)?final_layer_norm\.(weight|bias)", r"norm.\1"),
    Rule(r"text_projection\.weight", "projection.weight"),
    Rule(
        r"(?:text_model\.)?encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", r"blocks.\1.attention.\2.\3"
    ),
    Rule(r"(?:text_model\.)?encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"blocks.\1.attention.out.\2"),
    Rule(r"(?:text_model\.)?encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    Rule(r"(?:text_model\.)?encoder\.layers\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.mlp.0.\2"),
    Rule(r"(?:text_model\.)?encoder\.layers\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.mlp.2.\2"),
)


def without_class_token(positions: Tensor) -> Tensor:
    """The places' rows of the pool's position table; the first belongs to the pooled place, which a map has not."""
    return positions[1:]


TIMM_POOL_RULES = (
    Rule(r"pos_embed", "positions", convert=without_class_token),
    Rule(r"([qkv])\.(weight|bias)", r"attention.\1.\2"),
    Rule(r"proj\.(weight|bias)", r"attention.out.\1"),
)
