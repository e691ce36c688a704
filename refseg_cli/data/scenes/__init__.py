"""The embedded dataset: pictures of everyday objects with exact masks and provably unambiguous phrases.

Reading order: catalogue (what there is) -> compose (a picture) -> scene (what can be said of it) -> logic (what a
phrase means) -> wording (how it is said) -> proposals, phrases (what is worth saying) -> generate (the files).
"""

from refseg_cli.data.scenes.generate import DEFAULT_IMAGES, Counts, generate

__all__ = ["DEFAULT_IMAGES", "Counts", "generate"]
