"""A checkpoint as others load it: the three files that a model is loaded from and a model card, in a folder or on the
Hugging Face hub. `checkpoint.load` reads it back from either; so does every `--model`.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg_cli import checkpoint, hub
from refseg_cli.data import text
from refseg_cli.errors import RefsegError, quoted
from refseg_cli.files import whole_folder
from refseg_cli.records import Thresholds

CARD = "README.md"
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # the form of the hub's identifiers; it alone knows which there are
SHOWN = ("arch", "model", "data.size", "data.resize", "text.tokenizer", "text.max_tokens", "train.epochs", "train.lr")


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published.

    place: the folder, or the address on the hub.  name: what its answers are signed with.  bytes: of all files.
    """

    place: str
    name: str
    bytes: int


def publish(model: str | Path | None, target: str, *, license: str | None = None, private: bool = False) -> Publication:
    """Write a model's folder with a card, or upload it; training state stays where it is.

    Args:
        model: a checkpoint or training run; None for the bundled model.
        target: a folder that does not exist yet, or `hf:ORG/NAME`.
        license: the hub's identifier of the weights' licence, e.g. `apache-2.0`; None leaves that open.
        private: of a model on the hub that is not there yet.

    Raises:
        RefsegError: no such model, no identifier of a licence, something in the target's place, or a hub that refuses
            or cannot be reached.
    """
    if license is not None and not LICENSE.fullmatch(license):
        raise RefsegError(
            f"{quoted(license)}: no identifier of a licence on the hub",
            hint="lower case, as in apache-2.0, mit or cc-by-nc-4.0; `other` for one without",
        )
    source = checkpoint.resolve(model)
    on_hub = hub.is_hub_name(target)
    wanted = Path(target).expanduser()
    if not on_hub and wanted.exists():
        raise RefsegError(f"{target}: in the way of a new folder", hint="move it, or name another folder")
    name = hub.split_name(target)[0] if on_hub else wanted.resolve().name
    try:
        with tempfile.TemporaryDirectory(prefix="refseg-") if on_hub else whole_folder(wanted) as folder:
            place = Path(folder)
            signed = _write(source, place, name, usage=target if on_hub else name, license=license)
            size = sum(file.stat().st_size for file in place.iterdir())
            if on_hub:
                return Publication(hub.upload(place, target, private=private), signed, size)
    except OSError as error:
        raise RefsegError(f"{target}: cannot be written: {error.strerror or error}") from error
    return Publication(target, signed, size)


def _write(source: Path, place: Path, name: str, *, usage: str, license: str | None) -> str:
    """The model's files and its card; what the model calls itself from now on."""
    _, thresholds, table = checkpoint.read_config(source)
    table = {**table, "name": table.get("name") or name}
    for file in (checkpoint.WEIGHTS, text.FILE_NAME):
        shutil.copyfile(source / file, place / file)
    (place / checkpoint.CONFIG).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    (place / CARD).write_text(model_card(table, thresholds, usage=usage, license=license), encoding="utf-8")
    return str(table["name"])


def model_card(table: Mapping[str, Any], thresholds: Thresholds, *, usage: str, license: str | None = None) -> str:
    """What a person must know of a checkpoint, in the hub's form: Markdown behind a head of YAML.

    Args:
        table: what its config.json says.
        usage: what to give `--model`.
    """
    recipe = table["recipe"]
    arch, published = recipe["arch"], recipe.get("published", {})
    head = {
        "library_name": "refseg",
        "pipeline_tag": "image-segmentation",
        **({"license": license} if license else {}),
        "tags": ["referring-expression-segmentation", arch],
    }
    lines = ["---", *_yaml(head), "---", "", f"# {table['name']}", ""]
    lines += [f"A picture and a phrase in, a mask out: a checkpoint of refseg, architecture `{arch}`."]
    lines += _training(table, published)
    lines += ["", "```sh", f'refseg predict --model {usage} photo.jpg "two people on left" -o mask.png', "```", ""]
    lines += ["```python", "from pathlib import Path", "", "from refseg_cli.segmenters.trained import Predictor", ""]
    lines += [f'model = Predictor("{usage}")', 'for found in model.predict(Path("photo.jpg"), ["two people on left"]):']
    lines += ["    print(found.exists, found.pixels)", "```", ""]
    lines += ["## Scores", "", *_scores(table), "", "## Thresholds", ""]
    said = ("mask", thresholds.mask), ("target", thresholds.exists), ("least pixels of a target", thresholds.min_pixels)
    lines += _table(("threshold", "value"), [(name, repr(value)) for name, value in said])
    if calibrated := table.get("calibrated"):
        lines += ["", f"Chosen on {calibrated.get('data')}/{calibrated.get('split')} for the highest gIoU."]
    lines += ["", "## Recipe", "", *_table(("setting", "value"), _settings(recipe))]
    lines += ["", f"All of it is `recipe` in {checkpoint.CONFIG}.", ""]
    return "\n".join(lines)


def _training(table: Mapping[str, Any], published: Mapping[str, Any]) -> Iterator[str]:
    parts = [f"{key} {table[key]}" for key in ("epoch", "step") if table.get(key) is not None]
    if table.get("data"):
        yield ""
        yield f"Trained on **{table['data']}**" + (f", to {', '.join(parts)}." if parts else ".")
    if table.get(checkpoint.BLIND):
        yield ""
        yield "**A control, blind to language**: it was trained with shuffled phrases (--shuffle-phrases)."
    row = [part for part in (published.get("paper"), published.get("table"), published.get("row")) if part]
    if row:
        yield ""
        yield f"The recipe is of: {', '.join(row)}."


def _scores(table: Mapping[str, Any]) -> list[str]:
    """Those of the validation that chose these weights; percent."""
    scores = {name: value for name, value in (table.get("scores") or {}).items() if value is not None}
    if not scores:
        return ["None are stored with the weights."]
    rows = [(name, f"{value:.2f}") for name, value in scores.items()]
    return ["On the validation split during training, in percent:", "", *_table(("metric", "value"), rows)]


def _settings(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Those of `SHOWN` that the recipe has, a table key by key."""
    for key in SHOWN:
        value: Any = recipe
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        entries = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
        yield from ((name, json.dumps(one)) for name, one in entries.items() if one is not None)


def _table(head: Sequence[str], rows: Any) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _yaml(table: Mapping[str, Any]) -> Iterator[str]:
    """Strings and lists of strings; JSON's quotes are YAML's."""
    for key, value in table.items():
        if isinstance(value, list):
            yield f"{key}:"
            yield from (f"  - {json.dumps(one)}" for one in value)
        else:
            yield f"{key}: {json.dumps(value)}"
