"""VLT, as small as it gets, and its ablations: tables 4.1 to 4.6 of the thesis."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "text": "gru",
    "embedding_dim": 10,
    "dim": 16,
    "heads": 2,
    "hidden": 24,
    "query_count": 3,
    "mask_dims": [8, 6, 4],
    "masked_min_words": 2,
}
VARIANTS = {
    "": {},
    "4.1 conv7": {"body": "conv7"},
    "4.2 words": {"queries": "words"},
    "4.2 learned": {"queries": "learned"},
    "4.3 one query": {"query_count": 1},
    "4.3 no balance": {"balance": False},
    "4.4 tile": {"fusion": "tile"},
    "4.4 tile_conv4": {"fusion": "tile_conv4"},
    "4.5 no contrast": {"contrast": "none"},
    "4.5 cl": {"contrast": "cl"},
    "4.6 random": {"masking": "random"},
    "4.6 threshold": {"masking": "threshold"},
    "bert": {"text": "bert", "text_dim": 32, "text_layers": 2},
    "small transformer, no-target head, dice": {"text": "transformer", "no_target_head": True, "dice_weight": 1.0},
    "words, no-target head": {"queries": "words", "no_target_head": True},
    "conv7, no-target head": {"body": "conv7", "no_target_head": True},
    "detail": {"detail": 6, "mask_dims": [6, 4], "dropout": 0.0},
    "timm convnet": {"backbone": "resnet10t"},
    "timm swin": {"backbone": "swin_of_tests"},
}
LOSS_ONLY = ("4.5 no contrast", "4.5 cl", "4.6 random", "4.6 threshold")
# As many mask channels as tokens: the length is fixed.
FIXED_LENGTH = ("4.2 words", "words, no-target head")
# A query that is alone attends to itself whatever its keys are.
NO_GRADIENT = {"4.3 one query": r"self_attention"}
