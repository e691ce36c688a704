"""Options that several commands share, each defined once, and the words that a shell may complete them with.

A metavar says what is meant: FILE and OUT are files, DIR and RUN folders, anything else free text. The generator of
completions and man pages (`refseg_cli/_manual`) reads it.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

import typer

from refseg_cli.commands._given import one_of
from refseg_cli.config import ARCHITECTURES, Recipe, load_recipe, recipe_names
from refseg_cli.console import console
from refseg_cli.errors import RefsegError, unknown_name
from refseg_cli.metrics.protocols import BY_NAME, GROUPS, PROTOCOLS, REFSEG, VIDEO

ALL = "all"  # --protocol
DEFAULT_RECIPES = {  # of an architecture, where --recipe is not given
    "asda": "asda-refcoco",
    "caris": "caris-refcoco",
    "cgformer": "cgformer-refcoco",
    "cris": "cris-r50-refcoco",
    "deris": "deris-b-refcoco",
    "isfp": "isfp-darknet53-refcoco",
    "jmceln": "jmceln-rn101-refcoco",
    "lavt": "lavt-refcoco",
    "m3att": "m3att-darknet53-refcoco",
    "rela": "rela-swin-b-grefcoco",
    "vlt": "vlt-darknet53-refcoco",
    "vlt-clips": "vlt-clips-ref-youtube-vos",
}


def recipe_choices() -> list[str]:
    """Names of the recipes that come with the package."""
    return recipe_names()


def arch_choices() -> list[str]:
    """Names of the architectures."""
    return sorted(ARCHITECTURES)


def device_choices() -> list[str]:
    """The usual devices; `cuda:N` is accepted as well."""
    return ["auto", "cpu", "cuda", "mps"]


def split_choices() -> list[str]:
    """The usual splits; what a data set really has stands in its manifest."""
    return ["train", "val", "test", "testA", "testB"]


def protocol_choices() -> list[str]:
    """Names of the evaluation protocols, and `all` of them."""
    return [*BY_NAME, ALL]


def _silence(wanted: bool) -> bool:
    console.quiet = console.quiet or wanted
    if wanted:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read by the hub's client when it is imported
    return wanted


# The callback does the work, so that -q is understood before and after the command's name.
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing but errors and requested data.", callback=_silence),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        metavar="N",
        min=1,
        help="Largest picture to read, in pixels; 179 million if not given.",
    ),
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")]
Latex = Annotated[bool, typer.Option("--latex", help="Print the tables in LaTeX (booktabs).")]
Resamples = Annotated[
    int,
    typer.Option(
        "--resamples",
        metavar="N",
        min=0,
        help="Resamples for p-values and intervals; 0 for neither.",
    ),
]
Protocols = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAMES",
        help="Evaluation protocols, comma-separated, or `all`. "
        + " ".join(f"{group}: {', '.join(protocol.name for protocol in of)}." for group, of in GROUPS.items())
        + " Clips: video.",
        autocompletion=protocol_choices,
    ),
]
Data = Annotated[
    str, typer.Option("--data", metavar="DIR", help="Prepared data: a folder or URI that 'refseg prepare' wrote.")
]
DataSets = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="DIR",
        help="Prepared data: a folder or URI that 'refseg prepare' wrote. Repeat to train on several sets together, "
        "without the pictures that any of them holds out.",
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="Where the work is done: here, or on a Ray cluster (RAY_ADDRESS; docs/scale.md)."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="RUN",
        help="Folder of a trained model, an exported model, hf:ORG/NAME on the hub, or a bundled one: photos (if not "
        "given) or scenes.",
    ),
]
Arch = Annotated[
    str | None, typer.Option("--arch", metavar="NAME", help="Architecture, e.g. vlt.", autocompletion=arch_choices)
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Name of a recipe that comes with refseg, or a TOML file.",
        autocompletion=recipe_choices,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe, e.g. train.lr=1e-4; repeatable."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Device to run on: auto, cpu, cuda, cuda:N or mps.",
        autocompletion=device_choices,
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16", "auto"],
    typer.Option(
        "--precision",
        help="Precision of the arithmetic; `auto` is bf16 where the hardware has it and the model passed 'refseg "
        "calibrate --check-precision bf16'.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory for the phrases answered together, e.g. 8GiB; by default half of what is free, and no more than "
        "4 GiB on a CPU.",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the model with torch.compile first, which takes minutes; the last line says if it paid off.",
    ),
]
BatchImages = Annotated[
    int, typer.Option("--batch-images", metavar="N", min=1, help="Images per batch, each with all its phrases.")
]


def choose_protocols(text: str, *, clips: bool = False) -> tuple[str, ...]:
    """The protocols of ``lavt,rela`` or ``all``; of an empty text the usual one.

    clips: whether they are for clips, which have one more, the usual one.

    Raises:
        RefsegError: there is no such protocol, or none is named.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not text:
        return (VIDEO.name if clips else REFSEG.name,)
    if ALL in names:
        return tuple(BY_NAME if clips else PROTOCOLS)
    for name in names:
        if name not in BY_NAME:
            raise unknown_name("protocol", name, protocol_choices())
    if not names:
        raise RefsegError("--protocol names none", hint=f"one of: {', '.join(protocol_choices())}")
    return names


def choose_memory(text: str | None) -> int | None:
    """The bytes of ``4GiB``, ``500MB`` or ``1000000``.

    Raises:
        RefsegError: it is no amount of memory.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", text.strip().lower())
    size = 0
    if found:
        power = "kmgt".find(found[2] or "-") + 1
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if not size:
        raise RefsegError(f"--memory {text}: not an amount of memory", hint="e.g. 4GiB or 500MB")
    return size


def choose_splits(text: str) -> tuple[str, ...]:
    """The splits of ``val,testA``.

    Raises:
        RefsegError: it names none.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise RefsegError(f"--split {text}: names no split", hint="e.g. --split val,testA")
    return names


def choose_recipe(arch: str | None, recipe: str | None, overrides: list[str] | None) -> Recipe:
    """The recipe that --arch, --recipe and --set ask for together.

    Raises:
        RefsegError: neither name was given, an architecture is unknown or has no recipe to fall back on, or the recipe
            is of another one.
    """
    if arch is not None and arch not in ARCHITECTURES:
        raise unknown_name("architecture", arch, ARCHITECTURES)
    if recipe is None:
        if arch is None:
            raise RefsegError("no --arch and no --recipe", hint=f"--arch is one of: {', '.join(ARCHITECTURES)}")
        recipe = _default_recipe(arch)
    chosen = load_recipe(recipe, overrides or ())
    if arch in (None, chosen.arch):
        return chosen
    why = f"--recipe {recipe} is of {chosen.arch}, not of --arch {arch}"
    if one_of({"--arch": arch, "--recipe": recipe}, why=why)[0] == "--arch":
        return choose_recipe(arch, None, overrides)
    return chosen


def _default_recipe(arch: str) -> str:
    """The recipe of an architecture that one means without saying: the noted one, or the only one."""
    names = [name for name in recipe_names() if name.startswith(f"{arch}-") or name == arch]
    if arch not in DEFAULT_RECIPES and len(names) != 1:
        raise RefsegError(f"--arch {arch} needs a --recipe", hint=f"one of: {', '.join(names)}" if names else "a file")
    return DEFAULT_RECIPES.get(arch, names[0])
