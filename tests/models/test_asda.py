"""ASDA's own arithmetic against plain readings of the paper and the official code, and its sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.config import Recipe
from refseg_cli.errors import RefsegError
from refseg_cli.layers.clip import Phrase
from refseg_cli.models import build_model
from refseg_cli.models.asda import (
    AGGREGATORS,
    ASDA,
    ASDAConfig,
    EquationFive,
    LayerSelection,
    Pyramid,
    build_aligner,
    build_scorer,
    focal_loss,
)

IMAGE_INDEX = torch.tensor([0, 0, 1])
SMALL = ASDAConfig(dim=8, heads=2, hidden=8, word_hidden=8, masks=3, mask_dim=4, upsamplings=1, attention_layers=1)


def test_full_size() -> None:
    """Official: 193,090,306 with everything that its files hold."""
    with torch.device("meta"):
        config = ASDAConfig(pretrained=False, text_pretrained=False, text_positions=17)
        model = ASDA(config, vocab_size=49408, max_tokens=17, size=(416, 416))
    assert sum(p.numel() for p in model.parameters()) == 193_090_306 - 12_292_866


# --- selection --------------------------------------------------------------------------------------------------------


def layers_and_phrase() -> tuple[dict[int, tuple[Tensor, Tensor]], Phrase]:
    """Five layers of two images (6 channels, 2 x 3 places), three phrases with states of 4 channels after each."""
    torch.manual_seed(0)
    layers = {n: (torch.randn(2, 6), torch.randn(2, 6, 2, 3)) for n in range(1, 6)}
    ends = tuple(torch.randn(3, 4) for _ in range(5))
    return layers, Phrase(torch.randn(3, 7, 4), torch.randn(3, 4), ends)


def selection(**settings: Any) -> LayerSelection:
    defaults = {"scorer": "linear", "by_layer": True, "gradient": "straight-through"}
    return LayerSelection(6, 4, groups=((1, 2, 3), (4, 5)), **{**defaults, **settings})


def scores_by_hand(choice: LayerSelection, group: int, n: int) -> list[float]:
    """Eq. 3 for one phrase, layer by layer."""
    layers, said = layers_and_phrase()
    weight, scores = choice.scorers[group][0].weight[0], []
    for layer in choice.groups[group]:
        text = said.ends[layer - 1][n] if choice.by_layer else said.sentence[n]
        image = choice.project.weight @ layers[layer][0][IMAGE_INDEX[n]]
        scores.append(float((weight * text * image).sum().detach()))
    return scores


@pytest.mark.parametrize("by_layer", [True, False])
def test_each_phrase_takes_the_layer_of_its_highest_score(by_layer: bool) -> None:
    layers, said = layers_and_phrase()
    choice = selection(by_layer=by_layer).eval()
    picked, aux = choice(layers, said, IMAGE_INDEX)
    taken = set()
    for group, name in enumerate(("low", "mid")):
        for n, image in enumerate(IMAGE_INDEX.tolist()):
            scores = scores_by_hand(choice, group, n)
            best = choice.groups[group][scores.index(max(scores))]
            taken.add(best)
            assert int(aux[f"{name}_layer"][n]) == best
            assert torch.equal(picked[group][n], layers[best][1][image])
            shares = dict(zip(choice.groups[group], torch.tensor(scores).softmax(0).tolist(), strict=True))
            by_number = torch.tensor([shares.get(k, 0.0) for k in range(1, max(shares) + 1)])
            torch.testing.assert_close(aux[f"{name}_weights"][n], by_number)
    assert len(taken) > 2  # phrases differ


@pytest.mark.parametrize("scorer", ["linear", "conv", "mlp"])
def test_the_choice_learns_as_if_it_were_soft(scorer: str) -> None:
    """Straight-through: the picked map goes on, and the selection's gradients are those of the weighted mean."""
    layers, said = layers_and_phrase()
    hard, target = selection(scorer=scorer).train(), torch.randn(3, 6, 2, 3)
    soft = selection(scorer=scorer, gradient="soft")
    soft.load_state_dict(hard.state_dict())
    for choice in (hard, soft):
        picked, _ = choice(layers, said, IMAGE_INDEX)
        sum((x * target).sum() for x in picked).backward()
    with torch.no_grad():
        in_training, in_evaluation = (hard.train(mode)(layers, said, IMAGE_INDEX)[0] for mode in (True, False))
    for ours, theirs in zip(in_training, in_evaluation, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    for (name, ours), theirs in zip(hard.named_parameters(), soft.parameters(), strict=True):
        assert ours.grad.abs().max() > 1e-4, name
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_the_official_selection_stays_as_it_starts() -> None:
    assert not any(p.requires_grad for p in selection(gradient="none").parameters())


def test_a_group_of_one_layer_is_manual_assignment() -> None:
    layers, said = layers_and_phrase()
    choice = LayerSelection(6, 4, groups=((2,), (5,)), scorer="linear", by_layer=True, gradient="soft")
    picked, aux = choice(layers, said, IMAGE_INDEX)
    assert not list(choice.parameters())
    assert aux == {}
    assert torch.equal(picked[0], layers[2][1][IMAGE_INDEX])
    assert torch.equal(picked[1], layers[5][1][IMAGE_INDEX])


@pytest.mark.parametrize("scorer", ["linear", "conv", "mlp"])
def test_a_score_sees_its_neighbours_only_by_convolution(scorer: str) -> None:
    torch.manual_seed(0)
    score, products = build_scorer(scorer, 4), torch.randn(1, 3, 4)
    changed = products.clone()
    changed[0, 2] += 1
    moved = (score(changed) - score(products)).detach().abs()[0] > 1e-6
    assert moved.tolist() == [False, scorer == "conv", True]


def test_states_of_text_layers_need_clips_tower() -> None:
    model = {"backbone": "convnet", "backbone_channels": (4, 4, 4, 4, 4), "pretrained": False, "text": "transformer"}
    recipe = Recipe("asda", {**model, "low_layers": (1, 2), "mid_layers": (2, 3), "high_layer": 4})
    with pytest.raises(RefsegError, match="scored_with = 'layers' needs the states of CLIP's text tower"):
        build_model(recipe, vocab_size=9)


# --- aggregators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pyramid", "eq5", "concat"])
@pytest.mark.parametrize("size", [(4, 8), (5, 7)])
def test_every_aggregator_comes_back_to_the_grid(name: str, size: tuple[int, int]) -> None:
    aggregate = AGGREGATORS[name](8, 6, dim=10)
    assert aggregate(*(torch.randn(2, 8, *size) for _ in range(3))).shape == (2, 10, *size)


def test_the_pyramid_adds_top_down_and_pools_four_by_four() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid(8, 6, dim=5).eval()
    fused, low, mid = (torch.randn(1, 8, 2, 3) for _ in range(3))
    high, middle, fine = (
        lateral(branch(x))
        for lateral, branch, x in zip(
            pyramid.lateral, (pyramid.high, pyramid.mid, pyramid.low), (fused, mid, low), strict=True
        )
    )
    assert fine.shape == (1, 6, 8, 12)
    sums = torch.empty_like(fine)
    for y in range(8):
        for x in range(12):
            sums[..., y, x] = fine[..., y, x] + middle[..., y // 2, x // 2] + high[..., y // 4, x // 4]
    out = pyramid.out(sums)
    pooled = pyramid(fused, low, mid)
    for y in range(2):
        for x in range(3):
            cell = out[..., 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            torch.testing.assert_close(pooled[..., y, x], cell.amax((2, 3)), atol=1e-6, rtol=0)


def test_equation_five() -> None:
    """On maps that are flat within 4 x 4 cells, averaging changes nothing and only the last upsampling smooths."""
    torch.manual_seed(0)
    five = EquationFive(8, 6, dim=5).eval()
    low, mid, fused = torch.randn(1, 8, 1, 1), torch.randn(1, 8, 1, 1), torch.randn(1, 8, 4, 4)
    expected = five.aggregate(five.high(fused) + five.mid(mid) + five.low(low))
    ours = five(fused, low.expand(-1, -1, 4, 4), mid.expand(-1, -1, 4, 4))
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    assert five.low[0].out_channels == 32


# --- aligners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coefficients", ["linear", "mean"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("background", [0.0, -1.5])
def test_the_mask_is_a_sum_of_masks(coefficients: str, activation: str, background: float) -> None:
    """Eq. 7, 9 and 10, pixel by pixel; coefficients read the last map row by row, a place's channels together."""
    torch.manual_seed(0)
    config = replace(SMALL, coefficients=coefficients, mask_activation=activation, background=background)
    dual = build_aligner(config, words=6, grid=(2, 3)).eval()
    coarse, words = torch.randn(2, 8, 2, 3), torch.randn(2, 5, 6)
    logits, aux = dual(coarse, words, None)
    F_A = dual.visual(coarse)
    masks = getattr(torch, activation)(dual.masks[0](F_A))
    last = dual.coefficients.map(dual.words(F_A, words, None))
    for n in range(2):
        places = [last[n, :, y, x] for y in range(2) for x in range(3)]
        if coefficients == "linear":
            raw = dual.coefficients.gather.weight @ torch.cat(places)
        else:
            raw = sum(places) / 6
        f = torch.tanh(raw)
        torch.testing.assert_close(aux["coefficients"][n], f, atol=1e-6, rtol=0)
        expected = f[0] * masks[n, 0] + f[1] * masks[n, 1] + f[2] * masks[n, 2] + background
        torch.testing.assert_close(logits[n, 0], expected, atol=1e-5, rtol=0)


def test_visual_attention_is_a_post_norm_layer_with_positions() -> None:
    torch.manual_seed(0)
    visual = build_aligner(SMALL, words=6, grid=(2, 3)).visual.eval()
    layer, coarse = visual.layers[0], torch.randn(1, 8, 2, 3)
    waves = [[wave(p / rate) for rate in (1, 100) for wave in (math.sin, math.cos)] for p in (1, 2, 3)]
    places = torch.tensor([[*waves[y], *waves[x]] for y in range(2) for x in range(3)])
    x = coarse.clamp(min=0).flatten(2).transpose(1, 2)
    x = F.layer_norm(x + layer.attention(x + places, x + places, x), (8,))
    x = F.layer_norm(x + layer.mlp[3](layer.mlp[0](x).clamp(min=0)), (8,))
    expected = F.layer_norm(x, (8,))
    ours = visual(coarse).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_words_are_seen_by_query_key_and_value_behind_a_relu() -> None:
    torch.manual_seed(0)
    attend = build_aligner(SMALL, words=6, grid=(2, 3)).words.eval()
    vision, words = torch.randn(2, 8, 2, 3), torch.randn(2, 4, 6)
    keep = torch.arange(4) < torch.tensor([[4], [2]])
    x, f_T = vision.flatten(2).transpose(1, 2), (words @ attend.project.weight.T).clamp(min=0)
    q, k, v = attend.q(x).clamp(min=0), attend.k(f_T).clamp(min=0), attend.v(f_T).clamp(min=0)
    F_K = attend.norm1(x + attend.attention(q, k, v, keep))
    expected = attend.norm2(F_K + attend.mlp(F_K)).transpose(1, 2).view_as(vision)
    torch.testing.assert_close(attend(vision, words, keep), expected, atol=1e-6, rtol=0)
    moved = (attend(vision, words, None) - expected).detach().abs().amax((1, 2, 3))
    assert float(moved[0]) < 1e-6
    assert float(moved[1]) > 1e-4


# --- loss -------------------------------------------------------------------------------------------------------------


def test_focal_loss_by_hand() -> None:
    logits, target = torch.tensor([[[[1.2, -0.7]]]]), torch.tensor([[[[1.0, 0.0]]]])
    p_t = [float(torch.sigmoid(torch.tensor(1.2))), float(torch.sigmoid(torch.tensor(0.7)))]
    cross_entropy = [-float(torch.tensor(p).log()) for p in p_t]
    plain = focal_loss(logits, target, gamma=0.0, alpha=-1.0)
    assert float(plain) == pytest.approx(sum(cross_entropy) / 2, abs=1e-6)
    torch.testing.assert_close(plain, F.binary_cross_entropy_with_logits(logits, target))
    weights = [0.25 * (1 - p_t[0]) ** 2, 0.75 * (1 - p_t[1]) ** 2]
    expected = sum(w * loss for w, loss in zip(weights, cross_entropy, strict=True)) / 2
    assert float(focal_loss(logits, target, gamma=2.0, alpha=0.25)) == pytest.approx(expected, abs=1e-6)
