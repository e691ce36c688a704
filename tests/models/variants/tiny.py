"""Encoders of a few thousand weights, shared by the architectures' variants."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer, swin_tiny_patch4_window7_224

VISION = {"backbone": "convnet", "backbone_channels": [4, 6, 8, 8, 8], "pretrained": False}
TEXT = {"text": "transformer", "text_pretrained": False}


@register_model
def swin_of_tests(**settings: Any) -> SwinTransformer:
    """timm's Swin-T, narrow and with one pair of layers, plain and shifted, in each of the stages that have windows."""
    small = {"embed_dim": 8, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 2, 2)}
    return swin_tiny_patch4_window7_224(**{**small, **settings})
