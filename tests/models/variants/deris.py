"""DeRIS, as small as it gets: with its own table of words and patches of a small copy; and what is ours."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "frozen": False,
    "vocabulary": 0,
    "places": 9,
    "grid": [2, 3],
    "patch": 16,
    "width": 16,
    "width_heads": 2,
    "width_hidden": 24,
    "width_layers": 2,
    "dim": 16,
    "heads": 2,
    "pixel_layers": 1,
    "pixel_hidden": 24,
    "queries": 4,
    "layers": 3,
    "hidden": 24,
    "existence_layers": 1,
    "existence_hidden": 24,
    "points": 200,
}
VARIANTS = {
    "": {},
    "for small models": {
        "words": "encoder",
        "text_layers": 1,
        "patches": "map",
        "pixel_decoder": "dense",
        "among": "queries",
        "score_threshold": 0.5,
    },
    "timm swin": {"backbone": "swin_of_tests", "frozen": True},
}
EXISTS = True
# The deformable attention starts with weights of 0 behind the levels' vectors.
NO_GRADIENT = dict.fromkeys(("", "timm swin"), r"pixel_decoder\.level_embed")
