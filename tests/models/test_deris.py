"""DeRIS against its own description, written out plainly; each of its particulars is seen to matter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from variants.deris import TINY

from refseg_cli.config import build
from refseg_cli.errors import RefsegError
from refseg_cli.layers.beit3 import MultiwayBlock, Way
from refseg_cli.layers.pixel_decoder import DeformablePixelDecoder, sine_positions
from refseg_cli.models.deris import DeRIS, DeRISConfig, passing, union
from refseg_cli.models.deris_decoder import PADDING, Loopback, Stage, Words, word_positions
from refseg_cli.records import Batch, Prediction

SIZE, MINI, WORDS = (64, 96), (32, 48), 6


def tiny(**changes: object) -> DeRIS:
    """In float64, every weight large enough to be seen."""
    torch.manual_seed(0)
    config = build(DeRISConfig, {**TINY, "vocabulary": 20, "score_threshold": 0.5, **changes}, "test")
    model = DeRIS(config, vocab_size=20, max_tokens=WORDS, size=SIZE).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                spread = 1.0 if parameter.ndim == 1 else 1.5 * parameter.shape[1:].numel() ** -0.5
                parameter.normal_(0, spread)
        for even in (model.decoder.filter[-1].bias, model.decoder.refers.bias):
            even.zero_()
        features = model._decoded(batch_of())[1]
        model.perceived.bias.sub_(features.mean((0, 2, 3)))  # so that masks have both signs
    return model


def batch_of() -> Batch:
    """Phrases of 6, 3 and 1 words, the first two of one picture, the last without a target."""
    torch.manual_seed(1)
    keep = torch.arange(WORDS) < torch.tensor([6, 3, 1])[:, None]
    tokens = torch.randint(2, 20, (3, WORDS)) * keep
    has = torch.tensor([True, True, False])
    return Batch(
        torch.randn(2, 3, *SIZE).double(),
        tokens,
        keep,
        torch.tensor([0, 0, 1]),
        masks=(torch.rand(3, 1, *SIZE) > 0.8).double() * has[:, None, None, None],
        has_target=has,
        small=torch.randn(2, 3, *MINI).double(),
    )


# --- the description --------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, added: Tensor | None = None) -> Tensor:
    """Of every head in turn; added (n, 1 or q, k) to the scores."""
    d, found = q.shape[-1] // heads, []
    for a in range(heads):
        part = slice(a * d, a * d + d)
        scores = torch.einsum("nqd,nkd->nqk", q[..., part], k[..., part]) * d**-0.5
        found.append((scores if added is None else scores + added).softmax(-1) @ v[..., part])
    return torch.cat(found, -1)


def beit_by_hand(model: DeRIS, batch: Batch, wrong: str) -> tuple[Tensor, Tensor]:
    """The map and the words, each token through the weights of its kind."""
    cognition, encoder = model.cognition, model.cognition.encoder
    assert batch.small is not None
    index, keep = batch.image_index, batch.attention_mask
    patches = cognition.patches(batch.small).flatten(2).transpose(1, 2)[index]
    x = torch.cat([encoder.cls.expand(3, 1, -1), patches], 1) + encoder.picture_positions
    positions = encoder.word_positions[:WORDS]
    if wrong == "words: positions go on behind the patches":
        positions = encoder.word_positions[3 : 3 + WORDS]
    y = cognition.words(batch.tokens) + positions
    y = y * keep[..., None]
    hidden = torch.zeros(3, 1, x.shape[1] + WORDS).double()
    if wrong != "words: padding is seen":
        hidden[:, 0, x.shape[1] :] = (~keep).double() * -1e9
    for layer in encoder.layers:
        ways: tuple[Way, Way] = (layer.picture, layer.words)
        if wrong == "one way for both":
            ways = (layer.picture, layer.picture)
        of_x, of_y = ways[0].project(x), ways[1].project(y)
        q, k, v = (torch.cat(pair, 1) for pair in zip(of_x, of_y, strict=True))
        if wrong == "patches and words apart":
            hidden[:, 0, : x.shape[1]] = -1e9
        a = attend(q, k, v, layer.heads, hidden)
        done = []
        for way, t, b in ((ways[0], x, a[:, : x.shape[1]]), (ways[1], y, a[:, x.shape[1] :])):
            inner = b if wrong == "no norm behind the attention" else way.inner_norm(b)
            t = t + way.out(inner)
            up = F.gelu(way.up(way.norm2(t)), approximate="tanh" if wrong == "tanh GELU" else "none")
            t = t + way.down(up if wrong == "no norm inside the MLP" else way.mlp_norm(up))
            done.append(t)
        x, y = done
    grid = encoder.picture_norm(x[:, 1:]).transpose(1, 2).unflatten(2, encoder.grid)
    return grid, encoder.word_norm(y)


def loopback_by_hand(
    loop: Loopback, refers: torch.nn.Module, x: Tensor, pooled_masks: Tensor, words: Words, wrong: str
) -> tuple[Tensor, Tensor]:
    """The queries and what refers to them; pooled_masks (n, q, c), what each query's mask covers."""
    heads = loop.again.attention.heads
    a = loop.queries(x, pooled_masks)
    if wrong == "loopback: no residual around the queries' own values":
        a = loop.queries.norm(loop.queries.out(loop.queries.value(x)))
    of = loop.again.attention
    b = loop.again.norm(a + of.out(attend(of.q(a), of.k(a), of.v(a), heads)))
    W, of = words.features, loop.words.attention
    if wrong == "loopback: no positions of words":
        places = torch.zeros(WORDS, W.shape[-1]).double()
    elif wrong == "loopback: Vaswani's positions of words":
        rates = 10000 ** (-torch.arange(W.shape[-1] // 2) / (W.shape[-1] / 2)).double()
        angle = torch.arange(WORDS)[:, None] * rates
        places = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    else:  # frequencies are whole numbers: 1, then 0
        places = torch.tensor([0.0, 1.0]).double().repeat(WORDS, W.shape[-1] // 2)
        places[:, 0], places[:, 1] = torch.arange(WORDS).double().sin(), torch.arange(WORDS).double().cos()
    values = W + places if wrong == "loopback: values with positions" else W
    shut = 0.0 if wrong == "loopback: padding is seen" else PADDING
    added = (~words.keep).double()[:, None] * shut
    told = loop.words.norm(b + of.out(attend(of.q(b), of.k(W + places), of.v(values), heads, added)))
    told = loop.norm(told + loop.mlp(told))
    joined = torch.cat([told, a] if wrong == "loopback: the two swapped" else [a, told], -1)
    scored = a if wrong == "loopback: scores before the words" else told
    return loop.join(joined), refers(scored)


def by_hand(model: DeRIS, batch: Batch, wrong: str = "") -> tuple[Tensor, list[Stage], Tensor]:
    """Mask logits (n, H, W), the stages, and existence, with one mistake or none, every phrase a picture of its own."""
    decoder, c = model.decoder, model.config.dim
    pixels = model.pixel_decoder(model.vision(batch.images))
    index = batch.image_index
    grid, said = beit_by_hand(model, batch, wrong)
    words = Words(model.said(said), batch.attention_mask)
    seen = model.seen(grid.movedim(1, -1)).movedim(-1, 1)
    F_m = pixels.mask_features[index]
    corners = wrong == "the map of BEiT-3: corners on corners"
    up = F.interpolate(seen, F_m.shape[-2:], mode="bilinear", align_corners=corners)
    weight = torch.cat([model.perceived.weight, model.understood.weight], 1)  # one convolution over both
    F_m = F.conv2d(torch.cat([F_m, up], 1), weight, model.perceived.bias)
    if wrong == "mask features without BEiT-3":
        F_m = model.perceived(pixels.mask_features[index])
    x = model.queries(model.query_table).expand(3, -1, -1)
    stages = []
    for k, loop in enumerate(decoder.loopbacks):
        filters = decoder.filter(x if wrong == "no norm before the masks" else decoder.norm(x))
        masks = torch.einsum("nqc,nchw->nqhw", filters, F_m)
        before = x
        x, referred = loopback_by_hand(loop, decoder.refers, before, torch.zeros(3, 4, c).double(), words, wrong)
        stages.append(Stage(masks, referred, before, x))
        if k == len(decoder.layers):
            break
        level = pixels.memory[{"levels from fine to coarse": 2 - k}.get(wrong, k)]
        if wrong == "attention masks from the queries behind the loopback":
            masks = torch.einsum("nqc,nchw->nqhw", decoder.filter(decoder.norm(x)), F_m)
        x = layer_by_hand(model, k, x, masks, level[index], wrong)
    last = stages[-1]
    aligned = wrong != "masks enlarged: edges on edges"
    full = F.interpolate(last.masks, SIZE, mode="bilinear", align_corners=aligned)
    odds = last.referred[..., 0] - last.referred[..., 1]
    if wrong == "the other class refers":
        odds = -odds
    logits = torch.minimum(full, odds[..., None, None]).amax(1)
    q = last.queries
    for layer in model.existence.layers:
        a = layer.self_attention
        q = layer.norm1(q + a.out(attend(a.q(q), a.k(q), a.v(q), a.heads)))
        a, shut = layer.cross_attention, (~words.keep).double()[:, None] * -1e9
        W = words.features
        q = layer.norm2(q + a.out(attend(a.q(q), a.k(W), a.v(W), a.heads, shut)))
        q = layer.norm3(q + layer.mlp(q))
    return logits, stages, model.existence.out(model.existence.norm(q)).mean((1, 2))


def layer_by_hand(model: DeRIS, k: int, x: Tensor, masks: Tensor, level: Tensor, wrong: str) -> Tensor:
    layer, places = model.decoder.layers[k], model.decoder.places
    M = (level + model.decoder.level[k][:, None, None]).flatten(2).transpose(1, 2)
    placed = M + sine_positions(level).flatten(1).T
    covered = F.interpolate(masks, level.shape[-2:], mode="bilinear", align_corners=False).flatten(2).sigmoid() >= 0.5
    if wrong != "a query without a mask sees nothing":
        covered = covered | ~covered.any(-1, keepdim=True)
    shut = torch.zeros_like(covered, dtype=torch.float64).masked_fill(~covered, -1e9)
    if wrong == "queries see the whole memory":
        shut = torch.zeros_like(shut)
    of = layer.image.attention
    query = x if wrong == "cross-attention: queries without places" else x + places
    values = placed if wrong == "cross-attention: values with positions" else M
    x = layer.image.norm(x + of.out(attend(of.q(query), of.k(placed), of.v(values), of.heads, shut)))
    of, moved = layer.region.attention, x + places
    x = layer.region.norm(x + of.out(attend(of.q(moved), of.k(moved), of.v(x), of.heads)))
    return layer.norm(x + layer.mlp(x))


MISTAKES = (
    "words: positions go on behind the patches",
    "words: padding is seen",
    "one way for both",
    "patches and words apart",
    "no norm behind the attention",
    "no norm inside the MLP",
    "tanh GELU",
    "loopback: no residual around the queries' own values",
    "loopback: no positions of words",
    "loopback: Vaswani's positions of words",
    "loopback: values with positions",
    "loopback: padding is seen",
    "loopback: the two swapped",
    "loopback: scores before the words",
    "the map of BEiT-3: corners on corners",
    "mask features without BEiT-3",
    "no norm before the masks",
    "levels from fine to coarse",
    "attention masks from the queries behind the loopback",
    "queries see the whole memory",
    "cross-attention: queries without places",
    "cross-attention: values with positions",
    "masks enlarged: edges on edges",
    "the other class refers",
)


def test_it_is_what_is_described() -> None:
    model, batch = tiny(), batch_of()
    with torch.no_grad():
        found, (logits, stages, existence) = model(batch), by_hand(model, batch)
    torch.testing.assert_close(
        found.aux["stage_masks"], torch.stack([s.masks for s in stages], 1), atol=1e-9, rtol=1e-9
    )
    referred = torch.stack([s.referred for s in stages], 1)
    torch.testing.assert_close(found.aux["stage_referred"], referred, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.mask_logits[:, 0], logits, atol=2e-6, rtol=0)  # what lies at 0 is below it
    torch.testing.assert_close(found.aux["existence"], existence, atol=1e-9, rtol=1e-9)
    assert found.exists_logit is not None
    odds = (referred[:, -1, :, 0] - referred[:, -1, :, 1]).amax(1)
    torch.testing.assert_close(found.exists_logit, odds, atol=2e-6, rtol=0)


@pytest.mark.parametrize("wrong", MISTAKES)
def test_nothing_described_is_without_effect(wrong: str) -> None:
    """Else the test above would not notice it missing."""
    model, batch = tiny(), batch_of()
    with torch.no_grad():
        (right, stages, _), (mistaken, others, _) = by_hand(model, batch), by_hand(model, batch, wrong)
    moved = max(
        float((getattr(a, name) - getattr(b, name)).abs().max() / getattr(a, name).std())
        for a, b in zip(stages, others, strict=True)
        for name in ("masks", "referred")
    )
    assert max(moved, float((right - mistaken).abs().max() / right.std())) > 1e-5, wrong


def test_padding_begins_as_nothing() -> None:
    """Whatever stands there; and yet it has features in the end."""
    torch.manual_seed(0)
    encoder, keep = tiny().cognition.encoder, torch.arange(4) < 2
    placed, words = torch.randn(1, 7, 16).double(), torch.randn(1, 4, 16).double()
    other = words.clone()
    other[:, 2:] += 1
    with torch.no_grad():
        found = [encoder(placed, some, keep[None])[1] for some in (words, other)]
    assert torch.equal(*found)
    assert float(found[0][:, 2:].std()) > 0.1


def test_padding_is_shut_out_by_a_hundred() -> None:
    """Not by infinity: a word of padding whose score lies as far above is heard."""
    torch.manual_seed(0)
    loop = Loopback(4, heads=1, hidden=4, among="alone").double()
    x, keep = torch.randn(1, 1, 4).double(), torch.tensor([[True, False]])
    words = torch.zeros(1, 2, 4).double()
    words[0, 1] = 40.0
    of = loop.words.attention
    with torch.no_grad():
        for projection in (of.q, of.k):
            projection.weight.zero_()
            projection.bias.zero_()
        of.q.bias.fill_(1.0)
        heard = []
        for strength in (0.0, 2.0):  # scores of 0 and 160, of padding
            of.k.weight.fill_(0.0).diagonal().fill_(strength)
            heard.append(loop.heeded(x, x, Words(words, keep))[0, 0, 1].item())
    assert heard[0] < 1e-40
    assert heard[1] > 0.99


def test_positions_of_words_by_hand() -> None:
    found = word_positions(4, 6, like=torch.zeros(1))
    expected = [[math.sin(p), math.cos(p), 0.0, 1.0, 0.0, 1.0] for p in range(4)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_queries_attend_to_one_another_where_that_is_asked_for() -> None:
    """And know where their masks are; alone, neither matters."""
    torch.manual_seed(0)
    words = Words(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    x, covered = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    moved = covered.clone()
    moved[:, 0] += 1
    for among, matters in (("alone", False), ("queries", True)):
        loop = Loopback(8, heads=2, hidden=8, among=among)
        with torch.no_grad():
            assert torch.equal(loop(x, covered, words)[0], loop(x, moved, words)[0]) != matters


def test_a_mask_is_the_union_of_those_whose_score_passes() -> None:
    torch.manual_seed(0)
    masks, referred = torch.randn(5, 4, 6, 7), 3 * torch.randn(5, 4, 2)
    referred[0] = torch.tensor([-3.0, 3.0])  # nobody passes
    scores = referred.softmax(-1)[..., 0]
    for threshold in (0.7, 0.9):
        passes = passing(referred, threshold)
        found = union(masks, passes) > 0
        for n in range(5):
            chosen = masks[n][scores[n] > threshold]
            assert torch.equal(found[n], (chosen >= 0).any(0))
            assert bool(passes[n].amax() > 0) == bool((scores[n] > threshold).any())
    assert not found[0].any()


def test_a_score_at_the_threshold_does_not_pass() -> None:
    """Neither where ties count as inside, nor where half a probability counts as a target."""
    masks, even = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2)
    passes = passing(even, 0.5)
    assert not (union(masks, passes) >= 0).any()
    assert float(passes.sigmoid()) < 0.5
    assert (union(masks, passing(torch.tensor([[[1e-3, 0.0]]]), 0.5)) >= 0).all()


def test_the_threshold_is_a_setting_of_evaluation_alone() -> None:
    """The weights are the same; a lower one lets more through."""
    batch, strict, lenient = batch_of(), tiny(score_threshold=0.9), tiny(score_threshold=0.1)
    with torch.no_grad():
        a, b = strict(batch), lenient(batch)
    assert torch.equal(a.aux["scores"], b.aux["scores"])
    assert (b.mask_logits > 0).sum() > (a.mask_logits > 0).sum()
    torch.testing.assert_close(a.exists_logit + 2 * math.log(9), b.exists_logit, atol=3e-6, rtol=0)


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan")])
def test_a_threshold_that_is_no_probability_is_named(threshold: float) -> None:
    with pytest.raises(RefsegError, match="score_threshold"):
        build(DeRISConfig, {"score_threshold": threshold}, "deris")


# --- once a picture ---------------------------------------------------------------------------------------------------


def test_what_sees_no_language_runs_once_a_picture() -> None:
    model, batch = tiny(), batch_of()
    seen: dict[str, int] = {}
    once = ("vision.backbone", "pixel_decoder", "cognition.patches", "perceived", "decoder.layers.0.image.attention.k")
    for name in (*once, "cognition.encoder.layers.0", "decoder.layers.0.image.attention.q"):

        def note(_: object, args: tuple[Tensor, ...], __: object, name: str = name) -> None:
            seen[name] = len(args[0][0]) if isinstance(args[0], list) else len(args[0])

        model.get_submodule(name).register_forward_hook(note)
    model(batch)
    assert seen.pop("pixel_decoder") == 2
    phrases = {"cognition.encoder.layers.0": 3, "decoder.layers.0.image.attention.q": 3}
    assert seen == {name: 2 for name in once if name != "pixel_decoder"} | phrases


def test_a_picture_without_its_small_copy_is_named() -> None:
    batch = batch_of()
    for small in (None, torch.zeros(2, 3, 8, 8).double()):
        with pytest.raises(RefsegError, match="a second time, at 32x48 pixels"):
            tiny()(Batch(batch.images, batch.tokens, batch.attention_mask, batch.image_index, small=small))


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_finest_maps_convolutions_have_biases_and_two_relus() -> None:
    """Mask2Former's own have neither the biases nor the first ReLU."""
    sizes = {"dim": 16, "heads": 2, "hidden": 16, "layers": 1}
    plain, ours = (DeformablePixelDecoder((4, 4, 4, 4), simplified=s, **sizes) for s in (False, True))
    assert {"fine.0.bias", "smooth.0.bias"} == set(dict(ours.named_parameters())) - set(dict(plain.named_parameters()))
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        assert float(ours.fine(x).min()) == 0
        assert float(plain.fine(x).min()) < 0


def test_stochastic_depth_rises_and_skips_both_branches() -> None:
    model = tiny(width_layers=3, width_drop_path=0.4)
    assert [layer.drop_path for layer in model.cognition.encoder.layers] == pytest.approx([0, 0.2, 0.4])
    torch.manual_seed(0)
    block = MultiwayBlock(8, heads=2, hidden=8, drop_path=0.5).train()
    x, y, keep = torch.randn(64, 3, 8), torch.randn(64, 2, 8), torch.ones(64, 5, dtype=torch.bool)
    with torch.no_grad():
        a, b = block(x, y, keep)
    skipped = (a == x).all((1, 2))
    assert torch.equal(skipped, (b == y).all((1, 2)))
    assert 16 < int(skipped.sum()) < 48


def test_losses_of_earlier_predictions_weigh_a_fifth() -> None:
    """Of twelve queries two are targets. Even scores cost log 2 each; those of one stage are against it."""
    model, batch = tiny(), batch_of()
    prediction = model(batch)
    assert set(model.losses(prediction, batch)) == {"existence", "refers", "mask", "dice"}
    own = (2 * math.log1p(math.exp(6)) + 10 * 0.1 * math.log1p(math.exp(-6))) / (2 + 10 * 0.1)
    for stage, share in ((0, 0.2), (3, 1.0)):
        referred = torch.zeros(3, 4, 4, 2).double()
        referred[:, stage] = torch.tensor([-3.0, 3.0])
        aux = {**prediction.aux, "stage_referred": referred}
        found = model.losses(Prediction(prediction.mask_logits, None, aux), batch)["refers"].item()
        others = sum(1.0 if k == 3 else 0.2 for k in range(4) if k != stage)
        assert found == pytest.approx(2 * (share * own + others * math.log(2)), rel=1e-5)


def test_each_object_is_a_target_of_its_own_where_objects_are_given() -> None:
    model, batch = tiny(), batch_of()
    assert batch.masks is not None
    masks, owners = model._targets(batch)
    assert torch.equal(masks, batch.masks[:2, 0])
    assert owners.tolist() == [0, 1]
    objects = torch.rand(3, *SIZE).double()
    batch = replace(batch, objects=objects, object_of=torch.tensor([0, 0, 1]))
    masks, owners = model._targets(batch)
    assert masks is objects
    assert owners.tolist() == [0, 0, 1]


def test_what_is_shown_ends_with_the_answer_and_words_share_out_what_queries_heed() -> None:
    model, batch = tiny(), batch_of()
    with torch.no_grad():
        plain, shown = model(batch), model.explained(batch)
    assert torch.equal(plain.mask_logits, shown.mask_logits)
    assert set(model.EXPLAIN) <= set(shown.aux)
    assert torch.equal(shown.aux["query_masks"], shown.aux["stage_masks"][:, -1])
    heeds = shown.aux["heeds"]
    assert heeds.shape == (3, 4, WORDS)
    torch.testing.assert_close(heeds.sum(-1), torch.ones(3, 4).double())
    assert float(heeds.masked_select(~batch.attention_mask[:, None]).max()) < 1e-20
