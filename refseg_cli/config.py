"""Recipes: TOML -> frozen dataclasses. An unknown key or a wrong type stops the run and names the line's owner.

A recipe has five tables: `[model]` (fields of the architecture's own Config), `[data]`, `[text]`, `[train]` and
the informative `[published]`. `arch` stands above them, and so may `base`: the recipe that this one varies, whose
values hold wherever this one says nothing.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from refseg_cli.errors import RefsegError, nearest_name, unknown_name
from refseg_cli.ranges import (
    Count,
    CountFrom0,
    CountOrAll,
    Filled,
    Number,
    Positive,
    Range,
    Share,
    ShareBelow1,
    Steps,
    StepsFrom0,
    Weight,
    Workers,
)
from refseg_cli.records import PhraseField

T = TypeVar("T")


def _require(config: Any, **rules: tuple[bool, str]) -> None:
    """Field -> whether its value is what it must be, and what that is; asked so that NaN is not.

    Raises:
        RefsegError: a value is not.
    """
    for name, (holds, wanted) in rules.items():
        if not holds:
            raise RefsegError(f"{name}: {getattr(config, name)!r} is not {wanted}")


# The keys of models.MODELS, for those who must not import torch.
ARCHITECTURES = (
    *("align", "asda", "caris", "cgformer", "cris", "deris", "isfp"),
    *("jmceln", "lavt", "m3att", "rela", "vlt", "vlt-clips"),
)

# Settings that act in evaluation alone, by architecture: a model with another value of them is, weights and all, what
# the recipe with that value trains.
EVALUATION_ONLY = {"deris": frozenset({"model.score_threshold"}), "isfp": frozenset({"model.oracle"})}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """How a picture becomes network input.

    size:   (height, width) of the network input in pixels.
    resize: `letterbox` keeps the aspect ratio and pads on all sides; `squash` does not; `warp` is CRIS's letterbox, by
            cv2.warpAffine: bicubic, without smoothing, centres of pixels at i * scale + bias.
    fill:   colour of the padding in [0, 1], one number or R, G and B.
    flip:   probability of a horizontal flip in training; left and right are swapped in the phrase.
    jitter: strength of brightness and contrast changes in training, 0 for none (hue is never touched: colour words).
    shrink: smallest scale at which a picture is shown in training, anywhere in the input; 1 for full size always. No
            part of it is cut off, so every phrase stays true, and large objects become small ones.
    phrases_per_image: expressions drawn per image and epoch in training, of clips per clip; 0 for all.
    smooth: shrink pictures with antialiasing; otherwise each pixel is interpolated from the four around its place, as
            by OpenCV's bilinear resize.
    small:  (height, width) at which the model sees every picture a second time; (0, 0) for not at all.
    objects: also give the model each target by itself in training, not just their union.
    clip_frames: frames of a clip that a model of clips is trained on at once; 0 for a model of pictures.
    clip_window: frames that it looks at together in evaluation and prediction.
    category_map: also give the model the annotated category of every pixel (training of `align`'s encoders).
    """

    size: tuple[Count, Count] = (416, 416)
    resize: Literal["letterbox", "squash", "warp"] = "letterbox"
    mean: tuple[Number, Number, Number] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    fill: Share | tuple[Share, Share, Share] = 0.5
    flip: Share = 0.0
    jitter: Weight = 0.0
    shrink: Annotated[float, Range(0, 1, above=True)] = 1.0
    phrases_per_image: StepsFrom0 = 0
    smooth: bool = True
    small: tuple[CountFrom0, CountFrom0] = (0, 0)
    objects: bool = False
    clip_frames: CountFrom0 = 0
    clip_window: Count = 16
    category_map: bool = False
    workers: Workers = 2

    def __post_init__(self) -> None:
        _require(
            self,
            shrink=(self.shrink == 1 or self.resize != "warp", "1, as resize = 'warp' needs it"),
            small=(self.small == (0, 0) or min(self.small) > 0, "a height and a width in pixels, or 0 and 0"),
        )


@dataclass(frozen=True, slots=True)
class TextConfig:
    """How a phrase becomes tokens.

    tokenizer: `words` (own vocabulary, built from the training phrases), `bert` (WordPiece), `clip` (BPE) or `beit3`
               (sentencepiece).
    vocab:     for `bert`: a `vocab.txt`, or the name of a hub model that has one; for `clip`: its release's
               `bpe_simple_vocab_16e6.txt.gz`; for `beit3`: its release's `beit3.spm`.
    glove:     for `words`: a GloVe text file whose vectors initialise the embedding; empty for learned embeddings.
    field:     which form of a sentence is read, in training and evaluation: `sent`, cleaned, or `raw`, as it was typed
               (see `records.Expression`). `predict` takes every phrase as it is given.
    unknown:   share of the training phrases that get one to three words that no vocabulary holds, somewhere: so a model
               learns to read past what it does not know ("bald guy on the left").
    spelling:  for `words`: an unknown word that is close to exactly one known word is read as that ("brocolli"), in
               training, evaluation and `predict`; see data/spelling.py.
    """

    tokenizer: Literal["words", "bert", "clip", "beit3"] = "words"
    max_tokens: Count = 15
    vocab: str = ""
    min_count: StepsFrom0 = 1
    glove: str = ""
    field: PhraseField = "sent"
    unknown: Share = 0.0
    spelling: bool = False

    def __post_init__(self) -> None:
        _require(
            self,
            spelling=(not self.spelling or self.tokenizer == "words", f"for {self.tokenizer}, which knows every word"),
        )


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The optimisation. Epochs count passes over the images' expressions.

    batch_images:  images per step and process, all with their drawn expressions.
    eps, amsgrad:  of Adam and AdamW; amsgrad divides by the largest second moment so far.
    schedule:      `constant`; `poly` (1 - t/T)^power; `cosine`; `step`: times `gamma` at each of `milestones` (epochs).
    backbone_lr:   factor on `lr` for the pretrained vision and text encoders.
    clip_norm:     largest gradient norm, 0 for no clipping.
    same_object, different_object: N_SO and N_DO of VLT's contrastive batches (thesis 4.2.5); -1 and 0.0 leave the
                   plain grouped batch. N_DO is a share of the batch.
    best_metric:   the validation metric that picks `best`.
    shard_model:   several processes keep one share each of every weight, gradient and moment (FSDP2), not a whole copy.
    gradient_checkpointing: the encoders' layers compute again in the backward pass what they would have to keep for it:
                   less memory, more time, the same figures.
    steps:         optimiser steps after which the run ends, even within an epoch; 0: it ends with `epochs`.
    """

    epochs: Steps = 50
    batch_images: Steps = 32
    accumulate: Steps = 1
    optimizer: Literal["adam", "adamw"] = "adamw"
    lr: Weight = 1e-4
    backbone_lr: Weight = 1.0
    weight_decay: Weight = 0.0
    betas: tuple[ShareBelow1, ShareBelow1] = (0.9, 0.999)
    eps: Positive = 1e-8
    amsgrad: bool = False
    schedule: Literal["constant", "poly", "cosine", "step"] = "constant"
    power: Weight = 0.9
    milestones: tuple[Steps, ...] = ()
    gamma: Weight = 0.1
    warmup_steps: StepsFrom0 = 0
    clip_norm: Weight = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: ShareBelow1 = 0.0
    seed: StepsFrom0 = 0
    save_every_steps: Steps = 500
    eval_every_epochs: Steps = 1
    eval_split: str = "val"
    eval_limit: StepsFrom0 = 0
    best_metric: str = "gIoU"
    same_object: CountOrAll = -1
    different_object: Share = 0.0
    shard_model: bool = False
    gradient_checkpointing: bool = False
    steps: StepsFrom0 = 0


@dataclass(frozen=True, slots=True)
class Published:
    """What the paper reports for this setting: figures by `dataset/split`, e.g. {"refcoco/val": {"IoU": 67.52}}; by
    `dataset -> other/split` where a model trained on one was tested on another.

    data:     what it was trained on, where that is none of the data sets tested on but, say, their union.
    protocol: the key of `metrics.protocols.PROTOCOLS` by which they were counted, and whose names they have; empty
              where it is not known.
    """

    paper: str = ""
    table: str = ""
    row: str = ""
    metric: str = ""
    protocol: str = ""
    data: str = ""
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def trained_on(self) -> str:
        """`data`, or the data set of the first figure; empty where there is none."""
        return self.data or next(iter(self.figures), "").partition("/")[0].partition(" -> ")[0]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a run depends on besides the data. `model` is checked by the architecture that reads it."""

    arch: str
    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    published: Published = field(default_factory=Published)


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """`cls(**table)` with every key known and every value of the annotated type.

    Args:
        cls: a frozen dataclass of plain fields, tuples, dicts or further dataclasses.
        where: what to call the table in an error, e.g. ``vlt.toml:[train]``.

    Raises:
        RefsegError: no table, unknown key (with the nearest name), missing key, or a value of the wrong type or out of
            its range.
    """
    if not isinstance(table, Mapping):
        raise _wrong(where, "a table", table)
    hints = typing.get_type_hints(cls, include_extras=True)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            error = unknown_name("key", key, known)
            raise RefsegError(f"{where}: {error.message}", hint=error.hint)
    required = [
        n
        for n, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and n not in table
    ]
    if required:
        raise RefsegError(f"{where}: missing key {required[0]!r}")
    values = {key: _coerce(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except RefsegError as error:
        raise RefsegError(f"{where}: {error.message}", hint=error.hint) from error


def _coerce(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, where TOML's types leave no doubt (lists become tuples, ints become floats)."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        return _within(args[1], _coerce(args[0], value, where), where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        kind = next((kind for kind in kinds if len(kinds) == 1 or _is_like(value, kind)), None)
        if kind is None:
            raise _wrong(where, f"a value of type {' or '.join(_name(kind) for kind in kinds)}", value)
        return _coerce(kind, value, where)
    if origin is Literal:
        if value not in args:
            error = unknown_name("value", str(value), args)
            raise RefsegError(f"{where}: {error.message}", hint=error.hint)
        return value
    if origin is tuple:
        return _coerce_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, "a table", value)
        return {str(k): _coerce(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(where, f"a value of type {kind.__name__}", value)
    return value


def _within(limits: Range | Filled, value: Any, where: str) -> Any:
    if value not in limits:
        raise RefsegError(f"{where}: {value!r} is not {limits}")
    return value


def _is_like(value: Any, kind: Any) -> bool:
    """Whether a value of TOML is meant for this one of several kinds."""
    kind = _bare(kind)
    plain = typing.get_origin(kind) or kind
    if plain is tuple:
        return isinstance(value, list | tuple)
    return type(value) is plain or (plain is float and type(value) is int)


def _name(kind: Any) -> str:
    return "list" if typing.get_origin(kind) is tuple else _bare(kind).__name__


def _bare(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _coerce_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _wrong(where, "a list", value)
    if args[-1] is Ellipsis:
        return tuple(_coerce(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(args):
        raise _wrong(where, f"a list of {len(args)}", value)
    return tuple(_coerce(kind, v, f"{where}[{i}]") for i, (kind, v) in enumerate(zip(args, value, strict=True)))


def _wrong(where: str, wanted: str, value: Any) -> RefsegError:
    return RefsegError(f"{where}: expected {wanted}, not {value!r}")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, without `.toml`."""
    return sorted(
        p.name.removesuffix(".toml") for p in files("refseg_cli.recipes").iterdir() if p.name.endswith(".toml")
    )


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or file, merged over its `base`, with `--set table.key=value` overrides applied.

    Raises:
        RefsegError: no such recipe or base, bases in a circle, not TOML, or a key or value that nothing reads.
    """
    table = recipe_table(name_or_path)
    for override in overrides:
        apply_override(table, override)
    return build(Recipe, table, _file_name(name_or_path))


def recipe_text(name_or_path: str) -> str:
    """The recipe of that name or file as it is written, comments included.

    Raises:
        RefsegError: no such recipe.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise RefsegError(f"{path}: no such recipe file")
        return path.read_text("utf-8")
    if name_or_path not in recipe_names():
        near = nearest_name(name_or_path, recipe_names())
        hint = f"did you mean {near!r}?" if near else "`refseg recipes list` names them; a file ends in .toml"
        raise RefsegError(f"unknown recipe {name_or_path!r}", hint=hint)
    return (files("refseg_cli.recipes") / _file_name(name_or_path)).read_text("utf-8")


def recipe_table(name_or_path: str) -> dict[str, Any]:
    """The recipe's TOML merged key by key over its `base`, that one's over its own and so on; `base` itself is gone.

    `[published]` is not inherited: a figure belongs to the one setting that it was measured with.

    Raises:
        RefsegError: no such recipe or base, bases in a circle, or not TOML.
    """
    chain = [str(Path(name_or_path).resolve()) if name_or_path.endswith(".toml") else name_or_path]
    table = _parsed(name_or_path)
    while "base" in table:
        where = f"{_file_name(chain[-1])}: base"
        base = _coerce(str, table.pop("base"), where)
        if base.endswith(".toml"):  # as seen from the file that names it
            base = str((Path(chain[-1]).parent / base).resolve())
        if base in chain:
            raise RefsegError(f"{where}: goes in a circle: {' -> '.join(Path(name).name for name in [*chain, base])}")
        chain.append(base)
        try:
            below = _parsed(base)
        except RefsegError as error:
            raise RefsegError(f"{where}: {error.message}", hint=error.hint) from error
        below.pop("published", None)
        table = _merged(below, table)
    return table


def _parsed(name_or_path: str) -> dict[str, Any]:
    import tomllib  # here and below: most commands read no recipe

    try:
        return tomllib.loads(recipe_text(name_or_path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefsegError(f"{_file_name(name_or_path)}: not valid TOML: {error}") from error


def _file_name(name_or_path: str) -> str:
    return Path(name_or_path).name if name_or_path.endswith(".toml") else f"{name_or_path}.toml"


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, tables within tables likewise."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set one `table.key=value` in a recipe's tables; the value is TOML, or a bare string where it is not.

    Raises:
        RefsegError: no key, no value, or a key within something that is no table.
    """
    import tomllib

    dotted, separator, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise RefsegError(f"--set {override}: expected key=value", hint="for example train.lr=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):  # brackets without end are no TOML either
        value = text
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RefsegError(f"--set {override}: {key!r} is not a table")
    table[keys[-1]] = value


def to_table(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON and TOML values, the inverse of `build`."""
    plain = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
