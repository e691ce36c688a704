"""Video Swin against an independent reading of it, in the authors' names; and its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.errors import RefsegError
from refseg_cli.layers import video_swin
from refseg_cli.layers.video_swin import SIZES, WINDOW, VideoSwin

Weights = dict[str, Tensor]
TINY = video_swin.Size(8, (2, 2, 2, 1), (1, 2, 4, 8), 0.0)


def official_shapes(size: video_swin.Size, patch_frames: int = 2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of SwinTransformer/Video-Swin-Transformer's `backbone`, by its published configuration."""
    wd, wh, ww = WINDOW
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (size.width, 3, patch_frames, 4, 4),
        "patch_embed.proj.bias": (size.width,),
        "patch_embed.norm.weight": (size.width,),
        "patch_embed.norm.bias": (size.width,),
        "norm.weight": (size.width * 8,),
        "norm.bias": (size.width * 8,),
    }
    for stage, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True)):
        c = size.width * 2**stage
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            shapes |= {f"{at}.{norm}.{kind}": (c,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
            shapes |= {
                f"{at}.attn.relative_position_bias_table": ((2 * wd - 1) * (2 * wh - 1) * (2 * ww - 1), heads),
                f"{at}.attn.relative_position_index": (wd * wh * ww, wd * wh * ww),
                f"{at}.attn.qkv.weight": (3 * c, c),
                f"{at}.attn.qkv.bias": (3 * c,),
                f"{at}.attn.proj.weight": (c, c),
                f"{at}.attn.proj.bias": (c,),
                f"{at}.mlp.fc1.weight": (4 * c, c),
                f"{at}.mlp.fc1.bias": (4 * c,),
                f"{at}.mlp.fc2.weight": (c, 4 * c),
                f"{at}.mlp.fc2.bias": (c,),
            }
        if stage < 3:
            at = f"layers.{stage}.downsample"
            shapes |= {f"{at}.reduction.weight": (2 * c, 4 * c)}
            shapes |= {f"{at}.norm.weight": (4 * c,), f"{at}.norm.bias": (4 * c,)}
    return shapes


def official(size: video_swin.Size) -> Weights:
    """Random weights in the authors' names, as a file of theirs has them."""
    torch.manual_seed(4)
    weights = {}
    for name, shape in official_shapes(size).items():
        if name.endswith("relative_position_index"):
            weights[name] = torch.zeros(shape, dtype=torch.int64)
        elif "norm" in name and name.endswith("weight"):
            weights[name] = 1 + 0.1 * torch.randn(shape)
        else:
            weights[name] = torch.randn(shape) / math.sqrt(shape[-1] if len(shape) > 1 else 4)
    return weights


def saved(path: Path, weights: Mapping[str, Tensor], prefix: str = "backbone.") -> Path:
    classifier = {"cls_head.fc_cls.weight": torch.zeros(600, 8), "cls_head.fc_cls.bias": torch.zeros(600)}
    torch.save({"meta": {}, "state_dict": {prefix + k: v for k, v in weights.items()} | classifier}, path)
    return path


# ---- the network, read again: tokens by their places, attention by who may see whom


def attention(x: Tensor, w: Weights, at: str, *, heads: int, shifted: bool) -> Tensor:
    """One clip (f, h, w, c): every token attends to those of its window."""
    size = x.shape[:3]
    window = [min(n, most) for n, most in zip(size, WINDOW, strict=True)]
    shift = [most // 2 if shifted and n > most else 0 for n, most in zip(size, WINDOW, strict=True)]
    padded = [-(-n // side) * side for n, side in zip(size, window, strict=True)]
    x = F.pad(x, (0, 0, 0, padded[2] - size[2], 0, padded[1] - size[1], 0, padded[0] - size[0]))
    places = torch.cartesian_prod(*(torch.arange(n) for n in padded))  # (tokens, 3) before the shift
    tokens = x.flatten(0, 2)
    rolled = torch.stack([(places[:, k] - shift[k]) % padded[k] for k in range(3)], 1)
    cell = torch.stack([rolled[:, k] // window[k] for k in range(3)], 1)
    # What was rolled round the border lies in a window with strangers, which it must not see.
    wrapped = torch.stack([places[:, k] < shift[k] for k in range(3)], 1)
    key = torch.cat([cell, wrapped.long()], 1)
    sees = (key[:, None] == key[None]).all(-1)
    inside = rolled % torch.tensor(window)
    full = list(WINDOW)
    # As published: a window cut down to the clip takes the first rows of the index of the full one.
    order = (inside[:, 0] * window[1] + inside[:, 1]) * window[2] + inside[:, 2]
    of_full = torch.stack([order // (full[1] * full[2]), order // full[2] % full[1], order % full[2]], 1)
    apart = of_full[:, None] - of_full[None] + torch.tensor(full) - 1
    index = (apart[..., 0] * (2 * full[1] - 1) + apart[..., 1]) * (2 * full[2] - 1) + apart[..., 2]
    bias = w[f"{at}.relative_position_bias_table"][index.clamp(min=0)].permute(2, 0, 1)
    q, k, v = F.linear(tokens, w[f"{at}.qkv.weight"], w[f"{at}.qkv.bias"]).unflatten(1, (3, heads, -1)).unbind(1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1]) + bias
    # Upstream subtracts 100 from strangers of the same window rather than forbid them.
    same_cell = (cell[:, None] == cell[None]).all(-1)
    scores = scores.masked_fill(~same_cell, -math.inf) - 100.0 * (same_cell & ~sees)
    mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
    out = F.linear(mixed, w[f"{at}.proj.weight"], w[f"{at}.proj.bias"]).unflatten(0, padded)
    return out[: size[0], : size[1], : size[2]]


def norm(x: Tensor, w: Weights, at: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{at}.weight"], w[f"{at}.bias"])


def read_again(clip: Tensor, w: Weights, size: video_swin.Size) -> list[Tensor]:
    """clip (f, 3, H, W) -> the four stages' maps (f, c, h, w)."""
    kernel = w["patch_embed.proj.weight"].sum(2)
    x = F.conv2d(clip, kernel, w["patch_embed.proj.bias"], stride=4).permute(0, 2, 3, 1)
    x, maps = norm(x, w, "patch_embed.norm"), []
    for stage, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True)):
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            x = x + attention(norm(x, w, f"{at}.norm1"), w, f"{at}.attn", heads=heads, shifted=block % 2 == 1)
            hidden = F.gelu(F.linear(norm(x, w, f"{at}.norm2"), w[f"{at}.mlp.fc1.weight"], w[f"{at}.mlp.fc1.bias"]))
            x = x + F.linear(hidden, w[f"{at}.mlp.fc2.weight"], w[f"{at}.mlp.fc2.bias"])
        maps.append(x.permute(0, 3, 1, 2))
        if stage < 3:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            at = f"layers.{stage}.downsample"
            x = F.linear(norm(torch.cat(corners, -1), w, f"{at}.norm"), w[f"{at}.reduction.weight"])
    return maps


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> video_swin.Size:
    monkeypatch.setitem(SIZES, "video_swin_tiny", TINY)
    return TINY


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_it_is_what_the_authors_publish(frames: int, tiny: video_swin.Size, tmp_path: Path) -> None:
    """Windows that are shifted, padded and cut down, in time as in space; 9 frames are more than a window."""
    weights = official(tiny)
    net = VideoSwin("video_swin_tiny", pretrained=str(saved(tmp_path / "official.pth", weights)), maps=4).eval()
    clips = torch.randn(2, frames, 3, 68, 40)
    with torch.inference_mode():
        found = net.of_clips(clips.flatten(0, 1), frames)
        for clip in range(2):
            for ours, theirs in zip(found, read_again(clips[clip], weights, tiny), strict=True):
                torch.testing.assert_close(ours.unflatten(0, (2, frames))[clip], theirs, atol=2e-4, rtol=1e-4)
    assert [m.shape[1] for m in found] == list(net.channels) == [8, 16, 32, 64]


def test_the_base_model_has_the_published_layout(tmp_path: Path) -> None:
    """swin_base_patch244_window877_kinetics600_22k.py: width 128, depths 2 2 18 2, heads 4 8 16 32, window 8 7 7."""
    size = SIZES["video_swin_b"]
    assert size[:3] == (128, (2, 2, 18, 2), (4, 8, 16, 32))
    with torch.device("meta"):
        net = VideoSwin("video_swin_b", pretrained=False, maps=4)
    given = {name: torch.empty(shape, device="meta") for name, shape in official_shapes(size).items()}
    renamed = video_swin.rename(given, video_swin.OFFICIAL_KEYS)
    expected = {k: v.shape for k, v in net.state_dict().items() if not k.endswith("relative_position_index")}
    assert {k: v.shape for k, v in renamed.weights.items()} == expected
    assert renamed.unknown == []
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(87.6e6, rel=0.01)  # 88.1 M with a head of 400


def test_torchvision_s_own_files_fit_too(tiny: video_swin.Size, tmp_path: Path) -> None:
    net = VideoSwin("video_swin_tiny", pretrained=False)
    theirs = {k: v for k, v in net.state_dict().items() if k != "patch_embed.proj.weight"}
    theirs["patch_embed.proj.weight"] = net.patch_embed.proj.weight.detach()[:, :, None].repeat(1, 1, 2, 1, 1) / 2
    file = tmp_path / "swin3d.pth"
    torch.save(theirs | {"norm.weight": torch.ones(64), "head.weight": torch.ones(400, 64)}, file)
    again = VideoSwin("video_swin_tiny", pretrained=str(file))
    for name, value in net.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


def test_a_frame_by_itself_is_a_clip_of_one(tiny: video_swin.Size) -> None:
    net = VideoSwin("video_swin_tiny", pretrained=False).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        for one, other in zip(net(images), net.of_clips(images, 1), strict=True):
            torch.testing.assert_close(one, other)
        assert not torch.allclose(net(images)[0], net.of_clips(images, 3)[0])


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_other_weights_are_refused(fault: str, tiny: video_swin.Size, tmp_path: Path) -> None:
    weights = official(tiny)
    if fault == "missing":
        del weights["layers.0.blocks.0.attn.proj.bias"]
    elif fault == "unknown":
        weights["layers.0.blocks.7.norm1.bias"] = torch.zeros(8)
    else:
        weights["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros(9, 1)
    with pytest.raises(RefsegError, match=r"official\.pth: not the weights of video_swin_tiny"):
        VideoSwin("video_swin_tiny", pretrained=str(saved(tmp_path / "official.pth", weights)))


def test_pretrained_needs_a_file(tiny: video_swin.Size) -> None:
    with pytest.raises(RefsegError, match="no place on the hub"):
        VideoSwin("video_swin_tiny", pretrained=True)
    with pytest.raises(RefsegError, match="unknown backbone"):
        VideoSwin("video_swin_x", pretrained=False)
