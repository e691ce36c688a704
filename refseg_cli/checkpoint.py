"""Checkpoint folders: model.safetensors, config.json, tokenizer.json. They appear whole or not at all.

Nothing in such a folder can run code: safetensors and JSON only; training state beside them is read with
`weights_only=True`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli import __version__, hub
from refseg_cli.config import Recipe, TextConfig, apply_override, build, to_table
from refseg_cli.data.text import Tokenizer
from refseg_cli.errors import RefsegError, first_line, nearest_name, reason_of
from refseg_cli.files import is_part, parse_own_json, part_name, whole
from refseg_cli.records import Thresholds

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
BLIND = "shuffle_phrases"  # in config.json: whether the model was trained with shuffled phrases, as a control
_OLD_PART = re.compile(r"\.(best|last)-[a-z0-9_]{8}")  # how earlier versions called a folder being written
BUNDLE = Path(__file__).with_name("bundled")  # what comes with the package: models, and pictures to show them on
BUNDLED = ("photos", "scenes")  # the models; the first is the one that answers where none is named
NAMED = 3  # tensors that a message spells out
PRETRAINED = ("pretrained", "text_pretrained")  # the settings of a model that fetch weights

# Which settings of a trained model `--set` cannot change, a table or one key of it, and why.
FIXED = {
    "arch": "the weights are of this architecture",
    "train": "only training reads it",
    "published": "it is what the paper says",
    **{
        f"text.{f.name}": "the tokenizer is stored beside the weights"
        for f in fields(TextConfig)
        if f.name not in ("field", "spelling")
    },
    **{
        f"data.{key}": "only training reads it"
        for key in ("flip", "jitter", "phrases_per_image", "category_map", "objects")
    },
    **{f"model.{key}": "all weights are in the checkpoint" for key in PRETRAINED},
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded folder.

    model:   in eval mode, on the device asked for.
    recipe:  the one that it was trained by, with the changes asked for.
    changed: these, as key=value.
    info:    what else config.json says.
    """

    model: nn.Module
    recipe: Recipe
    tokenizer: Tokenizer
    thresholds: Thresholds
    folder: Path
    info: dict[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.info.get("name") or f"{self.recipe.arch}:{self.folder.name}")


def save(
    folder: Path,
    model: nn.Module,
    recipe: Recipe,
    tokenizer: Tokenizer,
    *,
    thresholds: Thresholds | None = None,
    info: Mapping[str, Any] | None = None,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint folder, replacing an older one in its place.

    Args:
        info: further facts for config.json, e.g. scores, step, data.
        extra: writes more files into the folder before it takes its name (training state).

    Raises:
        RefsegError: it cannot be written, or something else than a checkpoint is there; that is then untouched.
    """
    from safetensors.torch import save_model

    table = {
        "format": FORMAT,
        "refseg": __version__,
        **dict(info or {}),
        "thresholds": asdict(thresholds or Thresholds()),
        "vocab_size": tokenizer.vocab_size,
        "recipe": to_table(recipe),
    }
    refuse_foreign(folder)
    folder = Path(os.path.realpath(folder))
    new = folder.with_name(part_name(folder.name))
    try:
        new.mkdir(parents=True)
        save_model(model, str(new / WEIGHTS))
        tokenizer.save(new)
        (new / CONFIG).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        shutil.copymode(new / CONFIG, new / WEIGHTS)  # safetensors makes it 0600, whatever the umask
        if extra is not None:
            extra(new)
        _take_place(new, folder)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if reason := _storage_fault(error):
            raise RefsegError(
                f"{folder}: cannot write the checkpoint: {reason}", hint="the one before it is untouched"
            ) from error
        raise


def _storage_fault(error: BaseException) -> str | None:
    """What the system said, where an error is about writing: torch buries it below one of its own, safetensors quotes.

    None for other errors.
    """
    if "I/O error: " in str(error):
        return str(error).rpartition("I/O error: ")[2]
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return None if cause is None else cause.strerror or str(cause)


def refuse_foreign(folder: Path) -> None:
    """What stands where a checkpoint would go, and is none.

    Raises:
        RefsegError: there is a file, or a folder of something else.
    """
    if folder.exists() and not (folder / CONFIG).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RefsegError(f"{folder}: in the way of a checkpoint folder", hint="move it, or name another folder")


def store_thresholds(folder: Path, thresholds: Thresholds, *, info: Mapping[str, Any]) -> None:
    """Give a checkpoint other thresholds, which `predict` and `eval` then use; its weights are not touched.

    Args:
        folder: as `resolve` gives it.
        info: where they come from, kept as `calibrated` in config.json.

    Raises:
        RefsegError: the folder's config.json cannot be read or written; the old one is then untouched.
    """
    store(folder, {"thresholds": asdict(thresholds), "calibrated": dict(info)})


def store(folder: Path, changes: Mapping[str, Any]) -> None:
    """Replace entries of a checkpoint's config.json; its weights are not touched.

    Raises:
        RefsegError: as `store_thresholds`.
    """
    text = json.dumps({**read_config(folder)[2], **changes}, indent=2) + "\n"
    with whole(folder / CONFIG) as new, new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _take_place(new: Path, folder: Path) -> None:
    """Give `new` the name of `folder`, and the modes of what is there.

    Between the two renames the old one lies at `.old`, where readers and `recover` find it.
    """
    for file in new.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        if (folder / file.name).exists():
            shutil.copymode(folder / file.name, file)
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        shutil.copymode(folder, new)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def recover(folder: Path) -> None:
    """Undo a replacement that was cut between its two renames; nobody may be at work there."""
    if not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)


def tidy(run: Path) -> None:
    """Recover a training run's checkpoints, and remove what killed runs left half written; nobody may be at work there.

    Raises:
        RefsegError: something that is no checkpoint stands in the place of one.
    """
    for folder in (run / "best", run / "last"):
        recover(folder)
        refuse_foreign(folder)
        shutil.rmtree(_old(folder), ignore_errors=True)
    for left in run.glob(".*"):
        if left.is_dir() and (is_part(left.name) or _OLD_PART.fullmatch(left.name)):
            shutil.rmtree(left, ignore_errors=True)
        elif is_part(left.name):
            left.unlink(missing_ok=True)


def resolve(path: str | Path | None) -> Path:
    """The checkpoint folder that a user means: itself; the `best`, else `last`, of a training run; or a bundled one.

    path: a folder, `hf:ORG/NAME`, one of the names in `BUNDLED`, or None for the first of these. A checkpoint in a
        folder of such a name goes first.

    Raises:
        RefsegError: there is none.
    """
    if path is None:
        return bundled()
    if hub.is_hub_name(str(path)):
        return hub.folder(str(path))
    name, path = str(path), Path(path).expanduser()
    for folder in (path, path / "best", path / "last"):
        if found := _standing(folder):
            return found
    if name in BUNDLED:
        return bundled(name)
    if path.suffix == ".onnx" and path.is_file():
        raise RefsegError(f"{path}: an exported model, not a checkpoint", hint="name the one that it was made of")
    if path.is_dir():
        what, near = "no checkpoint in this folder", None
    else:
        what, near = "no such checkpoint folder", _nearest(path)
    usual = "give the --out of `refseg train`, or omit --model for a bundled model"
    raise RefsegError(f"{path}: {what}", hint=f"did you mean {near!r}?" if near else usual)


def _nearest(path: Path) -> str | None:
    """The folder or the bundled model that a mistyped name probably means."""
    beside = [other.name for other in path.parent.glob("*/")]
    near = nearest_name(path.name, beside + list(BUNDLED if path.parent == Path() else ()))
    return str(path.with_name(near)) if near else None


def _standing(folder: Path) -> Path | None:
    """Where the checkpoint of that name lies: the old one while it is replaced, or if that was cut; None if nowhere.

    Nothing is moved for a reader: a trainer may be between its two renames, and the second would fail.
    """
    places = (folder, _old(folder), folder) if folder.name else (folder,)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def bundled(name: str = BUNDLED[0]) -> Path:
    """The folder of a model that comes with the package."""
    return BUNDLE / name


def read_config(folder: Path) -> tuple[Recipe, Thresholds, dict[str, Any]]:
    """What config.json says, checked.

    Raises:
        RefsegError: not JSON, another format, or a recipe that this version does not know.
    """
    path = folder / CONFIG
    try:
        table = parse_own_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RefsegError(
            f"{path}: cannot read: {reason_of(error)}", hint="copy or download the whole folder again"
        ) from error
    return (*parse_config(table, str(path)), table)


def parse_config(table: Any, name: str) -> tuple[Recipe, Thresholds]:
    """What a config.json says, already parsed; name: what to call it in an error.

    Raises:
        RefsegError: another format, or a recipe that this version does not know.
    """
    if isinstance(table, dict) and "model_type" in table:
        raise RefsegError(
            f"{name}: a model of transformers, not a checkpoint of refseg",
            hint="only predict, eval and calibrate support it",
        )
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise RefsegError(f"{name}: not a checkpoint of format {FORMAT}", hint="was it written by another version?")
    scores = table.get("scores") or {}
    if not isinstance(scores, dict) or not all(one is None or type(one) in (int, float) for one in scores.values()):
        raise RefsegError(f"{name}: scores: expected numbers by name", hint="copy or download the whole folder again")
    recipe = build(Recipe, table.get("recipe", {}), f"{name}: recipe")
    return recipe, build(Thresholds, table.get("thresholds", {}), f"{name}: thresholds")


def load(folder: str | Path | None = None, device: Any = "cpu", *, overrides: Sequence[str] = ()) -> Checkpoint:
    """Read the checkpoint folder that `resolve` finds, and build its model on `device`.

    overrides: changes of its recipe, see `adjusted`; the same weights must fit.

    Raises:
        RefsegError: missing, damaged or unknown, or changes that the model cannot take, with what to do.
    """
    import torch

    from refseg_cli.models import build_model

    path = resolve(folder)
    trained, thresholds, table = read_config(path)
    recipe, changed = adjusted(trained, overrides)
    tokenizer = Tokenizer.load(path, spelling=recipe.text.spelling)
    model = build_model(without_downloads(recipe), vocab_size=tokenizer.vocab_size)
    load_weights(model, path / WEIGHTS, changed)
    # As in training: convolutions want their channels last. Of a forward pass it takes up to a fifth, of Swins little.
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    return Checkpoint(model, recipe, tokenizer, thresholds, path, table, changed)


def load_weights(model: nn.Module, file: Path, changed: Sequence[str] = ()) -> None:
    """Fill a model from a safetensors file.

    changed: settings of the model that are not those it was trained by, see `adjusted`.

    Raises:
        RefsegError: missing or damaged; tensors that are not the model's, which are named; NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(model, file, strict=True)
    except RuntimeError as error:  # torch's complaint about names and shapes, a page for a large model
        if changed:
            raise RefsegError(
                f"{file}: the weights do not fit a model with {', '.join(changed)}",
                hint="--set can change what they do not depend on; for anything else train another model",
            ) from error
        raise RefsegError(
            f"{file}: cannot load the weights: {_misfit(model, file)}", hint=f"are they of the model in {CONFIG}?"
        ) from error
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise RefsegError(f"{file}: cannot load the weights: {reason}", hint="copy the folder again") from error
    if name := not_finite(model):
        raise RefsegError(f"{file}: {name} holds NaN or infinity", hint="the run that wrote it diverged; train again")


def _misfit(model: nn.Module, file: Path) -> str:
    """Which tensors of a file are not the model's, and which of the model's are not there."""
    from safetensors import safe_open

    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(file, "pt") as opened:
        found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no dict
    shapes = [f"{n} is {found[n]}, not {wanted[n]}" for n in wanted if n in found and found[n] != wanted[n]]
    missing = [f"{n} is missing" for n in wanted if n not in found]
    wrong = [*shapes, *missing, *(f"{n} is unknown" for n in found if n not in wanted)]
    more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return f"{'; '.join(wrong[:NAMED])}{more}"


def not_finite(model: nn.Module) -> str | None:
    """The name of a tensor of the model with NaN or infinity in it, if there is one."""
    import torch

    for name, tensor in model.state_dict().items():
        # The extremes are NaN where anything is, and take a twentieth of the time of looking at each value.
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            return name
    return None


def adjusted(recipe: Recipe, overrides: Sequence[str]) -> tuple[Recipe, tuple[str, ...]]:
    """A trained model's recipe with `table.key=value` overrides, and those that make a difference, as key=value.

    A key that training alone reads is refused where that is known (`FIXED`): it would change nothing, and say it did.

    Raises:
        RefsegError: a key of `FIXED`, or a key or value that the recipe does not take.
    """
    table = to_table(recipe)
    for override in overrides:
        key = override.partition("=")[0].strip()
        why = FIXED.get(key) or FIXED.get(key.partition(".")[0])
        if why:
            raise RefsegError(
                f"--set {override}: cannot be changed in a trained model: {why}",
                hint="what can: model settings, text.field and spelling, data.size, resize, mean, std, fill, workers",
            )
        apply_override(table, override)
    wanted = build(Recipe, table, "--set")
    before, after = settings(recipe), settings(wanted)
    return wanted, tuple(f"{key}={_text(after[key])}" for key in after if after[key] != before[key])


def settings(recipe: Recipe) -> dict[str, Any]:
    """What the answers of a trained model depend on besides its weights and tokenizer, by key, defaults included.

    Raises:
        RefsegError: a `[model]` key that the architecture does not read.
    """
    from refseg_cli.models import config_class

    config: Any = build(config_class(recipe.arch), recipe.model, f"{recipe.arch}: [model]")
    tables = {"model": asdict(config), "text": asdict(recipe.text), "data": asdict(recipe.data)}
    keys = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
    return {key: value for key, value in keys.items() if key not in FIXED and key != "data.workers"}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def without_downloads(recipe: Recipe) -> Recipe:
    """The same recipe without pretrained weights: the checkpoint holds them all."""
    from refseg_cli.models import config_class

    known = {field.name for field in fields(config_class(recipe.arch))}
    off: dict[str, Any] = {key: False for key in PRETRAINED if key in known}
    return replace(recipe, model={**recipe.model, **off})
