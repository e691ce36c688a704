"""CARIS, as small as it gets; its paper's ablations are not known to us."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "text_layers": 1,
    "word_dim": 16,
    "word_heads": 2,
    "dim": 16,
    "heads": 2,
    "attention_width": 24,
    "hidden": 24,
    "layers": 2,
    "prompts": 3,
}
VARIANTS = {
    "": {},
    "three grids, one prompt": {"pools": [1, 2, 3], "prompts": 1},
    "wide": {"dim": 256, "layers": 1},  # where the last convolution is split between image and phrase
    "bert": {"text": "bert", "text_dim": 32, "text_layers": 2},
    "timm swin": {"backbone": "swin_of_tests"},
}
# Added to both classes alike, it leaves their difference as it is.
NO_GRADIENT = dict.fromkeys(VARIANTS, r"head\.tokens\.4\.bias")
