"""A picture and phrases in, a mask for each phrase out.

Axes: N phrases, h w pixels of the picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg_cli import checkpoint
from refseg_cli.data import masks
from refseg_cli.data.loader import batch_for
from refseg_cli.data.transforms import decode_image
from refseg_cli.engine.draw import overlay_png
from refseg_cli.engine.explain import explain, explained, kinds_of
from refseg_cli.engine.files import whole
from refseg_cli.engine.inference import Decision, pick_device, postprocess
from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Explanation, MapKind, Prediction, Thresholds

SCHEMA = "refseg.predict/1"
# Phrases in one pass through the network. More of them encode the picture again, once for each such chunk.
CHUNK = 64
# Mask pixels brought to the picture's size at a time: 128 MB of float32 logits.
PIXELS_AT_A_TIME = 32_000_000
MAP_CELLS = 170  # longer side of a map that is drawn
SCENE_PREFIX = "scene_"  # how `refseg prepare scenes` names its pictures


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to one phrase.

    mask: (h, w) bool, all False where nothing is found.  exists: whether there is a target.  p_target: its probability.
    pixels: how many the mask has.  maps: what the model shows of how it got there, if it was asked to.
    """

    phrase: str
    mask: np.ndarray
    exists: bool
    p_target: float
    pixels: int
    maps: tuple[Explanation, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the demo: what was found in `image`, and the overlay that shows it."""

    image: str
    found: Found
    path: Path


def load_image(source: Path | bytes, name: str | None = None) -> Tensor:
    """(3, h, w) uint8 RGB, turned upright as a viewer shows it.

    Args:
        source: a file, or the bytes of one.
        name: what to call it in an error; the path, or `stdin`, if not given.

    Raises:
        RefsegError: no such file, not a file, empty, cut short, not an image, or too large to be one.
    """
    if isinstance(source, bytes):
        data, name = source, name or "stdin"
    else:
        name = name or str(source)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise RefsegError(f"{name}: cannot read the image: {error.strerror or error}") from error
    if not data:
        raise RefsegError(f"{name}: cannot read the image: it is empty")
    return decode_image(data, name, upright=True)


class Predictor:
    """A loaded model that answers phrases.

    Args:
        folder: a checkpoint or a training run; None for the bundled model.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        threshold, no_target_threshold: probabilities in [0, 1] in place of the checkpoint's own, see `Thresholds`.

    Raises:
        RefsegError: no such model or device, or a threshold that is no probability.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        device: str = "auto",
        threshold: float | None = None,
        no_target_threshold: float | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.checkpoint = checkpoint.load(folder, self.device)
        self.thresholds = _override(self.checkpoint.thresholds, mask=threshold, exists=no_target_threshold)

    def predict(self, image: Path | bytes | Tensor, phrases: Sequence[str]) -> list[Found]:
        """An answer to each phrase, in their order. The picture is encoded once for (up to `CHUNK`) phrases.

        image: a file, its bytes, or pixels (3, h, w) uint8 RGB.

        Raises:
            RefsegError: the image cannot be read, or a phrase is empty.
        """
        return self._answer(image, phrases, {})

    def explain(self, image: Path | bytes | Tensor, phrases: Sequence[str]) -> list[Found]:
        """As `predict`, with the maps of the model's table `EXPLAIN`; without any for a model that has none."""
        return self._answer(image, phrases, kinds_of(self.checkpoint.model))

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        """What a user should know before relying on the answers; a sentence each.

        name: the picture's file name. A model of scenes cannot see whether a picture is one, so it goes by that.
        """
        said, tokenizer = [], self.checkpoint.tokenizer
        if self.checkpoint.info.get("data") == "scenes" and not Path(name).name.startswith(SCENE_PREFIX):
            said.append(
                f"{name}: this model ({self.checkpoint.name}) knows generated scenes only ('refseg prepare scenes'); "
                "do not rely on what it says of a photograph"
            )
        for phrase in phrases:
            unknown = tokenizer.unknown_words(phrase)
            if unknown:
                said.append(f"{phrase!r}: the model does not know {', '.join(map(repr, dict.fromkeys(unknown)))}")
            if tokenizer.pipeline.encode(phrase.strip()).overflowing:
                said.append(f"{phrase!r}: too long, the model reads its first {tokenizer.max_tokens} tokens")
        return said

    def record(self, name: str, found: Found) -> dict[str, Any]:
        """The answer as a `refseg.predict/1` object, ready for JSON; name: the picture's."""
        height, width = found.mask.shape
        rle = masks.encode(found.mask)
        return {
            "schema": SCHEMA,
            "image": name,
            "width": width,
            "height": height,
            "phrase": found.phrase,
            "no_target": not found.exists,
            "p_target": round(found.p_target, 6),
            "pixels": found.pixels,
            "mask": {"size": list(rle.size), "counts": rle.counts.decode("ascii")},
            "model": self.checkpoint.name,
            "threshold": self.thresholds.mask,
            "no_target_threshold": self.thresholds.exists,
            "error": None,
        }

    def _answer(
        self, image: Path | bytes | Tensor, phrases: Sequence[str], kinds: Mapping[str, MapKind]
    ) -> list[Found]:
        for phrase in phrases:
            if not phrase.strip():
                raise RefsegError("a phrase is empty", hint="say what to look for")
        pixels = image if isinstance(image, Tensor) else load_image(image)
        chunks = (phrases[i : i + CHUNK] for i in range(0, len(phrases), CHUNK))
        answers = [answer for chunk in chunks for answer in self._decide(pixels, chunk, kinds)]
        return [
            Found(phrase, d.mask, d.exists, d.p_target, int(d.mask.sum()), maps)
            for phrase, (d, maps) in zip(phrases, answers, strict=True)
        ]

    def _decide(
        self, pixels: Tensor, phrases: Sequence[str], kinds: Mapping[str, MapKind]
    ) -> Iterator[tuple[Decision, tuple[Explanation, ...]]]:
        """The decision on each phrase, and its maps of those `kinds`."""
        found = self.checkpoint
        batch = batch_for(pixels, phrases, found.tokenizer, found.recipe.data)
        with torch.inference_mode():
            on_device = batch.to(self.device)
            prediction = explained(found.model, on_device) if kinds else found.model(on_device)
            maps = explain(prediction, batch, kinds, found.tokenizer, longest=MAP_CELLS)
            rows = max(1, PIXELS_AT_A_TIME // (pixels.shape[1] * pixels.shape[2]))
            for start in range(0, len(phrases), rows):
                part = slice(start, start + rows)
                decisions = postprocess(*_rows(prediction, batch, part), self.thresholds)
                yield from zip(decisions, islice(maps, len(decisions)), strict=True)


def _rows(prediction: Prediction, batch: Batch, part: slice) -> tuple[Prediction, Batch]:
    """Some of the expressions of a batch and of what the model says of them."""
    exists = prediction.exists_logit
    return (
        Prediction(prediction.mask_logits[part], None if exists is None else exists[part]),
        replace(
            batch,
            tokens=batch.tokens[part],
            attention_mask=batch.attention_mask[part],
            image_index=batch.image_index[part],
        ),
    )


def _override(thresholds: Thresholds, *, mask: float | None, exists: float | None) -> Thresholds:
    for value in (mask, exists):
        if value is not None and not 0 <= value <= 1:
            raise RefsegError(f"threshold {value:g} is no probability", hint="from 0 to 1")
    return replace(
        thresholds,
        mask=thresholds.mask if mask is None else mask,
        exists=thresholds.exists if exists is None else exists,
    )


def demo(out: Path, *, folder: str | Path | None = None, device: str = "auto") -> list[Shown]:
    """Answer the bundled scenes' phrases and write an overlay PNG of each answer into `out`.

    The scenes lie in the package beside the bundled model: `demo/demo.json` is a list of
    ``{"image": "scene_1.jpg", "phrases": ["two people on left", ...]}``.

    Args:
        folder: another model than the bundled one.

    Raises:
        RefsegError: the package is damaged, or `out` cannot be written.
    """
    scenes = checkpoint.bundled() / "demo"
    try:
        wanted = json.loads((scenes / "demo.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RefsegError(f"{scenes}: no demo in this installation: {error}", hint="install refseg again") from error
    predictor = Predictor(folder, device=device)
    shown: list[Shown] = []
    for scene in wanted:
        pixels = load_image(scenes / scene["image"])
        picture = pixels.permute(1, 2, 0).numpy()
        for found in predictor.predict(pixels, scene["phrases"]):
            path = out / f"{len(shown) + 1:02}-{_slug(found.phrase)}.png"
            drawn = overlay_png(picture, found.mask, found.phrase, exists=found.exists, p_target=found.p_target)
            with whole(path) as file:
                file.write_bytes(drawn)
            shown.append(Shown(str(scenes / scene["image"]), found, path))
    return shown


def _slug(phrase: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", phrase.lower()).strip("-")[:60] or "phrase"
