"""ASDA, as small as it gets, and its ablations: tables 2 to 5."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "low_layers": [1, 2],
    "mid_layers": [2, 3],
    "high_layer": 4,
    "scored_with": "sentence",
    "dim": 16,
    "heads": 2,
    "attention_layers": 1,
    "hidden": 16,
    "word_hidden": 24,
    "masks": 4,
    "upsamplings": 2,
}
CLIP = {
    "text": "clip",
    "text_dim": 16,
    "text_layers": 3,
    "scored_with": "layers",
    "backbone": "test_vit",
    "low_layers": [1, 2],
    "mid_layers": [3],
    "high_layer": 4,
}
VARIANTS = {
    "": {},
    "2a baseline": {"aggregator": "high", "aligner": "none"},
    "2b manual": {"aggregator": "concat", "aligner": "none", "low_layers": [2], "mid_layers": [3]},
    "2c AFS": {"aggregator": "concat", "aligner": "none"},
    "2d SFA": {"aligner": "none"},
    "2e single branch": {"aligner": "single"},
    "3 four layers": {"attention_layers": 4},
    "4 two masks": {"masks": 2},
    "5 MLP": {"scorer": "mlp"},
    "5 convolution": {"scorer": "conv"},
    "as the paper says": {
        "aggregator": "eq5",
        "mask_activation": "sigmoid",
        "coefficients": "mean",
        "focal_gamma": 2.0,
        "focal_alpha": 0.25,
    },
    "as in the tiny recipe": {"background": -2.0, "pyramid_dim": 8, "mask_dim": 6, "dropout": 0.0},
    "CLIP": {**CLIP},
    "CLIP, padding hidden": {**CLIP, "word_padding": False},
    "soft selection": {"gradient": "soft"},
    "selection as it starts": {"gradient": "none"},
}
FIXED_LENGTH = ("CLIP",)
