"""Phrases to tokens. One file format for every tokeniser: `tokenizer.json` of the `tokenizers` library."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from refseg_cli.config import TextConfig
from refseg_cli.data import spelling as spellings
from refseg_cli.data.sentencepiece import PAD_ID, read_sentencepiece
from refseg_cli.data.spelling import UNK, Reading, Spelling
from refseg_cli.errors import RefsegError, first_line, reason_of

if TYPE_CHECKING:
    from torch import Tensor

PAD = "[PAD]"
WORDS_KEPT = 1 << 16  # whose ids a tokeniser keeps
_NO_WORD = "\ue000"  # of the private use area
FILE_NAME = "tokenizer.json"
_WHOLE = "is it whole? copy or download it again"

# CLIP's pattern for words, numbers and punctuation; https://github.com/openai/CLIP, simple_tokenizer.py.
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP_MERGES = 49152 - 256 - 2  # the release's vocabulary: 512 byte symbols, these merges, two marks


class Tokenizer:
    """A `tokenizers` pipeline with a fixed length: every phrase becomes `max_tokens` ids, padded on the right.

    spelling: as in `TextConfig`.
    """

    def __init__(self, pipeline: tokenizers.Tokenizer, *, max_tokens: int, pad_id: int, spelling: bool = False) -> None:
        self.pipeline, self.max_tokens, self.pad_id = pipeline, max_tokens, pad_id
        self._spelling = Spelling(pipeline.get_vocab()) if spelling else None
        self._by_words = _is_by_words(pipeline)
        self._words: dict[str, list[int]] = {}  # what lies between spaces -> its ids
        pipeline.enable_truncation(max_tokens)
        pipeline.enable_padding(length=max_tokens, pad_id=pad_id, pad_token=pipeline.id_to_token(pad_id) or PAD)

    @property
    def vocab_size(self) -> int:
        return self.pipeline.get_vocab_size()

    def encode(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As `encode_arrays`, for torch."""
        import torch

        tokens, mask = self.encode_arrays(phrases)
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def encode_arrays(self, phrases: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (N, L) int64 and attention mask (N, L) bool, True at real tokens.

        A phrase without a single token (only spaces, say) keeps its first position, so that no attention is empty.
        """
        texts = [phrase.strip() if self._spelling is None else self.read(phrase).text for phrase in phrases]
        ids = [*map(self._ids_by_words if self._by_words else self._ids, texts)]
        mask = np.arange(self.max_tokens) < np.array([*map(len, ids)], dtype=np.int64)[:, None]
        tokens = np.full(mask.shape, self.pad_id, dtype=np.int64)
        tokens[mask] = [*chain.from_iterable(ids)]
        mask[:, :1] = True
        return tokens, mask

    def _ids(self, text: str) -> list[int]:
        """At most `max_tokens`, without padding."""
        encoded = self.pipeline.encode(text)
        return encoded.ids[: sum(encoded.attention_mask)]

    def _ids_by_words(self, text: str) -> list[int]:
        """The same, in a sixth of the time: the library is asked once for what lies between two spaces."""
        found: list[int] = []
        for word in text.split(" "):
            if (ids := self._words.get(word)) is None:
                ids = self._ids(word)
                if len(self._words) < WORDS_KEPT:
                    self._words[word] = ids
            found += ids
        return found[: self.max_tokens]

    def read(self, phrase: str) -> Reading:
        """What the vocabulary makes of a phrase: words that it does not hold, and those read as others of its words."""
        return spellings.read(phrase, self.pipeline, self._spelling)

    @property
    def unknown_id(self) -> int | None:
        """What stands for unknown words; None for sub-word tokenisers, which know all."""
        return self.pipeline.token_to_id(UNK) if isinstance(self.pipeline.model, models.WordLevel) else None

    def learning(self, phrases: Iterable[str], config: TextConfig) -> Tokenizer:
        """With the words of these phrases behind its own; one of sub-words stays as it is.

        config: says how often a word must occur.
        """
        if self.unknown_id is None:
            return self
        table = json.loads(self.pipeline.to_str())
        known = table["model"]["vocab"]
        new = [word for word in _counted(phrases, self.pipeline, config.min_count) if word not in known]
        known |= {word: len(known) + i for i, word in enumerate(new)}
        pipeline = tokenizers.Tokenizer.from_str(json.dumps(table))
        return Tokenizer(pipeline, max_tokens=self.max_tokens, pad_id=self.pad_id, spelling=self._spelling is not None)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into `folder`."""
        (folder / FILE_NAME).write_text(self.pipeline.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, spelling: bool = False, max_tokens: int | None = None) -> Tokenizer:
        """Read `tokenizer.json`.

        max_tokens: None for what it was saved with, as padding is.  spelling: as its recipe says.
        """
        path = folder / FILE_NAME
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError as error:
            raise RefsegError(f"{path}: no tokenizer in this checkpoint folder", hint=_WHOLE) from error
        except (OSError, UnicodeDecodeError) as error:
            raise RefsegError(f"{path}: not a tokenizer file: {error}", hint=_WHOLE) from error
        return cls.from_text(text, str(path), spelling=spelling, max_tokens=max_tokens)

    @classmethod
    def from_text(cls, text: str, name: str, *, spelling: bool = False, max_tokens: int | None = None) -> Tokenizer:
        """What `save` wrote, already read; name: what to call it in an error; the rest as for `load`."""
        try:
            padding, truncation = (json.loads(text)[key] for key in ("padding", "truncation"))
            pipeline = tokenizers.Tokenizer.from_str(text)
            pipeline.encode("\N{SNOWMAN}")  # a vocabulary of words without one for unknown words fails at the first
            length = truncation["max_length"] if max_tokens is None else max_tokens
            return cls(pipeline, max_tokens=length, pad_id=padding["pad_id"], spelling=spelling)
        except Exception as error:  # the library raises bare Exception on a malformed file
            raise RefsegError(f"{name}: not a tokenizer file: {error}", hint=_WHOLE) from error


def _is_by_words(pipeline: tokenizers.Tokenizer) -> bool:
    """Whether what lies between two spaces has the same ids in every phrase, and a phrase no others."""
    return (
        isinstance(pipeline.model, models.WordLevel)
        and isinstance(pipeline.pre_tokenizer, pre_tokenizers.Whitespace)
        and pipeline.post_processor is None
    )


def with_unknown_words(phrase: str, share: float, rng: np.random.Generator) -> str:
    """With probability `share`, the phrase with one to three words in one of its gaps that no vocabulary holds."""
    if rng.random() >= share:
        return phrase
    words = phrase.split()
    gap = int(rng.integers(len(words) + 1))
    return " ".join([*words[:gap], *[_NO_WORD] * int(rng.integers(1, 4)), *words[gap:]])


def build_tokenizer(config: TextConfig, phrases: Iterable[str]) -> Tokenizer:
    """The tokeniser that a recipe asks for; `phrases` (the training split's) make the vocabulary of `words`."""
    if config.tokenizer == "words":
        return _words(phrases, config)
    path = _vocabulary_file(config)
    if config.tokenizer == "bert":
        return _bert(path, max_tokens=config.max_tokens)
    if config.tokenizer == "beit3":
        return Tokenizer(read_sentencepiece(path), max_tokens=config.max_tokens, pad_id=PAD_ID)
    return _clip(path, max_tokens=config.max_tokens)


def _words(phrases: Iterable[str], config: TextConfig) -> Tokenizer:
    """Lower-cased words and punctuation marks, most frequent first; ties in alphabetical order."""
    pipeline = tokenizers.Tokenizer(models.WordLevel({}, unk_token=UNK))
    pipeline.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    pipeline.pre_tokenizer = pre_tokenizers.Whitespace()
    kept = _counted(phrases, pipeline, config.min_count)
    if not kept:
        raise RefsegError("no words in the training phrases", hint="lower text.min_count or check the data")
    vocabulary = {word: i for i, word in enumerate([PAD, UNK, *kept])}
    pipeline.model = models.WordLevel(vocabulary, unk_token=UNK)
    return Tokenizer(pipeline, max_tokens=config.max_tokens, pad_id=0, spelling=config.spelling)


def _counted(phrases: Iterable[str], pipeline: tokenizers.Tokenizer, min_count: int) -> list[str]:
    """The words that occur so often, as the pipeline splits phrases; frequent ones first, ties by the alphabet."""
    counts: Counter[str] = Counter()
    for phrase in phrases:
        split = pipeline.pre_tokenizer.pre_tokenize_str(pipeline.normalizer.normalize_str(phrase))
        counts.update(word for word, _ in split)
    return sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))


def _bert(path: Path, *, max_tokens: int) -> Tokenizer:
    """BERT's uncased WordPiece with [CLS] ... [SEP]; a long phrase keeps its [SEP]."""
    from tokenizers.implementations import BertWordPieceTokenizer

    pipeline = BertWordPieceTokenizer(str(path), lowercase=True)
    pad_id = pipeline.token_to_id(PAD)
    if pad_id is None:
        raise RefsegError(f"{path}: not a BERT vocabulary: it has no {PAD}", hint="set text.vocab to BERT's vocab.txt")
    return Tokenizer(pipeline._tokenizer, max_tokens=max_tokens, pad_id=pad_id)


def _clip(path: Path, *, max_tokens: int) -> Tokenizer:
    """CLIP's byte-pair encoding from its release file, with start and end marks; padded with 0 as upstream."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RefsegError(
            f"{path}: not CLIP's merges file: {error}", hint="set text.vocab to bpe_simple_vocab_16e6.txt.gz"
        ) from error
    merges = [(line.split()[0], line.split()[1]) for line in lines[1 : _CLIP_MERGES + 1]]
    symbols = _byte_symbols()
    start, end = "<|startoftext|>", "<|endoftext|>"
    ordered = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), start, end]
    vocabulary = {token: i for i, token in enumerate(ordered)}
    pipeline = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=end, continuing_subword_prefix="")
    )
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    pipeline.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(tokenizers.Regex(_CLIP_WORDS), behavior="removed", invert=True)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    pipeline.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])]
    )
    return Tokenizer(pipeline, max_tokens=max_tokens, pad_id=0)


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(len(others))]


def _vocabulary_file(config: TextConfig) -> Path:
    path = Path(config.vocab).expanduser()
    if not config.vocab:
        raise RefsegError(f"tokenizer {config.tokenizer!r} needs a vocabulary", hint="set text.vocab to its file")
    if path.is_dir():
        path = path / "vocab.txt"
    if path.is_file():
        return path
    if config.tokenizer == "bert" and config.vocab.count("/") <= 1:
        return _from_hub(config.vocab)
    raise RefsegError(f"{path}: no such vocabulary file", hint="set text.vocab to the file")


def _from_hub(name: str) -> Path:
    """`vocab.txt` of a hub model, through the hub's own cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "vocab.txt"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = first_line(error)
        raise RefsegError(
            f"cannot fetch the vocabulary of {name!r}: {reason}",
            hint="download vocab.txt and set text.vocab to its path",
        ) from error


def read_glove(path: Path, tokenizer: Tokenizer) -> tuple[Tensor, int]:
    """Vectors of a GloVe text file for the tokeniser's words: ((vocab_size, dim) float32, words found).

    Words that the file lacks are zero, as are padding and unknown (models/ fact sheet: OOV zero).
    """
    import torch

    vocabulary = tokenizer.pipeline.get_vocab()
    found: dict[int, np.ndarray] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                word, _, numbers = line.partition(" ")
                if word in vocabulary:
                    found[vocabulary[word]] = np.fromstring(numbers, dtype=np.float32, sep=" ")
    except (OSError, UnicodeDecodeError) as error:
        raise RefsegError(
            f"{path}: cannot read GloVe vectors: {reason_of(error)}", hint="set text.glove to the .txt file"
        ) from error
    dims = {v.size for v in found.values()}
    if len(dims) != 1:
        reason = f"vectors of lengths {sorted(dims)}" if dims else "none of its words"
        raise RefsegError(
            f"{path}: not a GloVe file for this vocabulary: {reason}", hint="set text.glove to the .txt file"
        )
    table = torch.zeros(tokenizer.vocab_size, dims.pop())
    for i, vector in found.items():
        table[i] = torch.from_numpy(vector)
    return table, len(found)
