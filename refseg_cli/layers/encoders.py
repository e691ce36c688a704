"""The two encoders that every model begins with, as settings and as modules.

Users: every model; a model's Config inherits `EncoderConfig` and sets the paper's encoders as its defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refseg_cli.layers.language import Bert, BiGru, SmallTransformer, TextEncoder
from refseg_cli.layers.vision import Backbone, ConvNet, TimmBackbone, freeze


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Which encoders a model has, and where their weights come from."""

    backbone: str = "convnet"  # `convnet` (small, ours) or any timm model with feature maps
    backbone_channels: tuple[int, ...] = ()  # only for `convnet`: stem and four stages
    pretrained: bool = True  # timm's weights
    frozen: bool = False  # no gradients for the backbone, and its stored batch statistics
    text: Literal["gru", "transformer", "bert"] = "transformer"
    text_name: str = "bert-base-uncased"  # hub name or folder of pretrained weights
    text_pretrained: bool = True
    text_layers: int = 0  # 0: 2 for `transformer`, 12 for `bert` (BERT-base)
    text_dim: int = 768  # only for `bert`: its width
    embedding_dim: int = 300  # only for `gru`; GloVe's
    embedding_trainable: bool = True  # only for `gru`


def build_vision(config: EncoderConfig, *, size: tuple[int, int], maps: int = 3) -> Backbone:
    """The image encoder that gives the `maps` coarsest of its feature maps.

    Args:
        size: (height, width) of the network input in pixels; window attention is laid out for it.

    Raises:
        RefsegError: timm has no such model, or its weights cannot be fetched.
    """
    backbone: Backbone
    if config.backbone == "convnet":
        backbone = ConvNet(config.backbone_channels, maps=maps)
    else:
        backbone = TimmBackbone(config.backbone, size=size, pretrained=config.pretrained, maps=maps)
    return freeze(backbone) if config.frozen else backbone


def build_text(
    config: EncoderConfig, *, vocab_size: int, max_tokens: int, dim: int, heads: int = 1, dropout: float = 0.0
) -> TextEncoder:
    """The text encoder. dim, heads, dropout: of the kinds that have no published size (`gru`, `transformer`).

    Raises:
        RefsegError: the pretrained weights cannot be fetched, or are of another size.
    """
    if config.text == "gru":
        return BiGru(
            vocab_size,
            embedding_dim=config.embedding_dim,
            dim=dim,
            dropout=dropout,
            trainable=config.embedding_trainable,
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
    )
