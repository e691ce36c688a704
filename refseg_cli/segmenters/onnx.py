"""Exported models as segmenters, on onnxruntime. Imports no torch: the model answers sooner than torch is there.

Axes: I pictures, N phrases, h w pixels of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refseg_cli import checkpoint
from refseg_cli.config import Recipe
from refseg_cli.data import arrays
from refseg_cli.data.pictures import read_pixels
from refseg_cli.data.placement import place
from refseg_cli.data.text import FILE_NAME, Tokenizer
from refseg_cli.errors import RefsegError, first_line, reason_of
from refseg_cli.files import parse_own_json
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.base import Found, check_phrases
from refseg_cli.segmenters.cautions import cautions
from refseg_cli.segmenters.decisions import Decision, decide, logit, override
from refseg_cli.segmenters.memory import SUPPOSED

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor

FACTS = "refseg.json"  # of an export: in the file's metadata, or in the folder
IMAGE, PHRASE = "image.onnx", "phrase.onnx"  # of a graph that is cut in two
BUNDLED = "model.onnx"  # a checkpoint's graph, whose weights are those of model.safetensors
CHUNK = 64  # phrases in one run


class Graphs:
    """A model between arrays: one graph, or two of which the first needs no phrase.

    Args:
        image: the session that encodes pictures; None where `phrase` does everything.
        phrase: the session that answers.
    """

    def __init__(self, image: InferenceSession | None, phrase: InferenceSession) -> None:
        self.image, self.phrase = image, phrase
        self._inputs = [value.name for value in phrase.get_inputs()]

    @classmethod
    def open(cls, path: Path, *, threads: int = 0, once: bool = False) -> Graphs:
        """An exported file, or a folder of split graphs.

        Args:
            threads: of one operator; 0 for as many as the machine has cores.
            once: leave graphs as they are: a run or two take less time than to make them faster.

        Raises:
            RefsegError: no such file, or one that onnxruntime does not read.
        """
        if path.is_dir():
            return cls(_session(path / IMAGE, threads, once), _session(path / PHRASE, threads, once))
        return cls(None, _session(path, threads, once))

    def encode(self, images: np.ndarray, small: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What phrases are asked of; images: (I, 3, H, W) float32 normalised; small: as in `Batch`."""
        given = {"images": images} | ({} if small is None else {"small": small})
        if self.image is None:
            return given
        names = [value.name for value in self.image.get_outputs()]
        made = dict(zip(names, self.image.run(None, given), strict=True))
        return made | {name: pixels for name, pixels in given.items() if name in self._inputs}

    def answer(
        self, encoded: Mapping[str, np.ndarray], tokens: np.ndarray, attention_mask: np.ndarray, image_index: np.ndarray
    ) -> list[np.ndarray]:
        """Mask logits (N, 1, h', w'), and (N,) logits of a target where the model has that head.

        Args:
            encoded: from `encode`.
            tokens: (N, L) int64.  attention_mask: (N, L) bool.  image_index: (N,) int64.
        """
        given = {**encoded, "tokens": tokens, "attention_mask": attention_mask, "image_index": image_index}
        return self.phrase.run(None, {name: given[name] for name in self._inputs})


def _session(file: Path, threads: int, once: bool) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is fatal; errors are raised as well
    options.intra_op_num_threads = threads
    if once:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait for more work
        options.enable_cpu_mem_arena = False  # which grows by powers of two
    if not file.is_file():
        raise RefsegError(f"{file}: no such file", hint="`refseg export` writes one")
    with _explained(file, "cannot be loaded"):
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@contextmanager
def _explained(file: Path, what: str) -> Iterator[None]:
    """onnxruntime raises classes of its own for every kind of damage."""
    try:
        yield
    except RefsegError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise RefsegError(f"{file}: {what}: {reason}", hint="is it whole? `refseg export` writes it again") from error


@dataclass(frozen=True, slots=True)
class Exported:
    """A model on onnxruntime with what belongs to it.

    recipe: the one that it was trained by.  info: what else the checkpoint's config.json says.
    """

    graphs: Graphs
    recipe: Recipe
    tokenizer: Tokenizer
    thresholds: Thresholds
    path: Path
    info: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.info.get("name") or self.path.stem)


def load(path: Path, *, threads: int = 0, once: bool = False) -> Exported:
    """Read an exported file or folder, or a checkpoint folder with a graph beside its weights.

    threads, once: as in `Graphs.open`.

    Raises:
        RefsegError: onnxruntime is missing; no such file, damaged, or not written by `refseg export`.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise RefsegError(f"{path}: onnxruntime is not installed", hint="pip install onnxruntime") from error
    if (path / BUNDLED).is_file():
        recipe, thresholds, info = checkpoint.read_config(path)
        graphs = Graphs.open(path / BUNDLED, threads=threads, once=once)
        tokenizer = Tokenizer.load(path, spelling=recipe.text.spelling)
        return Exported(graphs, recipe, tokenizer, thresholds, path, info)
    graphs = Graphs.open(path, threads=threads, once=once)
    if path.is_dir():
        texts = {name: _read(path / name) for name in (FACTS, FILE_NAME)}
    else:
        texts = graphs.phrase.get_modelmeta().custom_metadata_map
    info = _checkpoint_of(texts.get(FACTS), path)
    recipe, thresholds = checkpoint.parse_config(info, f"{path}: {FACTS}")
    spelling = recipe.text.spelling
    tokenizer = Tokenizer.from_text(texts.get(FILE_NAME, ""), f"{path}: {FILE_NAME}", spelling=spelling)
    return Exported(graphs, recipe, tokenizer, thresholds, path, info)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RefsegError(
            f"{file}: cannot read: {reason_of(error)}", hint="`refseg export --split` writes the folder"
        ) from error


def _checkpoint_of(facts: str | None, path: Path) -> Any:
    """The config.json of the checkpoint that was exported."""
    if facts is None:
        raise RefsegError(f"{path}: not written by `refseg export`: it has no {FACTS}", hint="export the model with it")
    try:
        table = parse_own_json(facts)
    except ValueError as error:
        raise RefsegError(f"{path}: {FACTS} is damaged: {error}", hint="export it again") from error
    if not isinstance(table, dict) or "checkpoint" not in table:
        raise RefsegError(f"{path}: exported by an earlier version of refseg", hint="export it again")
    return table["checkpoint"]


class OnnxSegmenter:
    """An exported model that answers phrases, on the CPU.

    Args:
        path: what `refseg export` wrote: a file, or a folder of split graphs; or a checkpoint folder with a graph.
        threshold, no_target_threshold: probabilities in [0, 1] in place of the model's own, see `Thresholds`.
        threads, once: as in `Graphs.open`.
        memory: bytes that a run may take, as far as one can suppose; None for `CHUNK` phrases at a time.

    Raises:
        RefsegError: as `load`, or a threshold that is no probability.
    """

    def __init__(
        self,
        path: Path,
        *,
        threshold: float | None = None,
        no_target_threshold: float | None = None,
        threads: int = 0,
        once: bool = False,
        memory: int | None = None,
    ) -> None:
        self.memory = memory
        self.exported = load(path, threads=threads, once=once)
        self.thresholds = override(self.exported.thresholds, mask=threshold, exists=no_target_threshold)

    @property
    def name(self) -> str:
        return self.exported.name

    def predict(self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        """An answer to each phrase, in their order.

        A picture is encoded once for all phrases where the graph is split, else once for each `CHUNK` of them.

        image: a file, its bytes, or pixels (3, h, w) uint8 RGB.

        Raises:
            RefsegError: the image cannot be read, or a phrase is none; said at once, before the first answer.
        """
        return self._answer(image, phrases, soft=False)

    def soften(self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str]) -> Iterator[Found]:
        """As `predict`, with the probability of each pixel."""
        return self._answer(image, phrases, soft=True)

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        """What a user should know before relying on the answers; a sentence each.

        name: the picture's file name.
        """
        found = self.exported
        return cautions(name, phrases, model=found.name, info=found.info, tokenizer=found.tokenizer)

    def _answer(
        self, image: Path | bytes | np.ndarray | Tensor, phrases: Sequence[str], *, soft: bool
    ) -> Iterator[Found]:
        check_phrases(phrases)
        pixels = read_pixels(image) if isinstance(image, Path | bytes) else np.asarray(image)
        return (
            Found(phrase, d.mask, d.exists, d.p_target, int(d.mask.sum()), soft=d.soft)
            for phrase, d in zip(phrases, self._decide(pixels, phrases, soft=soft), strict=True)
        )

    def _decide(self, pixels: np.ndarray, phrases: Sequence[str], *, soft: bool) -> Iterator[Decision]:
        found, config = self.exported, self.exported.recipe.data
        size = (int(pixels.shape[1]), int(pixels.shape[2]))
        placement = place(size, config)
        with _explained(found.path, "cannot be run"):
            small = arrays.to_small(pixels, placement, config)
            images = arrays.to_input(pixels, placement, config)[None]
            encoded = found.graphs.encode(images, None if small is None else small[None])
        chunk = CHUNK
        if self.memory is not None:
            chunk = max(1, min(CHUNK, self.memory // (SUPPOSED * config.size[0] * config.size[1])))
        for start in range(0, len(phrases), chunk):
            tokens, keep = found.tokenizer.encode_arrays(phrases[start : start + chunk])
            with _explained(found.path, "cannot be run"):
                logits, *exists = found.graphs.answer(encoded, tokens, keep, np.zeros(len(tokens), np.int64))
            scores = exists[0] if exists else None
            for n, scaled in enumerate(arrays.to_original(logits[:, 0], placement, config.size, size)):
                score = _sigmoid(scaled.max() if scores is None else scores[n])
                mask = scaled > logit(self.thresholds.mask)
                [decision] = decide(mask[None], [score], self.thresholds, has_head=scores is not None)
                yield replace(decision, soft=_sigmoids(scaled)) if soft else decision


def _sigmoids(values: np.ndarray) -> np.ndarray:
    """Of any size without overflow."""
    return (1 + np.tanh(values / 2)) / 2


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-np.float64(value))))
