"""Checkpoint folders: model.safetensors, config.json, tokenizer.json. They appear whole or not at all.

Nothing in such a folder can run code: safetensors and JSON only; training state beside them is read with
`weights_only=True`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli import __version__
from refseg_cli.config import Recipe, TextConfig, apply_override, build, to_table
from refseg_cli.data.text import Tokenizer
from refseg_cli.errors import RefsegError
from refseg_cli.models import build_model, config_class
from refseg_cli.records import Thresholds

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
PRETRAINED = ("pretrained", "text_pretrained")  # the settings of a model that fetch weights

# Which settings of a trained model `--set` cannot change, a table or one key of it, and why.
FIXED = {
    "arch": "the weights are of this architecture",
    "train": "only training reads it",
    "published": "it is what the paper says",
    **{f"text.{f.name}": "the tokenizer is stored beside the weights" for f in fields(TextConfig) if f.name != "field"},
    **{f"data.{key}": "only training reads it" for key in ("flip", "jitter", "phrases_per_image", "category_map")},
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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        new.chmod(0o755)
        save_model(model, str(new / WEIGHTS))
        tokenizer.save(new)
        (new / CONFIG).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        if extra is not None:
            extra(new)
        _take_place(new, folder)
    except Exception as error:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, OSError) or "No space left" in str(error):  # safetensors has an error type of its own
            raise _cannot_write(folder, error) from error
        raise


def store_thresholds(folder: Path, thresholds: Thresholds, *, info: Mapping[str, Any]) -> None:
    """Give a checkpoint other thresholds, which `predict` and `eval` then use; its weights are not touched.

    Args:
        folder: as `resolve` gives it.
        info: where they come from, kept as `calibrated` in config.json.

    Raises:
        RefsegError: the folder's config.json cannot be read or written; the old one is then untouched.
    """
    table = read_config(folder)[2]
    path, new = folder / CONFIG, folder / f".{CONFIG}.new"
    text = json.dumps({**table, "thresholds": asdict(thresholds), "calibrated": dict(info)}, indent=2) + "\n"
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: Exception) -> RefsegError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RefsegError(f"{folder}: cannot write the checkpoint: {reason}", hint="the one before it is untouched")


def _take_place(new: Path, folder: Path) -> None:
    """Give `new` the name of `folder`. Between the two renames the old one lies at `.old`, where `recover` finds it."""
    for file in new.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def recover(folder: Path) -> None:
    """Undo a replacement that was cut between its two renames."""
    if not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)


def resolve(path: str | Path) -> Path:
    """The checkpoint folder that a user means: itself, or the `best`, else `last`, of a training run.

    Raises:
        RefsegError: there is none.
    """
    path = Path(path).expanduser()
    for folder in (path, path / "best", path / "last"):
        recover(folder)
        if (folder / CONFIG).is_file():
            return folder
    what = "no checkpoint in this folder" if path.is_dir() else "no such checkpoint folder"
    raise RefsegError(
        f"{path}: {what}", hint="give the --out of `refseg train`, or leave --model away for the bundled one"
    )


def bundled() -> Path:
    """The folder of the model that comes with the package."""
    return Path(str(files("refseg_cli") / "bundled"))


def read_config(folder: Path) -> tuple[Recipe, Thresholds, dict[str, Any]]:
    """What config.json says, checked.

    Raises:
        RefsegError: not JSON, another format, or a recipe that this version does not know.
    """
    path = folder / CONFIG
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RefsegError(f"{path}: cannot read: {error}") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise RefsegError(f"{path}: not a checkpoint of format {FORMAT}", hint="was it written by another version?")
    recipe = build(Recipe, table.get("recipe", {}), f"{path}: recipe")
    thresholds = build(Thresholds, table.get("thresholds", {}), f"{path}: thresholds")
    return recipe, thresholds, table


def load(folder: str | Path | None = None, device: Any = "cpu", *, overrides: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint folder, or the bundled one, and build its model on `device`.

    overrides: changes of its recipe, see `adjusted`; the same weights must fit.

    Raises:
        RefsegError: missing, damaged or unknown, or changes that the model cannot take, with what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    path = bundled() if folder is None else resolve(folder)
    trained, thresholds, table = read_config(path)
    recipe, changed = adjusted(trained, overrides)
    tokenizer = Tokenizer.load(path)
    model = build_model(without_downloads(recipe), vocab_size=tokenizer.vocab_size)
    try:
        load_model(model, path / WEIGHTS, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        if changed and isinstance(error, RuntimeError):  # torch's complaint about names and shapes
            raise RefsegError(
                f"{path / WEIGHTS}: the weights do not fit a model with {', '.join(changed)}",
                hint="--set can change what they do not depend on; for anything else train another model",
            ) from error
        reason = str(error).splitlines()[0]
        raise RefsegError(
            f"{path / WEIGHTS}: cannot load the weights: {reason}", hint="copy the folder again"
        ) from error
    return Checkpoint(model.to(device).eval(), recipe, tokenizer, thresholds, path, table, changed)


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
                hint="what can: model settings, text.field, and data.size, resize, mean, std, fill and workers",
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
    config: Any = build(config_class(recipe.arch), recipe.model, f"{recipe.arch}: [model]")
    tables = {"model": asdict(config), "text": asdict(recipe.text), "data": asdict(recipe.data)}
    keys = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
    return {key: value for key, value in keys.items() if key not in FIXED and key != "data.workers"}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def without_downloads(recipe: Recipe) -> Recipe:
    """The same recipe without pretrained weights: the checkpoint holds them all."""
    known = {field.name for field in fields(config_class(recipe.arch))}
    off: dict[str, Any] = {key: False for key in PRETRAINED if key in known}
    return replace(recipe, model={**recipe.model, **off})
