"""VLT for clips, as small as it gets: thesis 4.3.5. A batch of pictures is one of clips of one frame."""

from __future__ import annotations

from variants import vlt

TINY = vlt.TINY
VARIANTS = {
    "": {},
    "same frame": {"neighbours": 0},
    "temporal shift": {"temporal_shift": 4},  # of pictures it is nothing, and so are exports
    "video swin": {"backbone": "video_swin_mini", "dropout": 0.0},
}
LOSS_ONLY = ("same frame",)
