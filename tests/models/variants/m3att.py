"""M3Att, as small as it gets, and its ablations: tables 5.1 to 5.3 of the thesis."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "frozen": False,
    "text": "gru",
    "embedding_dim": 10,
    "dim": 16,
    "heads": 2,
    "hidden": 24,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "mask_dims": [8, 6, 4],
}
VARIANTS = {
    "": {},
    "5.1 one layer": {"decoder_layers": 1},
    "5.1 independent": {"attention": "independent"},
    "5.1 generic": {"attention": "generic"},
    "5.2 #0": {"attention": "generic", "interaction": "none", "reconstruction_weight": 0.0},
    "5.2 #1": {"interaction": "none", "reconstruction_weight": 0.0},
    "5.2 #2": {"reconstruction_weight": 0.0},
    "5.2 #3": {"interaction": "imi*", "reconstruction_weight": 0.0},
    "5.3 vlt": {"mask_decoder": "vlt"},
    "5.3 concat": {"mask_decoder": "concat"},
    "bi-LSTM, feed-forward, plain scores": {"text": "lstm", "decoder_hidden": 24, "interaction_scaled": False},
    "bert": {"text": "bert", "text_dim": 32, "text_layers": 2},
    "tiny": {
        "text": "transformer",
        "no_target_head": True,
        "dice_weight": 1.0,
        "word_norm": "layer",
        "mask_dims": [6, 4],
        "dropout": 0.0,
    },
    "frozen": {"frozen": True},
    "timm swin": {"backbone": "swin_of_tests"},
}
LOSS_ONLY = ("5.2 #2",)
# Softmax over places does not see what is added to all places alike, softmax over words not what is added to all words.
NO_GRADIENT = {
    "5.1 independent": r"lav\.places\.bias|val\.words\.bias",
    "5.1 generic": r"lav\.places\.bias",
    "5.2 #0": r"lav\.places\.bias",
}
