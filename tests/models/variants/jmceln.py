"""JMCELN, as small as it gets, and its ablations: table 2 of the paper."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "text_layers": 1,
    "dim": 16,
    "heads": 2,
    "window": 4,
    "dilations": [2, 3, 4],
    "stages": 2,
    "embeddings": 3,
    "mask_dims": [8, 4],
}
VARIANTS = {
    "": {},
    "2.1 baseline": {"relation": "none", "stages": 0},
    "2.2 relations": {"stages": 0},
    "2.3 cascade": {"relation": "none", "alignment": "none"},
    "2.4 no alignment": {"alignment": "none"},
    "2.6 not adaptive": {"adaptive": False},
    "clip": {"text": "clip", "text_dim": 16, "text_layers": 1, "text_projection": 12},
    "dice, no-target head": {"dice_weight": 1.0, "no_target_head": True},
    "window that divides nothing": {"window": 5},
}
