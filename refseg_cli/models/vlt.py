"""VLT: Vision-Language Transformer and Query Generation (Ding*, Liu* et al., ICCV 2021 and TPAMI 2022;
C. Liu's thesis, 2024, chapter 4, whose equation numbers are used here).

What differs, and why:
- The official code (Keras, ICCV) has neither Spatial-Dynamic Fusion nor Masked Contrastive Learning; the thesis text
  is followed, and where it is silent the choice stands beside the field in `VLTConfig`.
- Queries see each other freely in the decoder; the official code's causal mask looks accidental. Its ReLU after every
  attention projection is not kept: the thesis says "the standard Transformer".
- "Conv" on words (Eq. 4.1, 4.2) is 1x1 with LayerNorm: batch statistics over padded words would depend on the padding.
- Darknet-53 starts from ImageNet weights; the paper's partial-COCO detector weights are not distributed.
- `no_target_head` is ours, off by default: the thesis' VLT knows no-target only by an (almost) empty mask. So is
  `detail`: the thesis' mask decoder sees nothing of the picture but F_m, too coarse for the small model's grid.
- Width: C = 512 makes seven 3x3 convolutions 16.5 M (table 4.1: ~16.6 M) and the transformer part 17.0 M (~17.5 M).

Axes: i images, n expressions (each with one of the images), t language features (words, then the sentence),
q queries, c channels, h w feature grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.layers.attention import DecoderLayer, EncoderLayer, as_places, sine_positions_2d, take
from refseg_cli.layers.decoding import MaskDecoder, NoTargetHead
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.language import Language, WordsAndSentence
from refseg_cli.layers.sdf import Join, SpatialDynamicFusion
from refseg_cli.layers.upsampling import fitted, upsampled_dot
from refseg_cli.layers.vision import PyramidSum, conv_bn_relu
from refseg_cli.ranges import Count, CountFrom0, Counts, Positive, Share, Weight
from refseg_cli.records import Batch, MapKind, Prediction


@dataclass(frozen=True, slots=True)
class VLTConfig(EncoderConfig):
    """Sources in brackets; "ours" where the thesis is silent."""

    backbone: str = "darknet53"  # [4.3.1]; Swin version: swin_base_patch4_window12_384 [4.2.6]
    text: Literal["gru", "transformer", "bert"] = "gru"  # [4.3.1: bi-GRU; 4.2.6: BERT]
    embedding_dim: Count = 300  # [GloVe 840B]; frozen in the official code, learned embeddings are not
    dim: Count = 512  # C [table 4.1, see header]
    heads: Count = 8  # [4.3.1]
    hidden: Count = 1024  # feed-forward width [ours: makes table 4.1's size]
    encoder_layers: Count = 2  # [4.2.6]
    decoder_layers: Count = 2  # [4.2.6]
    dropout: Share = 0.1  # [official code]
    stride: Count = 16  # of the grid h x w: 26 x 26 at 416 px [official code]
    body: Literal["transformer", "conv7"] = "transformer"  # [table 4.1]
    fusion: Literal["sdf", "tile", "tile_conv4"] = "sdf"  # [table 4.4]
    queries: Literal["qgm", "words", "learned"] = "qgm"  # [table 4.2]
    query_count: Count = 16  # N_q [table 4.3]
    balance: bool = True  # Query Balance Module [table 4.3, last row]
    mask_dims: Counts = (
        256,
        128,
        64,
    )  # three 3x3 convolutions, each before an upsampling [4.2.4; widths ours]
    contrast: Literal["none", "cl", "mcl"] = "mcl"  # [table 4.5]
    masking: Literal["random", "threshold", "probability"] = "probability"  # how MCL picks the word [table 4.6]
    masking_threshold: Weight = 0.5  # theta, relative to the sentence's largest weight [ours]
    masked_min_words: CountFrom0 = 5  # N_m: only longer phrases lose a word [ours]
    temperature: Positive = 0.1  # tau [ours: InfoNCE's habit]
    contrast_weight: Weight = 0.1  # [ours]
    dice_weight: Weight = 0.0  # [the paper: cross-entropy only]
    detail: CountFrom0 = 0  # channels of `Detail`; 0: none [ours]
    no_target_head: bool = False  # [ours]
    exists_weight: Weight = 0.1  # [ours; ReLA's weight for its no-target head]


class Understanding(NamedTuple):
    """What the body makes of an expression: F_m as a map (n, q, h, w) and what explains it."""

    mask_feature: Tensor
    attention: Tensor | None  # A_qd (n, q, t)
    confidence: Tensor | None  # C_q (n, q, 1)
    response: Tensor  # (n, c) mean balanced response


class VLT(nn.Module):
    """See the header. Built by `models.build_model`.

    Args:
        size: (height, width) of the network input in pixels; W_v of Eq. 4.5 fixes the grid.
    """

    EXPLAIN: ClassVar[dict[str, MapKind]] = {
        "query_attention": "words",  # A_qd, the emphasis of each query [Eq. 4.5]
        "query_confidence": "weights",  # C_q
        "mask_feature": "map",  # F_m, a map for each query
    }

    def __init__(self, config: VLTConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        c, grid = config.dim, (size[0] // config.stride, size[1] // config.stride)
        backbone = build_vision(config, size=size, maps=4 if config.detail else 3)
        self.vision = PyramidSum(backbone, dim=c, grid=grid)
        encoder = build_text(
            config,
            vocab_size=vocab_size,
            max_tokens=max_tokens,
            dim=c,
            heads=config.heads,
            dropout=config.dropout,
        )
        self.language = WordsAndSentence(encoder, dim=c, dropout=config.dropout)
        self.fusion = FUSIONS[config.fusion](dim=c)
        self.body: TransformerBody | ConvBody
        if config.body == "conv7":
            self.body = ConvBody(dim=c)
        else:
            self.body = TransformerBody(config, grid=grid, max_tokens=max_tokens)
        self.mask_decoder = MaskDecoder(self.body.mask_channels, dims=config.mask_dims)
        self.detail: Detail | None = None
        if config.detail:
            self.detail = Detail(backbone.channels[0], width=config.detail, mask_dim=config.mask_dims[-1], dim=c)
        self.exists = NoTargetHead(self.body.mask_channels, dim=c) if config.no_target_head else None

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, h s, w s) where s = 2^len(mask_dims); language enters at the fusion.

        aux: mask_feature (n, q, h, w), F_m; query_attention (n, q, t), A_qd; query_confidence (n, q, 1), C_q; the last
        two where the configuration has them. In training, masked_feature and masked_rows for the contrastive loss.
        """
        maps = self.vision.backbone(batch.images)
        vision = self.vision.sum(maps)  # F_vr (i, c, h, w)
        language = self.language(batch.tokens, batch.attention_mask)
        fused = self.fusion(vision, language, batch.image_index)  # (n, c, h, w)
        memory, guide = self.body.prepare(fused, vision, batch.image_index)
        understood = self.body(memory, guide, language)
        return self.decode(understood, maps, batch, self.masked(memory, guide, language, understood))

    def decode(
        self, understood: Understanding, maps: list[Tensor], batch: Batch, masked: dict[str, Tensor]
    ) -> Prediction:
        """The last third of `forward`: from F_m to the masks. maps: the backbone's.  masked: see `masked`."""
        aux = {"mask_feature": understood.mask_feature} | masked
        if understood.attention is not None:
            aux["query_attention"] = understood.attention
        if understood.confidence is not None:
            aux["query_confidence"] = understood.confidence
        decoded = self.mask_decoder.features(understood.mask_feature)
        mask_logits = self.mask_decoder.logits(decoded)
        if self.detail is not None:
            mask_logits = mask_logits + self.detail(decoded, understood.response, maps[0], batch)
        return Prediction(
            mask_logits=mask_logits,
            exists_logit=None if self.exists is None else self.exists(understood.response, understood.mask_feature),
            aux=aux,
        )

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is the training loss. Cross-entropy on the mask [4.2.4], Eq. 4.8 on F_m."""
        config = self.config
        terms = losses.mask_and_existence(
            prediction, batch, dice_weight=config.dice_weight, exists_weight=config.exists_weight
        )
        if config.contrast != "none":
            terms["contrast"] = config.contrast_weight * self.contrast(prediction.aux, batch)
        return terms

    def contrast(self, aux: dict[str, Tensor], batch: Batch) -> Tensor:
        return contrastive_loss(aux, batch, self.config.temperature)

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.vision.backbone, self.language.encoder]

    def masked(
        self, memory: Tensor, guide: Tensor | None, language: Language, understood: Understanding
    ) -> dict[str, Tensor]:
        """F_m of the long expressions once more, with one important word erased each [4.2.5]; in training, for MCL.

        memory, guide: as from `TransformerBody.prepare`, of each expression.
        """
        attention = understood.attention
        if not self.training or self.config.contrast != "mcl" or attention is None:
            return {}
        assert isinstance(self.body, TransformerBody)
        rows = torch.nonzero(language.keep.sum(1) - 1 > self.config.masked_min_words)[:, 0]
        if not len(rows):
            return {}
        words = language.keep[rows, :-1]
        importance = attention.detach()[rows, :, :-1].sum(1)  # a_i = sum_n a_ni (r, words)
        erased = pick_word(importance, words, how=self.config.masking, threshold=self.config.masking_threshold)
        keep = language.keep[rows].clone()
        keep[torch.arange(len(rows), device=keep.device), erased] = False  # Eq. 4.5's softmax renormalises
        again = self.body(memory[rows], None if guide is None else guide[rows], Language(language.features[rows], keep))
        return {"masked_feature": again.mask_feature, "masked_rows": rows}


class TileFusion(nn.Module):
    """Tile-and-concatenate [Fig. 4.3]: the sentence feature copied to every position.

    convs: further 3x3 convolutions behind it; four give about the parameters of SDF [table 4.4].
    """

    def __init__(self, *, dim: int, convs: int = 0) -> None:
        super().__init__()
        self.join = Join(dim)
        self.convs = nn.Sequential(*(conv_bn_relu(dim, dim) for _ in range(convs)))

    def forward(self, vision: Tensor, language: Language, image_index: Tensor) -> Tensor:
        sentence = language.features[:, -1, :, None, None].expand(-1, -1, *vision.shape[-2:])
        return self.convs(self.join(vision, sentence, image_index))


def tile_conv4(*, dim: int) -> TileFusion:
    """The third way of table 4.4."""
    return TileFusion(dim=dim, convs=4)


FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "sdf": SpatialDynamicFusion,
    "tile": TileFusion,
    "tile_conv4": tile_conv4,
}


class TransformerBody(nn.Module):
    """Encoder, queries, decoder, balance, and F_m [4.2.2 to 4.2.4]."""

    def __init__(self, config: VLTConfig, *, grid: tuple[int, int], max_tokens: int) -> None:
        super().__init__()
        self.grid = grid
        c, heads, hidden, dropout = config.dim, config.heads, config.hidden, config.dropout
        self.encoder = nn.ModuleList(
            EncoderLayer(c, heads=heads, hidden=hidden, dropout=dropout) for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(c, heads=heads, hidden=hidden, dropout=dropout) for _ in range(config.decoder_layers)
        )
        self.queries: QueryGeneration | WordQueries | LearnedQueries
        if config.queries == "qgm":
            self.queries = QueryGeneration(dim=c, count=config.query_count, grid=grid)
        elif config.queries == "words":
            self.queries = WordQueries()
        else:
            self.queries = LearnedQueries(dim=c, count=config.query_count)
        self.mask_channels = max_tokens + 1 if config.queries == "words" else config.query_count
        self.balance = QueryBalance(c) if config.balance else None

    def prepare(self, fused: Tensor, vision: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """F_ve (n, h*w, c), and vision's part of the queries (n, q, c)."""
        guide = self.queries.guide(vision)
        return self.encode(fused), None if guide is None else take(guide, image_index)

    def encode(self, fused: Tensor) -> Tensor:
        """F_ve (n, h*w, c) of the fused map (n, c, h, w)."""
        x = as_places(fused)
        h, w = self.grid
        x = x + sine_positions_2d(h, w, x.shape[-1], device=x.device, dtype=x.dtype)
        for layer in self.encoder:
            x = layer(x)
        return x

    def forward(self, memory: Tensor, guide: Tensor | None, language: Language) -> Understanding:
        return self.respond(memory, *self.queries(guide, language))

    def respond(self, memory: Tensor, F_q: Tensor, A_qd: Tensor | None, keep: Tensor | None) -> Understanding:
        """What the queries (n, q, c) find; keep: (n, q) those that are real, None for all."""
        F_r = F_q
        for layer in self.decoder:
            F_r = layer(F_r, memory, keep)
        C_q = None if self.balance is None else self.balance(F_q, F_r)
        F_b = F_r if C_q is None else F_r * C_q
        if keep is not None:
            F_b = F_b * keep[..., None]
        F_m = F_b @ memory.transpose(1, 2) / math.sqrt(memory.shape[-1])  # Eq. 4.7, transposed: (n, q, h*w)
        return Understanding(F_m.unflatten(2, self.grid), A_qd, C_q, F_b.mean(1))


class QueryGeneration(nn.Module):
    """QGM [4.2.2]: N_q readings of the phrase, each with its own emphasis, guided by vision."""

    def __init__(self, *, dim: int, count: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.reduce = nn.Sequential(conv_bn_relu(dim, dim), conv_bn_relu(dim, dim), conv_bn_relu(dim, count))
        self.w_v = nn.Linear(grid[0] * grid[1], dim)
        self.w_a, self.w_t = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def resampled(self, source: QueryGeneration) -> dict[str, Tensor]:
        """W_v of a model for another input size, for this grid: its sums over positions stay what they were."""
        of_grid = source.w_v.weight.unflatten(1, source.grid)[None]
        share = math.prod(source.grid) / math.prod(self.grid)
        return {"w_v.weight": fitted(of_grid, self.grid)[0].flatten(1) * share}

    def guide(self, vision: Tensor) -> Tensor:
        F_vq = self.reduce(vision).flatten(2)  # Eq. 4.4: (i, q, h*w)
        return torch.relu(self.w_v(F_vq))  # sigma(F_vq W_v): (i, q, c)

    def forward(self, guide: Tensor | None, language: Language) -> tuple[Tensor, Tensor, None]:
        assert guide is not None
        F_t = language.features
        scores = guide @ torch.relu(self.w_a(F_t)).transpose(1, 2) / math.sqrt(guide.shape[-1])
        A_qd = scores.masked_fill(~language.keep[:, None], float("-inf")).softmax(-1)  # Eq. 4.5: (n, q, t)
        return A_qd @ torch.relu(self.w_t(F_t)) + guide, A_qd, None  # Eq. 4.6


class WordQueries(nn.Module):
    """F_t itself as queries [table 4.2, row 1]."""

    def guide(self, vision: Tensor) -> None:
        return None

    def forward(self, guide: Tensor | None, language: Language) -> tuple[Tensor, None, Tensor]:
        return language.features, None, language.keep


class LearnedQueries(nn.Module):
    """Free parameters as queries, drawn uniformly at the start [table 4.2, row 2]."""

    def __init__(self, *, dim: int, count: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.rand(count, dim))

    def guide(self, vision: Tensor) -> None:
        return None

    def forward(self, guide: Tensor | None, language: Language) -> tuple[Tensor, None, None]:
        return self.queries.expand(language.features.shape[0], -1, -1), None, None


class QueryBalance(nn.Module):
    """QBM [4.2.3]: how well each query fits the picture, in (0, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.confidence = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1), nn.Sigmoid())

    def forward(self, queries: Tensor, responses: Tensor) -> Tensor:
        return self.confidence(torch.cat([self.query(queries), responses], -1))  # C_q (n, q, 1)


class ConvBody(nn.Module):
    """Seven 3x3 convolutions in place of every transformer-based module [table 4.1, row 1]."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(conv_bn_relu(dim, dim) for _ in range(7)))
        self.mask_channels = dim

    def prepare(self, fused: Tensor, vision: Tensor, image_index: Tensor) -> tuple[Tensor, None]:
        return self.convs(fused), None

    def forward(self, memory: Tensor, guide: Tensor | None, language: Language) -> Understanding:
        return Understanding(memory, None, None, memory.mean((2, 3)))


class Detail(nn.Module):
    """Ours: what belongs together at the resolution of the mask, read from the picture once for all its phrases.

    Every pixel of the picture gets an embedding, every pixel of an expression's mask a filter; their product is added
    to the mask's logits, nothing at first.

    Args:
        fine: channels of the backbone's finest map.  width: inside.  mask_dim: of the mask decoder's last features.
    """

    def __init__(self, fine: int, *, width: int, mask_dim: int, dim: int) -> None:
        super().__init__()
        self.edges = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.context = nn.Conv2d(fine, width, 1)
        self.embedding = nn.Sequential(nn.ReLU(), conv_bn_relu(width, width), nn.Conv2d(width, mask_dim, 1))
        self.filter = nn.Linear(dim, mask_dim)
        for parameter in self.embedding[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, decoded: Tensor, response: Tensor, fine: Tensor, batch: Batch) -> Tensor:
        """decoded (n, k, h, w), response (n, c), fine (i, channels, ., .) -> (n, 1, 2 h, 2 w)."""
        size = (2 * decoded.shape[-2], 2 * decoded.shape[-1])
        picture = fitted(self.edges(batch.images), size) + fitted(self.context(fine), size)
        filters = decoded + self.filter(response)[:, :, None, None]
        return upsampled_dot(filters, self.embedding(picture), batch.image_index)


def pick_word(importance: Tensor, words: Tensor, *, how: str, threshold: float) -> Tensor:
    """The word to erase in each row [4.2.5, table 4.6].

    Args:
        importance: (r, words) global attention weights a_i.
        words: (r, words) bool, True at real words.
        how: `probability` p_m = softmax(a); `random` any word; `threshold` any word of at least `threshold` times the
            largest weight.
    """
    importance = importance.nan_to_num()  # sampling would raise; the loss shows the NaN and stops the run with a reason
    if how == "probability":
        weights = importance.masked_fill(~words, float("-inf")).softmax(-1)
    elif how == "random":
        weights = words.float()
    else:
        known = importance.masked_fill(~words, 0.0)
        weights = ((known >= threshold * known.amax(-1, keepdim=True)) & words).float()
    return torch.multinomial(weights, 1)[:, 0]


def contrastive_loss(aux: dict[str, Tensor], batch: Batch, temperature: float, near: Tensor | None = None) -> Tensor:
    """Eq. 4.8 on the flattened F_m. S_init is the first expression of each image of the batch; its S_SO are the
    image's expressions with the same targets and their word-erased copies, its S_DO those with other targets.

    Images without any S_SO or S_DO, and no-target expressions, add nothing.

    near: (i, i) bool, whose expressions are S_DO of each image, too; None for its own alone.
    """
    assert batch.target_id is not None
    assert batch.has_target is not None
    features = F.normalize(aux["mask_feature"].float().flatten(1), dim=1)
    n = len(features)
    sources = torch.arange(n, device=features.device)
    copies = aux.get("masked_feature")
    if copies is not None:
        features = torch.cat([features, F.normalize(copies.float().flatten(1), dim=1)])
        sources = torch.cat([sources, aux["masked_rows"]])
    image, target, present = batch.image_index, batch.target_id, batch.has_target
    first = F.pad(image[1:] != image[:-1], (1, 0), value=True)
    init = torch.nonzero(first & present)[:, 0]
    similarity = features[init] @ features.T / temperature  # <f_S, f_S_init> / tau
    same_image = (image[sources] == image[init][:, None]) & present[sources]
    within = same_image if near is None else near[image[init]][:, image[sources]] & present[sources]
    same_target = target[sources] == target[init][:, None]
    itself = torch.arange(len(features), device=features.device) == init[:, None]
    positive = same_image & same_target & ~itself
    # Word-erased copies are S_SO of their own object only: S_DO holds whole expressions.
    negative = within & ~same_target & (torch.arange(len(features), device=features.device) < n)
    others = similarity.masked_fill(~negative, float("-inf")).logsumexp(1, keepdim=True)
    terms = similarity - torch.logaddexp(others, similarity)
    useful = positive & negative.any(1, keepdim=True)
    per_init = -(terms.masked_fill(~useful, 0.0).sum(1) / useful.sum(1).clamp(min=1))
    count = useful.any(1).sum().clamp(min=1)
    return per_init.sum() / count
