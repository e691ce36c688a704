"""Text encoders: phrases' tokens to one feature per word and one per sentence. The only door to transformers.

Users: layers/encoders.py, which builds them. Axes: n expressions, l tokens, c channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from refseg_cli.errors import RefsegError, first_line
from refseg_cli.layers.attention import EncoderLayer


class Language(NamedTuple):
    """features (n, l + 1, c): words, then the sentence; keep (n, l + 1) bool, True at real words and the sentence."""

    features: Tensor
    keep: Tensor


class TextEncoder(nn.Module):
    """tokens (n, l) int64, keep (n, l) bool -> words (n, l, dim).

    Padding never influences a real word's feature; rows of padding are unspecified.
    """

    dim: int

    def with_sentence(self, tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Words as `forward` gives them, and the phrase in one feature (n, dim): its own, else the words' mean.

        User: models/m3att.py.
        """
        words = self(tokens, keep)
        return words, mean_of_words(words, keep)

    def prompted(self, tokens: Tensor, keep: Tensor, prompts: Tensor) -> Tensor:
        """Words and prompts (n, p, dim) in one self-attention -> (n, l + p, dim), the words first.

        Prompts join behind the embeddings: they have no position, no token type and nobody else's norm, and are always
        visible. User: models/caris.py.

        Raises:
            RefsegError: this encoder has no self-attention.
        """
        raise RefsegError("this text encoder takes no prompts", hint="set model.text to bert or transformer")


def mean_of_words(x: Tensor, keep: Tensor) -> Tensor:
    """(n, l, c) -> (n, c), the mean over real words; keep: (n, l) bool. Other users: models/{cgformer,m3att}.py."""
    real = keep[..., None].to(x.dtype)
    return (x * real).sum(1) / real.sum(1)


class BiGru(TextEncoder):
    """Word embeddings and a bidirectional GRU whose two directions are summed (VLT, official code: 1024 units).

    The backward direction runs on sequences reversed within their own length, so padding never enters it; that also
    keeps the graph free of packed sequences, which do not export.
    """

    cell: type[nn.GRU] | type[nn.LSTM] = nn.GRU

    def __init__(
        self, vocab_size: int, *, embedding_dim: int, dim: int, dropout: float, trainable: bool = True
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=0)
        self.embedding.weight.requires_grad_(trainable)
        self.drop = nn.Dropout(dropout)
        self.forwards = self.cell(embedding_dim, dim, batch_first=True)
        self.backwards = self.cell(embedding_dim, dim, batch_first=True)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        return self.with_sentence(tokens, keep)[0]

    def with_sentence(self, tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The sentence is the sum of both directions' last states."""
        x = self.drop(self.embedding(tokens))
        order = _reverse_within(keep)
        ahead = self.forwards(x)[0]
        behind = self.backwards(_take(x, order))[0]
        last = keep.sum(1, keepdim=True) - 1
        return ahead + _take(behind, order), _take(ahead + behind, last)[:, 0]


class BiLstm(BiGru):
    """The same with LSTM cells (M3Att, thesis 5.1)."""

    cell = nn.LSTM


def _reverse_within(keep: Tensor) -> Tensor:
    """(n, l) int64: positions in reverse order up to each sequence's length, padding left in place; its own inverse."""
    position = torch.arange(keep.shape[1], device=keep.device)[None]
    length = keep.sum(1, keepdim=True)
    return torch.where(position < length, length - 1 - position, position)


def _take(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


class SmallTransformer(TextEncoder):
    """Learned word and position embeddings and a few transformer layers: the text encoder of the tiny models."""

    def __init__(self, vocab_size: int, *, max_tokens: int, dim: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(max_tokens, dim) * 0.02)
        self.norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads=heads, hidden=2 * dim, dropout=dropout) for _ in range(layers)
        )

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        return self._encode(self._embed(tokens), keep)

    def prompted(self, tokens: Tensor, keep: Tensor, prompts: Tensor) -> Tensor:
        return self._encode(torch.cat([self._embed(tokens), prompts], 1), _with_prompts(keep, prompts))

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.drop(self.norm(self.embedding(tokens) + self.positions[: tokens.shape[1]]))

    def _encode(self, x: Tensor, keep: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, keep)
        return x


def _with_prompts(keep: Tensor, prompts: Tensor) -> Tensor:
    """keep (n, l) -> (n, l + p)."""
    return nn.functional.pad(keep, (0, prompts.shape[1]), value=True)


class Bert(TextEncoder):
    """BERT's last hidden states (Devlin et al. 2019), from `transformers`.

    Args:
        name: hub name or folder of the weights, read when `pretrained`.
        dim, layers: of the model; 768 and 12 for BERT-base. Heads of 64 channels and a feed-forward width of 4 `dim`,
            as in every published size, so that a checkpoint is rebuilt from these two numbers.
        trained: how many layers, from the first, get gradients, and nothing else does; -1: everything does.
    """

    def __init__(
        self, name: str, *, vocab_size: int, dim: int, layers: int, pretrained: bool, trained: int = -1
    ) -> None:
        super().__init__()
        self.dim = dim
        bert = _pretrained_bert(name) if pretrained else _fresh_bert(vocab_size, dim=dim, layers=layers)
        if trained >= 0:
            bert.requires_grad_(False)
            bert.encoder.layer[:trained].requires_grad_(True)
        self.bert: Any = bert
        found = (bert.config.hidden_size, bert.config.num_hidden_layers)
        if found != (dim, layers):
            raise RefsegError(
                f"BERT {name!r} has {found[0]} channels and {found[1]} layers, the recipe {dim} and {layers}",
                hint=f"set model.text_dim={found[0]} and model.text_layers={found[1]}",
            )

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        return self.bert(input_ids=tokens, attention_mask=keep.long()).last_hidden_state

    def prompted(self, tokens: Tensor, keep: Tensor, prompts: Tensor) -> Tensor:
        x = torch.cat([self.bert.embeddings(input_ids=tokens), prompts], 1)
        hidden = ~_with_prompts(keep, prompts)[:, None, None]
        # Numbers, which every kind of attention in `transformers` adds to its scores.
        mask = torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, torch.finfo(x.dtype).min)
        return self.bert.encoder(x, attention_mask=mask).last_hidden_state

    def with_sentence(self, tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The sentence is the first token, [CLS]."""
        words = self(tokens, keep)
        return words, words[:, 0]


def _pretrained_bert(name: str) -> Any:  # transformers.BertModel, which is not imported up here
    from transformers import BertModel

    try:
        return BertModel.from_pretrained(name, add_pooling_layer=False)
    except (OSError, ValueError) as error:
        raise RefsegError(
            f"cannot load BERT {name!r}: {first_line(error)}",
            hint="give a folder with its weights, or set model.text_pretrained=false",
        ) from error


def _fresh_bert(vocab_size: int, *, dim: int, layers: int) -> Any:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=max(1, dim // 64),
        intermediate_size=4 * dim,
    )
    return BertModel(config, add_pooling_layer=False)


def pretrained_clip(name: str) -> dict[str, Tensor]:
    """The weights of a CLIP with a text tower, under OpenAI's names or transformers'.

    Args:
        name: hub name or folder. One that holds `open_clip_model.safetensors` (all of OpenAI's CLIPs do under timm's
            hub names, `timm/resnet50_clip.openai` for one), or a model that transformers reads.

    Raises:
        RefsegError: there is neither, or it cannot be fetched.
    """
    from safetensors.torch import load_file
    from transformers import CLIPTextModelWithProjection
    from transformers.utils import cached_file

    try:
        path = cached_file(name, "open_clip_model.safetensors", _raise_exceptions_for_missing_entries=False)
        return load_file(path) if path else CLIPTextModelWithProjection.from_pretrained(name).state_dict()
    except (OSError, ValueError) as error:
        raise RefsegError(
            f"cannot load CLIP's text tower {name!r}: {first_line(error)}",
            hint="give a folder with its weights, or set model.text_pretrained=false",
        ) from error


class SentencePooling(nn.Module):
    """One feature per sentence: words weighted per channel by a softmax over time (VLT, official code).

    Dense(tanh), dropout, softmax over the words of each channel, weighted sum; padding gets no weight.
    """

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Dropout(dropout))

    def forward(self, words: Tensor, keep: Tensor) -> Tensor:
        scores = self.score(words).masked_fill(~keep[..., None], float("-inf"))
        return (scores.softmax(1) * words).sum(1)  # (n, c)


class WordsAndSentence(nn.Module):
    """F_t: a feature for each word and one for the sentence, `dim` channels (VLT, thesis 4.2.1 and 4.2.6).

    Users: models/vlt.py, models/align.py.
    """

    def __init__(self, encoder: TextEncoder, *, dim: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = nn.Identity() if encoder.dim == dim else nn.Linear(encoder.dim, dim)
        self.pool = SentencePooling(dim, dropout=dropout)

    def forward(self, tokens: Tensor, keep: Tensor) -> Language:
        words = self.project(self.encoder(tokens, keep))
        sentence = self.pool(words, keep)
        kept = nn.functional.pad(keep, (0, 1), value=True)
        return Language(torch.cat([words, sentence[:, None]], 1), kept)
