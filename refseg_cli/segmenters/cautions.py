"""What a user should know before relying on the answers of one of our models. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refseg_cli.checkpoint import BLIND
from refseg_cli.data.text import Tokenizer
from refseg_cli.errors import quoted

ARTICLES = frozenset({"a", "an", "the"})  # a model that was never taught them loses nothing
SCENE_PREFIX = "scene_"  # how `refseg prepare scenes` names its pictures


def cautions(
    name: str, phrases: Sequence[str], *, model: str, info: Mapping[str, Any], tokenizer: Tokenizer
) -> list[str]:
    """A sentence each.

    Args:
        name: the picture's file name. A model of scenes cannot see whether a picture is one, so it goes by that.
        model: the model's name.
        info: of its checkpoint: the data that it was trained on, as far as it says, and whether it was trained blind.
    """
    said = []
    if info.get(BLIND):
        said.append(blind(model))
    if info.get("data") == "scenes" and not Path(name).name.startswith(SCENE_PREFIX):
        said.append(
            f"{name}: this model ({model}) knows generated scenes only ('refseg prepare scenes'); "
            "do not rely on what it says of a photograph"
        )
    for phrase in phrases:
        reading = tokenizer.read(phrase)
        unknown = [quoted(word) for word in reading.unknown if word.lower() not in ARTICLES]
        read_as = [f"reads {quoted(word)} as {meant!r}" for word, meant in reading.read_as.items()]
        if unknown or read_as:
            parts = [*([f"does not know {', '.join(unknown)}"] if unknown else []), *read_as]
            said.append(f"{quoted(phrase)}: the model {' and '.join(parts)}")
        if tokenizer.pipeline.encode(phrase.strip()).overflowing:
            said.append(f"{quoted(phrase)}: too long, the model reads its first {tokenizer.max_tokens} tokens")
    return said


def blind(model: str) -> str:
    """What a control is not to be taken for."""
    return f"{model}: a control, blind to language: it was trained with shuffled phrases (--shuffle-phrases)"
