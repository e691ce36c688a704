"""Encoders of a few thousand weights, shared by the architectures' variants."""

from __future__ import annotations

VISION = {"backbone": "convnet", "backbone_channels": [4, 6, 8, 8, 8], "pretrained": False}
TEXT = {"text": "transformer", "text_pretrained": False}
