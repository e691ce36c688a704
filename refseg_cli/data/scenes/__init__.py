"""The embedded dataset: pictures of everyday objects with exact masks and provably unambiguous phrases.

Reading order: catalogue (what there is) -> compose (a picture) -> ../phrases (what can be said of it) -> generate (the
files).
"""

from refseg_cli.data.scenes.generate import DEFAULT_IMAGES, Counts, generate

__all__ = ["DEFAULT_IMAGES", "Counts", "generate"]
