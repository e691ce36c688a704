"""The embedded dataset: pictures of everyday objects with exact masks and provably unambiguous phrases.

Reading order: catalogue (what there is) -> compose (a picture) -> ../phrases (what can be said of it) -> generate (the
files). Of clips: moving (a clip) -> films (the files).
"""

from refseg_cli.data.scenes.films import DEFAULT_CLIPS, FRAMES, generate_films
from refseg_cli.data.scenes.generate import DEFAULT_IMAGES, Counts, generate

__all__ = ["DEFAULT_CLIPS", "DEFAULT_IMAGES", "FRAMES", "Counts", "generate", "generate_films"]
