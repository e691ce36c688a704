"""M3Att's own arithmetic against plain readings of the thesis: loops over words and places."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from variants.m3att import TINY

from refseg_cli.config import DataConfig, Recipe, TextConfig
from refseg_cli.models import build_model, m3att
from refseg_cli.models.m3att import M3Att, M3AttConfig, Phrases
from refseg_cli.records import Batch

SIZE, LENGTHS, WORDS = (64, 96), (3, 1, 4), 5
KEEP = torch.arange(WORDS) < torch.tensor(LENGTHS)[:, None]
IMAGES = torch.tensor([0, 0, 1])


def tiny(**changes: Any) -> M3Att:
    torch.manual_seed(0)
    recipe = Recipe(
        arch="m3att", model={**TINY, **changes}, data=DataConfig(size=SIZE), text=TextConfig(max_tokens=WORDS)
    )
    model = build_model(recipe, vocab_size=20)
    assert isinstance(model, M3Att)
    return model


def a_batch() -> Batch:
    torch.manual_seed(1)
    return Batch(
        images=torch.randn(2, 3, *SIZE),
        tokens=torch.randint(2, 20, KEEP.shape) * KEEP,
        attention_mask=KEEP,
        image_index=IMAGES,
        masks=(torch.rand(3, 1, *SIZE) > 0.5).float(),
        has_target=torch.tensor([True, True, False]),
    )


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    y = layer.weight @ x
    return y if layer.bias is None else y + layer.bias


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def plain_m3att(module: m3att.MutualAttention, words: Tensor, places: Tensor) -> Tensor:
    """Eq. 5.1, 5.2a, 5.2b and F_mul = F_Va (F_La)^T for one phrase's real words (t, c) and one picture (p, c)."""
    heads, c = module.heads, words.shape[1]
    d = c // heads

    def scores_of(keys: m3att.Scores, head: int) -> list[list[float]]:
        part = slice(head * d, (head + 1) * d)
        return [
            [float(linear(keys.words, w)[part] @ linear(keys.places, p)[part]) / math.sqrt(d) for p in places]
            for w in words
        ]

    F_Va, F_La = torch.zeros(len(words), c), torch.zeros(len(places), c)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        A = scores_of(module.lav, head)
        B = A if module.val is None else scores_of(module.val, head)
        for k in range(len(words)):
            for weight, place in zip(softmax(A[k]), places, strict=True):
                F_Va[k, part] += weight * linear(module.place_values, place)[part]
        for q in range(len(places)):
            for weight, word in zip(softmax([row[q] for row in B]), words, strict=True):
                F_La[q, part] += weight * linear(module.word_values, word)[part]
    F_mul = torch.stack([torch.stack([a @ b for b in F_La]) for a in F_Va]) / math.sqrt(c)
    return torch.stack([linear(module.out, row) for row in F_mul])


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "independent"])
def test_mutual_attention_is_eq_5_1_and_5_2(shared: bool) -> None:
    torch.manual_seed(0)
    module = m3att.MutualAttention(6, heads=2, places=4, shared=shared)
    words, F_enc = torch.randn(3, WORDS, 6) * 2, torch.randn(2, 4, 6) * 2
    with torch.no_grad():
        ours, lav, val = module(words, F_enc, KEEP, IMAGES)
        for n, length in enumerate(LENGTHS):
            expected = plain_m3att(module, words[n, :length], F_enc[IMAGES[n]])
            torch.testing.assert_close(ours[n, :length], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lav.sum(3), torch.ones(3, 2, WORDS))  # in each head
    torch.testing.assert_close(val.sum(2), torch.ones(3, 2, 4))
    assert not val.transpose(1, 2)[~KEEP].any()


def test_independent_attention_has_two_linear_layers_more() -> None:
    """Text of table 5.1: "two extra linear project layers"."""
    c = 12
    shared, independent = (
        sum(p.numel() for p in m3att.MutualAttention(c, heads=2, places=5, shared=s).parameters())
        for s in (True, False)
    )
    assert shared == 4 * (c * c + c) + (5 * c + c)
    assert independent == shared + 2 * (c * c + c)


def test_the_generic_decoder_layer_is_torchs() -> None:
    torch.manual_seed(0)
    config = M3AttConfig(dim=8, heads=2, hidden=12, dropout=0.0)
    ours = m3att.GenericLayer(config, places=4).eval()
    theirs = nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True).eval()

    def fused(*layers: nn.Linear) -> dict[str, Tensor]:
        return {
            "in_proj_weight": torch.cat([layer.weight for layer in layers]),
            "in_proj_bias": torch.cat([layer.bias for layer in layers]),
        }

    own, cross = ours.self_attention, ours.generic
    weights = {f"self_attn.{k}": v for k, v in fused(own.q, own.k, own.v).items()}
    weights |= {
        f"multihead_attn.{k}": v for k, v in fused(cross.lav.words, cross.lav.places, cross.place_values).items()
    }
    renamed = {"self_attn.out_proj": own.out, "multihead_attn.out_proj": cross.out, "linear1": ours.mlp[0]}
    renamed |= {"linear2": ours.mlp[3], "norm1": ours.norm1, "norm2": ours.norm2, "norm3": ours.norm3}
    weights |= {f"{name}.{k}": v for name, layer in renamed.items() for k, v in layer.state_dict().items()}
    theirs.load_state_dict(weights)
    words, F_enc = torch.randn(3, WORDS, 8), torch.randn(2, 4, 8)
    expected = theirs(words, F_enc[IMAGES], tgt_key_padding_mask=~KEEP)
    torch.testing.assert_close(ours(words, F_enc, KEEP, IMAGES)[0][KEEP], expected[KEEP], atol=1e-5, rtol=1e-5)


def test_a_layer_of_m3dec_step_by_step() -> None:
    """Fig. 5.3c: the words among themselves, M3Att, and its result as keys and values for the same queries."""
    torch.manual_seed(0)
    layer = m3att.MutualLayer(M3AttConfig(dim=8, heads=2, dropout=0.0), places=4).eval()
    words, F_enc = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    keep, of = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
    F_q = layer.norm1(words + layer.self_attention(words, words, words))
    F_mul = layer.mutual(F_q, F_enc, keep, of)[0]
    expected = layer.norm2(F_q + layer.cross_attention(F_q, F_mul, F_mul))
    torch.testing.assert_close(layer(words, F_enc, keep, of)[0], expected)


@pytest.mark.parametrize("transform", [True, False], ids=["IMI", "IMI*"])
@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "plain"])
def test_interaction_is_eq_5_3(transform: bool, scaled: bool) -> None:
    torch.manual_seed(0)
    block = m3att.Interaction(4, transform=transform, scaled=scaled, norm="batch").eval()
    nn.init.constant_(block.w_c, 0.7)
    F_dec, F_l = torch.randn(3, WORDS, 4), torch.randn(3, WORDS, 4)
    query, language = block(F_dec, F_l, KEEP)
    shrink = 1 / math.sqrt(1 + 1e-5)  # what batch normalisation does with fresh statistics
    for n, length in enumerate(LENGTHS):
        F_ln = F_l[n, :length]
        if block.transform is not None:
            F_ln = torch.stack([torch.relu(linear(block.transform.linear, x) * shrink) for x in F_ln])
        torch.testing.assert_close(language[n, :length], F_ln)
        for k in range(length):
            asks = torch.relu(linear(block.w_a, F_dec[n, k]))
            weights = softmax([float((asks @ x).detach()) / (2 if scaled else 1) for x in F_ln])
            F_i = sum(w * torch.relu(linear(block.w_m, x)) for w, x in zip(weights, F_ln, strict=True))
            torch.testing.assert_close(query[n, k], (F_dec[n, k] + 0.7 * F_i) * shrink)


@pytest.mark.parametrize("interaction", ["imi", "imi*", "none"])
def test_interaction_blocks_stand_between_layers_and_hand_the_language_on(interaction: str) -> None:
    model = tiny(interaction=interaction, decoder_layers=3).eval()
    calls: list[tuple[Tensor, Tensor]] = []
    for block in model.decoder.interactions:
        block.register_forward_hook(lambda module, inputs, result: calls.append((inputs[1], result[1])))
    model(a_batch())
    assert len(calls) == (0 if interaction == "none" else 2)
    if calls:
        (first, handed_on), (second, _) = calls
        assert second is handed_on
        assert (handed_on is first) == (interaction == "imi*")


def test_batch_statistics_are_those_of_real_words() -> None:
    torch.manual_seed(0)
    ours, theirs = m3att.WordNorm(4, kind="batch").train(), nn.BatchNorm1d(4).train()
    x = torch.randn(3, WORDS, 4)
    torch.testing.assert_close(ours(x, KEEP)[KEEP], theirs(x[KEEP]))
    torch.testing.assert_close(ours.norm.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x, KEEP)[KEEP], theirs.eval()(x[KEEP]))


def test_a_batch_of_one_word_takes_the_stored_statistics() -> None:
    norm, x = m3att.WordNorm(4, kind="batch").train(), torch.randn(1, 2, 4)
    keep = torch.tensor([[True, False]])
    torch.testing.assert_close(norm(x, keep)[keep], x[keep] / math.sqrt(1 + 1e-5))
    assert int(norm.norm.num_batches_tracked) == 0


def test_reconstruction_is_eq_5_4() -> None:
    torch.manual_seed(0)
    module = m3att.LanguageReconstruction(4, norm="batch").eval()
    phrases = Phrases(torch.randn(3, WORDS, 4), torch.randn(3, 4), KEEP)
    F_dec = torch.randn(3, WORDS, 4)
    both = module(phrases, F_dec)
    shrink = 1 / math.sqrt(1 + 1e-5)
    for n, length in enumerate(LENGTHS):
        rows = [phrases.words[n, k] + position(k) for k in range(length)] + [phrases.sentence[n]]
        total = sum(torch.relu(linear(module.project.linear, row) * shrink) for row in rows)
        torch.testing.assert_close(both["projected"][n], total / (length + 1))
        restored = torch.zeros(4)
        for k in range(length):
            x = F_dec[n, k]
            for layer in module.restore:
                x = torch.relu(linear(layer.linear, x) * shrink)
            restored += x / length
        torch.testing.assert_close(both["reconstructed"][n], restored)


def position(k: int) -> Tensor:
    """Vaswani et al. 2017, 3.5, for four channels."""
    return torch.tensor([math.sin(k), math.cos(k), math.sin(k / 100), math.cos(k / 100)])


def test_loss_is_eq_5_5() -> None:
    model, batch = tiny().train(), a_batch()
    prediction = model(batch)
    terms = model.losses(prediction, batch)
    aux = prediction.aux
    difference = (aux["reconstructed"] - aux["projected"]).detach()
    assert float(terms["reconstruction"].detach()) == pytest.approx(0.1 * float(difference.square().mean()))
    p, g = prediction.mask_logits.detach().sigmoid(), batch.masks
    g = (F.adaptive_avg_pool2d(g, p.shape[-2:]) >= 0.5).float()
    expected = -(g * p.log() + (1 - g) * (1 - p).log()).mean()
    assert float(terms["mask"].detach()) == pytest.approx(float(expected), rel=1e-4)
    assert set(terms) == {"mask", "reconstruction"}


def test_reconstruction_costs_nothing_outside_training() -> None:
    with_lfr, without = tiny().eval(), tiny(reconstruction_weight=0.0).eval()
    without.load_state_dict(with_lfr.state_dict(), strict=False)
    with torch.no_grad():
        prediction = with_lfr(a_batch())
        assert torch.equal(prediction.mask_logits, without(a_batch()).mask_logits)
    assert "reconstructed" not in prediction.aux
    assert without.reconstruction is None


def test_mask_features_of_table_5_3() -> None:
    torch.manual_seed(0)
    grid, F_dec, F_enc = (2, 3), torch.randn(3, WORDS, 8), torch.randn(3, 6, 8)
    kernels, concat, vlt = (
        kind(dim=8, heads=2, words=7, grid=grid).eval()
        for kind in (m3att.WordKernels, m3att.SumBesidePicture, m3att.WordMaps)
    )
    maps, beside, alone = (module(F_dec, F_enc, KEEP) for module in (kernels, concat, vlt))
    assert (maps.shape[1], beside.shape[1], alone.shape[1]) == (7, 16, 7)
    for n, length in enumerate(LENGTHS):
        words = F_dec[n : n + 1, :length]
        kernel = kernels.norm(words + kernels.self_attention(words, words, words))[0]
        for k in range(7):
            if k >= length:  # padding
                assert not maps[n, k].any()
                assert not alone[n, k].any()
                continue
            for place in range(6):
                i, j = divmod(place, 3)
                torch.testing.assert_close(maps[n, k, i, j], kernel[k] @ F_enc[n, place] / math.sqrt(8))
                torch.testing.assert_close(alone[n, k, i, j], torch.relu(linear(vlt.spread, words[0, k])[place]))
        torch.testing.assert_close(beside[n, :8, 1, 2], words[0].sum(0))
        torch.testing.assert_close(beside[n, 8:, 1, 2], F_enc[n, 5])


def test_the_picture_is_encoded_and_projected_once() -> None:
    model = tiny().eval()
    seen: list[int] = []
    for layer in (
        model.encoder[0],
        *(part for d in model.decoder.layers for part in (d.mutual.lav.places, d.mutual.place_values)),
    ):
        layer.register_forward_hook(lambda module, inputs, result: seen.append(len(inputs[0])))
    model(a_batch())
    assert seen == [2] * 5  # two images, whatever their three phrases


def test_the_decoder_has_four_convolutions_and_three_upsamplings() -> None:
    """5.1.4, at 416 and 480 px: grids of 26 and 30, masks of 208 and 240."""
    for side in (416, 480):
        with torch.device("meta"):
            config = M3AttConfig(backbone="convnet", backbone_channels=(4, 4, 4, 4, 4))
            model = M3Att(config, vocab_size=9, max_tokens=15, size=(side, side)).eval()
            tokens = torch.ones(2, 15, dtype=torch.int64)
            images = torch.zeros(1, 3, side, side)
            prediction = model(Batch(images, tokens, tokens.bool(), torch.zeros(2, dtype=torch.int64)))
        assert prediction.mask_logits.shape == (2, 1, side // 2, side // 2)
        assert prediction.aux["word_maps"].shape == (2, 15, side // 16, side // 16)
        assert len([m for m in model.mask_decoder.modules() if isinstance(m, nn.Conv2d)]) == 4
        assert len(model.decoder.layers) == 3
        assert len(model.decoder.interactions) == 2
