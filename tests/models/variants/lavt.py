"""LAVT, as small as it gets, and what its two official versions differ in."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {**VISION, **TEXT, "word_dim": 16, "word_heads": 2, "dim": 8}
VARIANTS = {
    "": {},
    "many heads": {"pwam_heads": [2, 4, 2, 8]},
    "quarter size, dice": {"full_size": False, "loss": "dice"},
    "lavt_one": {"text": "bert", "text_dim": 32, "text_layers": 3, "text_trained": 2, "text_dropout": True},
    "timm convnet": {"backbone": "resnet10t"},
    "timm swin": {"backbone": "swin_of_tests"},
}
