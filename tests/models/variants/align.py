"""Align, as small as it gets."""

from __future__ import annotations

from variants.tiny import TEXT, VISION

TINY = {**VISION, **TEXT, "dim": 16, "heads": 2}
VARIANTS = {"": {}, "bi-GRU": {"text": "gru", "embedding_dim": 10}}
