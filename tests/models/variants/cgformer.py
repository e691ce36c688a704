"""CGFormer, as small as it gets, and its ablations: table 3 of the paper."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "word_dim": 16,
    "word_heads": 2,
    "pwam_heads": [2, 2, 2, 2],
    "dim": 8,
    "hidden": 12,
    "head_dims": [6, 4],
}
FULL = {
    "tokens": 3,
    "group_layers": [0, 1, 2],
    "load": [True, True, True],
    "readers": "all",
    "learnable_tau": True,
    "referent": "similar",
    "contrast_weight": 0.1,
}
SINGLE = {**FULL, "levels": "single"}
FIRST = {**SINGLE, "assignment": "attention", "contrast_weight": 0.0, "referent": "first"}
VARIANTS = {
    "": {},
    "3.1 baseline": {"tokens": 0},
    "3.2 one token": {**FIRST, "tokens": 1},
    "3.3 N tokens": FIRST,
    "3.4 grouping": {**SINGLE, "assignment": "soft"},
    "3.5 hard assignment": SINGLE,
    "3.6 multi-scale": {**FULL, "levels": "parallel"},
    "3.7 full": FULL,
    "3.9 without cosine": {**FULL, "similarity": "dot"},
    "3.10 without learnable tau": {**FULL, "learnable_tau": False},
    "timm swin, bert": {
        "backbone": "swin_of_tests",
        "text": "bert",
        "text_dim": 32,
        "text_layers": 2,
        "dropout": 0.0,
    },
}
LOSS_ONLY = ("3.10 without learnable tau",)
