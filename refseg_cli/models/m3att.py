"""M3Att: Multi-Modal Mutual Attention and Iterative Interaction (Liu, Ding, Zhang, Jiang, IEEE TIP 2023; C. Liu's
thesis, 2024, chapter 5, whose equation, table and section numbers are used here). There is no official code.

Where the thesis is silent or says two things, and what is taken (small choices stand beside `M3AttConfig`'s fields):
- The text has a bi-LSTM, table 5.4 a GRU: `text` is either. F'_t: both directions' last states, summed, BERT's [CLS].
- Padding is no word: it is no key of any attention, its rows of F_mul, kernels and maps are 0, and means, F_proj's too,
  divide by the number of real words. Batch normalisation of words takes its statistics from real words.
- "All linear layers are followed by batch normalisation and ReLU unless otherwise noticed" [5.2.1] is kept for IMI's
  transformation and for LFR. Projections of an attention are plain: ReLU would leave half of every key 0.
- Heads split both softmaxes of M3Att. F_mul multiplies whole vectors of C channels and is divided by sqrt(C), as is the
  mask kernels' product: unscaled, products of unit features are 16 wide at C = 256.
- M3Dec's self and cross attention have a residual and LayerNorm behind; the steps that the text lists have no
  feed-forward part (`decoder_hidden`). The generic decoder of tables 5.1 and 5.2 is the standard one, with it.
- `concat` of table 5.3 copies the sum of F_dec over words to every place beside F_enc; `vlt` makes its maps of F_dec
  alone, by a linear layer to h w places and ReLU, as VLT's official code does. Four convolutions follow in any case.
- F_enc knows nothing of language, so it and its keys and values are made once an image.
- Parameters at full size: 52.09 M with Darknet-53, without word embeddings; 206.80 M with Swin-B and BERT. None
  published.
- `no_target_head` is ours, off by default.

Axes: i images, n expressions, t words (padding included), p = h*w places of the grid, c channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli import losses
from refseg_cli.layers.attention import (
    Attention,
    EncoderLayer,
    as_map,
    as_places,
    feed_forward,
    join_heads,
    sine_positions_2d,
    sine_waves,
    split_heads,
    take,
)
from refseg_cli.layers.decoding import MaskDecoder, NoTargetHead
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.language import mean_of_words
from refseg_cli.layers.vision import PyramidSum
from refseg_cli.ranges import Count, CountFrom0, Counts, Share, Weight
from refseg_cli.records import Batch, MapKind, Prediction


@dataclass(frozen=True, slots=True)
class M3AttConfig(EncoderConfig):
    """Sources in brackets; "ours" where the thesis is silent."""

    backbone: str = "darknet53"  # [5.2.1]; Swin version: swin_base_patch4_window12_384 [table 5.4]
    frozen: bool = True  # [VLT's official code, same authors]; the Swin version learns
    text: Literal["gru", "lstm", "transformer", "bert"] = "gru"  # [table 5.4]; Swin version: BERT
    embedding_dim: Count = 300  # [5.2.1: GloVe]
    dim: Count = 256  # C [5.2.1]
    heads: Count = 8  # [5.2.1]
    hidden: Count = 1024  # feed-forward width of encoder and generic decoder [ours: four times C]
    dropout: Share = 0.1  # [ours]
    stride: Count = 16  # of the grid: 26 x 26 at 416 px, 30 x 30 at 480 px [VLT's official code]
    encoder_layers: Count = 2  # N_enc [5.2.1]
    decoder_layers: Count = 3  # N_dec [table 5.1]
    attention: Literal["shared", "independent", "generic"] = "shared"  # [table 5.1]
    decoder_hidden: CountFrom0 = 0  # feed-forward width of M3Dec; 0: no such part [5.1.1]
    interaction: Literal["imi", "imi*", "none"] = "imi"  # `imi*`: untransformed words for every layer [table 5.2]
    interaction_scaled: bool = True  # scores of Eq. 5.3 over sqrt(C) [ours, as Eq. 5.1; the equation has none]
    word_norm: Literal["batch", "layer"] = "batch"  # of IMI and LFR [5.2.1]; `layer` for very small batches
    mask_decoder: Literal["kernels", "concat", "vlt"] = "kernels"  # [table 5.3]
    mask_dims: Counts = (512, 512, 512)  # 3x3, each before an upsampling; a fourth to the mask [5.1.4]
    reconstruction_weight: Weight = 0.1  # w_rec [5.2.1]; 0: without LFR [table 5.2]
    dice_weight: Weight = 0.0  # [the thesis: cross-entropy only]
    no_target_head: bool = False  # [ours]
    exists_weight: Weight = 0.1  # [ours]


class Phrases(NamedTuple):
    """words: F_t (n, t, c).  sentence: F'_t (n, c), if LFR learns.  keep: (n, t) bool, True at real words."""

    words: Tensor
    sentence: Tensor | None
    keep: Tensor


class M3Att(nn.Module):
    """See the header. Built by `models.build_model`.

    Args:
        size: (height, width) of the network input in pixels; M3Att's last projection fixes the grid.
    """

    EXPLAIN: ClassVar[dict[str, MapKind]] = {
        "lav_attention": "word_map",
        "val_attention": "word_map",
        "word_maps": "word_map",
    }

    def __init__(self, config: M3AttConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        c, heads, dropout = config.dim, config.heads, config.dropout
        self.grid = grid = (size[0] // config.stride, size[1] // config.stride)
        self.vision = PyramidSum(build_vision(config, size=size), dim=c, grid=grid)
        self.text = build_text(
            config, vocab_size=vocab_size, max_tokens=max_tokens, dim=c, heads=heads, dropout=dropout
        )
        self.project = nn.Identity() if self.text.dim == c else nn.Linear(self.text.dim, c)
        self.encoder = nn.ModuleList(
            EncoderLayer(c, heads=heads, hidden=config.hidden, dropout=dropout) for _ in range(config.encoder_layers)
        )
        self.decoder = MutualDecoder(config, places=grid[0] * grid[1])
        self.mask_feature = MASK_FEATURES[config.mask_decoder](dim=c, heads=heads, words=max_tokens, grid=grid)
        self.mask_decoder = MaskDecoder(self.mask_feature.channels, dims=config.mask_dims, out_kernel=3)
        self.reconstruction = None
        if config.reconstruction_weight:
            self.reconstruction = LanguageReconstruction(c, norm=config.word_norm)
        self.exists = NoTargetHead(self.mask_feature.channels, dim=c) if config.no_target_head else None

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, h s, w s) where s = 2^len(mask_dims); language enters in the decoder.

        aux: `lav_attention` (n, t, h, w), where each word looks in the last layer; `val_attention` (n, t, h, w), how
        much each place takes from each word there (not in the generic decoder); `word_maps` (n, words, h, w), what the
        mask's convolutions see of each word (not with `concat`); in training with LFR `reconstructed` and `projected`
        (n, c), F_rec and F_proj.
        """
        of = batch.image_index
        F_enc = self._encode(batch.images)  # (i, p, c)
        phrases = self._read(batch)
        F_dec, attention = self.decoder(phrases, F_enc, of)
        maps = self.mask_feature(F_dec, take(F_enc, of), phrases.keep)
        aux = {name: weights.unflatten(2, self.grid) for name, weights in attention.items()}
        if self.config.mask_decoder != "concat":
            aux["word_maps"] = maps
        if self.training and self.reconstruction is not None:
            aux |= self.reconstruction(phrases, F_dec)
        return Prediction(
            mask_logits=self.mask_decoder(maps),
            exists_logit=None if self.exists is None else self.exists(mean_of_words(F_dec, phrases.keep), maps),
            aux=aux,
        )

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is the training loss (Eq. 5.5 with w_mask 1)."""
        config, aux = self.config, prediction.aux
        terms = losses.mask_and_existence(
            prediction, batch, dice_weight=config.dice_weight, exists_weight=config.exists_weight
        )
        if "reconstructed" in aux:
            distance = F.mse_loss(aux["reconstructed"].float(), aux["projected"].float())
            terms["reconstruction"] = config.reconstruction_weight * distance
        return terms

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.vision.backbone, self.text]

    def _encode(self, images: Tensor) -> Tensor:
        x = as_places(self.vision(images))  # F_vis (i, p, c)
        x = x + sine_positions_2d(*self.grid, x.shape[-1], device=x.device, dtype=x.dtype)
        for layer in self.encoder:
            x = layer(x)
        return x

    def _read(self, batch: Batch) -> Phrases:
        tokens, keep = batch.tokens, batch.attention_mask
        if not self.training or self.reconstruction is None:
            return Phrases(self.project(self.text(tokens, keep)), None, keep)
        words, sentence = self.text.with_sentence(tokens, keep)
        return Phrases(self.project(words), self.project(sentence), keep)


# --- Words ------------------------------------------------------------------------------------------------------------


class WordNorm(nn.Module):
    """Batch normalisation of words (n, t, c) with the statistics of real words alone, or LayerNorm."""

    def __init__(self, dim: int, *, kind: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim) if kind == "batch" else nn.LayerNorm(dim)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        norm = self.norm
        if isinstance(norm, nn.LayerNorm):
            return norm(x)
        if self.training and len(real := x[keep]) > 1:  # one word alone has no variance
            normed = norm(real)
            return torch.zeros_like(x, dtype=normed.dtype).index_put((keep,), normed)
        stored = F.batch_norm(
            x.flatten(0, 1), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
        return stored.unflatten(0, x.shape[:2])


class WordLinear(nn.Module):
    """Linear layer, normalisation, ReLU [5.2.1]."""

    def __init__(self, dim: int, *, norm: str) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(dim, dim, bias=False), WordNorm(dim, kind=norm)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x), keep))


# --- Multi-Modal Mutual Attention [5.1.1] -----------------------------------------------------------------------------


class Scores(nn.Module):
    """A_mut of words and places: keys of both, and their products in each head."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim {dim} is no multiple of heads {heads}")
        self.heads = heads
        self.words, self.places = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, query: Tensor, F_enc: Tensor, image_index: Tensor) -> Tensor:
        """query (n, t, c), F_enc (i, p, c) -> (n, heads, t, p)."""
        F_Lk = split_heads(self.words(query), self.heads)
        F_Vk = take(split_heads(self.places(F_enc), self.heads), image_index)
        return F_Lk / math.sqrt(F_Lk.shape[-1]) @ F_Vk.transpose(-1, -2)  # Eq. 5.1, in each head


class MutualAttention(nn.Module):
    """M3Att: language-attended vision (LAV) as kernels over vision-attended language (VAL).

    Args:
        places: h*w of the grid.
        shared: one A_mut for both softmaxes; otherwise VAL has its own two keys [table 5.1].
    """

    def __init__(self, dim: int, *, heads: int, places: int, shared: bool) -> None:
        super().__init__()
        self.heads = heads
        self.lav = Scores(dim, heads=heads)
        self.val = None if shared else Scores(dim, heads=heads)
        self.word_values, self.place_values = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(places, dim)

    def forward(self, query: Tensor, F_enc: Tensor, keep: Tensor, image_index: Tensor) -> tuple[Tensor, ...]:
        """query (n, t, c), F_enc (i, p, c) -> (n, t, c), and the attention of LAV and of VAL (n, heads, t, p)."""
        A_lav = self.lav(query, F_enc, image_index)
        A_val = A_lav if self.val is None else self.val(query, F_enc, image_index)
        F_Vv = take(split_heads(self.place_values(F_enc), self.heads), image_index)
        F_Lv = split_heads(self.word_values(query), self.heads)
        lav = A_lav.softmax(-1)
        val = A_val.masked_fill(~keep[:, None, :, None], float("-inf")).softmax(-2)
        F_Va = join_heads(lav @ F_Vv)  # Eq. 5.2a: (n, t, c)
        F_La = join_heads(val.transpose(-1, -2) @ F_Lv)  # Eq. 5.2b: (n, p, c)
        kernels = F_Va * keep[..., None] / math.sqrt(F_Va.shape[-1])
        F_mul = kernels @ F_La.transpose(1, 2)  # (n, t, p)
        return self.out(F_mul), lav, val


class GenericAttention(nn.Module):
    """LAV alone [Fig. 5.3a]: words are queries, places keys and values."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.lav = Scores(dim, heads=heads)
        self.place_values, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, query: Tensor, F_enc: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        lav = self.lav(query, F_enc, image_index).softmax(-1)
        F_Va = join_heads(lav @ take(split_heads(self.place_values(F_enc), self.lav.heads), image_index))  # Eq. 5.2a
        return self.out(F_Va), lav


class MutualLayer(nn.Module):
    """One layer of M3Dec [Fig. 5.3c]: F_q among themselves, M3Att with the picture, its result queried again by F_q."""

    def __init__(self, config: M3AttConfig, *, places: int) -> None:
        super().__init__()
        c, heads, dropout = config.dim, config.heads, config.dropout
        self.self_attention = Attention(c, heads=heads, dropout=dropout)
        self.mutual = MutualAttention(c, heads=heads, places=places, shared=config.attention == "shared")
        self.cross_attention = Attention(c, heads=heads, dropout=dropout)
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.drop = nn.Dropout(dropout)
        self.mlp = self.norm3 = None
        if config.decoder_hidden:
            self.mlp, self.norm3 = feed_forward(c, hidden=config.decoder_hidden, dropout=dropout), nn.LayerNorm(c)

    def forward(
        self, query: Tensor, F_enc: Tensor, keep: Tensor, image_index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        F_q = self.norm1(query + self.drop(self.self_attention(query, query, query, keep)))
        mixed, lav, val = self.mutual(F_q, F_enc, keep, image_index)
        x = self.norm2(F_q + self.drop(self.cross_attention(F_q, mixed, mixed, keep)))
        if self.mlp is not None and self.norm3 is not None:
            x = self.norm3(x + self.drop(self.mlp(x)))
        return x, {"lav_attention": lav, "val_attention": val}


class GenericLayer(nn.Module):
    """The standard transformer's decoder layer, whose vision keys and values are made once an image [table 5.1]."""

    def __init__(self, config: M3AttConfig, *, places: int) -> None:
        super().__init__()
        c, heads, dropout = config.dim, config.heads, config.dropout
        self.self_attention = Attention(c, heads=heads, dropout=dropout)
        self.generic = GenericAttention(c, heads=heads)
        self.mlp = feed_forward(c, hidden=config.hidden, dropout=dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(c), nn.LayerNorm(c), nn.LayerNorm(c)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, query: Tensor, F_enc: Tensor, keep: Tensor, image_index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.norm1(query + self.drop(self.self_attention(query, query, query, keep)))
        seen, lav = self.generic(x, F_enc, image_index)
        x = self.norm2(x + self.drop(seen))
        return self.norm3(x + self.drop(self.mlp(x))), {"lav_attention": lav}


class MutualDecoder(nn.Module):
    """M3Dec: N_dec layers, each one's output the next one's query, with an IMI block between any two [5.1.1, 5.1.2]."""

    def __init__(self, config: M3AttConfig, *, places: int) -> None:
        super().__init__()
        layer = GenericLayer if config.attention == "generic" else MutualLayer
        self.layers = nn.ModuleList(layer(config, places=places) for _ in range(config.decoder_layers))
        blocks = 0 if config.interaction == "none" else config.decoder_layers - 1
        transform, scaled, norm = config.interaction == "imi", config.interaction_scaled, config.word_norm
        self.interactions = nn.ModuleList(
            Interaction(config.dim, transform=transform, scaled=scaled, norm=norm) for _ in range(blocks)
        )

    def forward(self, phrases: Phrases, F_enc: Tensor, image_index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """F_dec (n, t, c), and the last layer's attention by name, (n, t, p) each, means over the heads."""
        query = F_l = phrases.words
        attention: dict[str, Tensor] = {}
        for n, layer in enumerate(self.layers):
            if n and len(self.interactions):
                query, F_l = self.interactions[n - 1](query, F_l, phrases.keep)
            query, attention = layer(query, F_enc, phrases.keep, image_index)
        return query, {name: weights.mean(1) for name, weights in attention.items()}


# --- Iterative Multi-Modal Interaction [5.1.2] ------------------------------------------------------------------------


class Interaction(nn.Module):
    """An IMI block: every multi-modal word takes from the language features what it asks for.

    transform: pass the language features through a layer of this block's own first; False is IMI* of table 5.2.
    """

    def __init__(self, dim: int, *, transform: bool, scaled: bool, norm: str) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(dim) if scaled else 1.0
        self.transform = WordLinear(dim, norm=norm) if transform else None
        self.w_a, self.w_m = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.w_c = nn.Parameter(torch.ones(()))  # [ours: 1; from 0, W_a would wait for it]
        self.norm = WordNorm(dim, kind=norm)

    def forward(self, F_dec: Tensor, F_l: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """F_dec^n, F_l^(n-1), both (n, t, c) -> the next layer's query and F_l^n."""
        if self.transform is not None:
            F_l = self.transform(F_l, keep)
        scores = torch.relu(self.w_a(F_dec)) @ F_l.transpose(1, 2) * self.scale
        A_i = scores.masked_fill(~keep[:, None], float("-inf")).softmax(-1)  # Eq. 5.3
        F_i = A_i @ torch.relu(self.w_m(F_l))
        return self.norm(F_dec + self.w_c * F_i, keep), F_l


# --- Language Feature Reconstruction [5.1.3] --------------------------------------------------------------------------


class LanguageReconstruction(nn.Module):
    """LFR: the phrase, and what is left of it in F_dec, in one space; the loss is their distance. Training only."""

    def __init__(self, dim: int, *, norm: str) -> None:
        super().__init__()
        self.project = WordLinear(dim, norm=norm)  # W_proj
        self.restore = nn.ModuleList(WordLinear(dim, norm=norm) for _ in range(3))

    def forward(self, phrases: Phrases, F_dec: Tensor) -> dict[str, Tensor]:
        F_t, keep = phrases.words, phrases.keep
        assert phrases.sentence is not None
        e = sine_waves(F_t.shape[1], F_t.shape[2], like=F_t)
        both, kept = torch.cat([F_t + e, phrases.sentence[:, None]], 1), F.pad(keep, (0, 1), value=True)
        F_proj = mean_of_words(self.project(both, kept), kept)  # Eq. 5.4
        x = F_dec
        for layer in self.restore:
            x = layer(x, keep)
        return {"reconstructed": mean_of_words(x, keep), "projected": F_proj}


# --- Mask Decoder [5.1.4] ---------------------------------------------------------------------------------------------


class WordKernels(nn.Module):
    """Every word of F_dec, after self-attention, is the kernel of a 1x1 convolution on F_enc [Fig. 5.6]."""

    def __init__(self, *, dim: int, heads: int, words: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.grid = words, grid
        self.self_attention, self.norm = Attention(dim, heads=heads), nn.LayerNorm(dim)

    def forward(self, F_dec: Tensor, F_enc: Tensor, keep: Tensor) -> Tensor:
        """F_dec (n, t, c), F_enc (n, p, c) -> (n, words, h, w)."""
        kernels = self.norm(F_dec + self.self_attention(F_dec, F_dec, F_dec, keep)) * keep[..., None]
        kernels = padded(kernels / math.sqrt(F_enc.shape[-1]), self.channels)
        return as_map(F_enc @ kernels.transpose(1, 2), self.grid)


class SumBesidePicture(nn.Module):
    """`Concat` of table 5.3: F_dec summed over words, copied to every place and put beside F_enc."""

    def __init__(self, *, dim: int, heads: int, words: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.grid = 2 * dim, grid

    def forward(self, F_dec: Tensor, F_enc: Tensor, keep: Tensor) -> Tensor:
        total = (F_dec * keep[..., None]).sum(1)[:, None].expand_as(F_enc)
        return as_map(torch.cat([total, F_enc], 2), self.grid)


class WordMaps(nn.Module):
    """`VLT` of table 5.3: a map of every word of F_dec, without F_enc."""

    def __init__(self, *, dim: int, heads: int, words: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.grid = words, grid
        self.spread = nn.Linear(dim, grid[0] * grid[1])

    def forward(self, F_dec: Tensor, F_enc: Tensor, keep: Tensor) -> Tensor:
        maps = torch.relu(self.spread(F_dec)) * keep[..., None]
        return padded(maps, self.channels).unflatten(2, self.grid)


MASK_FEATURES: dict[str, type[WordKernels] | type[SumBesidePicture] | type[WordMaps]] = {
    "kernels": WordKernels,
    "concat": SumBesidePicture,
    "vlt": WordMaps,
}


def padded(words: Tensor, count: int) -> Tensor:
    """What a shorter batch has of its words (n, t, ...), with zeros up to `count` of them."""
    return F.pad(words, (0, 0, 0, count - words.shape[1]))
