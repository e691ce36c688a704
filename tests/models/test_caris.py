"""CARIS against its own description, written out plainly; each of its particulars is seen to matter."""

from __future__ import annotations

import math

import pytest
import torch
from goldens import official_layout
from torch import Tensor, nn
from torch.nn import functional as F
from variants.caris import TINY

from refseg_cli.checkpoint import without_downloads
from refseg_cli.config import build, load_recipe
from refseg_cli.errors import RefsegError
from refseg_cli.layers.keymap import rename
from refseg_cli.layers.language import BiGru
from refseg_cli.models import build_model
from refseg_cli.models.caris import CARIS, OFFICIAL_KEYS, CARISConfig, ImagePrompts, official_config
from refseg_cli.models.caris_decoder import Decoder, DecoderLayer, FewKeys, FewQueries, MaskHead, Scene, WideAttention
from refseg_cli.records import Batch

SIZE, WORDS = (64, 96), 6  # the coarsest map has 2 x 3 places: cells of 2 x 2 overlap


def tiny(**changes: object) -> CARIS:
    """In float64, every weight large enough to be seen."""
    torch.manual_seed(0)
    config = build(CARISConfig, {**TINY, **changes}, "test")
    model = CARIS(config, vocab_size=20, max_tokens=WORDS, size=SIZE).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                spread = 1.0 if parameter.ndim == 1 else 1.5 * parameter.shape[1] ** -0.5
                parameter.normal_(0, spread)
    return model


def batch_of() -> Batch:
    """Phrases of 6, 3 and 1 words, the first two of one picture."""
    torch.manual_seed(1)
    keep = torch.arange(WORDS) < torch.tensor([6, 3, 1])[:, None]
    tokens = torch.randint(2, 20, (3, WORDS)) * keep
    masks = (torch.rand(3, 1, *SIZE) > 0.8).double()
    return Batch(torch.randn(2, 3, *SIZE).double(), tokens, keep, torch.tensor([0, 0, 1]), masks=masks)


# --- the description --------------------------------------------------------------------------------------------------


def attend(layer: WideAttention, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, wrong: str) -> Tensor:
    """Of every head in turn; `keep` (n, k)."""
    d = layer.q.out_features // layer.heads
    Q = layer.q(q) * d**-0.5
    if wrong == "queries are scaled before their bias":
        Q = F.linear(q, layer.q.weight) * d**-0.5 + layer.q.bias
    K, V = layer.k(k), layer.v(v)
    heads = []
    for a in range(layer.heads):
        part = slice(a * d, a * d + d)
        scores = torch.einsum("nqd,nkd->nqk", Q[..., part], K[..., part])
        if keep is not None:
            scores = scores.masked_fill(~keep[:, None], -math.inf)
        heads.append(scores.softmax(-1) @ V[..., part])
    return layer.out(torch.cat(heads, -1))


def layer_by_hand(
    layer: DecoderLayer, X: Tensor, T: Tensor, keep: Tensor, scene: Scene, wrong: str
) -> tuple[Tensor, Tensor]:
    P, entered = scene.positions, T
    gains = (layer.read_gain, layer.heed_gain) if wrong != "no gains" else (1.0, 1.0)
    heed_norm, look_norm = layer.heed_norm, layer.look_norm
    if wrong == "the pixels' norms in the order of their numbers":
        heed_norm, look_norm = look_norm, heed_norm
    key = X if wrong == "read: keys without positions" else X + P
    value = X + P if wrong == "read: values with positions" else X
    T = layer.read_norm(T + gains[0] * attend(layer.read, T, key, value, None, wrong))
    shown = torch.ones_like(keep) if wrong == "talk: padding is seen" else keep
    T = layer.talk_norm(T + attend(layer.talk, T, T, T, shown, wrong))
    T = layer.token_norm(T + layer.token_mlp(T))

    def heed(X: Tensor) -> Tensor:
        tokens, shown = (entered if wrong == "heed: tokens as they came" else T), keep
        if wrong == "heed: padding is seen":
            shown = torch.ones_like(keep)
        if wrong == "heed: words alone":
            shown = keep & (torch.arange(keep.shape[1]) < WORDS)
        query = X if wrong == "heed: queries without positions" else X + P
        return heed_norm(X + gains[1] * attend(layer.heed, query, tokens, tokens, shown, wrong))

    def look(X: Tensor) -> Tensor:
        query = X if wrong == "look: queries without positions" else X + P
        times = {"look: no residual": 0, "look: residual twice": 2}.get(wrong, 1)
        return look_norm(times * X + layer.look(query, X, scene.centres, scene.sizes))

    X = heed(look(X)) if wrong == "look before heed" else look(heed(X))
    return layer.pixel_norm(X + layer.pixel_mlp(X)), T


def text_by_hand(model: CARIS, batch: Batch, coarsest: Tensor, wrong: str) -> Tensor:
    """(n, l, d) of the words."""
    top, bottom = coarsest[:, :, :1].mean(2), coarsest[:, :, 1:].mean(2)  # 2 x 3 places: rows of 1, columns of 2
    cells = [coarsest.mean((2, 3))] + [row[..., s].mean(2) for row in (top, bottom) for s in (slice(0, 2), slice(1, 3))]
    mlps = model.text_prompts.mlps
    each = (mlps[0], *(mlps[0 if wrong == "prompts: one MLP for both grids" else 1],) * 4)
    prompts = torch.stack([mlp(cell) for mlp, cell in zip(each, cells, strict=True)], 1) + model.text_prompts.table
    if wrong != "prompts: not normed":
        prompts = model.text_prompts.norm(prompts)
    text = model.text
    if wrong == "prompts: with positions":
        prompts = prompts + text.positions[:5]
    if wrong == "prompts: normed as words are":
        prompts = text.norm(prompts)
    words = text.norm(text.embedding(batch.tokens) + text.positions)
    x = torch.cat([words, prompts[batch.image_index]], 1)
    visible = torch.full((len(words), 5), wrong != "prompts: hidden")
    for layer in text.layers:
        x = layer(x, torch.cat([batch.attention_mask, visible], 1))
    return x[:, :WORDS]


def by_hand(model: CARIS, batch: Batch, wrong: str = "") -> tuple[Tensor, Tensor]:
    """`classes` and `mask_logits`, with one mistake or none, every phrase with a picture of its own."""
    raw = model.vision.backbone(batch.images)
    maps = [norm(x.movedim(1, -1)).movedim(-1, 1) for norm, x in zip(model.vision.norms, raw, strict=True)]
    if wrong == "maps: as the backbone gives them":
        maps = raw
    text = text_by_hand(model, batch, raw[-1] if wrong == "prompts: of the map without its norm" else maps[-1], wrong)
    scene = model.decoder.scene(maps)
    if wrong == "levels not told apart":
        level = torch.cat([model.decoder.level[k].expand(h * w, -1) for k, (h, w) in enumerate(scene.sizes)])
        scene = scene._replace(positions=scene.positions - level)
    T = torch.cat([model.words(text), model.prompts.expand(len(text), -1, -1)], 1)
    keep = torch.cat([batch.attention_mask, torch.ones(len(text), len(model.prompts), dtype=torch.bool)], 1)
    X = scene.places[batch.image_index]
    for layer in model.decoder.layers:
        X, T = layer_by_hand(layer, X, T, keep, scene, wrong)
    h, w = scene.sizes[-1]
    memory = X[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))
    corners = wrong == "fine: corners on corners"
    up = F.interpolate(memory, (2 * h, 2 * w), mode="bilinear", align_corners=corners)
    fine = model.decoder.smooth(model.decoder.lateral(maps[0])[batch.image_index] + up)
    features = model.head.features(model.head.pixels(F.relu(model.decoder.smooth_norm(fine))))
    ground, word = T[:, WORDS:].mean(1), T[:, 0]
    if wrong == "background: the first prompt":
        ground = T[:, WORDS]
    if wrong == "target: the mean of the words":
        word = T[:, :WORDS].mean(1)
    if wrong == "classes: swapped":
        ground, word = word, ground
    E = torch.stack([model.head.tokens(ground), model.head.tokens(word)], 1)
    classes = torch.einsum("nkc,nchw->nkhw", E, features)
    aligned = wrong != "logits: edges on edges"
    full = F.interpolate(classes, SIZE, mode="bilinear", align_corners=aligned)
    return classes, full[:, 1:] - full[:, :1]


MISTAKES = (
    "queries are scaled before their bias",
    "no gains",
    "the pixels' norms in the order of their numbers",
    "read: keys without positions",
    "read: values with positions",
    "talk: padding is seen",
    "heed: tokens as they came",
    "heed: padding is seen",
    "heed: words alone",
    "heed: queries without positions",
    "look: queries without positions",
    "look: no residual",
    "look: residual twice",
    "look before heed",
    "prompts: one MLP for both grids",
    "prompts: not normed",
    "prompts: with positions",
    "prompts: normed as words are",
    "prompts: hidden",
    "prompts: of the map without its norm",
    "maps: as the backbone gives them",
    "levels not told apart",
    "fine: corners on corners",
    "background: the first prompt",
    "target: the mean of the words",
    "classes: swapped",
    "logits: edges on edges",
)


def test_it_is_what_is_described() -> None:
    model, batch = tiny(), batch_of()
    with torch.no_grad():
        found, (classes, logits) = model(batch), by_hand(model, batch)
    torch.testing.assert_close(found.aux["classes"], classes, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.mask_logits, logits, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("wrong", MISTAKES)
def test_nothing_described_is_without_effect(wrong: str) -> None:
    """Else the test above would not notice it missing."""
    model, batch = tiny(), batch_of()
    with torch.no_grad():
        right, mistaken = by_hand(model, batch)[1], by_hand(model, batch, wrong)[1]
    assert float((right - mistaken).abs().max()) > 1e-3 * float(right.std()), wrong


# --- once a picture ---------------------------------------------------------------------------------------------------


def test_what_sees_no_language_runs_once_a_picture() -> None:
    model, batch = tiny(), batch_of()
    seen: dict[str, int] = {}
    once = ("vision.backbone", "text_prompts", "decoder.project.0", "decoder.project.2", "decoder.lateral")
    for name in (*once, "decoder.layers.0", "head.pixels"):
        model.get_submodule(name).register_forward_hook(lambda m, a, o, n=name: seen.update({n: len(a[0])}))
    model(batch)
    assert seen == {**dict.fromkeys(once, 2), "decoder.layers.0": 3, "head.pixels": 3}


@pytest.mark.parametrize("images", [1, 3])
def test_the_last_convolution_is_done_once_a_picture_where_that_is_less_work(images: int) -> None:
    """Three phrases of one picture, and of as many: the same."""
    torch.manual_seed(3)
    decoder = Decoder((4, 4, 4, 4), dim=256, heads=8, width=8, hidden=8, layers=1).double()
    maps = [torch.randn(images, 4, 2 * side, 3 * side).double() for side in (8, 4, 2, 1)]
    scene, index = decoder.scene(maps), torch.arange(3) % images
    pixels = torch.randn(3, scene.places.shape[1], 256).double()
    seen: list[int] = []
    decoder.smooth.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    with torch.no_grad():
        found = decoder.fine(pixels, scene, index)
        alone = []
        for n, k in enumerate(index.tolist()):
            one = decoder.scene([level[k : k + 1] for level in maps])
            alone.append(decoder.fine(pixels[n : n + 1], one, index[:1]))
    assert seen == [images, 1, 1, 1]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-9, rtol=1e-9)


def test_the_words_depend_on_the_picture() -> None:
    model, batch = tiny(), batch_of()
    prompts = torch.randn(3, 5, model.text.dim).double()
    with torch.no_grad():
        one = model.text.prompted(batch.tokens, batch.attention_mask, prompts)
        other = model.text.prompted(batch.tokens, batch.attention_mask, prompts + 1)
    assert float((one - other)[:, 0].abs().min()) > 1e-6


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [{}, {"text": "bert", "text_dim": 64, "text_layers": 2}], ids=["transformer", "bert"])
def test_prompts_have_no_place_among_the_words(text: dict[str, object]) -> None:
    """In another order they give the same words, and none of them the words alone; padding is seen by nobody."""
    encoder, batch = tiny(**text).text, batch_of()
    prompts, order = torch.randn(3, 5, encoder.dim).double(), torch.tensor([3, 0, 4, 1, 2])
    tokens, keep = batch.tokens, batch.attention_mask
    with torch.no_grad():
        found = encoder.prompted(tokens, keep, prompts)
        mixed = encoder.prompted(torch.where(keep, tokens, 7), keep, prompts[:, order])
        alone = encoder.prompted(tokens, keep, prompts[:, :0])
        plain = encoder(tokens, keep)
    real = torch.cat([keep, torch.ones(3, 5, dtype=torch.bool)], 1)
    torch.testing.assert_close(mixed[:, :WORDS][keep], found[:, :WORDS][keep], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(mixed[:, WORDS:], found[:, WORDS:][:, order], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(alone[keep], plain[keep], atol=1e-9, rtol=1e-9)
    assert found.shape == (*real.shape, encoder.dim)
    assert float((found[:, :WORDS] - plain)[keep].abs().min()) > 1e-9


def test_an_encoder_without_attention_takes_no_prompts() -> None:
    with pytest.raises(RefsegError, match="takes no prompts"):
        BiGru(9, embedding_dim=4, dim=4, dropout=0.0).prompted(*[torch.zeros(1, 1)] * 3)


def test_cells_by_hand() -> None:
    """Cells row by row, the whole picture first; of three columns the middle one belongs to both halves."""
    prompts = ImagePrompts(1, dim=2, sides=(1, 2))
    with torch.no_grad():
        prompts.table.zero_()
        for k, mlp in enumerate(prompts.mlps):
            mlp[0].weight.fill_(1.0)
            mlp[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 10.0 ** (k + 1)]]))
    prompts.norm = nn.Identity()
    x = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 9.0]])[None, None]
    expected = torch.tensor([[4.0, 40.0], [1.5, 150.0], [3.0, 300.0], [4.0, 400.0], [7.0, 700.0]])
    torch.testing.assert_close(prompts(x)[0], expected)
    assert ImagePrompts(1, dim=2, sides=(1, 2)).norm.eps == 1e-5  # BERT's own are 1e-12


@pytest.mark.parametrize("kind", [FewQueries, FewKeys])
def test_the_order_of_products_changes_nothing(kind: type[WideAttention]) -> None:
    torch.manual_seed(2)
    plain, folded = WideAttention(8, heads=2, width=24).double(), kind(8, heads=2, width=24).double()
    folded.load_state_dict(plain.state_dict())
    query, key, value = torch.randn(3, 4, 8).double(), torch.randn(3, 9, 8).double(), torch.randn(3, 9, 8).double()
    keep = torch.arange(9) < torch.tensor([9, 5, 1])[:, None]
    if kind is FewQueries:
        keep = torch.ones_like(keep)
        found, weights = folded(query, key, value)
    else:
        found, weights = folded(query, key, value, keep)
        weights = weights.transpose(1, 2)
    expected, shares = plain(query, key, value, keep)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(weights, shares, atol=1e-12, rtol=1e-12)
    assert not weights.masked_select(~keep[:, None, None]).any()


@pytest.mark.parametrize("kind", [WideAttention, FewQueries, FewKeys])
def test_scores_are_cut(kind: type[WideAttention]) -> None:
    """Beyond 50,000 keys are alike; half precision could not tell them either."""
    torch.manual_seed(2)
    layer = kind(4, heads=1, width=4).double()
    for linear in (layer.q, layer.k):
        nn.init.eye_(linear.weight)
    nn.init.zeros_(layer.q.bias)
    one = torch.ones(1, 1, 4).double()
    keys = one * torch.tensor([0.0, 60_000, 90_000])[None, :, None]
    keep = torch.ones(1, 3, dtype=torch.bool)
    weights = layer(one, keys, keys, *(() if kind is FewQueries else (keep,)))[1]
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.0, 0.5, 0.5]).double())


def test_a_width_that_heads_do_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="attention_width 9 is no multiple of heads 2"):
        WideAttention(8, heads=2, width=9)


def test_pixels_look_around_in_full_precision() -> None:
    layer = DecoderLayer(16, heads=2, width=16, hidden=16)
    scene = Scene(
        torch.randn(1, 21, 16), torch.randn(1, 21, 16), torch.rand(21, 2), [(1, 1), (2, 2), (4, 4)], torch.zeros(1)
    )
    seen: list[torch.dtype] = []
    layer.look.register_forward_pre_hook(lambda _, a: seen.append(a[0].dtype))
    layer.pixel_mlp.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(scene.places, torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.bool), scene)
    assert seen == [torch.float32, torch.bfloat16]


def test_background_is_the_prompts_mean_and_target_the_first_word() -> None:
    head = MaskHead(2).double()
    tokens = torch.randn(1, 5, 2).double()
    changed = tokens.clone()
    changed[:, 1:3] += 1  # words after the first
    changed[:, 3:] += torch.tensor([[1.0], [-1.0]])  # the mean stays
    x = torch.randn(1, 2, 3, 4).double()
    with torch.no_grad():
        torch.testing.assert_close(head(x, changed, words=3), head(x, tokens, words=3))
        changed[:, 0] += 1
        moved = (head(x, changed, words=3) - head(x, tokens, words=3)).abs().amax((0, 2, 3))
    assert moved[0] < 1e-12
    assert moved[1] > 1e-6


def test_the_loss_is_the_official_two_class_loss() -> None:
    model, batch = tiny(), batch_of()
    assert batch.masks is not None
    prediction = model(batch)
    terms = model.losses(prediction, batch)
    classes = F.interpolate(prediction.aux["classes"], SIZE, mode="bilinear", align_corners=True)
    weights = torch.tensor([0.9, 1.1])
    official = F.cross_entropy(classes.float(), batch.masks[:, 0].long(), weight=weights)
    assert list(terms) == ["mask"]
    torch.testing.assert_close(terms["mask"], official.double(), atol=1e-5, rtol=1e-5, check_dtype=False)


def test_a_tie_is_background() -> None:
    model, batch = tiny(), batch_of()
    with torch.no_grad():
        model.head.pixels[2].weight.zero_()
        model.head.pixels[2].bias.zero_()
        model.head.features.bias.zero_()
        assert not model(batch).mask_logits.any()  # probability 0.5, which is not above the threshold of 0.5


def test_stage_masks_end_with_the_answer_and_words_share_out_what_they_read() -> None:
    model, batch = tiny(), batch_of()
    with torch.no_grad():
        shown = model.explained(batch)
        torch.testing.assert_close(shown.mask_logits, model(batch).mask_logits)
    stages, reads, heeds = (shown.aux[name] for name in ("stage_masks", "reads", "heeds"))
    assert stages.shape == (3, 2, 16, 24)
    torch.testing.assert_close(stages[:, -1], shown.aux["target"] - shown.aux["background"])
    assert float((stages[:, 0] - stages[:, 1]).abs().max()) > 1e-6
    assert reads.shape == heeds.shape == (3, WORDS, 8, 12)
    assert float(reads.sum((2, 3)).max()) < 1  # the rest went to the coarser levels
    assert not heeds.masked_select(~batch.attention_mask[..., None, None]).any()
    assert heeds.sum(1).max() < 1  # the rest went to the prompts


# --- official files ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("criterion", [True, False], ids=["a training run's", "weights alone"])
def test_official_names_and_shapes_fit_and_none_is_left_over(criterion: bool) -> None:
    weights = {k: t for k, t in official_layout("caris").items() if criterion or not k.startswith("criterion.")}
    assert len(weights) == 925 + criterion
    renamed, recipe = rename(weights, OFFICIAL_KEYS), load_recipe("caris-refcoco")
    with torch.device("meta"):
        model = build_model(without_downloads(recipe), vocab_size=30_522)
    assert renamed.unknown == []
    ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in renamed.weights.items()} == ours
    found = official_config(weights)
    assert found.pop("backbone") == recipe.model["backbone"].partition(".")[0]
    assert found == {key: recipe.model[key] for key in found}


def test_parameters_are_the_official_ones_but_key_biases() -> None:
    with torch.device("meta"):
        model = build_model(without_downloads(load_recipe("caris-refcoco")), vocab_size=30_522)
    assert sum(p.numel() for p in model.parameters()) == 226_572_664 - 6 * 3 * 1024


def test_which_official_tensors_are_not_needed() -> None:
    names = {
        "criterion.seg_criterion.weight": "weights of the classes",
        "pixel_decoder.encoder.5.lang_self_attn.k_proj.bias": "softmax",
        "backbone.vis_encoder.layers.2.blocks.17.attn.relative_position_index": "window",
        "backbone.lang_encoder.embeddings.position_ids": "counts",
    }
    dropped = rename({name: torch.zeros(1) for name in names}, OFFICIAL_KEYS).dropped
    assert all(words in dropped[name] for name, words in names.items())
