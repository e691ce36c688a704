"""CLIP's parts against transformers, timm and plain loops; and the ways by which released weights come in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.errors import RefsegError
from refseg_cli.layers import encoders, vision
from refseg_cli.layers.clip import ClipText, PhraseReader, SpatialAttentionPool
from refseg_cli.layers.encoders import EncoderConfig, build_clip_pool, build_layers, build_text, build_vision
from refseg_cli.layers.language import SmallTransformer
from refseg_cli.layers.vision import VitLayers

WIDTH, LAYERS, VOCABULARY, POSITIONS, PROJECTION = 128, 2, 30, 9, 6
LENGTHS = torch.tensor([7, 1, 4])
KEEP = torch.arange(7) < LENGTHS[:, None]
END = VOCABULARY - 1


def phrases() -> Tensor:
    """(3, 7), ended by the largest id and padded with 0, as CLIP's tokeniser has them."""
    torch.manual_seed(1)
    tokens = torch.randint(1, END, (3, 7))
    tokens[torch.arange(3), LENGTHS - 1] = END
    return tokens * KEEP


@pytest.fixture(scope="module")
def theirs() -> Any:
    """transformers' text tower of random weights, its biases and norms far from where they start."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        max_position_embeddings=POSITIONS,
        projection_dim=PROJECTION,
        eos_token_id=END,
    )
    model = CLIPTextModelWithProjection(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def tower(source: Path | str = "", **changes: Any) -> ClipText:
    settings = {"dim": WIDTH, "layers": LAYERS, "positions": 7, "projection": PROJECTION, **changes}
    return ClipText(VOCABULARY, pretrained=str(source), **settings).eval()


def test_the_text_tower_is_transformers(theirs: Any, tmp_path: Path) -> None:
    """From a folder that transformers wrote, with more positions than the phrases need."""
    theirs.save_pretrained(tmp_path)
    ours, tokens = tower(tmp_path), phrases()
    said = PhraseReader(ours)(tokens, KEEP)
    expected = theirs(input_ids=tokens, output_hidden_states=True)
    torch.testing.assert_close(said.words, expected.last_hidden_state, atol=2e-5, rtol=0)
    torch.testing.assert_close(said.sentence, expected.text_embeds, atol=2e-5, rtol=0)
    assert len(said.ends) == LAYERS
    for end, states in zip(said.ends, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(end, states[torch.arange(3), LENGTHS - 1], atol=2e-5, rtol=0)


def in_openai_names(model: Any) -> dict[str, Tensor]:
    """A transformers tower under the names of OpenAI's release, beside a tensor of the image tower."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in model.state_dict().items()}
    weights = {
        "visual.conv1.weight": torch.zeros(2, 2),
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        weights[f"ln_final.{kind}"] = state[f"final_layer_norm.{kind}"]
        for n in range(LAYERS):
            block, layer = f"transformer.resblocks.{n}", f"encoder.layers.{n}"
            qkv = [state[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            weights[f"{block}.attn.in_proj_{kind}"] = torch.cat(qkv)
            weights[f"{block}.attn.out_proj.{kind}"] = state[f"{layer}.self_attn.out_proj.{kind}"]
            for i in "12":
                weights[f"{block}.ln_{i}.{kind}"] = state[f"{layer}.layer_norm{i}.{kind}"]
            weights[f"{block}.mlp.c_fc.{kind}"] = state[f"{layer}.mlp.fc1.{kind}"]
            weights[f"{block}.mlp.c_proj.{kind}"] = state[f"{layer}.mlp.fc2.{kind}"]
    return weights


def test_both_formats_of_released_weights_give_one_tower(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "a")
    (tmp_path / "b").mkdir()
    save_file(in_openai_names(theirs), tmp_path / "b" / "open_clip_model.safetensors")
    a, b = tower(tmp_path / "a").state_dict(), tower(tmp_path / "b").state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_tower_without_projection_and_with_fewer_layers(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    ours = tower(tmp_path, projection=0, layers=1)
    said = PhraseReader(ours)(phrases(), KEEP)
    assert PhraseReader(ours).sentence_dim == WIDTH
    torch.testing.assert_close(said.sentence, said.words[torch.arange(3), LENGTHS - 1], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dim": 64}, r"positions is \[7, 128\], the recipe wants \[7, 64\]"),
        ({"layers": 3}, r"blocks\.2\.\S+ is missing"),
        ({"projection": 5}, r"projection\.weight is \[6, 128\], the recipe wants \[5, 128\]"),
        ({"positions": 12}, r"positions is \[9, 128\], the recipe wants \[12, 128\]"),
    ],
)
def test_weights_of_another_size_are_refused(theirs: Any, tmp_path: Path, changes: dict[str, int], says: str) -> None:
    theirs.save_pretrained(tmp_path)
    with pytest.raises(RefsegError, match=says) as caught:
        tower(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_missing_text_weights_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="cannot load CLIP's text tower") as caught:
        tower(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_words_see_only_what_comes_before_them() -> None:
    torch.manual_seed(0)
    text, tokens = tower(), phrases()
    words = text(tokens, KEEP)
    garbage = torch.where(KEEP, tokens, torch.randint_like(tokens, VOCABULARY))
    torch.testing.assert_close(text(garbage, KEEP), words, atol=0, rtol=0)
    changed = tokens.clone()
    changed[0, 3] = 1 + changed[0, 3] % (END - 1)
    moved = (text(changed, KEEP) - words)[0].abs().amax(-1)
    assert float(moved[:3].max()) == 0
    assert float(moved[3:].min()) > 1e-4


def test_a_phrase_longer_than_the_table_is_refused() -> None:
    config = EncoderConfig(text="clip", text_dim=64, text_pretrained=False, text_positions=9)
    with pytest.raises(RefsegError, match="10 tokens need more than CLIP's 9 positions"):
        build_text(config, vocab_size=9, max_tokens=10, dim=1)


def test_other_encoders_are_read_by_pooling() -> None:
    torch.manual_seed(0)
    reader = PhraseReader(SmallTransformer(VOCABULARY, max_tokens=7, dim=8, heads=2, layers=1, dropout=0.0)).eval()
    said = reader(phrases(), KEEP)
    assert said.words.shape == (3, 7, 8)
    assert said.sentence.shape == (3, reader.sentence_dim)
    assert said.ends == ()
    torch.testing.assert_close(said.sentence[1], said.words[1, 0])  # a phrase of one token


# --- attention pool ---------------------------------------------------------------------------------------------------


def pool_by_loops(pool: SpatialAttentionPool, vision: Tensor, places: Tensor) -> Tensor:
    """(c, h, w) -> (outputs, h, w), head by head and place by place. places: (c, h, w) positions at this size."""
    c, h, w = vision.shape
    tokens = (vision + places).flatten(1).T  # (p, c)
    attention, size = pool.attention, c // pool.attention.heads
    q, k, v = attention.q(tokens), attention.k(tokens), attention.v(tokens)
    heads = []
    for n in range(attention.heads):
        part = slice(n * size, (n + 1) * size)
        rows = []
        for place in range(h * w):
            weights = (k[:, part] @ q[place, part] / math.sqrt(size)).softmax(0)
            rows.append(weights @ v[:, part])
        heads.append(torch.stack(rows))
    attended = attention.out(torch.cat(heads, 1)).T.view(-1, h, w)
    return torch.relu(attended + pool.connect(vision[None])[0])


@pytest.mark.parametrize("size", [(3, 3), (2, 5)])
def test_the_pool_attends_from_every_place(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pool = SpatialAttentionPool(128, 6, grid=3).eval()
    vision = torch.randn(2, 128, *size)
    table = pool.positions.detach().view(3, 3, 128).permute(2, 0, 1)
    places = table if size == (3, 3) else F.interpolate(table[None], size, mode="bicubic", align_corners=False)[0]
    pooled = pool(vision)
    for n in range(2):
        torch.testing.assert_close(pooled[n], pool_by_loops(pool, vision[n], places), atol=1e-5, rtol=0)


def test_the_pool_starts_from_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's pool at its own size, all 7 x 7 places, is ours: its first place is the pooled one, which we leave out."""
    released = vision._from_timm("resnet50_clip", pretrained=False).head.eval()
    torch.nn.init.normal_(released.pos_embed)
    monkeypatch.setattr(encoders, "pretrained_clip_pool", lambda name, pretrained: released.state_dict())
    pool = build_clip_pool(
        EncoderConfig(backbone="resnet50_clip.openai"),
        build_vision(EncoderConfig(backbone="resnet50_clip", pretrained=False), size=(64, 64)),
        outputs=1024,
    ).eval()
    assert torch.equal(pool.attention.k.weight, released.k.weight)
    assert torch.equal(pool.attention.out.bias, released.proj.bias)
    assert torch.equal(pool.positions, released.pos_embed[1:])


# --- layers of a vision transformer -----------------------------------------------------------------------------------


def test_a_transformers_layers_as_they_leave_them() -> None:
    torch.manual_seed(0)
    vit = VitLayers("test_vit", size=(64, 96), pretrained=False, layers=(2, 3, 5)).eval()
    assert (vit.dim, vit.grid, len(vit.net.blocks)) == (64, (4, 6), 5)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = vit(images)
        x = vit.net.norm_pre(vit.net._pos_embed(vit.net.patch_embed(images)))
        expected = []
        for block in vit.net.blocks:
            x = block(x)
            expected.append(x)
    for layer, (token, places) in zip((2, 3, 5), found, strict=True):
        torch.testing.assert_close(token, expected[layer - 1][:, 0], atol=1e-6, rtol=0)
        rows = places.flatten(2).transpose(1, 2)
        torch.testing.assert_close(rows, expected[layer - 1][:, 1:], atol=1e-6, rtol=0)


def test_positions_are_resized_bilinearly(monkeypatch: pytest.MonkeyPatch) -> None:
    net = vision._from_timm("test_vit", pretrained=False, num_classes=0)
    torch.nn.init.normal_(net.pos_embed)
    released = net.pos_embed.detach().clone()
    monkeypatch.setattr(vision, "_from_timm", lambda *_, **__: net)
    vit = build_layers(EncoderConfig(backbone="test_vit", frozen=True), size=(64, 96), layers=(1,), dim=1, stride=1)
    table = released[:, 1:].view(1, 10, 10, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(table, (4, 6), mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(vit.net.pos_embed, torch.cat([released[:, :1], expected], 1))
    assert not any(p.requires_grad for p in vit.parameters())


def test_a_transformer_too_shallow() -> None:
    with pytest.raises(ValueError, match="layers \\[1, 7\\]: 'test_vit' has 1 to 6"):
        VitLayers("test_vit", size=(64, 64), pretrained=False, layers=(1, 7))


@pytest.mark.parametrize("layers", [(0, 1), (2, 5)])
def test_a_backbone_of_four_maps_has_four_layers(layers: tuple[int, ...]) -> None:
    config = EncoderConfig(backbone_channels=(4, 4, 4, 4, 4))
    with pytest.raises(ValueError, match="this backbone has 1 to 4"):
        build_layers(config, size=(64, 64), layers=layers, dim=4, stride=16)


def test_a_backbones_maps_as_layers() -> None:
    """Strides 4, 16 and 32 on the grid of stride 16: averaged, as it is, enlarged."""
    torch.manual_seed(0)
    config = EncoderConfig(backbone_channels=(4, 5, 6, 7, 8))
    layers = build_layers(config, size=(64, 96), layers=(1, 3, 4), dim=9, stride=16).eval()
    images = torch.randn(2, 3, 64, 96)
    found, maps = layers(images), layers.backbone(images)
    projected = [project(maps[n - 1]) for project, n in zip(layers.project, layers.layers, strict=True)]
    expected = [
        F.avg_pool2d(projected[0], 4),
        projected[1],
        F.interpolate(projected[2], (4, 6), mode="bilinear", align_corners=False),
    ]
    for (mean, ours), theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(mean, theirs.flatten(2).mean(-1))


@pytest.mark.parametrize("name", ["resnet101_clip", "resnet101_clip_gap"])
def test_clip_resnets_maps(name: str) -> None:
    with torch.device("meta"):
        backbone = build_vision(EncoderConfig(backbone=name, pretrained=False), size=(416, 416))
        shapes = [tuple(m.shape) for m in backbone(torch.zeros(1, 3, 416, 416))]
    assert shapes == [(1, 512, 52, 52), (1, 1024, 26, 26), (1, 2048, 13, 13)]
