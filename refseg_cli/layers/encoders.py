"""The two encoders that every model begins with, as settings and as modules.

Users: every model; a model's Config inherits `EncoderConfig` and sets the paper's encoders as its defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refseg_cli.errors import RefsegError
from refseg_cli.layers.clip import POSITIONS, ClipText, SpatialAttentionPool
from refseg_cli.layers.convnet import ConvNet
from refseg_cli.layers.language import Bert, BiGru, BiLstm, SmallTransformer, TextEncoder
from refseg_cli.layers.video_swin import VideoSwin
from refseg_cli.layers.vision import (
    Backbone,
    StageLayers,
    TimmBackbone,
    VitLayers,
    freeze,
    pretrained_clip_pool,
)
from refseg_cli.ranges import Count, CountFrom0, CountOrAll, Share


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Which encoders a model has, and where their weights come from."""

    backbone: str = "convnet"  # `convnet` (small, ours), `video_swin_b` (_s, _t) of clips, or any timm model with maps
    backbone_channels: tuple[Count, ...] = ()  # only for `convnet`: stem and four stages
    # The backbone's weights: timm's from the hub; a file (.safetensors, .pth); or an installed package that holds one
    pretrained: bool | str = True
    frozen: bool = False  # no gradients for the backbone, and its stored batch statistics
    drop_path: Share | None = None  # largest stochastic depth rate in a timm model; without it timm's own
    text: Literal["gru", "lstm", "transformer", "bert", "clip"] = "transformer"
    text_name: str = "bert-base-uncased"  # hub name or folder of pretrained weights
    text_pretrained: bool = True
    text_layers: CountFrom0 = 0  # 0: 2 for `transformer`, 12 for `bert` (BERT-base) and `clip`
    text_dim: Count = 768  # only for `bert` and `clip`: its width (CLIP's towers: 512)
    text_positions: Count = POSITIONS  # only for `clip`: rows of its position table
    text_projection: CountFrom0 = 0  # only for `clip`: channels of its sentence feature; 0: as the end token's state is
    text_trained: CountOrAll = -1  # only for `bert`: its first layers that learn, no other part of it does; -1: all
    embedding_dim: Count = 300  # only for `gru` and `lstm`; GloVe's
    embedding_trainable: bool = True  # only for `gru` and `lstm`


def build_vision(config: EncoderConfig, *, size: tuple[int, int], maps: int = 3) -> Backbone:
    """The image encoder that gives the `maps` coarsest of its feature maps.

    Args:
        size: (height, width) of the network input in pixels; window attention is laid out for it.

    Raises:
        RefsegError: timm has no such model, or its weights are not to be had or do not fit.
    """
    backbone: Backbone
    if config.backbone == "convnet":
        backbone = ConvNet(config.backbone_channels, maps=maps)
    elif config.backbone.startswith("video_swin"):
        backbone = VideoSwin(config.backbone, pretrained=config.pretrained, maps=maps, drop_path=config.drop_path)
    else:
        backbone = TimmBackbone(
            config.backbone, size=size, pretrained=config.pretrained, maps=maps, drop_path=config.drop_path
        )
    return freeze(backbone) if config.frozen else backbone


def build_layers(
    config: EncoderConfig, *, size: tuple[int, int], layers: tuple[int, ...], dim: int, stride: int
) -> VitLayers | StageLayers:
    """The image encoder that gives the class token and the map of these of its layers, counted from 1, ascending.

    Args:
        dim, stride: channels and grid where it is no vision transformer, which has its own.

    Raises:
        RefsegError: timm has no such model, or its weights are not to be had or do not fit.
        ValueError: it has no such layer.
    """
    if "vit" not in config.backbone:
        grid = (size[0] // stride, size[1] // stride)
        return StageLayers(build_vision(config, size=size, maps=4), dim=dim, grid=grid, layers=layers)
    vit = VitLayers(config.backbone, size=size, pretrained=config.pretrained, layers=layers)
    return freeze(vit) if config.frozen else vit


def build_clip_pool(config: EncoderConfig, backbone: Backbone, *, outputs: int) -> SpatialAttentionPool:
    """The attention pool over a backbone's last map; it starts from CLIP's where the backbone does.

    Raises:
        RefsegError: its weights are not to be had or do not fit.
    """
    pool = SpatialAttentionPool(backbone.channels[-1], outputs)
    if config.pretrained and "_clip" in config.backbone:
        pool.take(pretrained_clip_pool(config.backbone, config.pretrained))
    return pool


def build_text(
    config: EncoderConfig, *, vocab_size: int, max_tokens: int, dim: int, heads: int = 1, dropout: float = 0.0
) -> TextEncoder:
    """The text encoder. dim, heads, dropout: of the kinds that have no published size (`gru`, `lstm`, `transformer`).

    Raises:
        RefsegError: the pretrained weights cannot be fetched, or are of another size.
    """
    if config.text in ("gru", "lstm"):
        recurrent = BiLstm if config.text == "lstm" else BiGru
        return recurrent(
            vocab_size,
            embedding_dim=config.embedding_dim,
            dim=dim,
            dropout=dropout,
            trainable=config.embedding_trainable,
        )
    if config.text == "clip":
        if max_tokens > config.text_positions:
            raise RefsegError(
                f"phrases of {max_tokens} tokens need more than CLIP's {config.text_positions} positions",
                hint="lower text.max_tokens or raise model.text_positions",
            )
        return ClipText(
            vocab_size,
            dim=config.text_dim,
            layers=config.text_layers or 12,
            positions=config.text_positions,
            projection=config.text_projection,
            pretrained=config.text_name if config.text_pretrained else "",
        )
    if config.text == "transformer":
        return SmallTransformer(
            vocab_size, max_tokens=max_tokens, dim=dim, heads=heads, layers=config.text_layers or 2, dropout=dropout
        )
    return Bert(
        config.text_name,
        vocab_size=vocab_size,
        dim=config.text_dim,
        layers=config.text_layers or 12,
        pretrained=config.text_pretrained,
        trained=config.text_trained,
    )
