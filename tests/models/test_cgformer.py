"""CGFormer's own arithmetic against plain readings of the slides and of the official code's description."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from variants.cgformer import FULL, TINY

from refseg_cli.config import build
from refseg_cli.layers import upsampling
from refseg_cli.models.cgformer import (
    CGFormer,
    CGFormerConfig,
    GroupBlock,
    Grouping,
    LoadBlock,
    MaskHead,
    PixelAttention,
    contrastive_loss,
)
from refseg_cli.records import Batch, Prediction


def tiny(**changes: Any) -> CGFormer:
    torch.manual_seed(0)
    config = build(CGFormerConfig, {**TINY, **changes}, "test")
    return CGFormer(config, vocab_size=20, max_tokens=6, size=(64, 96))


def batch_of() -> Batch:
    torch.manual_seed(1)
    tokens = torch.randint(1, 20, (3, 6))
    return Batch(
        images=torch.randn(2, 3, 64, 96),
        tokens=tokens,
        attention_mask=tokens > 0,
        image_index=torch.tensor([0, 0, 1]),
        masks=(torch.rand(3, 1, 64, 96) > 0.8).float(),
        has_target=torch.ones(3, dtype=torch.bool),
        target_id=torch.arange(3),
    )


def grouping(*, hard: bool = True, cosine: bool = True, learnable: bool = False, noise: str = "never") -> Grouping:
    return Grouping(hard=hard, cosine=cosine, learnable=learnable, noise=noise).double()


def pair(tokens: int = 3, pixels: int = 7, c: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randn(2, tokens, c, dtype=torch.float64), torch.randn(2, pixels, c, dtype=torch.float64)


def cosine_of(t: Tensor, d: Tensor) -> float:
    return (t @ d).item() / math.sqrt((t @ t).item() * (d @ d).item())


@pytest.mark.parametrize("hard", [True, False])
def test_eq_1_to_4_pixel_by_pixel(hard: bool) -> None:
    T, D = pair()
    shares = grouping(hard=hard).eval()(T, D)
    assert shares.groups is not None
    for n in range(2):
        received = [0.0, 0.0, 0.0]
        for p in range(7):
            s = [cosine_of(T[n, t], D[n, p]) for t in range(3)]
            e = [math.exp(v) for v in s]
            share = [float(v == max(s)) for v in s] if hard else [v / sum(e) for v in e]
            assert shares.similarity[n, :, p].tolist() == pytest.approx(s, abs=1e-12)
            assert shares.groups[n, :, p].tolist() == pytest.approx(share, abs=1e-12)
            received = [a + b for a, b in zip(received, share, strict=True)]
        sums = shares.weights[n].sum(-1).tolist()
        assert sums == pytest.approx([r / (r + 1) for r in received], abs=1e-12)


def test_eq_4_is_hard_forward_and_soft_backward() -> None:
    T, D = pair()
    T.requires_grad_()
    pull = torch.randn(2, 3, 7, dtype=torch.float64)
    shares = grouping().train()(T, D)
    soft = (F.normalize(T, dim=-1) @ F.normalize(D, dim=-1).transpose(1, 2)).softmax(1)
    torch.testing.assert_close(shares.groups, F.one_hot(soft.argmax(1), 3).transpose(1, 2).double(), atol=1e-12, rtol=0)
    (ours,) = torch.autograd.grad(shares.groups, T, pull)
    (theirs,) = torch.autograd.grad(soft, T, pull)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("similarities", [[1.0, 0.8], [1.0, 0.5], [1.0, 0.0], [1.0, -1.0, -1.0], [0.5, -0.2, 0.1]])
def test_gumbel_noise_draws_tokens_by_their_softmax(similarities: list[float]) -> None:
    torch.manual_seed(0)
    pixels = 20_000
    D = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, pixels, 2)
    T = torch.tensor([[[s, math.sqrt(1 - s * s)] for s in similarities]], dtype=torch.float64)
    groups = grouping(noise="always").eval()(T, D).groups
    expected = torch.tensor(similarities, dtype=torch.float64).softmax(0)
    # Five standard deviations of a share of 20,000 draws are below 0.018.
    torch.testing.assert_close(groups[0].mean(1), expected, atol=0.018, rtol=0)


@pytest.mark.parametrize(
    ("noise", "in_training", "in_evaluation"),
    [("training", True, False), ("always", True, True), ("never", False, False)],
)
def test_when_noise_is_drawn(noise: str, in_training: bool, in_evaluation: bool) -> None:
    T, D = pair(pixels=200)
    for mode, drawn in ((True, in_training), (False, in_evaluation)):
        block = grouping(noise=noise).train(mode)
        first, second = block(T, D).groups, block(T, D).groups
        assert torch.equal(first.argmax(1), second.argmax(1)) != drawn


def test_tau_divides_the_similarities_and_learns() -> None:
    T, D = pair()
    block = grouping(hard=False, learnable=True)
    with torch.no_grad():
        block.log_tau.fill_(math.log(0.1))
    shares = block(T, D)
    torch.testing.assert_close(shares.groups, (shares.similarity / 0.1).softmax(1), atol=1e-12, rtol=0)
    shares.groups[0, 0, 0].backward()
    assert float(block.log_tau.grad) != 0


def test_without_cosine_the_length_counts() -> None:
    T, D = pair()
    similarity = grouping(cosine=False)(T, D).similarity
    torch.testing.assert_close(similarity, torch.einsum("ntc,npc->ntp", T, D) / 2, atol=1e-12, rtol=0)


@pytest.mark.parametrize("assign", [grouping(hard=True), PixelAttention()])
def test_values_projected_after_grouping_are_those_projected_before(assign: torch.nn.Module) -> None:
    torch.manual_seed(0)
    block = GroupBlock(4, hidden=6, dropout=0.5, assign=assign).double().eval()
    tokens, pixels = pair()
    out, shares = block(tokens, pixels)
    values = block.value(block.norm_pixel(pixels))
    gathered = torch.zeros_like(tokens)
    for t in range(3):
        for p in range(7):
            gathered[:, t] += shares.weights[:, t, p, None] * values[:, p]
    expected = block.mlp(block.norm(tokens + block.out(gathered)))  # Eq. 5
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("reader", [None, 0, 2])
def test_load_block_token_by_token(reader: int | None) -> None:
    torch.manual_seed(0)
    block = LoadBlock(4, word_dim=5, hidden=6, dropout=0.5, reader=reader).double().eval()
    tokens, words = torch.randn(1, 3, 4, dtype=torch.float64), torch.randn(1, 4, 5, dtype=torch.float64)
    out = block(tokens, words, torch.tensor([[True, True, True, False]]))
    normed = block.norm_word(words[0])
    for t in range(3):
        x = tokens[0, t]
        if reader in (None, t):
            q = block.query(block.norm_token(x))
            scores = [math.exp((q @ block.key(normed[w])).item() / 2) for w in range(3)]
            x = x + block.out(sum(s / sum(scores) * block.value(normed[w]) for w, s in enumerate(scores)))
        torch.testing.assert_close(out[0, t], block.mlp(block.norm(x)), atol=1e-12, rtol=0)


def plain_head(head: MaskHead, x: Tensor, referent: Tensor, size: tuple[int, int]) -> Tensor:
    """In the official order: upsample, convolve, project, and a 1x1 convolution by the kernel that pads by one."""
    for conv, norm in ((head.conv1, head.norm1), (head.conv2, head.norm2)):
        x = torch.relu(norm(conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))))
    x, kernel = head.project(x), head.kernel(referent)
    raw = torch.stack(
        [F.conv2d(x[n], kernel[n, :-1][None, :, None, None], kernel[n, -1:], padding=1) for n in range(len(x))]
    )
    return F.interpolate(raw, size, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_mask_head_equals_the_official_order(training: bool, learning: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients and, in parts of the map, without; batch statistics in training are of all parts either way."""
    monkeypatch.setattr(upsampling, "WIDE", 0)
    monkeypatch.setattr(upsampling, "ROWS", 3)
    torch.manual_seed(0)
    head = MaskHead(6, dims=(5, 4)).double().train(training)
    with torch.no_grad():
        for norm in (head.norm1, head.norm2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    x, referent = torch.randn(3, 6, 4, 5, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    theirs = plain_head(head, x, referent, (16, 20))
    with torch.set_grad_enabled(learning):
        ours = head(x, referent, (16, 20))
    assert ours.shape == (3, 1, 16, 20)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_mask_head_takes_the_operations_that_the_header_says() -> None:
    """Counted by torch on shapes alone: 740 G and 170 G multiply-adds at 480 px."""
    with torch.device("meta"):
        head = MaskHead(512, dims=(512, 512)).eval()
        x, referent = torch.zeros(1, 512, 120, 120), torch.zeros(1, 512)
    counts = []
    for form in (head, lambda *args: plain_head(head, *args)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            form(x, referent, (480, 480))
        counts.append(counter.get_total_flops() / 2e9)
    assert [round(count) for count in counts] == [170, 740]


def test_parameters_are_the_official_ones_but_those_without_influence() -> None:
    """The keys and shapes of an official file give 253.7 M; the difference is named term by term."""
    with torch.device("meta"):
        config = build(CGFormerConfig, {"pretrained": False, "text_pretrained": False}, "test")
        model = CGFormer(config, vocab_size=30522, max_tokens=20, size=(480, 480))
    last_gate = 2 * 1024**2
    pwam_biases = 3 * (128 + 256 + 512 + 1024)
    loadtoken = 2 * (2 * 512 + 2 * 512 * 1024 + 1024 + 512)  # a norm and an MLP that nothing reads, at levels 2 and 3
    without_influence = last_gate + pwam_biases + loadtoken + 2  # and tau, twice
    count = sum(p.numel() for p in model.parameters())
    assert round((count + without_influence) / 1e6, 1) == 253.7
    assert abs(count / 251.6e6 - 1) < 0.01  # the live ones


def watched(model: CGFormer) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The tokens that go into each level, those that come out of it, and the last ones."""
    assert model.tokens is not None
    into, out_of = list[Tensor](), list[Tensor]()
    for level in model.tokens.levels.values():
        level.load.register_forward_pre_hook(lambda _, args: into.append(args[0]))
    for group in model.tokens.groups.values():
        group.register_forward_hook(lambda *call: out_of.append(call[-1][0]))
    with torch.no_grad():
        tokens = model(batch_of()).aux["tokens"]
    return into, out_of, tokens


def test_parallel_levels_start_alike_and_are_averaged() -> None:
    model = tiny(**FULL | {"levels": "parallel"}).eval()
    into, out_of, tokens = watched(model)
    assert model.tokens is not None
    assert all(torch.equal(x, model.tokens.start.expand(3, -1, -1)) for x in into)
    torch.testing.assert_close(tokens, sum(out_of) / 3)


def test_consecutive_levels_hand_their_tokens_on() -> None:
    model = tiny().eval()
    into, out_of, tokens = watched(model)
    assert model.tokens is not None
    assert torch.equal(into[1], out_of[0])
    assert torch.equal(into[2], out_of[1])
    assert torch.equal(tokens, out_of[2])
    assert list(model.tokens.groups) == ["0", "1"]  # the second serves levels 2 and 3


@pytest.mark.parametrize(("referent", "position"), [("last", 2), ("first", 0)])
def test_the_referent_makes_the_mask_and_has_the_hits(referent: str, position: int) -> None:
    model, batch = tiny(tokens=3, referent=referent).eval(), batch_of()
    used = []
    model.head.kernel.register_forward_pre_hook(lambda _, args: used.append(args[0]))
    with torch.no_grad():
        aux = model(batch).aux
    assert torch.equal(used[0], aux["tokens"][:, position])
    for k in (1, 2, 3):
        assert torch.equal(aux[f"hits{k}"][:, 0], aux[f"groups{k}"][:, position])


def test_the_similar_token_is_taken_at_test_and_the_first_in_training() -> None:
    model, batch = tiny(**FULL), batch_of()
    used = []
    model.head.kernel.register_forward_pre_hook(lambda _, args: used.append(args[0]))
    for training in (False, True):
        aux = model.train(training)(batch).aux
        for n in range(3):
            likeness = [cosine_of(aux["tokens"][n, t], aux["expression"][n]) for t in range(3)]
            chosen = 0 if training else likeness.index(max(likeness))
            assert torch.equal(used[-1][n], aux["tokens"][n, chosen])


def test_similarity_needs_the_loss_that_makes_it_mean_something() -> None:
    with pytest.raises(ValueError, match="contrastive loss"):
        tiny(referent="similar")


@pytest.mark.parametrize(("right", "cost"), [(True, 0.695), (False, 0.833)])
def test_hits_pass_a_second_sigmoid(right: bool, cost: float) -> None:
    """The official quirk: pixels that are 0 or 1 already are taken for logits, so that even the truth costs 0.7.

    With 14 % of the pixels in the object: 1 - (2 i + 1/a) / (p + g + 1/a), the sums as shares of a pixels.
    """
    model = tiny(hit_weights=[0.0, 0.0, 1.0])
    masks = torch.zeros(1, 1, 100, 100)
    masks[..., :14] = 1
    batch = Batch(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), masks=masks)
    prediction = Prediction(torch.zeros(1, 1, 100, 100), aux={"hits3": masks if right else 1 - masks, "hits1": masks})
    terms = model.losses(prediction, batch)
    assert set(terms) == {"mask", "dice", "hits3"}
    assert float(terms["hits3"]) == pytest.approx(cost, abs=1e-3)


def test_contrastive_loss_in_loops() -> None:
    """Four expressions: 0 and 1 mean the same, 3 has no target."""
    torch.manual_seed(0)
    tokens, expression = torch.randn(4, 3, 5), torch.randn(4, 5)
    target, present, tau = [0, 0, 1, 2], [True, True, True, False], 0.3
    batch = Batch(
        *(torch.zeros(1),) * 4,  # type: ignore[arg-type]
        has_target=torch.tensor(present),
        target_id=torch.tensor(target),
    )
    for referent in (0, -1):
        terms = []
        for n in range(3):
            own = [math.exp(cosine_of(expression[n], tokens[n, t]) / tau) for t in range(3)]
            others = [
                math.exp(cosine_of(expression[n], tokens[m, referent]) / tau)
                for m in range(4)
                if target[m] != target[n]
            ]
            terms.append(-math.log(own[referent] / (sum(own) + sum(others))))
        found = contrastive_loss({"tokens": tokens, "expression": expression}, batch, referent, tau)
        assert float(found) == pytest.approx(sum(terms) / 3, abs=1e-5)
