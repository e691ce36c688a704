"""What every architecture, in every variant of its ablation tables, must do whatever it computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import onnx
import pytest
import torch
from torch import Tensor
from variants import MODULES, VARIANTS, has_exists, named, without_influence

from refseg_cli import checkpoint
from refseg_cli.config import ARCHITECTURES, DataConfig, Recipe, TextConfig
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.engine import onnx_graph
from refseg_cli.engine.artifacts import FORMS, Format
from refseg_cli.engine.proof import Run
from refseg_cli.engine.tracing import Graph, trace
from refseg_cli.models import MODELS, build_model
from refseg_cli.records import Batch, Prediction

SIZE, SMALL, MAX_TOKENS, VOCABULARY = (64, 96), (32, 48), 7, 20
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def recipe_of(variant: str) -> Recipe:
    arch, model = VARIANTS[variant]
    return Recipe(
        arch=arch,
        model=model,
        data=DataConfig(size=SIZE, small=SMALL),
        text=TextConfig(max_tokens=MAX_TOKENS),
    )


def model_of(variant: str) -> torch.nn.Module:
    """In eval mode, with weights and batch statistics that let signals through a deep stack of convolutions."""
    return awake(recipe_of(variant))


def awake(recipe: Recipe) -> torch.nn.Module:
    """The recipe's model, so prepared."""
    torch.manual_seed(3)
    model = build_model(recipe, vocab_size=VOCABULARY)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def batch_of(lengths: tuple[int, ...] = (7, 3, 5, 1, 4), images: tuple[int, ...] = (0, 0, 0, 1, 1)) -> Batch:
    """Phrases of these many tokens, of these images. 0 and 1 refer to the same object, 3 to none."""
    torch.manual_seed(11)
    keep = torch.arange(MAX_TOKENS) < torch.tensor(lengths)[:, None]
    has_target = torch.tensor([n != 3 for n in range(len(lengths))])
    masks = (torch.rand(len(lengths), 1, *SIZE) > 0.6).float() * has_target[:, None, None, None]
    return Batch(
        images=torch.randn(max(images) + 1, 3, *SIZE),
        tokens=torch.randint(2, VOCABULARY, (len(lengths), MAX_TOKENS)) * keep,
        attention_mask=keep,
        image_index=torch.tensor(images),
        masks=masks,
        has_target=has_target,
        target_id=torch.tensor([max(0, n - 1) for n in range(len(lengths))]),
        small=torch.randn(max(images) + 1, 3, *SMALL),
    )


def outputs(prediction: Prediction) -> list[Tensor]:
    return [t for t in (prediction.mask_logits, prediction.exists_logit) if t is not None]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-5 of the largest logit, or of 1: float32 sums come in another order for another batch."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def part(batch: Batch, image: int, rows: slice) -> Batch:
    """Some expressions of one image alone."""
    assert batch.small is not None
    one, small = batch.images[image : image + 1], batch.small[image : image + 1]
    return Batch(one, batch.tokens[rows], batch.attention_mask[rows], batch.image_index[rows] * 0, small=small)


def double(batch: Batch) -> Batch:
    """With images in float64."""
    assert batch.small is not None
    return replace(batch, images=batch.images.double(), small=batch.small.double())


def test_every_architecture_is_here() -> None:
    assert set(MODULES) == set(MODELS) == set(ARCHITECTURES)


@every_variant
def test_shapes_and_finite(variant: str) -> None:
    batch, model = batch_of(), model_of(variant)
    with torch.no_grad():
        prediction = model(batch)
    n, one, h, w = prediction.mask_logits.shape
    assert (n, one) == (5, 1)
    assert h * SIZE[1] == w * SIZE[0]  # the input's shape, which is no square
    assert all(torch.isfinite(t).all() for t in outputs(prediction))
    assert (prediction.exists_logit is not None) == has_exists(variant)
    if prediction.exists_logit is not None:
        assert prediction.exists_logit.shape == (5,)
    assert float(prediction.mask_logits.std()) > 1e-2  # no constant
    assert float((prediction.mask_logits[0] - prediction.mask_logits[2]).abs().max()) > 1e-4


@every_variant
def test_every_trainable_parameter_gets_a_gradient(variant: str) -> None:
    model = model_of(variant).train()
    batch = batch_of()
    terms = model.losses(model(batch), batch)
    assert all(torch.isfinite(term) and term.ndim == 0 for term in terms.values())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, name
        # Softmax does not see what is added to all keys alike; timm starts some branches at zero and drops others at
        # random.
        blind = name.endswith(("k.bias", "key.bias")) or without_influence(variant, name)
        assert blind or "backbone.net." in name or bool(parameter.grad.any()), name


@every_variant
def test_an_image_with_many_phrases_equals_single_calls(variant: str) -> None:
    """In float64; in float32, where two calls round differently, each of them is as in float64."""
    batch, model, exact = batch_of(), model_of(variant), model_of(variant).double()
    with torch.no_grad():
        together, truth = outputs(model(batch)), outputs(exact(double(batch)))
        for row, image in enumerate(batch.image_index.tolist()):
            one = part(batch, image, slice(row, row + 1))
            for a, b, c, d in zip(together, outputs(model(one)), truth, outputs(exact(double(one))), strict=True):
                torch.testing.assert_close(c[row : row + 1], d, atol=1e-9, rtol=1e-9)
                assert_same(a[row : row + 1].double(), d)
                assert_same(b.double(), d)


@every_variant
def test_padding_changes_nothing(variant: str) -> None:
    batch, model = batch_of(), model_of(variant)
    garbage = torch.where(batch.attention_mask, batch.tokens, torch.randint_like(batch.tokens, VOCABULARY))
    assert not torch.equal(garbage, batch.tokens)
    with torch.no_grad():
        expected = outputs(model(batch))
        for a, b in zip(outputs(model(replace(batch, tokens=garbage))), expected, strict=True):
            assert_same(a, b)
        if variant in named("FIXED_LENGTH"):
            return
        short = batch_of(lengths=(4, 3, 2, 1, 4))
        cut = replace(short, tokens=short.tokens[:, :4], attention_mask=short.attention_mask[:, :4])
        for a, b in zip(outputs(model(cut)), outputs(model(short)), strict=True):
            assert_same(a, b)


# What each text encoder needs to be small.
TEXTS: dict[str, dict[str, Any]] = {
    "gru": {"embedding_dim": 10},
    "lstm": {"embedding_dim": 10},
    "transformer": {},
    "bert": {"text_dim": 32, "text_layers": 2},
    "clip": {"text_dim": 16, "text_layers": 3},
}


@pytest.mark.parametrize(
    ("arch", "text"), [(arch, text) for arch in MODELS for text in get_args(get_type_hints(MODELS[arch][0])["text"])]
)
def test_every_text_encoder_that_an_architecture_allows(arch: str, text: str) -> None:
    """Phrases differ, and neither padding nor other phrases matter. In float64, as rounding grows in instance norms."""
    settings = {**MODULES[arch].TINY, "text": text, **TEXTS[text]}
    recipe = Recipe(arch=arch, model=settings, data=DataConfig(size=SIZE), text=TextConfig(max_tokens=MAX_TOKENS))
    model, batch = awake(recipe).double(), batch_of()
    garbage = torch.where(batch.attention_mask, batch.tokens, torch.randint_like(batch.tokens, VOCABULARY))
    batch = double(replace(batch, tokens=garbage))
    with torch.no_grad():
        together = outputs(model(batch))
        for row, image in enumerate(batch.image_index.tolist()):
            for a, b in zip(
                together, outputs(model(double(part(batch_of(), image, slice(row, row + 1))))), strict=True
            ):
                torch.testing.assert_close(a[row : row + 1], b, atol=1e-8, rtol=1e-8)
    assert float((together[0][0] - together[0][2]).abs().max()) > 1e-4


@every_variant
def test_words_and_pictures_both_matter(variant: str) -> None:
    batch, model = batch_of(), model_of(variant)
    with torch.no_grad():
        said = model(batch).mask_logits
        other_words = model(replace(batch, tokens=batch.tokens.flip(0), attention_mask=batch.attention_mask.flip(0)))
        other_picture = model(replace(batch, images=batch.images.flip(-1)))
    assert float((said - other_words.mask_logits).abs().max()) > 1e-4
    assert float((said - other_picture.mask_logits).abs().max()) > 1e-4


@every_variant
def test_save_load_identical(variant: str, tmp_path: Path) -> None:
    recipe, tokenizer = recipe_of(variant), a_tokenizer()
    torch.manual_seed(3)
    model = build_model(recipe, vocab_size=tokenizer.vocab_size).eval()
    checkpoint.save(tmp_path / "saved", model, recipe, tokenizer)
    loaded = checkpoint.load(tmp_path / "saved")
    assert loaded.recipe == recipe
    model.to(memory_format=torch.channels_last)  # as a loaded one is: another order of sums
    batch = batch_of()
    with torch.no_grad():
        for a, b in zip(outputs(model(batch)), outputs(loaded.model(batch)), strict=True):
            assert torch.equal(a, b)


FEW_TOKENS = 4  # a graph has a copy of a recurrent text encoder for each token
EXPORTED = [variant for variant in VARIANTS if variant not in named("LOSS_ONLY")]


@pytest.mark.parametrize("variant", [variant for variant in EXPORTED if variant not in MODULES])
def test_export_equals_eager(variant: str) -> None:
    exported_equals_eager(variant, formats=[])


@pytest.mark.parametrize("arch", MODULES)
def test_every_architecture_as_a_file(arch: str, tmp_path: Path) -> None:
    exported_equals_eager(arch, formats=["onnx", "pt2"], folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [variant for variant in EXPORTED if variant not in MODULES])
def test_every_variant_as_a_file(variant: str, tmp_path: Path) -> None:
    exported_equals_eager(variant, formats=["onnx", "pt2"], folder=tmp_path)


def exported_equals_eager(variant: str, *, formats: list[Format], folder: Path = Path()) -> None:
    """The traced graph, and the files made of it, at other numbers of images and expressions than it was traced at."""
    graph = Graph(awake(replace(recipe_of(variant), text=TextConfig(max_tokens=FEW_TOKENS))))
    program = trace(graph, inputs_of(batch_of((2, 3, 4), (0, 0, 1))))
    module = program.module()
    runs: dict[str, Run] = {"graph": lambda inputs: module(*inputs)}
    for kind in formats:
        form, file = FORMS[kind], folder / f"model.{kind}"
        form.save(form.make(program), file, {})
        runs[kind] = form.open(file)
        if kind == "onnx":
            runs["split onnx"] = split_in_two(folder / "model.onnx", folder / "split")
    for run in runs.values():
        batch = batch_of((4, 3, 3, 1, 4), (0, 0, 1, 2, 2))
        for inputs in (inputs_of(batch), inputs_of(part(batch, 2, slice(3, 4)))):
            with torch.no_grad():
                expected = graph(*inputs)
                for ours, theirs in zip(run(inputs), expected, strict=True):
                    assert_same(ours, theirs)


def split_in_two(file: Path, folder: Path) -> Run:
    """The graphs of `export --split`: every architecture has a part that only looks."""
    folder.mkdir()
    for name, graph in zip(("image.onnx", "phrase.onnx"), onnx_graph.split(onnx.load(file)), strict=True):
        assert any(node.op_type == "Conv" for node in graph.graph.node) or name == "phrase.onnx"
        onnx.save(graph, folder / name)
    return FORMS["onnx"].open(folder)


def inputs_of(batch: Batch) -> tuple[Tensor, ...]:
    assert batch.small is not None
    tokens, attention_mask = batch.tokens[:, :FEW_TOKENS], batch.attention_mask[:, :FEW_TOKENS]
    return batch.images, tokens, attention_mask, batch.image_index, batch.small


def a_tokenizer() -> Tokenizer:
    words = " ".join(chr(ord("a") + i) * 2 for i in range(VOCABULARY - 2))
    return build_tokenizer(TextConfig(max_tokens=MAX_TOKENS), [words])
