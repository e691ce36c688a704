"""CRIS, as small as it gets."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {**VISION, **TEXT, "text_projection": 12, "dim": 16, "heads": 2, "hidden": 24, "layers": 2}
VARIANTS = {
    "": {},
    "dice, no dropout": {"dice_weight": 1.0, "dropout": 0.0},
    "clip": {"text": "clip", "text_dim": 16, "text_layers": 2},
    "words of another width": {"text": "clip", "text_dim": 8, "text_layers": 1},
}
LOSS_ONLY = ("dice, no dropout",)
