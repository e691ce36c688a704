"""ReLA's own arithmetic against plain readings of the thesis and of what the official code does: loops, hand counts."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg_cli.config import build
from refseg_cli.layers.convnet import ConvNet
from refseg_cli.layers.pixel_decoder import (
    DeformableAttention,
    DeformablePixelDecoder,
    Pixels,
    cell_centres,
    flatten_levels,
    sine_positions,
)
from refseg_cli.layers.pyramids import TiledPyramid, tile_size
from refseg_cli.layers.region_decoder import POOLS, MaskedRegionDecoder, Regions, region_masks
from refseg_cli.models.rela import (
    MASKS,
    RegionImageAttention,
    RegionLanguage,
    ReLA,
    ReLAConfig,
    WordAttention,
    centre_minimap,
    cover_minimap,
    masks_of_near_reach,
    weighted_bce,
)
from refseg_cli.records import Batch, Prediction

TINY = {
    "backbone": "convnet",
    "backbone_channels": [4, 6, 8, 8, 8],
    "text": "transformer",
    "dim": 16,
    "heads": 2,
    "pixel_layers": 1,
    "pixel_hidden": 24,
    "regions": 3,
    "layers": 3,
    "hidden": 24,
}


def tiny(**changes: object) -> ReLA:
    torch.manual_seed(0)
    config = build(ReLAConfig, TINY | changes, "test")
    return ReLA(config, vocab_size=20, max_tokens=5, size=(64, 96)).eval()


def batch_of() -> Batch:
    torch.manual_seed(1)
    keep = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    masks = F.interpolate((torch.rand(3, 1, 4, 6) > 0.5).float(), (64, 96))
    masks[2] = 0
    return Batch(
        images=torch.randn(2, 3, 64, 96),
        tokens=torch.randint(2, 20, (3, 5)) * keep,
        attention_mask=keep,
        image_index=torch.tensor([0, 0, 1]),
        masks=masks,
        has_target=torch.tensor([True, True, False]),
        target_id=torch.arange(3),
    )


# --- Eq. 6.1 to 6.3 ---------------------------------------------------------------------------------------------------


def test_the_mask_is_eq_6_1_without_a_region_mask_at_full_size() -> None:
    model, batch = tiny(encoder="plain"), batch_of()
    with torch.no_grad():
        prediction = model(batch)
    aux = prediction.aux
    x_r = aux["minimap"].flatten(1)
    for n, image in enumerate(batch.image_index.tolist()):
        M = torch.zeros(16, 24)
        for r in range(9):
            M_r = (aux["region_filters"][n, r][:, None, None] * aux["mask_features"][image]).sum(0)
            M = M + x_r[n, r] * M_r
        torch.testing.assert_close(prediction.mask_logits[n, 0], M, atol=1e-4, rtol=1e-4)


def test_near_regions_speak_for_the_pixels_around_their_cell() -> None:
    torch.manual_seed(9)
    side, h, w, c = 3, 6, 9, 4
    filters, minimap, F_m = torch.randn(1, side * side, c), torch.randn(1, side * side), torch.randn(1, c, h, w)
    found = masks_of_near_reach(Regions(filters, minimap, minimap, torch.zeros(1), {}), F_m, None)
    for y in range(h):
        for x in range(w):
            cell_y = min(max((y + 0.5) / h * side - 0.5, 0), side - 1)
            cell_x = min(max((x + 0.5) / w * side - 0.5, 0), side - 1)
            total = torch.zeros(())
            for r in range(side * side):
                w_r = max(0.0, 1 - abs(cell_y - r // side)) * max(0.0, 1 - abs(cell_x - r % side))
                total += w_r * (minimap[0, r] + filters[0, r] @ F_m[0, :, y, x])
            torch.testing.assert_close(found[0, y, x], total)


def test_masks_of_expressions_are_read_from_their_maps() -> None:
    """Two expressions of the second map and one of the first, or a map for each of them."""
    torch.manual_seed(9)
    filters, minimap, F_m = torch.randn(3, 9, 4), torch.randn(3, 9), torch.randn(2, 4, 6, 9)
    regions, rows = Regions(filters, minimap, minimap, torch.zeros(3), {}), torch.tensor([1, 0, 1])
    for masks in MASKS.values():
        torch.testing.assert_close(masks(regions, F_m, rows), masks(regions, F_m[rows], None))
        first = Regions(filters[:1], minimap[:1], minimap[:1], torch.zeros(1), {})
        torch.testing.assert_close(masks(regions, F_m, rows)[:1], masks(first, F_m[1:], None))


def test_near_masks_are_exported_for_any_number_of_maps() -> None:
    class Near(nn.Module):
        def forward(self, filters: Tensor, minimap: Tensor, F_m: Tensor) -> Tensor:
            return masks_of_near_reach(Regions(filters, minimap, minimap, minimap[:, 0], {}), F_m, None)

    def given(n: int) -> tuple[Tensor, ...]:
        torch.manual_seed(n)
        return torch.randn(n, 9, 4), torch.randn(n, 9), torch.randn(n, 4, 6, 9)

    sizes = tuple({0: torch.export.Dim("maps")} for _ in range(3))
    exported = torch.export.export(Near(), given(2), dynamic_shapes=sizes).module()
    torch.testing.assert_close(exported(*given(5)), Near()(*given(5)))


def test_pooled_queries_start_as_what_their_cells_hold() -> None:
    decoder = decoder_of(masked=False, pooled=True)
    memory = [torch.zeros(2, 8, 1, 1), torch.zeros(2, 8, 2, 2), torch.randn(2, 8, 4, 6)]
    start = decoder._start(Pixels(torch.zeros(2, 8, 4, 6), memory, memory[1]), torch.tensor([1, 0, 1]), 3)
    cell = memory[-1][1, :, 2:, :3].mean((1, 2))  # the second picture's at the bottom left
    torch.testing.assert_close(start[0, 2], cell + decoder.query_feat[2])
    torch.testing.assert_close(start[2], start[0])
    assert decoder.query_embed[1].tolist() == sine_positions(torch.zeros(1, 8, 2, 2))[:, 0, 1].tolist()


def test_region_masks_are_filters_on_resized_features() -> None:
    """Resizing the masks, as the official code does, is the same as resizing the features."""
    filters, features = torch.randn(2, 3, 4), torch.randn(2, 4, 12, 16)
    late = F.interpolate(region_masks(filters, features, None), (5, 7), mode="bilinear", align_corners=False)
    early = F.interpolate(features, (5, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(region_masks(filters, early, None), late)


def test_ria_is_eq_6_2() -> None:
    torch.manual_seed(2)
    ria, image = RegionImageAttention(8, side=2), torch.randn(1, 8, 2, 3)
    places = [image[0, :, y, x] for y in range(2) for x in range(3)]
    keys = [F.gelu(ria.W_ik.weight @ place) for place in places]
    values = [F.gelu(ria.W_iv.weight @ place) for place in places]
    for r, query in enumerate(ria.Q_r):
        scores = [math.exp((query @ key).item()) for key in keys]
        collected = sum(s / sum(scores) * value for s, value in zip(scores, values, strict=True))
        torch.testing.assert_close(ria(image)[0, r], collected)


def test_word_attention_is_eq_6_3_over_the_real_words() -> None:
    torch.manual_seed(3)
    attention, F_r, F_t = WordAttention(8), torch.randn(1, 4, 8), torch.randn(1, 3, 8)
    found = attention(F_r, F_t, torch.tensor([[True, True, False]]))
    for r in range(4):
        query = F.gelu(attention.W_lq.weight @ F_r[0, r])
        scores = [math.exp((query @ F.gelu(attention.W_lk.weight @ word)).item()) for word in F_t[0, :2]]
        expected = sum(s / sum(scores) * word for s, word in zip(scores, F_t[0, :2], strict=True))
        torch.testing.assert_close(found[0, r], expected)


@pytest.mark.parametrize("regions", [True, False])
@pytest.mark.parametrize("words", [True, False])
def test_rla_sums_what_the_row_of_table_6_3_has(regions: bool, words: bool) -> None:
    torch.manual_seed(4)
    rla, F_r, F_t = RegionLanguage(8, heads=2, regions=regions, words=words), torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    keep = torch.tensor([[True, True, False], [True, True, True]])
    average = torch.stack([F_t[0, :2].mean(0), F_t[1].mean(0)])[:, None]
    total = F_r if regions and words else F_r * average
    if rla.regions is not None:
        total = total + rla.regions(F_r, F_r, F_r)
    if rla.words is not None:
        total = total + rla.words(F_r, F_t, keep)
    torch.testing.assert_close(rla(F_r, F_t, keep), rla.fuse(total))


# --- the official decoder ---------------------------------------------------------------------------------------------


def decoder_of(*, masked: bool, pooled: bool = False) -> MaskedRegionDecoder:
    torch.manual_seed(5)
    settings = {"dim": 8, "word_dim": 6, "heads": 2, "hidden": 8, "layers": 4, "side": 2}
    return MaskedRegionDecoder(**settings, masked=masked, language="first", pooled=pooled, exists="mean")


def test_a_region_sees_its_own_mask_and_everything_if_that_is_empty() -> None:
    decoder = decoder_of(masked=True)
    decoder.heads.filters = lambda x: torch.tensor([[[1.0, 0], [0, 1], [-1, -1], [0, 0]]])  # type: ignore[method-assign]
    features = torch.tensor([[2.0, -1, 0.5], [0, 3, -2]]).view(1, 2, 1, 3)
    visible = decoder._visible(torch.zeros(1, 4, 8), features, None)
    assert visible is not None
    # Third row: logits -2, -2, 1.5; fourth: all 0, which is not negative.
    assert visible[0].tolist() == [[True, False, True], [True, True, False], [False, False, True], [True] * 3]
    everywhere = decoder._visible(torch.zeros(1, 4, 8), -features.abs() - 1, None)
    assert everywhere is not None
    assert everywhere[0, 0].tolist() == [True] * 3  # empty, so released


def test_layers_read_the_memories_in_turn_and_language_once() -> None:
    decoder = decoder_of(masked=False)
    pixels = Pixels(torch.randn(1, 8, 8, 8), [torch.randn(1, 8, s, s) for s in (1, 2, 4)], torch.randn(1, 8, 2, 2))
    seen: list[int] = []
    for layer in decoder.layers:
        layer.image.register_forward_hook(lambda _, args, __: seen.append(args[2][0].shape[2]))
    words, keep = torch.randn(1, 3, 6), torch.ones(1, 3, dtype=torch.bool)
    decoder(pixels, None, words, keep)
    assert seen == [1, 4, 16, 1]
    assert [layer.language is not None for layer in decoder.layers] == [True, False, False, False]


def test_the_gate_of_language_is_a_tenth_of_a_sigmoid() -> None:
    language = decoder_of(masked=False).layers[0].language
    x, words, keep = torch.randn(1, 4, 8), torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        language.weight.fill_(0.7)
        inner = language.attend(x, x, language.attend.attention.keys(words, words))
        torch.testing.assert_close(language(x, words, keep) - x, 0.1 / (1 + math.exp(-0.7)) * inner)


def test_regions_agree_on_the_label_by_their_mean_or_their_peak() -> None:
    verdicts = torch.tensor([[0.0, 0.0, 0.0, 12.0], [-1.0, -1.0, -1.0, -1.0]])
    assert POOLS["mean"](verdicts).tolist() == [3, -1]
    expected = [math.log((3 + math.exp(12)) / 4), -1]
    assert POOLS["peak"](verdicts).tolist() == pytest.approx(expected)


# --- the pixel decoder ------------------------------------------------------------------------------------------------


def bilinear(level: Tensor, x: float, y: float) -> Tensor:
    """(c, h, w) at (x, y) in pixels, a pixel's centre at a whole number; zero beyond the map."""
    total = torch.zeros(level.shape[0], dtype=level.dtype)
    for iy in (math.floor(y), math.floor(y) + 1):
        for ix in (math.floor(x), math.floor(x) + 1):
            if 0 <= iy < level.shape[1] and 0 <= ix < level.shape[2]:
                total += (1 - abs(x - ix)) * (1 - abs(y - iy)) * level[:, iy, ix]
    return total


def test_deformable_attention_is_a_weighted_sum_of_sampled_points() -> None:
    torch.manual_seed(6)
    heads, points, dim, sizes = 2, 4, 8, [(1, 2), (2, 3), (4, 6)]
    attention = DeformableAttention(dim, heads=heads, points=points).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    levels = [torch.randn(1, dim, h, w).double() for h, w in sizes]
    query, memory = torch.randn(1, 32, dim).double(), flatten_levels(levels)
    centres = flatten_levels([cell_centres(level) for level in levels])[0]
    found = attention(query, memory, centres, sizes)
    value = attention.value(memory)
    for p in (0, 3, 17, 31):
        offsets = attention.offsets(query[0, p]).view(heads, 3, points, 2)
        weights = attention.weights(query[0, p]).view(heads, 3 * points).softmax(-1).view(heads, 3, points)
        out = []
        for head in range(heads):
            total, start = torch.zeros(dim // heads).double(), 0
            for s, (h, w) in enumerate(sizes):
                level = value[0, start : start + h * w].T.view(heads, dim // heads, h, w)[head]
                start += h * w
                for r in range(points):
                    x = float(centres[p, 0] * w + offsets[head, s, r, 0]) - 0.5
                    y = float(centres[p, 1] * h + offsets[head, s, r, 1]) - 0.5
                    total += weights[head, s, r] * bilinear(level, x, y)
            out.append(total)
        torch.testing.assert_close(found[0, p], attention.out(torch.cat(out)))


def test_deformable_attention_reads_the_same_by_rows_as_by_maps() -> None:
    """Without gradients on a CPU it takes another way; half of the points lie beyond the maps."""
    torch.manual_seed(6)
    sizes = [(1, 2), (2, 3), (4, 6)]
    attention = DeformableAttention(8, heads=2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    query, memory = torch.randn(3, 32, 8).double(), torch.randn(3, 32, 8).double()
    centres = flatten_levels([cell_centres(torch.zeros(1, 1, *size).double()) for size in sizes])[0]
    by_maps = attention(query, memory, centres, sizes)
    with torch.no_grad():
        by_rows = attention(query, memory, centres, sizes)
    torch.testing.assert_close(by_rows, by_maps.detach(), atol=1e-12, rtol=1e-12)


def test_in_16_bits_places_and_the_running_sum_stay_exact() -> None:
    """Learning under autocast all is in 32 bits, as in the official code; otherwise what takes time is not."""
    decoder = DeformablePixelDecoder((4, 6, 8, 8), dim=16, heads=2, hidden=24, layers=2)
    maps = [torch.randn(1, c, 32 // 2**k, 48 // 2**k) for k, c in enumerate((4, 6, 8, 8))]
    with torch.no_grad():
        exact = decoder(maps)
    layer, seen = decoder.layers[1], dict[str, torch.dtype]()
    parts = {"offsets": layer.attention.offsets, "weights": layer.attention.weights, "sum": layer.norm2}
    parts |= {"mlp": layer.mlp[0], "smooth": decoder.smooth[0]}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, inputs, found, name=name: seen.update({name: found.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        decoder(maps)
        assert set(seen.values()) == {torch.float32}
        with torch.no_grad():
            found = decoder(maps)
    assert {name for name, dtype in seen.items() if dtype == torch.float32} == {"offsets", "weights", "sum"}
    assert {seen["mlp"], seen["smooth"]} == {torch.bfloat16}
    torch.testing.assert_close(found.mask_features.float(), exact.mask_features, atol=0.05, rtol=0.05)


def test_sine_positions_tell_y_first_then_x() -> None:
    found = sine_positions(torch.zeros(1, 8, 3, 5, dtype=torch.float64))
    assert found.permute(1, 2, 0).is_contiguous()  # as the maps that they are added to: ten times as fast
    for y, x in ((0, 0), (2, 1)):
        ys, xs = (y + 1) / (3 + 1e-6) * 2 * math.pi, (x + 1) / (5 + 1e-6) * 2 * math.pi
        expected = [f(at / 10000**power) for at in (ys, xs) for power in (0, 0.5) for f in (math.sin, math.cos)]
        assert found[:, y, x].tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="in fours"):
        sine_positions(torch.zeros(1, 6, 3, 5))


# --- encoders ---------------------------------------------------------------------------------------------------------


def test_tiles_never_see_one_another() -> None:
    torch.manual_seed(7)
    pyramid = TiledPyramid(ConvNet((4, 4, 4, 4, 4), maps=4), side=2).eval()
    images = torch.randn(1, 3, 64, 128)
    changed = images.clone()
    changed[:, :, 32:, :64] += 1  # the tile at the bottom left
    unused = torch.empty(0)
    with torch.no_grad():
        before, rows = pyramid(images, unused, unused, torch.tensor([0, 0]))
        after, _ = pyramid(changed, unused, unused, torch.tensor([0, 0]))
        alone = pyramid.backbone(images[:, :, 32:, :64])
    assert rows is not None
    assert rows.tolist() == [0, 0]
    for a, b, tile, stride in zip(before, after, alone, (4, 8, 16, 32), strict=True):
        h, w = 64 // stride, 128 // stride
        assert a.shape == (1, 4, h, w)
        different = (a != b).any(1)[0]
        assert different[h // 2 :, : w // 2].any()
        different[h // 2 :, : w // 2] = False
        assert not different.any()
        torch.testing.assert_close(a[:, :, h // 2 :, : w // 2], tile)
    with pytest.raises(ValueError, match="3x3 equal tiles"):
        tile_size((64, 96), 3)


def test_the_image_is_read_once_where_no_language_is_in_the_encoder() -> None:
    model, batch = tiny(encoder="plain"), batch_of()
    read: Counter[str] = Counter()
    parts = {"encoder": model.encoder.backbone, "keys": model.region_decoder.layers[0].image.attention.k}
    for name, part in parts.items():
        part.register_forward_hook(lambda *call, name=name: read.update({name: call[1][0].shape[0]}))
    with torch.no_grad():
        model(batch)
    assert read == {"encoder": 2, "keys": 2}  # two images, three phrases


# --- losses -----------------------------------------------------------------------------------------------------------


def test_minimap_needs_all_four_pixels_in_the_middle_of_a_cell() -> None:
    masks = torch.zeros(1, 1, 16, 16)
    masks[..., 3:5, 3:5] = 1  # the middle of cell (0, 0) of 2 x 2
    masks[..., 3:5, 11:13] = 1
    masks[..., 3, 11] = 0  # three pixels are not enough
    masks[..., 8:11, 0:8] = 1  # much of cell (1, 0), but not its middle
    assert centre_minimap(masks, 2)[0].tolist() == [[1, 0], [0, 0]]
    assert cover_minimap(masks, 2)[0].tolist() == [[4 / 64, 3 / 64], [24 / 64, 0]]


@pytest.mark.parametrize("size", [480, 160, 224, 100, 70, 333])
def test_minimap_is_the_official_resizing(size: int) -> None:
    torch.manual_seed(8)
    masks = (F.interpolate(torch.rand(4, 1, 9, 9), (size, size), mode="bilinear") > 0.4).float()
    shares = F.interpolate(masks.double(), (10, 10), mode="bilinear", align_corners=False)[:, 0]
    expected = (shares + 1e-9).long()  # cut off: 1 only where nothing around is background
    assert expected.any()
    assert not expected.all()
    assert torch.equal(centre_minimap(masks, 10).long(), expected)


def test_losses_are_the_official_two_class_cross_entropies() -> None:
    model, batch = tiny().train(), batch_of()
    assert batch.masks is not None
    prediction = model(batch)
    terms = model.losses(prediction, batch)
    aux, weight = prediction.aux, torch.tensor([0.9, 1.1])
    masks = region_masks(aux["region_filters"], aux["mask_features"], None)
    channels = torch.einsum("nqk,nqhw->nkhw", aux["minimap_channels"], masks)
    full = F.interpolate(channels, (64, 96), mode="bilinear", align_corners=False)
    mask = F.cross_entropy(full, batch.masks[:, 0].long(), weight=weight)
    cells = centre_minimap(batch.masks, 3).flatten(1).long()
    assert cells.any()
    assert not cells.all()
    minimap = F.cross_entropy(aux["minimap_channels"].transpose(1, 2), cells, weight=weight)
    absent = F.cross_entropy(aux["absent_channels"], torch.tensor([0, 0, 1]), weight=weight)
    expected = {"mask": 5 * mask, "minimap": 5 * 0.1 * minimap, "exists": 5 * 0.1 * absent}
    assert set(terms) == set(expected)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], msg=name)


def test_without_minimap_there_is_no_such_term() -> None:
    batch, model = batch_of(), tiny(minimap_weight=0.0, dice_weight=2.0)
    logits = torch.full((3, 1, 16, 24), -50.0)
    empty = Prediction(logits, torch.tensor([50.0, 50.0, -50.0]), {"minimap": torch.zeros(3, 3, 3)})
    terms = model.losses(empty, batch)
    assert set(terms) == {"mask", "dice", "exists"}
    assert float(terms["exists"]) == pytest.approx(0, abs=1e-6)
    assert 0 < float(terms["dice"]) <= 10


def test_weighted_bce_of_shares_lies_between_the_classes() -> None:
    logits, share = torch.tensor([0.3]), torch.tensor([0.25])
    assert float(weighted_bce(logits, share)) == pytest.approx(
        0.25 * math.log(1 + math.exp(-0.3)) + 0.75 * math.log(1 + math.exp(0.3))
    )
