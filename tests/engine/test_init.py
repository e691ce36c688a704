"""What a run takes over from another one: the weights that fit, the words, and the encoders of other architectures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pictures import records, write_split

from refseg_cli import checkpoint
from refseg_cli.config import Recipe
from refseg_cli.engine.optimise import take_weights
from refseg_cli.engine.train import TrainRequest, train
from refseg_cli.errors import RefsegError
from refseg_cli.models import build_model


def test_init_takes_what_fits(run: Path, recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    source = checkpoint.load(run).model
    wider = replace(recipe, model={**recipe.model, "mask_dims": (8, 4)})
    vocab = checkpoint.load(run).tokenizer.vocab_size
    model = build_model(wider, vocab_size=vocab)
    taken = take_weights(model, source)
    assert 0 < taken < len(source.state_dict())
    assert torch.equal(
        model.state_dict()["vision.backbone.stem.0.weight"], source.state_dict()["vision.backbone.stem.0.weight"]
    )
    result = train(TrainRequest(wider, str(scenes), tmp_path / "run", init=str(run), device="cpu"))
    assert result.stopped == "finished"


def test_init_learns_the_words_of_the_new_data(run: Path, recipe: Recipe, tmp_path: Path) -> None:
    """The known words and every weight stay; a new word begins as an unknown one, and then is trained."""
    write_split(tmp_path, "train", records("train"))
    still = replace(recipe, train=replace(recipe.train, epochs=1, lr=0.0, backbone_lr=1.0))
    source = checkpoint.load(run)
    assert source.tokenizer.read("neither").unknown == ("neither",)
    train(TrainRequest(still, str(tmp_path), tmp_path / "run", init=str(run), device="cpu"))
    found = checkpoint.load(tmp_path / "run" / "last")
    assert found.tokenizer.read("neither nothing here").unknown == ()
    known = source.tokenizer.vocab_size
    assert found.tokenizer.vocab_size > known
    name = "language.encoder.embedding.weight"
    old, new = source.model.state_dict()[name], found.model.state_dict()[name]
    assert torch.equal(new[:known], old)
    assert torch.equal(new[known:], old[1].expand(len(new) - known, -1))
    for key, parameter in source.model.named_parameters():
        assert key == name or torch.equal(parameter, found.model.state_dict()[key]), key


@pytest.mark.parametrize("more", [-2, 3])
def test_phrases_are_as_long_as_the_recipe_says(
    run: Path, recipe: Recipe, scenes: Path, tmp_path: Path, more: int
) -> None:
    """Not as the recipe of the weights says, for whose length this model has no places, or more."""
    length = recipe.text.max_tokens + more
    other = replace(recipe, text=replace(recipe.text, max_tokens=length), train=replace(recipe.train, steps=1))
    train(TrainRequest(other, str(scenes), tmp_path / "run", init=str(run), device="cpu"))
    found = checkpoint.load(tmp_path / "run" / "last")
    assert found.tokenizer.max_tokens == found.recipe.text.max_tokens == length


def test_init_across_architectures_takes_the_encoders(run: Path, recipe: Recipe) -> None:
    found = checkpoint.load(run)
    vocab = found.tokenizer.vocab_size
    sizes = {k: v for k, v in recipe.model.items() if k.startswith(("backbone", "text", "dim", "heads", "pre"))}
    moved = Elsewhere(build_model(replace(recipe, arch="align", model=sizes), vocab_size=vocab))
    taken = take_weights(moved, found.model)
    encoders = found.model.pretrained_modules()
    assert taken == sum(tensor.ndim > 0 for encoder in encoders for tensor in encoder.state_dict().values())
    for ours, theirs in zip(moved.pretrained_modules(), encoders, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    small = {**sizes, "dim": 6, "backbone_channels": (3, 3, 3, 3, 3), "text": "gru", "embedding_dim": 5}
    stranger = build_model(replace(recipe, arch="align", model=small), vocab_size=vocab)
    with pytest.raises(RefsegError, match="no weight has the name and shape"):
        take_weights(Elsewhere(stranger), found.model)


def test_init_at_another_input_size_resamples_what_depends_on_it(run: Path, recipe: Recipe) -> None:
    """W_v of Eq. 4.5 has a column for each place of the grid: an even picture guides the queries as it did."""
    found = checkpoint.load(run)
    height, width = recipe.data.size
    larger = replace(recipe, data=replace(recipe.data, size=(2 * height, 2 * width)))
    model = build_model(larger, vocab_size=found.tokenizer.vocab_size)
    taken = take_weights(model, found.model)
    assert taken == sum(tensor.ndim > 0 for tensor in found.model.state_dict().values())
    ours, theirs = (m.get_submodule("body.queries") for m in (model, found.model))
    even = torch.ones(1, model.config.query_count, 1)
    told, expected = (q.w_v(even.expand(-1, -1, q.w_v.in_features)) for q in (ours, theirs))
    torch.testing.assert_close(told, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours.w_v.weight, build_model(larger, vocab_size=3).body.queries.w_v.weight)


class Elsewhere(torch.nn.Module):
    """A model whose encoders have other names than the source's."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner = model

    def pretrained_modules(self) -> list[torch.nn.Module]:
        return self.inner.pretrained_modules()  # type: ignore[operator,no-any-return]
