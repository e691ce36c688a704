"""Official checkpoints to checkpoint folders of ours: read the file, rename its tensors, check every one, write.

Weights come from strangers: a file is read with `weights_only=True` or as safetensors, never otherwise, and a tensor
that the model lacks, or that no rule knows, stops the import.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from refseg_cli import checkpoint
from refseg_cli.config import Published, Recipe
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.engine.releases import refuse_unknown, refuse_unlike
from refseg_cli.errors import RefsegError, unknown_name
from refseg_cli.layers.keymap import Renamed, Rule, rename
from refseg_cli.layers.weights import read_weights
from refseg_cli.metrics import protocols
from refseg_cli.metrics.rules import Protocol
from refseg_cli.models import asda_official, build_model, caris, cgformer, cris, deris_official, lavt, rela
from refseg_cli.records import Thresholds

LangWeight = Literal["zero", "stored"]

NAMED_AT_MOST = 10


@dataclass(frozen=True, slots=True)
class Official:
    """What is known of the checkpoints that an architecture's authors' code writes.

    rules, config: `OFFICIAL_KEYS` and `official_config` of the model's file, or of one beside it.
    protocol: the authors' evaluation, whose thresholds the imported folder gets.
    """

    rules: Sequence[Rule]
    config: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    protocol: Protocol


OFFICIAL: dict[str, Official] = {
    "asda": Official(asda_official.OFFICIAL_KEYS, asda_official.official_config, protocols.ASDA),
    "caris": Official(caris.OFFICIAL_KEYS, caris.official_config, protocols.LAVT),
    "cgformer": Official(cgformer.OFFICIAL_KEYS, cgformer.official_config, protocols.CGFORMER),
    "cris": Official(cris.OFFICIAL_KEYS, cris.official_config, protocols.CRIS),
    "deris": Official(deris_official.OFFICIAL_KEYS, deris_official.official_config, protocols.DERIS),
    "lavt": Official(lavt.OFFICIAL_KEYS, lavt.official_config, protocols.LAVT),
    "rela": Official(rela.OFFICIAL_KEYS, rela.official_config, protocols.RELA),
}

# Why there is no import, for the architectures whose users have reason to ask.
IMPOSSIBLE = {
    "isfp": "its authors published no code that we know of, so that no layout of its files is known",
    "jmceln": "the code that its paper names was not to be had, so that no layout of its files is known",
    "m3att": "its authors published no code that we know of, so that no layout of its files is known",
    "vlt": "the official weights are of a Keras model with another graph (see the header of models/vlt.py): "
    "ReLU after every attention projection, causal queries, no spatial-dynamic fusion",
}


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What to import.

    source:      the official checkpoint, by torch.save or as safetensors.
    recipe:      its architecture; [data] and [text] go with the weights, [model] yields to what the weights say.
    out:         the checkpoint folder to write; must not be there yet.
    name:        the recipe's name, for the record.
    lang_weight: ReLA alone: `zero` as in the official evaluation, which never loads it, or as `stored` in the file.
    expect:      the release that the file has to be, of `releases.RELEASES`; "" for any.
    """

    source: Path
    recipe: Recipe
    out: Path
    name: str = ""
    lang_weight: LangWeight | None = None
    expect: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the model (the first word of its tensors' names), with its tensors and their weights counted."""

    name: str
    tensors: int
    weights: int


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of every tensor of the file.

    dropped: official name -> why it is not needed.  model: the [model] values that were read off the weights.
    notes: what was decided on the way.
    """

    source: Path
    out: Path
    arch: str
    parts: tuple[Part, ...]
    dropped: dict[str, str]
    model: dict[str, Any]
    thresholds: Thresholds
    notes: tuple[str, ...] = field(default=())

    @property
    def weights(self) -> int:
        return sum(part.weights for part in self.parts)


def import_checkpoint(request: ImportRequest) -> ImportReport:
    """Write an official checkpoint as a checkpoint folder.

    Raises:
        RefsegError: the folder exists, the file is none that can be read safely, or one of its tensors is missing,
            unexpected or of another shape than the model's; or it is not the release that was expected.
    """
    arch = request.recipe.arch
    official = _official(arch)
    if request.out.exists():
        raise RefsegError(f"{request.out}: exists already", hint="name a new folder, or remove it first")
    if request.expect:
        refuse_unknown(request.expect)
    weights = read_weights(request.source)
    renamed = _renamed(request.source, weights, official.rules)
    found = _sizes(request.source, arch, weights, renamed)
    recipe = fitted(request.recipe, found)
    notes = refuse_unlike(request.expect, request.source, recipe, found) if request.expect else []
    notes += settle_lang_weight(arch, renamed, request.lang_weight)
    tokenizer = _tokenizer(recipe)
    with torch.device("meta"):  # shapes alone: every weight comes from the file
        model = build_model(checkpoint.without_downloads(recipe), vocab_size=tokenizer.vocab_size)
    expected = model.state_dict()
    notes += _add_counters(renamed, expected)
    _check(request.source, arch, weights, renamed, expected)
    model.load_state_dict({name: _fresh(t, expected[name]) for name, t in renamed.weights.items()}, assign=True)
    if name := checkpoint.not_finite(model):
        raise RefsegError(f"{request.source}: {name} holds NaN or infinity", hint="download the file again")
    thresholds = _thresholds(official.protocol)
    info = {"name": f"{arch}:{request.source.name}", "imported": {"file": request.source.name, "recipe": request.name}}
    checkpoint.save(request.out, model, recipe, tokenizer, thresholds=thresholds, info=info)
    parts = _parts(renamed.weights)
    return ImportReport(request.source, request.out, arch, parts, renamed.dropped, found, thresholds, tuple(notes))


def _official(arch: str) -> Official:
    if arch in IMPOSSIBLE:
        raise RefsegError(
            f"{arch} cannot be imported: {IMPOSSIBLE[arch]}", hint=f"train one: refseg train --arch {arch}"
        )
    if arch not in OFFICIAL:
        error = unknown_name("official checkpoint of", arch, OFFICIAL)
        raise RefsegError(f"there is no official checkpoint of {arch} to import", hint=error.hint)
    return OFFICIAL[arch]


def fitted(recipe: Recipe, found: Mapping[str, Any]) -> Recipe:
    """The recipe with the [model] values that the weights have; its published figures stay where nothing changed.

    The tag of a timm name says where a training began, not what the model is: the weights do not know it, it stays.
    """
    given = recipe.model
    changed = {key: value for key, value in found.items() if _untagged(key, given.get(key)) != value}
    published = Published() if changed else recipe.published
    return replace(recipe, model={**given, **changed}, published=published)


def _untagged(key: str, value: Any) -> Any:
    return value.partition(".")[0] if key == "backbone" and isinstance(value, str) else value


def _thresholds(protocol: Protocol) -> Thresholds:
    usual = Thresholds()
    mask, exists = protocol.threshold, protocol.absence.exists
    return Thresholds(mask=usual.mask if mask is None else mask, exists=usual.exists if exists is None else exists)


def _tokenizer(recipe: Recipe) -> Tokenizer:
    if recipe.text.tokenizer == "words":
        raise RefsegError(
            "a recipe with its own vocabulary does not fit official weights", hint="take a full-size --recipe"
        )
    if not recipe.text.vocab:
        raise RefsegError(f"tokenizer {recipe.text.tokenizer!r} needs a vocabulary", hint="give its file by --vocab")
    return build_tokenizer(recipe.text, ())


# Checking


def _renamed(path: Path, weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> Renamed:
    try:
        return rename(weights, rules)
    except ValueError as error:  # two of the file's tensors are one of ours
        raise RefsegError(f"{path}: {error}", hint="is it a checkpoint of two models?") from error


def _sizes(path: Path, arch: str, weights: Mapping[str, Tensor], renamed: Renamed) -> dict[str, Any]:
    """The [model] values that the weights have."""
    if renamed.unknown and _knowing(weights):
        raise _misfit(path, arch, weights, [], renamed.unknown, [])
    try:
        return OFFICIAL[arch].config(weights)
    except RefsegError as error:
        raise RefsegError(f"{path}: {error.message}", hint=error.hint) from error
    except (LookupError, ValueError) as error:  # sizes are read off tensors that are not there
        raise _misfit(path, arch, weights, [str(error).strip("'")], renamed.unknown, []) from error


def _knowing(weights: Mapping[str, Tensor]) -> str | None:
    """The architecture that has a rule for each of these names."""
    for name, known in OFFICIAL.items():
        with suppress(ValueError):
            if not rename(weights, known.rules).unknown:
                return name
    return None


def settle_lang_weight(arch: str, renamed: Renamed, wanted: LangWeight | None) -> list[str]:
    """ReLA's `lang_weight`, which its official evaluation leaves at the initial 0 because its code never loads it."""
    ours = next((name for name, key in renamed.sources.items() if key.endswith(".lang_weight")), None)
    if arch != "rela" or ours is None:
        if wanted is not None:
            raise RefsegError(f"--lang-weight is for rela: {arch} has no such weight", hint="omit it")
        return []
    stored = renamed.weights[ours]
    if wanted == "stored":
        return [f"lang_weight is {stored.item():.4g} as in the file; official figures come from 0"]
    renamed.weights[ours] = torch.zeros_like(stored)
    return [f"lang_weight is 0 as in the official evaluation, which never loads it; the file says {stored.item():.4g}"]


def _add_counters(renamed: Renamed, expected: Mapping[str, Tensor]) -> list[str]:
    """Batch normalisation's counters of steps, which frozen layers do not store and which change no output."""
    absent = [name for name in expected if name.endswith(".num_batches_tracked") and name not in renamed.weights]
    renamed.weights.update((name, torch.zeros((), dtype=torch.int64)) for name in absent)
    return [f"{len(absent)} counters of frozen batch normalisation start at 0"] if absent else []


def _check(
    path: Path, arch: str, weights: Mapping[str, Tensor], renamed: Renamed, expected: Mapping[str, Tensor]
) -> None:
    """Every tensor of the model is there, in its shape, and nothing else is."""
    ours = renamed.weights
    missing = [name for name in expected if name not in ours]
    unexpected = renamed.unknown + [renamed.sources[name] for name in ours if name not in expected]
    shapes = [
        f"{renamed.sources.get(name, name)} {_shape(ours[name])} for {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in ours and ours[name].shape != tensor.shape
    ]
    if missing or unexpected or shapes:
        raise _misfit(path, arch, weights, missing, unexpected, shapes)


def _misfit(
    path: Path,
    arch: str,
    weights: Mapping[str, Tensor],
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Sequence[str],
) -> RefsegError:
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    said = "; ".join(f"{len(names)} {what}: {_listed(names)}" for what, names in faults.items() if names)
    other = _knowing(weights)
    hint = "see whether another --recipe, --vocab or --set model.KEY=VALUE has its sizes"
    if other not in (None, arch):
        hint = f"its names are those of --arch {other}"
    elif unexpected:
        hint = f"written by another version of the official code, or not a checkpoint of {arch}"
    return RefsegError(f"{path}: does not fit {arch}: {said}", hint=hint)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_AT_MOST]) + (", ..." if len(names) > NAMED_AT_MOST else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _fresh(tensor: Tensor, like: Tensor) -> Tensor:
    """In the model's number format, and alone in its storage: views of one tensor must not be saved as one."""
    tensor = tensor.detach().to(like.dtype).contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _parts(weights: Mapping[str, Tensor]) -> tuple[Part, ...]:
    tensors: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for name, tensor in weights.items():
        part = name.partition(".")[0]
        tensors[part] += 1
        numbers[part] += tensor.numel()
    return tuple(Part(name, tensors[name], numbers[name]) for name in tensors)
