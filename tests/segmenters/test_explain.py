"""From `Prediction.aux` to maps that can be drawn, on tensors whose values are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refseg_cli import checkpoint
from refseg_cli.config import TextConfig
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.models import MODELS
from refseg_cli.records import Batch, Explanation, MapKind, Prediction
from refseg_cli.segmenters.explain import MOST, SENTENCE, explain, explained, kinds_of
from refseg_cli.segmenters.trained import Predictor

INPUT = (32, 32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TextConfig(max_tokens=5), ["the red car", "a dog"])


def shown(
    kind: MapKind,
    tensor: torch.Tensor,
    tokenizer: Tokenizer,
    *,
    size: tuple[int, int] = INPUT,
    content: tuple[int, int, int, int] = (0, 0, *INPUT),
    longest: int = 64,
) -> list[Explanation]:
    """What is shown of a tensor of two expressions, "the red car" and "a dog", about one picture."""
    tokens, keep = tokenizer.encode(["the red car", "a dog"])
    batch = Batch(
        images=torch.zeros(1, 3, *INPUT),
        tokens=tokens,
        attention_mask=keep,
        image_index=torch.zeros(2, dtype=torch.int64),
        sizes=torch.tensor([size]),
        content=torch.tensor([content]),
    )
    prediction = Prediction(torch.zeros(2, 1, 4, 4), aux={"it": tensor})
    found = list(explain(prediction, batch, {"it": kind, "absent": "map"}, tokenizer, longest=longest))
    assert [len(maps) for maps in found] == [1, 1]
    assert all(maps[0].values.dtype == np.float32 for maps in found)
    return [maps[0] for maps in found]


def test_a_map_keeps_its_cells(tokenizer: Tokenizer) -> None:
    tensor = torch.randn(2, 3, 4, 4)
    for n, one in enumerate(shown("map", tensor, tokenizer)):
        assert (one.name, one.kind, one.rows, one.of) == ("it", "map", (0, 1, 2), 3)
        np.testing.assert_allclose(one.values, tensor[n].numpy(), rtol=1e-6)


def test_a_single_map_needs_no_axis_of_queries(tokenizer: Tokenizer) -> None:
    one, _ = shown("logits", torch.zeros(2, 4, 4), tokenizer)
    assert (one.values.shape, one.rows, one.of) == ((1, 4, 4), (0,), 1)
    assert (one.values == 0.5).all()  # a probability


def test_the_padding_is_cut_off(tokenizer: Tokenizer) -> None:
    """A picture of 20 x 40 fills the middle half of the input's height."""
    tensor = torch.full((2, 1, 8, 8), 100.0)  # what the model says of the padding
    tensor[:, :, 2:6] = 1.0
    one, _ = shown("map", tensor, tokenizer, size=(20, 40), content=(8, 0, 16, 32))
    assert one.values.shape == (1, 4, 8)
    assert one.values[0, 1:3] == pytest.approx(1.0)
    assert one.values.max() < 30  # the outer rows have a little of what lies beyond, as masks have


def test_large_maps_are_reduced_to_averages(tokenizer: Tokenizer) -> None:
    tensor = torch.zeros(2, 1, 64, 64)
    tensor[..., ::2] = 2.0
    one, _ = shown("map", tensor, tokenizer, size=(60, 30), longest=16)
    assert one.values.shape == (1, 16, 8)
    assert one.values.min() > 0.6
    assert one.values.max() < 1.4


def test_what_is_in_or_out_stays_so(tokenizer: Tokenizer) -> None:
    """A picture of 20 x 40 in the middle of the input; of 8 x 8 cells it has 4 rows."""
    tensor = torch.zeros(2, 1, 8, 8)
    tensor[:, :, 3, 5] = 1.0
    one, _ = shown("map", tensor, tokenizer, size=(20, 40), content=(8, 0, 16, 32), longest=16)
    expected = np.zeros((1, 8, 16), np.float32)
    expected[0, 2:4, 10:12] = 1.0
    np.testing.assert_array_equal(one.values, expected)


def test_a_model_may_show_more_than_it_answers() -> None:
    class Shows(torch.nn.Linear):
        def explained(self, batch: Any) -> Any:
            return -self(batch)

    x: Any = torch.ones(1, 2)
    model, plain = Shows(2, 3), torch.nn.Linear(2, 3)
    assert torch.equal(explained(model, x), -model(x))
    assert torch.equal(explained(plain, x), plain(x))


def test_of_many_those_with_the_highest_peaks(tokenizer: Tokenizer) -> None:
    tensor = torch.zeros(2, 3 * MOST, 4, 4)
    wanted = [1, *range(20, 20 + MOST - 1)]
    tensor[0, wanted, 2, 3] = 1.0
    one, _ = shown("map", tensor, tokenizer)
    assert (list(one.rows), one.of) == (wanted, 3 * MOST)
    assert one.values.max(axis=(1, 2)).tolist() == [1.0] * MOST


def test_words_without_padding_and_with_the_phrase(tokenizer: Tokenizer) -> None:
    alone = torch.arange(20.0).view(2, 2, 5)
    one, other = shown("words", alone, tokenizer)
    assert one.words == ("the", "red", "car")
    assert one.values.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert other.words == ("a", "dog")
    assert other.values.tolist() == [[10, 11], [15, 16]]
    one, other = shown("words", torch.arange(12.0).view(2, 6), tokenizer)  # no queries, and the phrase
    assert one.words == ("the", "red", "car", SENTENCE)
    assert one.values.tolist() == [[0, 1, 2, 5]]
    assert other.values.tolist() == [[6, 7, 11]]


def test_a_map_for_each_word(tokenizer: Tokenizer) -> None:
    tensor = torch.zeros(2, 5, 4, 4) + torch.arange(5.0)[:, None, None]
    one, other = shown("word_map", tensor, tokenizer)
    assert (one.words, one.rows, one.of) == (("the", "red", "car"), (0, 1, 2), 3)
    assert one.values[:, 0, 0].tolist() == [0, 1, 2]
    assert other.words == ("a", "dog")
    one, _ = shown("word_map", torch.zeros(2, 6, 4, 4), tokenizer)
    assert one.words == ("the", "red", "car", SENTENCE)


def test_what_belongs_to_the_image_is_shown_with_each_phrase(tokenizer: Tokenizer) -> None:
    one, other = shown("map", torch.arange(32.0).view(1, 2, 4, 4), tokenizer)
    assert np.array_equal(one.values, other.values)


def test_weights(tokenizer: Tokenizer) -> None:
    for tensor in (torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3, 1)):
        one, other = shown("weights", tensor, tokenizer)
        assert (one.values.tolist(), one.of) == ([0, 1, 2], 3)
        assert other.values.tolist() == [3, 4, 5]


def test_a_model_without_a_table_shows_nothing() -> None:
    assert kinds_of(torch.nn.Linear(1, 1)) == {}
    assert set(kinds_of(MODELS["vlt"][1])) == {"query_attention", "query_confidence", "mask_feature"}


def test_the_predictor_explains_what_it_predicts(untrained: Path) -> None:
    phrases = ["two people on left", "the red car"]
    pixels = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8)
    predictor = Predictor(untrained, device="cpu")
    explained, predicted = list(predictor.explain(pixels, phrases)), predictor.predict(pixels, phrases)
    for one, other in zip(explained, predicted, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert (one.p_target, other.maps) == (other.p_target, ())
        assert [(m.name, m.kind) for m in one.maps] == [
            ("query_attention", "words"),
            ("query_confidence", "weights"),
            ("mask_feature", "map"),
        ]
    assert explained[0].maps[0].words == ("two", "people", "on", "left", SENTENCE)
    assert explained[0].maps[0].values.sum(1).tolist() == pytest.approx([1.0] * 3)
    assert not np.array_equal(explained[0].maps[2].values, explained[1].maps[2].values)


def test_chunks_of_phrases_keep_their_maps(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refseg_cli.segmenters import trained as module

    pixels = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8)
    phrases = ["two people", "the red car", "a dog", "the big one", "a cat"]
    predictor = Predictor(untrained, device="cpu")
    together = list(predictor.explain(pixels, phrases))
    predictor.explaining.limit = 3
    monkeypatch.setattr(module, "PIXELS_AT_A_TIME", 30 * 50 * 2)
    for one, other in zip(together, predictor.explain(pixels, phrases), strict=True):
        assert one.maps[0].words == other.maps[0].words
        np.testing.assert_allclose(one.maps[2].values, other.maps[2].values, atol=1e-5)


@pytest.mark.parametrize("name", checkpoint.BUNDLED)
def test_the_bundled_models_have_something_to_show(name: str) -> None:
    recipe, _, _ = checkpoint.read_config(checkpoint.bundled(name))
    assert kinds_of(MODELS[recipe.arch][1])
