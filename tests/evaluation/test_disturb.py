"""Questions changed on purpose: which words go, whose phrase and whose picture comes instead."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from pictures import RECIPE, Fake, everything, picture, records, write_split
from sentencepieces import PIECES, SPACE, written
from torch import nn

from refseg_cli.data.loader import StepDataset, sequential_steps
from refseg_cli.data.sentencepiece import read_sentencepiece
from refseg_cli.data.shards import open_shards
from refseg_cli.data.text import PAD_ID, Tokenizer, build_tokenizer
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.disturb import Disturbance
from refseg_cli.evaluation.scoring import evaluate_model
from refseg_cli.records import Batch, Prediction, Thresholds

PHRASES = ["the large red bus", "dog", "two  people, on left", "a cat"]


@pytest.fixture
def dataset(tmp_path) -> StepDataset:
    """Four pictures with two phrases each, the fourth picture's longer than the tokenizer reads."""
    one, *_ = records("val")
    content = [
        picture(i, "val", (32, 32), one.instances, [(PHRASES[i], (0,)), (f"{PHRASES[i]} again", (1,))])
        for i in range(4)
    ]
    write_split(tmp_path, "val", content)
    tokenizer = build_tokenizer(RECIPE.text, [*PHRASES, "again"])
    return StepDataset(open_shards(tmp_path, "val"), tokenizer, RECIPE.data)


def batches(dataset: StepDataset, images: int = 4) -> list[Batch]:
    return [dataset[step] for step in sequential_steps(dataset.shards.expression_counts, batch_images=images)]


def changed(kind, dataset: StepDataset, model: nn.Module | None = None, images: int = 4, **options) -> list[Batch]:
    disturbance = Disturbance(kind, **options)
    change = disturbance.prepare(model or nn.Identity(), dataset, np.arange(4), "cpu")
    with torch.inference_mode():
        return [change(batch) for batch in batches(dataset, images)]


def texts(found: list[Batch]) -> list[str]:
    return [sample.text for batch in found for sample in batch.samples]


@pytest.mark.parametrize("words", [1, 2, 9])
def test_random_words_go_and_one_stays(dataset, words):
    (found,) = changed("random", dataset, words=words)
    for sample, old in zip(found.samples, texts(batches(dataset)), strict=True):
        before, after = old.split(), sample.text.split()
        assert len(after) == max(1, len(before) - words)
        rest = iter(before)
        assert all(word in rest for word in after), "in their order"
    tokens, mask = dataset.tokenizer.encode(texts([found]))
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.attention_mask, mask)


def test_random_words_are_the_same_in_every_run_and_others_with_another_seed(dataset):
    first, again, other = (texts(changed("random", dataset, seed=seed)) for seed in (0, 0, 5))
    assert first == again != other


class Attentive(nn.Module):
    """Attends to the tokens that are given, from most to least; what it gives the sentence does not count."""

    def __init__(self, order: list[str], vocabulary: dict[str, int]) -> None:
        super().__init__()
        self.weight = {vocabulary[word]: 100.0 - place for place, word in enumerate(order)}

    def forward(self, batch: Batch) -> Prediction:
        rows = [[self.weight.get(token, 0.0) for token in line] + [999.0] for line in batch.tokens.tolist()]
        attention = torch.tensor(rows)[:, None] * torch.tensor([0.25, 0.75])[:, None]
        return Prediction(torch.zeros(len(batch), 1, 4, 4), aux={"query_attention": attention})


def test_the_most_attended_words_go(dataset):
    vocabulary = dataset.tokenizer.pipeline.get_vocab()
    model = Attentive(["red", "people", "bus", "cat", "dog"], vocabulary)
    found = texts(changed("attended", dataset, model))
    # "people," is one word of two tokens; of one word alone nothing is taken
    assert found == [
        "the large bus",
        "the large bus again",
        "dog",
        "again",
        "two on left",
        "two on left again",
        "a",
        "a again",
    ]
    assert texts(changed("attended", dataset, model, words=2))[0] == "the large"


def test_a_piece_that_begins_with_a_space_is_of_the_word_behind_it(tmp_path):
    (tmp_path / "small.spm").write_bytes(written(PIECES))
    one, *_ = records("val")
    write_split(tmp_path, "val", [picture(0, "val", (32, 32), one.instances, [("red cup left", (0,))])])
    tokenizer = Tokenizer(read_sentencepiece(tmp_path / "small.spm"), max_tokens=16, pad_id=PAD_ID)
    dataset = StepDataset(open_shards(tmp_path, "val"), tokenizer, RECIPE.data)
    attention = Attentive([f"{SPACE}le"], tokenizer.pipeline.get_vocab())
    change = Disturbance("attended").prepare(attention, dataset, np.arange(1), "cpu")
    assert texts([change(batch) for batch in batches(dataset)]) == ["red cup"]


def test_a_model_that_shows_no_attention_is_refused(dataset):
    with pytest.raises(RefsegError, match="no attention over words"):
        changed("attended", dataset, Fake(everything).eval())


def test_a_models_own_table_of_maps_is_asked_first(dataset):
    class Explained(nn.Module):
        EXPLAIN: ClassVar = {"glance": "map", "reading": "words"}

        def forward(self, batch: Batch) -> Prediction:
            reading = torch.zeros(len(batch), batch.tokens.shape[1])
            reading[:, 0] = 1  # a vector for each phrase, without queries
            wrong = torch.ones(len(batch), 2, 99)
            aux = {"glance": wrong, "query_attention": wrong, "reading": reading}
            return Prediction(torch.zeros(len(batch), 1, 4, 4), aux=aux)

    assert texts(changed("attended", dataset, Explained()))[:3] == ["large red bus", "large red bus again", "dog"]


def test_attention_that_a_model_shows_only_when_asked_to_explain_counts_too(dataset):
    class OnRequest(nn.Module):
        EXPLAIN: ClassVar = {"reading": "words"}

        def forward(self, batch: Batch) -> Prediction:
            return Prediction(torch.zeros(len(batch), 1, 4, 4))

        def explained(self, batch: Batch) -> Prediction:
            reading = torch.zeros(len(batch), batch.tokens.shape[1])
            reading[:, 0] = 1
            return Prediction(torch.zeros(len(batch), 1, 4, 4), aux={"reading": reading})

    assert texts(changed("attended", dataset, OnRequest()))[:3] == ["large red bus", "large red bus again", "dog"]


@pytest.mark.parametrize("images", [1, 4])
def test_shuffled_phrases_are_another_pictures_and_all_of_them(dataset, images):
    found, plain = changed("shuffled-phrases", dataset, images=images), batches(dataset, images)
    asked, own = np.array(texts(found)).reshape(4, 2), np.array(texts(plain)).reshape(4, 2)
    partners = [[row.tolist() for row in own].index(pair.tolist()) for pair in asked]
    assert sorted(partners) == [0, 1, 2, 3]
    assert all(partner != image for image, partner in enumerate(partners))
    for batch, old in zip(found, plain, strict=True):
        assert torch.equal(batch.images, old.images)
        assert torch.equal(batch.tokens, dataset.tokenizer.encode(texts([batch]))[0])
        assert [s.target for s in batch.samples] == [s.target for s in old.samples]


@pytest.mark.parametrize("images", [1, 4])
def test_a_wrong_image_is_another_one_and_the_truth_stays(dataset, images):
    found, plain = changed("wrong-image", dataset, images=images), batches(dataset, images)
    own = torch.cat([batch.images for batch in plain])
    shown = torch.cat([batch.images for batch in found])
    partners = [next(j for j in range(4) if torch.equal(own[j], picture)) for picture in shown]
    assert sorted(partners) == [0, 1, 2, 3]
    assert all(partner != image for image, partner in enumerate(partners))
    assert texts(found) == texts(plain)
    assert all(torch.equal(a.sizes, b.sizes) for a, b in zip(found, plain, strict=True))


def test_a_wrong_image_is_seen_as_in_its_own_place(tmp_path):
    """With its own padding."""
    sizes = [(32, 20), (20, 32)]
    write_split(tmp_path, "val", [picture(i, "val", size, (), [("dog", ())]) for i, size in enumerate(sizes)])
    data = replace(RECIPE.data, resize="letterbox")
    dataset = StepDataset(open_shards(tmp_path, "val"), build_tokenizer(RECIPE.text, ["dog"]), data)
    step = sequential_steps(dataset.shards.expression_counts, batch_images=2)[0]
    change = Disturbance("wrong-image").prepare(nn.Identity(), dataset, np.arange(2), "cpu")
    assert torch.equal(change(dataset[step]).to("cpu").images, dataset[step].to("cpu").images.flip(0))


def test_one_picture_has_nobody_to_exchange_with(dataset):
    for kind in ("shuffled-phrases", "wrong-image"):
        with pytest.raises(RefsegError, match="no other"):
            Disturbance(kind).prepare(nn.Identity(), dataset, np.arange(1), "cpu")


def test_a_disturbed_pass_says_what_was_asked(val, tokenizer):
    found = evaluate_model(
        Fake(everything), tokenizer, RECIPE, Thresholds(), val, device="cpu", disturb=Disturbance("shuffled-phrases")
    ).answers
    own = [e.text for r in records("val") for e in r.expressions]
    assert sorted(set(found.text)) != sorted(set(own)) or found.text != own
    assert found.target.tolist() == [64, 256, 320, 0, 200, 0]


def test_names():
    assert str(Disturbance("random")) == "1 random word erased"
    assert re.fullmatch("3 attended words erased", str(Disturbance("attended", 3)))
    assert str(Disturbance("wrong-image")) == "wrong-image"
