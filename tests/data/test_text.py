"""Tokenisers: lengths, padding, unknown words, and equality with the references' ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refseg_cli.config import TextConfig
from refseg_cli.data import text
from refseg_cli.data.text import Tokenizer, build_tokenizer, read_glove
from refseg_cli.errors import RefsegError

PHRASES = ["two people on left", "the dog", "dog, left!"]


@pytest.fixture
def words() -> Tokenizer:
    return build_tokenizer(TextConfig(max_tokens=5), PHRASES)


def test_words_are_ordered_by_count_then_alphabet(words: Tokenizer) -> None:
    vocabulary = sorted(words.pipeline.get_vocab().items(), key=lambda item: item[1])
    assert [w for w, _ in vocabulary] == ["[PAD]", "[UNK]", "dog", "left", "!", ",", "on", "people", "the", "two"]


def test_encode_pads_on_the_right_and_truncates(words: Tokenizer) -> None:
    tokens, mask = words.encode(["The DOG", "two people on left dog dog"])
    assert tokens.tolist() == [[8, 2, 0, 0, 0], [9, 7, 6, 3, 2]]
    assert mask.tolist() == [[True, True, False, False, False], [True] * 5]


WORDS = [
    "two",
    "Dog,",
    "LEFT!",
    "\u00a8",
    "\u0308",
    "a\u0308o",
    "\ufb01n",
    "\u3000",
    "\u0130",
    "x\x1cy",
    "[UNK]",
    "",
    "_9",
]
PARTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=9)


@given(PARTS.map(" ".join) | PARTS.map("".join))
def test_words_looked_up_one_by_one_are_those_of_the_whole_phrase(phrase: str) -> None:
    words = build_tokenizer(TextConfig(max_tokens=5), [*PHRASES, *WORDS])
    expected = words.pipeline.encode(phrase.strip())
    for _ in range(2):
        tokens, mask = words.encode([phrase, "the dog"])
        assert tokens[0].tolist() == expected.ids
        assert mask[0].tolist() == [True, *map(bool, expected.attention_mask[1:])]
        assert tokens[1].tolist()[2:] == [0, 0, 0]


def test_a_tokeniser_keeps_the_ids_of_so_many_words(words: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "WORDS_KEPT", 1)
    once, again = (words.encode(["two people on left"])[0] for _ in range(2))
    assert once.equal(again)
    assert words._words == {"two": [9]}


def test_empty_phrase_keeps_one_position(words: Tokenizer) -> None:
    tokens, mask = words.encode([" ", "dog"])
    assert tokens[0].eq(0).all()
    assert mask.sum(1).tolist() == [1, 1]


def test_unknown_words_are_named(words: Tokenizer) -> None:
    assert words.read("the Zebra on left Zebra").unknown == ("Zebra",)


def test_new_words_come_behind_the_known_ones(words: Tokenizer) -> None:
    grown = words.learning(["a dog", "the Forklift, a digger", "forklift"], TextConfig())
    assert grown.encode(PHRASES)[0].equal(words.encode(PHRASES)[0])
    assert grown.encode(["forklift a digger"])[0].tolist() == [[11, 10, 12, 0, 0]]
    assert (grown.vocab_size, grown.max_tokens, words.vocab_size) == (13, 5, 10)
    assert words.learning(["a digger", "a fork"], TextConfig(min_count=2)).vocab_size == 11


def test_sub_words_need_no_new_ones(shared: Path) -> None:
    path = shared / "vocab" / "bpe_simple_vocab_16e6.txt.gz"
    clip = build_tokenizer(TextConfig(tokenizer="clip", vocab=str(path), max_tokens=8), ())
    assert clip.learning(["a forklift"], TextConfig()) is clip


def test_saved_tokenizer_is_the_same(words: Tokenizer, tmp_path: Path) -> None:
    words.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.max_tokens == 5
    for a, b in zip(loaded.encode(PHRASES), words.encode(PHRASES), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_damaged_tokenizer_file_is_one_clear_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(RefsegError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_bert_ids_equal_transformers(shared: Path) -> None:
    from transformers import BertTokenizer

    vocab = shared / "vocab" / "bert-base-uncased"
    tokens, mask = build_tokenizer(TextConfig(tokenizer="bert", vocab=str(vocab), max_tokens=12), ()).encode(PHRASES)
    reference = BertTokenizer(str(vocab / "vocab.txt"))(PHRASES, padding="max_length", max_length=12, truncation=True)
    assert tokens.tolist() == reference["input_ids"]
    assert mask.long().tolist() == reference["attention_mask"]


def test_long_bert_phrase_keeps_its_end_mark(shared: Path) -> None:
    vocab = shared / "vocab" / "bert-base-uncased"
    tokens, _ = build_tokenizer(TextConfig(tokenizer="bert", vocab=str(vocab), max_tokens=6), ()).encode(["a " * 20])
    assert tokens[0, 0] == 101
    assert tokens[0, -1] == 102


def test_clip_ids_are_those_of_the_release(shared: Path) -> None:
    path = shared / "vocab" / "bpe_simple_vocab_16e6.txt.gz"
    tokenizer = build_tokenizer(TextConfig(tokenizer="clip", vocab=str(path), max_tokens=8), ())
    tokens, mask = tokenizer.encode(["a photo of a cat"])
    # "a photo of a cat" in CLIP's own tokeniser: 320 1125 539 320 2368 between the marks 49406 and 49407.
    assert tokens[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert mask[0].tolist() == [True] * 7 + [False]
    assert tokenizer.vocab_size == 49408


def test_missing_vocabulary_says_what_to_set() -> None:
    with pytest.raises(RefsegError, match=r"set text\.vocab"):
        build_tokenizer(TextConfig(tokenizer="clip"), ())


def test_no_words_at_all_is_an_error() -> None:
    with pytest.raises(RefsegError, match="no words"):
        build_tokenizer(TextConfig(min_count=9), PHRASES)


def test_glove_fills_known_words_and_leaves_others_zero(words: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("dog 1 2 3\nzebra 9 9 9\nleft 4 5 6\n", encoding="utf-8")
    table, found = read_glove(path, words)
    assert found == 2
    assert table[2].tolist() == [1, 2, 3]
    assert table[3].tolist() == [4, 5, 6]
    assert not table[[0, 1, 4, 5]].any()


def test_file_that_is_no_glove_is_refused(words: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("dog 1 2 3\nleft 4\n", encoding="utf-8")
    with pytest.raises(RefsegError, match="not a GloVe file"):
        read_glove(path, words)


def test_a_vocabulary_without_a_word_for_unknown_ones_is_named(tmp_path: Path) -> None:
    build_tokenizer(TextConfig(), ["a dog"]).save(tmp_path)
    table = json.loads((tmp_path / "tokenizer.json").read_text())
    table["model"]["vocab"]["[OTHER]"] = table["model"]["vocab"].pop("[UNK]")
    table["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(RefsegError, match=r"tokenizer\.json: not a tokenizer file: .*UNK"):
        Tokenizer.load(tmp_path)
