"""ISFP, as small as it gets, and its ablations: table I, section IV-E, and Eq. 3.2 of the thesis.

`oracle` is not here: it reads annotations, which the contract's single calls lack; see test_isfp.py.
"""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "frozen": False,
    "text": "gru",
    "embedding_dim": 10,
    "language_dim": 12,
    "heads": 2,
    "pyramid_dim": 8,
    "fused_dim": 12,
    "instance_dim": 8,
    "mask_dim": 8,
    "rates": [2, 3],
    "refine_dim": 6,
    "theta": 0.0,  # else random masks teach the refinement nothing
}
VARIANTS = {
    "": {},
    "I baseline": {"identification": "none", "refinement": False},
    "I IEM": {"identification": "conv", "refinement": False},
    "I IEM + FPM": {"refinement": False},
    "I IEM + RM": {"identification": "conv"},
    "IV-E no language in masks": {"language_in_masks": False, "grid": [8, 8]},  # phrases differ by cell alone
    "Eq. 3.2": {"second_projection": True},
    "own grid, frozen": {"grid": [5, 4], "frozen": True},
    "no-target head, small transformer": {
        "no_target_head": True,
        "text": "transformer",
        "text_layers": 1,
        "dropout": 0.0,
    },
    "bi-LSTM": {"text": "lstm"},
}
