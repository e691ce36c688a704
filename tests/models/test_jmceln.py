"""JMCELN's own arithmetic, against plain readings of the paper's equations."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.config import build
from refseg_cli.models.jmceln import (
    EPS,
    JMCELN,
    SLOPE,
    Cascade,
    EmbeddingLearning,
    JMCELNConfig,
    LongShortRelations,
    MaskPredicting,
    Neck,
    ProgressiveAlignment,
    SentenceNorm,
    SwitchNorm,
    WindowAttention,
)
from refseg_cli.records import Batch, Prediction


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def shaken(module: nn.Module) -> nn.Module:
    """In float64 with no parameter or statistic at its initial value, in evaluation mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return module.double().eval()


def attention_by_loops(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(tokens, c) each; softmax(q k^T / sqrt(d_k)) v of every head, one query at a time."""
    d = q.shape[1] // heads
    out = torch.zeros(len(q), v.shape[1], dtype=q.dtype)
    for head, i in product(range(heads), range(len(q))):
        part = slice(head * d, (head + 1) * d)
        scores = torch.stack([q[i, part] @ k[j, part] / math.sqrt(d) for j in range(len(k))])
        out[i, part] = sum(weight * v[j, part] for j, weight in enumerate(scores.softmax(0)))
    return out


def test_embeddings_read_the_map_as_equation_3_says() -> None:
    learn = shaken(EmbeddingLearning(8, heads=2))
    q, keys, values = random(2, 3, 8), random(2, 5, 8), random(2, 5, 8)
    with torch.no_grad():
        updated, look = learn(q, keys, values)
        for n in range(2):
            read = attention_by_loops(learn.q(learn.norm(q[n])), learn.k(keys[n]), learn.v(values[n]), heads=2)
            torch.testing.assert_close(updated[n], q[n] + learn.out(read))
    assert look.shape == (2, 5)
    torch.testing.assert_close(look.sum(1), torch.ones(2, dtype=torch.float64))


def test_mask_features_are_rewritten_as_equation_4_says() -> None:
    predict = shaken(MaskPredicting(8, heads=2))
    pixels, q = random(2, 5, 8), random(2, 3, 8)
    with torch.no_grad():
        written = predict(pixels, q)
        for n in range(2):
            embeddings = predict.norm(q[n])
            queries = predict.q(predict.pixel_norm(pixels[n]))
            read = attention_by_loops(queries, predict.k(embeddings), predict.v(embeddings), heads=2)
            torch.testing.assert_close(written[n], pixels[n] + predict.out(read))


@pytest.mark.parametrize(("size", "side"), [((4, 6), 2), ((5, 7), 3), ((2, 3), 4)])
def test_windows_by_loops_over_pairs_of_pixels(size: tuple[int, int], side: int) -> None:
    attend = shaken(WindowAttention(4, heads=2, side=side))
    x = random(2, 4, *size)
    h, w = size
    expected = x.clone()
    with torch.no_grad():
        q, k, v = attend.qkv(attend.norm(x.permute(0, 2, 3, 1))).split(4, -1)
        for n, y, z in product(range(2), range(h), range(w)):
            near = [(a, b) for a in range(h) for b in range(w) if a // side == y // side and b // side == z // side]
            heads = []
            for m in range(2):
                part = slice(2 * m, 2 * m + 2)
                scores = [
                    q[n, y, z, part] @ k[n, a, b, part] / math.sqrt(2)
                    + attend.bias[(y - a + side - 1) * (2 * side - 1) + (z - b + side - 1), m]
                    for a, b in near
                ]
                weights = torch.stack(scores).softmax(0)
                heads.append(sum(weight * v[n, a, b, part] for weight, (a, b) in zip(weights, near, strict=True)))
            expected[n, :, y, z] += attend.out(torch.cat(heads))
        torch.testing.assert_close(attend(x), expected)


def test_relations_are_four_views_of_the_windows_times_the_boundaries() -> None:
    relate = shaken(LongShortRelations(8, heads=2, window=2, dilations=(2, 3, 5)))
    F_m = random(2, 8, 6, 4)
    with torch.no_grad():
        inside = relate.window(F_m)
        views = []
        for block, dilation in zip(relate.relations, (0, 2, 3, 5), strict=True):
            y = F.conv2d(inside, block[0].weight, padding=dilation, dilation=dilation or 1)
            views.append(F.leaky_relu(block[1](y), SLOPE))
        mixed = F.leaky_relu(relate.mix[1](F.conv2d(torch.cat(views, 1), relate.mix[0].weight)), SLOPE)
        edges = F.leaky_relu(relate.boundary[1](F.conv2d(F_m, relate.boundary[0].weight, padding=1)), SLOPE)
        torch.testing.assert_close(relate(F_m), edges * mixed)
    assert [len(view[0]) for view in views] == [2, 2, 2, 2]


def test_neck_fuses_top_down_as_equations_1_and_2_say() -> None:
    neck = shaken(Neck((3, 4, 5), 6, dim=8))
    maps = [random(2, 3, 8, 12), random(2, 4, 4, 6), random(2, 5, 2, 3)]
    sentence, image_index = random(3, 6), torch.tensor([0, 1, 1])
    with torch.no_grad():
        vision = [project(x)[image_index] for project, x in zip(neck.vision, maps, strict=True)]
        s = F.leaky_relu(neck.sentence_norm(sentence @ neck.sentence.weight.T), SLOPE)
        F_m = s[:, :, None, None] * vision[2]  # Eq. 1
        for join, v in ((neck.joins[1], vision[1]), (neck.joins[0], vision[0])):
            up = F.interpolate(F_m, scale_factor=2, mode="bilinear", align_corners=False)
            W_m = torch.cat([join.fused.weight, join.vision.weight], 1)
            F_m = F.leaky_relu(join.norm(F.conv2d(torch.cat([up, v], 1), W_m)), SLOPE)  # Eq. 2
        torch.testing.assert_close(neck(maps, sentence, image_index), F_m)


def test_alignment_filters_three_times() -> None:
    align = shaken(ProgressiveAlignment(8))
    previous, current = random(2, 8, 5, 4), random(2, 8, 5, 4)
    with torch.no_grad():
        parts = F.conv2d(
            F.conv2d(current, align.expand.weight, align.expand.bias), align.depthwise.weight, padding=3, groups=14
        )
        parts = parts + align.depthwise.bias[:, None, None]
        x = align.first(previous) * parts[:, :2]
        x = align.second(x) * parts[:, 2:6]
        x = align.third(x) * parts[:, 6:]
        torch.testing.assert_close(align(previous, current), previous + align.norm(align.out(x)))
    assert [tuple(conv.weight.shape[:2]) for conv in (align.second, align.third)] == [(4, 2), (8, 4)]


def test_switch_norm_mixes_the_moments_of_three_norms() -> None:
    norm = shaken(SwitchNorm(3)).train()
    before = norm.running_mean.clone(), norm.running_var.clone()
    x = 2 * random(4, 3, 5, 6) + 1
    a, b = norm.mean_mix.softmax(0), norm.var_mix.softmax(0)
    moments = [
        (x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)) for axes in ((2, 3), (1, 2, 3), (0, 2, 3))
    ]
    mean = sum(weight * m for weight, (m, _) in zip(a, moments, strict=True))
    var = sum(weight * v for weight, (_, v) in zip(b, moments, strict=True))
    affine = norm.weight[:, None, None], norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), (x - mean) / (var + EPS).sqrt() * affine[0] + affine[1])
    batch = x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, 0.9 * before[0] + 0.1 * batch.mean(1))
    torch.testing.assert_close(norm.running_var, 0.9 * before[1] + 0.1 * batch.var(1, correction=0))
    norm.eval()
    moments[2] = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    mean = sum(weight * m for weight, (m, _) in zip(a, moments, strict=True))
    var = sum(weight * v for weight, (_, v) in zip(b, moments, strict=True))
    torch.testing.assert_close(norm(x), (x - mean) / (var + EPS).sqrt() * affine[0] + affine[1])


@pytest.mark.parametrize("adaptive", [True, False])
def test_each_stage_reads_the_one_before_or_all_read_the_first(adaptive: bool) -> None:
    config = JMCELNConfig(dim=8, heads=2, stages=3, embeddings=2, adaptive=adaptive)
    cascade = shaken(Cascade(config))
    F_m, F_mt = random(2, 8, 3, 4), random(2, 8, 3, 4)
    seen: list[Tensor] = []
    for stage in cascade.stages:
        stage.learn.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    outputs: list[Tensor] = [F_mt]
    for stage in cascade.stages:
        stage.register_forward_hook(lambda _, __, result: outputs.append(result[1]))
    with torch.no_grad():
        last, aux = cascade(F_m, F_mt)
    for i in range(3):
        assert torch.equal(seen[i], outputs[i if adaptive else 0].flatten(2).transpose(1, 2))
    assert torch.equal(last, outputs[-1])
    for i in range(3):
        moved = (outputs[i + 1] - outputs[i]).norm(dim=1) / math.sqrt(8)
        torch.testing.assert_close(aux["stage_change"][:, i], moved)
    torch.testing.assert_close(aux["stage_attention"].sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))


def test_a_mask_of_every_stage_where_it_is_asked_for() -> None:
    cascade, decode = shaken(Cascade(JMCELNConfig(dim=8, heads=2, stages=3, embeddings=2))), nn.Conv2d(8, 1, 1).double()
    F_m, F_mt = random(2, 8, 3, 4), random(2, 8, 3, 4)
    outputs: list[Tensor] = []
    for stage in cascade.stages:
        stage.register_forward_hook(lambda _, __, result: outputs.append(result[1]))
    with torch.no_grad():
        last, aux = cascade(F_m, F_mt, decode)
        assert torch.equal(aux["stage_masks"], torch.cat([decode(x) for x in outputs], 1))
        assert torch.equal(aux["stage_masks"][:, 2:], decode(last))
        assert "stage_masks" not in cascade(F_m, F_mt)[1]


def test_loss_is_two_class_cross_entropy() -> None:
    """With the background's logit at 0, and the mask where the target's is the larger."""
    model = JMCELN.__new__(JMCELN)
    nn.Module.__init__(model)
    model.config = JMCELNConfig()
    z = torch.randn(3, 1, 4, 6)
    masks = (torch.rand(3, 1, 4, 6) > 0.5).float()
    index = torch.arange(3)
    batch = Batch(z, index[:, None], index[:, None] > 0, index, masks=masks, has_target=index >= 0)
    terms = model.losses(Prediction(z), batch)
    channels = torch.cat([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(terms["mask"], F.cross_entropy(channels, masks[:, 0].long()))
    assert set(terms) == {"mask"}
    assert torch.equal(channels.argmax(1) == 1, z[:, 0] > 0)


def test_one_sentence_alone_can_be_trained_on() -> None:
    norm = shaken(SentenceNorm(4)).train()
    before = norm.running_mean.clone()
    x = random(1, 4)
    expected = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)
    assert torch.equal(norm.running_mean, before)
    norm(random(3, 4))
    assert not torch.equal(norm.running_mean, before)


def full_size(**changes: object) -> JMCELN:
    table = {"pretrained": False, "text_pretrained": False, **changes}
    with torch.device("meta"):
        return JMCELN(build(JMCELNConfig, table, "test"), vocab_size=49_408, max_tokens=30, size=(416, 416))


def weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_at_full_size() -> None:
    """By hand; the header gives the sums."""
    model, c = full_size(), 1024
    assert weights(model.backbone) == 42_519_392  # CLIP RN101 without its pool
    assert weights(model.reader) == 63_428_096  # CLIP's text tower with its projection
    linear, norm = c * c + c, 2 * c
    learn = 3 * linear + c * c + norm
    predict = 4 * linear + 2 * norm
    total = c // 4 + c // 2 + c
    pan = c * total + total + 49 * total + total + c * c // 4 + c // 4
    pan += 9 * (c // 4) * (c // 2) + c // 2 + 9 * (c // 2) * c + c + linear + norm + 6
    assert weights(model.cascade.stages[0]) == learn + predict + pan
    assert weights(model.cascade) == 6 * (learn + predict + pan) + 20 * c + norm
    window = norm + 4 * linear + 25 * 25 * 8
    branches = c * c // 4 + 3 * 9 * c * c // 4 + norm
    assert weights(model.relation) == window + branches + c * c + norm + 9 * c * c + norm
    assert weights(model) / 1e6 == pytest.approx(247.9, abs=0.05)


def test_rows_of_table_2_are_the_model_without_its_parts() -> None:
    full = weights(full_size())
    sizes = {
        1: weights(full_size(relation="none", stages=0)),
        2: weights(full_size(stages=0)),
        3: weights(full_size(relation="none", alignment="none")),
        4: weights(full_size(alignment="none")),
        6: weights(full_size(adaptive=False)),
    }
    assert sizes[1] < sizes[2] < sizes[3] < sizes[4] < sizes[6] == full
