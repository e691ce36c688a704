"""ISFP's own arithmetic against plain readings of the paper: loops over cells, hand counts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from variants.isfp import TINY

from refseg_cli.config import DataConfig, Recipe
from refseg_cli.errors import RefsegError
from refseg_cli.models import build_model, isfp, isfp_cells
from refseg_cli.models.isfp import ISFP, ISFPConfig
from refseg_cli.records import Batch, Prediction

SIZE = (64, 96)
OPPOSITE = {"DR": "UL", "DL": "UR", "UR": "DL", "UL": "DR"}


def tiny(**changes: Any) -> ISFP:
    torch.manual_seed(0)
    model = build_model(Recipe(arch="isfp", model={**TINY, **changes}, data=DataConfig(size=SIZE)), vocab_size=20)
    assert isinstance(model, ISFP)
    return model


def batch_of(lengths: tuple[int, ...] = (7, 3, 5, 1), images: tuple[int, ...] = (0, 0, 0, 1)) -> Batch:
    """Phrases of these many random words, of these random images, with random masks."""
    torch.manual_seed(1)
    keep = torch.arange(7) < torch.tensor(lengths)[:, None]
    return Batch(
        images=torch.randn(max(images) + 1, 3, *SIZE),
        tokens=torch.randint(2, 20, keep.shape) * keep,
        attention_mask=keep,
        image_index=torch.tensor(images),
        masks=(torch.rand(len(images), 1, *SIZE) > 0.6).float(),
    )


def naive_direction(v: Tensor, W_2: Tensor, direction: str, alpha: float) -> Tensor:
    """Eq. 2 cell by cell, in the order of Fig. 5c: v (c, h, w) -> hidden states (c, h, w)."""
    height, width = v.shape[1:]
    down, right = (1 if direction[0] == "D" else -1), (1 if direction[1] == "R" else -1)
    h: dict[tuple[int, int], Tensor] = {}
    for i in range(height)[::down]:
        for j in range(width)[::right]:
            past = [(i - down, j), (i, j - right), (i - down, j - right)]
            incoming = sum((h[cell] for cell in past if cell in h), torch.zeros_like(v[:, 0, 0]))
            h[i, j] = F.leaky_relu(v[:, i, j] + alpha * W_2 @ incoming, 0.1)
    return torch.stack([torch.stack([h[i, j] for j in range(width)], 1) for i in range(height)], 1)


def naive_fpm(module: isfp.FeaturePropagation, F_ins: Tensor, *, thesis: bool) -> Tensor:
    """III-C for one expression: (c, h, w) -> the sum of the four paths' last states and the ISFs."""
    total = F_ins
    for path, first in enumerate(("DR", "DL", "UR", "UL")):
        v = torch.einsum("dc,chw->dhw", module.w1[0, path], F_ins)
        h = naive_direction(v, module.w2[0, path], first, module.alpha)
        if thesis:
            h = torch.einsum("dc,chw->dhw", module.w1[1, path], h)  # Eq. 3.2
        total = total + naive_direction(h, module.w2[1, path], OPPOSITE[first], module.alpha)
    return total


@pytest.mark.parametrize("thesis", [False, True], ids=["journal", "thesis"])
@pytest.mark.parametrize("grid", [(13, 13), (2, 3), (5, 2), (1, 4)])
def test_propagation_over_anti_diagonals_equals_loops_over_cells(grid: tuple[int, int], thesis: bool) -> None:
    torch.manual_seed(0)
    module = isfp.FeaturePropagation(6, alpha=1 / 3, second_projection=thesis, bias=-2.0).double().eval()
    inputs = torch.randn(2, 6, *grid, dtype=torch.float64, requires_grad=True)
    ours = module(inputs)
    naive = module.identify(module.norm(torch.stack([naive_fpm(module, x, thesis=thesis) for x in inputs])))
    torch.testing.assert_close(ours, naive, atol=1e-12, rtol=0)
    upstream = torch.randn_like(ours)
    wanted = [inputs, module.w1, module.w2]
    gradients = zip(
        torch.autograd.grad(ours, wanted, upstream), torch.autograd.grad(naive, wanted, upstream), strict=True
    )
    for a, b in gradients:
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_eq_2_by_hand() -> None:
    """With W_2 = 1, alpha = 1 and v = 1 a state counts itself and its three neighbours: 1, 2, 3; 2, 6, 12."""
    states = isfp.propagate(torch.ones(1, 1, 1, 2, 3), torch.ones(1, 1, 1), alpha=1.0)
    assert states.flatten().tolist() == [1, 2, 3, 2, 6, 12]


def test_alpha_of_a_third_keeps_the_states_of_13_x_13_cells_finite() -> None:
    """The config's claim: with alpha 1 they grow without bound."""
    torch.manual_seed(0)
    v, W_2 = torch.randn(4, 1, 64, 13, 13), torch.randn(4, 64, 64) / 8
    assert float(isfp.propagate(v, W_2, alpha=1 / 3).std()) < 10
    assert float(isfp.propagate(v, W_2, alpha=1.0).std()) > 1e4


def test_propagation_has_a_matrix_for_each_direction_and_one_before_each_path() -> None:
    """4 paths: 4 W_1, 8 W_2; batch normalisation; 1x1. Eq. 3.2 has four W_1 more."""
    c = 8
    journal, thesis = (
        sum(p.numel() for p in isfp.FeaturePropagation(c, alpha=1.0, second_projection=s, bias=0.0).parameters())
        for s in (False, True)
    )
    assert journal == 12 * c * c + 2 * c + (c + 1)
    assert thesis == journal + 4 * c * c


def rectangle(rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int] = (64, 96)) -> Tensor:
    mask = torch.zeros(1, *size)
    mask[:, slice(*rows), slice(*columns)] = 1
    return mask


def test_positive_cells_by_hand() -> None:
    masks = torch.stack(
        [
            rectangle((0, 64), (0, 96)),  # centre (32, 48) of cells of 16 px: cell (2, 3)
            rectangle((0, 10), (90, 96)),  # (5, 93): cell (0, 5), the corner
            rectangle((0, 0), (0, 0)),  # nothing
        ]
    )
    centres = isfp_cells.centres(masks, (4, 6))
    assert centres[:2].tolist() == [[2.0, 3.0], [5 / 16, 93 / 16]]
    positive = isfp_cells.positive_cells(masks, (4, 6)).unflatten(1, (4, 6)).int().tolist()
    assert positive[0] == [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]]
    assert positive[1] == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1], [0] * 6, [0] * 6]
    assert positive[2] == [[0] * 6] * 4


def bce(logit: float, label: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(label * math.log(p) + (1 - label) * math.log(1 - p))


def test_losses_are_eq_4_to_8_pixel_by_pixel() -> None:
    """Three expressions on a 4 x 6 grid, coarse masks of 8 x 12, fine ones of 16 x 24; the third has no target."""
    torch.manual_seed(0)
    n, grid, coarse, fine, theta = 3, (4, 6), (8, 12), (16, 24), 0.3
    masks = torch.stack([rectangle((0, 32), (0, 48)), rectangle((40, 64), (48, 96)), rectangle((0, 0), (0, 0))])
    truth = (F.adaptive_avg_pool2d(masks, coarse) >= 0.5).float()
    chosen = torch.randn(n, 1, *coarse)
    chosen[0] = truth[0] - 0.5 + 0.1 * torch.randn(1, *coarse)  # IoU 1
    chosen[1] = -1.0  # IoU 0
    prediction = Prediction(
        torch.randn(n, 1, *fine),
        aux={"identifying": torch.randn(n, *grid), "cell_masks": torch.randn(n, 24, *coarse), "coarse": chosen},
    )
    batch = replace(batch_of((3, 3, 3), (0, 0, 0)), masks=masks)
    terms = tiny(grid=list(grid), theta=theta).losses(prediction, batch)

    identify = segment = refine = 0.0
    for k, centre in enumerate([(1, 1), (3, 4), None]):
        for i in range(grid[0]):
            for j in range(grid[1]):
                positive = centre is not None and abs(i - centre[0]) <= 1 and abs(j - centre[1]) <= 1
                identify += bce(float(prediction.aux["identifying"][k, i, j]), float(positive))  # Eq. 6
                if positive:  # Eq. 7
                    logits, labels = prediction.aux["cell_masks"][k, i * grid[1] + j], truth[k, 0]
                    pairs = zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True)
                    segment += sum(bce(a, b) for a, b in pairs)
        if k == 0:  # Eq. 8: the only one with a coarse IoU of theta or more
            labels = (F.adaptive_avg_pool2d(masks[k], fine) >= 0.5).float()
            pairs = zip(prediction.mask_logits[k].flatten().tolist(), labels.flatten().tolist(), strict=True)
            refine += sum(bce(a, b) for a, b in pairs) / (fine[0] * fine[1]) * (coarse[0] * coarse[1])
    assert float(terms["identify"]) == pytest.approx(10 * identify / n, rel=1e-5)
    assert float(terms["segment"]) == pytest.approx(0.03 * segment / n, rel=1e-5)
    assert float(terms["refine"]) == pytest.approx(0.5 * refine / n, rel=1e-5)


def test_the_three_losses_are_of_one_order_at_the_start() -> None:
    """The header's figures: all logits 0 at 416 px, a target away from the border."""
    masks = rectangle((150, 250), (150, 250), (416, 416))[None]
    aux = {
        "identifying": torch.zeros(1, 13, 13),
        "cell_masks": torch.zeros(1, 169, 52, 52),
        "coarse": torch.where(F.avg_pool2d(masks, 8) > 0.5, 1.0, -1.0),
    }
    batch = replace(batch_of((3,), (0,)), masks=masks)
    terms = tiny(grid=[13, 13]).losses(Prediction(torch.zeros(1, 1, 416, 416), aux=aux), batch)
    assert {name: round(float(term)) for name, term in terms.items()} == {
        "identify": 1171,
        "segment": 506,
        "refine": 937,
    }


def test_a_wrong_channel_teaches_the_refinement_nothing() -> None:
    model = tiny(theta=1.0).train()
    batch = batch_of()
    assert float(model.losses(model(batch), batch)["refine"].detach()) == 0
    model.zero_grad()
    sum(model.losses(model(batch), batch).values()).backward()
    assert not any(bool(p.grad.any()) for p in model.refinement.parameters() if p.grad is not None)
    assert any(bool(p.grad.any()) for p in model.segmentation.parameters())


def test_iou_by_hand() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0] * 4, [-1.0] * 4]).view(3, 1, 2, 2)
    target = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0] * 4]).view(3, 1, 2, 2)
    torch.testing.assert_close(isfp_cells.iou(logits, target), torch.tensor([1 / 3, 0.0, 0.0]))


def test_the_mask_of_row_i_and_column_j_is_channel_i_s_plus_j() -> None:
    model = tiny(grid=[5, 4], refinement=False).eval()
    with torch.no_grad():
        prediction = model(batch_of())
    for n, identifying in enumerate(prediction.aux["identifying"].tolist()):
        _, i, j = max((identifying[i][j], i, j) for i in range(5) for j in range(4))
        assert torch.equal(prediction.mask_logits[n, 0], prediction.aux["cell_masks"][n, i * 4 + j])


def test_dense_multiplication_is_eq_1() -> None:
    torch.manual_seed(0)
    fusion = isfp.DenseMultiplication(3, 4, dim=5).eval()
    pyramid, F_t = [torch.randn(2, 3, 4 // 2**k, 4 // 2**k) for k in range(3)], torch.randn(3, 4)
    of = [0, 0, 1]
    fused = fusion(pyramid, F_t, torch.tensor(of))
    for level, (F_v, f) in enumerate(zip(pyramid, fused, strict=True)):
        W_v, W_t = fusion.w_v[level].weight[:, :, 0, 0], fusion.w_t.weight
        expected = F.leaky_relu((W_v @ F_v[of[2], :, 0, 0]) * (W_t @ F_t[2]) / math.sqrt(1 + 1e-5), 0.1)
        torch.testing.assert_close(f[2, :, 0, 0], expected)


def test_word_attention_is_one_weight_for_each_real_word() -> None:
    torch.manual_seed(0)
    attention, words = isfp.WordAttention(4), torch.randn(2, 3, 4)
    pooled = attention(words, torch.tensor([[True, True, True], [True, True, False]]))
    scores = [float(attention.score(words[1, k]).detach()) for k in range(2)]
    weights = [math.exp(s) / sum(math.exp(t) for t in scores) for s in scores]
    torch.testing.assert_close(pooled[1], weights[0] * words[1, 0] + weights[1] * words[1, 1])


def test_refinement_is_a_convolution_over_image_and_mask_together() -> None:
    torch.manual_seed(0)
    module = isfp.Refinement(5, stride=4).eval()
    torch.nn.init.normal_(module.out.weight)
    images, coarse, of = torch.randn(2, 3, 32, 64), torch.randn(3, 1, 4, 8), torch.tensor([0, 1, 1])
    small = F.avg_pool2d(images, 4)[of]
    both = torch.cat([small, F.interpolate(coarse, (8, 16), mode="bilinear", align_corners=False)], 1)
    x = F.conv2d(both, torch.cat([module.image.weight, module.mask.weight], 1), padding=1)
    x = F.interpolate(module.first(x), scale_factor=2.0)
    x = module.out(F.interpolate(module.second(x), scale_factor=2.0))
    expected = x + F.interpolate(coarse, (32, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(coarse, images, of), expected)


def annotated() -> Batch:
    """Three expressions of the first image, at its top left, bottom right and nowhere, one of the second."""
    corner, other, nothing = rectangle((0, 24), (0, 30)), rectangle((40, 64), (60, 96)), rectangle((0, 0), (0, 0))
    return replace(batch_of((3, 4, 2, 5), (0, 0, 0, 1)), masks=torch.stack([corner, other, nothing, corner]))


def test_gt_location_takes_the_mask_of_the_targets_cell() -> None:
    model = tiny(oracle="location", refinement=False, grid=[4, 6], no_target_head=True).eval()
    with torch.no_grad():
        prediction = model(annotated())
    for n, cell in ((0, 0 * 6 + 0), (1, 3 * 6 + 4), (3, 0)):  # (12, 15) and (52, 78) in cells of 16 px
        assert torch.equal(prediction.mask_logits[n, 0], prediction.aux["cell_masks"][n, cell])
    assert (prediction.exists_logit > 0).tolist() == [True, True, False, True]


def test_gt_mask_is_that_of_the_object_in_the_chosen_cell() -> None:
    batch, grid = annotated(), (4, 6)
    masks = batch.masks
    # Its own cell's neighbour; the other object's centre; nothing there; an object of another image.
    chosen = torch.tensor([1 * 6 + 1, 0, 0 * 6 + 3, 3 * 6 + 4])
    answer = isfp_cells.annotated_masks(chosen, batch, grid) > 0
    assert torch.equal(answer[0], masks[0] > 0)
    assert torch.equal(answer[1], masks[0] > 0)
    assert not answer[2].any()
    assert not answer[3].any()


def test_oracles_act_in_evaluation_only_and_need_annotations() -> None:
    batch = annotated()
    plain = tiny().train()
    for oracle in ("location", "mask"):
        model = tiny(oracle=oracle).train()
        model.text.drop.p = plain.text.drop.p = 0.0
        assert torch.equal(model(batch).mask_logits, plain(batch).mask_logits)
        with pytest.raises(RefsegError, match="annotations") as caught:
            model.eval()(replace(batch, masks=None))
        assert "model.oracle=none" in (caught.value.hint or "")
    with torch.no_grad():
        seen = tiny(oracle="mask").eval()(batch)
    assert seen.mask_logits.shape == (4, 1, *SIZE)
    assert set(seen.mask_logits.unique().tolist()) <= {-isfp_cells.CERTAIN, isfp_cells.CERTAIN}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": [3]}, "rows, columns"),
        ({"identification": "none", "no_target_head": True}, "Identification Branch"),
        ({"identification": "none", "oracle": "mask"}, "Identification Branch"),
        ({"refine_stride": 6}, "power of two"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RefsegError, match=message):
        tiny(**settings)


def test_at_416_px_there_are_13_x_13_cells_and_masks_at_stride_8() -> None:
    with torch.device("meta"):
        model = ISFP(ISFPConfig(pretrained=False), vocab_size=9, max_tokens=15, size=(416, 416)).eval()
        tokens = torch.ones(2, 15, dtype=torch.int64)
        batch = Batch(torch.zeros(1, 3, 416, 416), tokens, tokens.bool(), torch.zeros(2, dtype=torch.int64))
        prediction = model(batch)
    assert model.grid == (13, 13)
    assert prediction.aux["identifying"].shape == (2, 13, 13)
    assert prediction.aux["cell_masks"].shape == (2, 169, 52, 52)
    assert prediction.mask_logits.shape == (2, 1, 416, 416)
