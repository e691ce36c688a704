"""The weights that authors released, as docs/weights.md lists them, and whether a file is the one it is taken for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg_cli.config import Recipe, load_recipe
from refseg_cli.data import storage
from refseg_cli.errors import RefsegError, unknown_name

NAMED_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class Release:
    """One file. where: project or hub name.  sha256: of its bytes, "" where nobody published it."""

    where: str
    file: str = ""
    sha256: str = ""


_CARIS, _DERIS = "hub saliu/CARIS", "hub Dmmm997/DeRIS"
_LAVT, _RELA = "README of yz93/LAVT-RIS", "README of henghuiding/ReLA"
_SETS = ("refcoco", "refcoco+", "refcocog-umd", "refcocog-google")

# By the recipe that it was trained by
RELEASES: dict[str, Release] = {
    "caris-combined": Release(_CARIS, "combined/refcocom.pth"),
    **{f"caris-{data}": Release(_CARIS, "one of four in standard") for data in _SETS},
    **{
        f"deris-{size}-{data}": Release(_DERIS, f"DeRIS-{size.upper()}-{data}.pth")
        for data in ("refcoco", "grefcoco")
        for size in ("l", "b")
    },
    **{f"lavt-{data}": Release(_LAVT) for data in _SETS},
    **{f"lavt-one-{data}": Release(_LAVT) for data in _SETS},
    "rela-swin-b-grefcoco": Release(_RELA, "gres_swin_base.pth"),
    "rela-swin-t-grefcoco": Release(_RELA),
}


def refuse_unknown(name: str) -> None:
    """Said before a large file is read.

    Raises:
        RefsegError: no such release.
    """
    if name not in RELEASES:
        error = unknown_name("release", name, RELEASES)
        raise RefsegError(f"--expect: {error.message}", hint=error.hint)


def refuse_unlike(name: str, source: Path, recipe: Recipe, found: Mapping[str, Any]) -> list[str]:
    """What is to be said of a file that has the sizes of the release `name`, as far as these are known.

    Data sets have no size: of the files of one architecture, a digest alone would tell which one it is.

    Args:
        recipe: that it is imported by.  found: the [model] values that were read off the weights.

    Raises:
        RefsegError: no such release, or the file is of another one.
    """
    refuse_unknown(name)
    wanted, release = load_recipe(name), RELEASES[name]
    faults = [] if wanted.arch == recipe.arch else [f"arch is {recipe.arch}, not {wanted.arch}"]
    model = {key: _untagged(value) for key, value in wanted.model.items()} if not faults else {}
    faults += [f"model.{k} is {v!r}, not {model[k]!r}" for k, v in found.items() if k in model and model[k] != v]
    faults += [f"{part}.{key} is {a!r}, not {b!r}" for part, key, a, b in _settings(recipe, wanted)]
    digest = storage.locate(source).sha256()
    if release.sha256 and digest != release.sha256:
        faults.append(f"its SHA-256 is {digest}, not {release.sha256}")
    if faults:
        more = f"; and {len(faults) - NAMED_AT_MOST} more" if len(faults) > NAMED_AT_MOST else ""
        raise RefsegError(
            f"{source}: not {name}: {'; '.join(faults[:NAMED_AT_MOST])}{more}",
            hint="docs/weights.md lists the releases; omit --expect to import it as what it is",
        )
    if release.sha256:
        return [f"the file is {name} of {release.where}, byte for byte"]
    return [f"it has the sizes of {name}; no digest of that file is published: yours has SHA-256 {digest}"]


def _settings(recipe: Recipe, wanted: Recipe) -> list[tuple[str, str, Any, Any]]:
    """What decides the answers beside the weights: the picture's and the phrase's way into the network."""
    keys = {"data": ("size", "small", "smooth", "resize", "mean", "std"), "text": ("tokenizer", "max_tokens", "field")}
    pairs = [(part, key, getattr(recipe, part), getattr(wanted, part)) for part, names in keys.items() for key in names]
    values = [(part, key, getattr(a, key), getattr(b, key)) for part, key, a, b in pairs]
    return [one for one in values if one[2] != one[3]]


def _untagged(value: Any) -> Any:
    """A timm name without the tag that says where a training began."""
    return value.partition(".")[0] if isinstance(value, str) else value
