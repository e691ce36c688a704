"""ReLA, as small as it gets, and its ablations: tables 6.2 to 6.5 of the thesis."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {
    **VISION,
    **TEXT,
    "text_layers": 1,
    "vlt_dim": 16,
    "vlt_layers": 1,
    "dim": 16,
    "heads": 2,
    "pixel_layers": 1,
    "pixel_hidden": 24,
    "regions": 3,
    "layers": 3,
    "hidden": 24,
}
THESIS = {"encoder": "plain", "decoder": "thesis"}
VARIANTS = {
    "": {},
    "R50": {"encoder": "plain", "backbone": "resnet10t", "drop_path": 0.0},
    "tiny": {
        "encoder": "plain",
        "pixel_decoder": "dense",
        "reach": "near",
        "start": "pooled",
        "masked": False,
        "language": "every",
        "exists": "peak",
        "minimap": "cover",
        "dice_weight": 1.0,
    },
    "stride 2": {"encoder": "plain", "pixel_decoder": "dense", "mask_stride": 2},
    "lavt, stride 2": {"mask_stride": 2, "language": "every"},
    "6.2 split, input": {"encoder": "tiles", "decoder": "thesis", "ria": "pooled", "regions": 4},
    "6.2 split, decoder": {**THESIS, "ria": "pooled"},
    "6.2 no minimap": {**THESIS, "minimap_weight": 0.0},
    "6.3 baseline": {**THESIS, "rla": "product"},
    "6.3 language": {**THESIS, "rla": "language"},
    "6.3 region": {**THESIS, "rla": "region"},
    "6.4 4x4": {**THESIS, "regions": 4},
    "6.5 VLT": {"encoder": "vlt", "decoder": "thesis"},
    "6.5 LAVT": {"decoder": "thesis"},
    "6.5 ReLA": THESIS,
    "bert": {"text": "bert", "text_dim": 32, "text_layers": 3, "text_trained": 2},
    "timm swin": {"backbone": "swin_of_tests"},
}
EXISTS = True
LOSS_ONLY = ("6.2 no minimap",)
# Layer 0 of the official decoder sees padding too.
FIXED_LENGTH = ("", "R50", "stride 2", "bert", "timm swin")
# Deformable attention starts from zero matrices: until the first step nothing that it adds to the queries has a say.
NO_GRADIENT = dict.fromkeys(VARIANTS, r"pixel_decoder\.level_embed")
