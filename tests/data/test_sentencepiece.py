"""BEiT-3's kind of vocabulary, from a small sentencepiece model made here by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentencepieces import PIECES, SPACE, part, varint, written

from refseg_cli.config import TextConfig
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.errors import RefsegError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "small.spm").write_bytes(written(PIECES))
    return tmp_path / "small.spm"


def reader(file: Path, max_tokens: int = 8) -> Tokenizer:
    return build_tokenizer(TextConfig(tokenizer="beit3", vocab=str(file), max_tokens=max_tokens), ())


def ids(*pieces: str) -> list[int]:
    """One above the model's own."""
    return [list(PIECES).index(piece) + 1 for piece in pieces]


def test_ids_are_those_of_xlm_r(file: Path) -> None:
    tokens, mask = reader(file).encode_arrays(["red cup", ""])
    cup = ids(f"{SPACE}red", SPACE, "cu", "p")  # -2 - 2.5 is more than -5
    assert tokens.tolist() == [[0, *cup, 2, 1, 1], [0, 2, 1, 1, 1, 1, 1, 1]]
    assert mask.tolist() == [[True] * 6 + [False] * 2, [True] * 2 + [False] * 6]
    assert reader(file).vocab_size == len(PIECES) + 1


def test_a_long_phrase_keeps_its_end(file: Path) -> None:
    tokens, _ = reader(file, max_tokens=4).encode_arrays(["red red red red"])
    assert tokens.tolist() == [[0, *ids(f"{SPACE}red") * 2, 2]]


def test_what_no_piece_holds_is_unknown(file: Path) -> None:
    tokens, _ = reader(file).encode_arrays(["red \u65e5"])
    assert tokens[0, :5].tolist() == [0, *ids(f"{SPACE}red", SPACE), 3, 2]


@pytest.mark.parametrize(
    "phrase",
    ["RED cups", "red, cups!", "'red' (cups).", "red-cups", "red/cups", "  red   cups ", "re#d *cu?ps:;", 'r"ed cups'],
)
def test_phrases_are_cleaned(file: Path, phrase: str) -> None:
    plain = reader(file).encode_arrays(["red cups"])[0]
    assert reader(file).encode_arrays([phrase])[0].tolist() == plain.tolist()


def test_the_vocabulary_travels_with_the_weights(file: Path, tmp_path: Path) -> None:
    reader(file).save(tmp_path)
    phrases = ["Red cups, left", "the \u65e5"]
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode_arrays(phrases)[0].tolist() == reader(file).encode_arrays(phrases)[0].tolist()
    assert (loaded.max_tokens, loaded.pad_id) == (8, 1)


def test_the_kind_of_model_may_go_without_saying(tmp_path: Path) -> None:
    (tmp_path / "small.spm").write_bytes(written(PIECES, kind=None))
    assert reader(tmp_path / "small.spm").vocab_size == len(PIECES) + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 pieces"),
        (b"{not a model}", "not a sentencepiece model"),
        (b"\xff" * 30, "not a sentencepiece model"),
        (b"\xff" * 3, "not a sentencepiece model"),
        (written(PIECES)[:60], "it is cut off"),
        (written(PIECES, kind=2), "a unigram one"),
        (written(dict(reversed(PIECES.items()))), "begins with <unk>, <s>, </s>"),
        (part(1, varint(1 << 3) + b"\5") * 9, "field 1 is a number"),
        (part(1, part(1, b"\xff")) * 9, "not a sentencepiece model"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "odd.spm").write_bytes(content)
    with pytest.raises(RefsegError, match=rf"odd\.spm: .*{message}"):
        reader(tmp_path / "odd.spm")
