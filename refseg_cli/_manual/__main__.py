"""`python -m refseg_cli._manual [--check] [FOLDER]`: write man/, completions/, docs/recipes.md; or name stale ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from refseg_cli import __date__, __version__
from refseg_cli._manual import bash, fish, man, recipes, zsh
from refseg_cli.app import app
from refseg_cli.commands._spec import Command, read_app
from refseg_cli.console import console
from refseg_cli.engine.catalogue import catalogue


def render(root: Command) -> dict[str, str]:
    """Every generated file by its path below the repository's root."""
    parents = {id(below): command for command in root.walk() for below in command.commands}
    pages = {
        f"man/{man.page_name(command)}.1": man.page(
            command, version=__version__, date=__date__, parent=parents.get(id(command))
        )
        for command in root.walk()
    }
    program = root.words[0]
    return {
        **pages,
        f"completions/{program}.bash": bash.script(root),
        f"completions/_{program}": zsh.script(root),
        f"completions/{program}.fish": fish.script(root),
    }


def stale(folder: Path, files: dict[str, str]) -> list[str]:
    """Paths that are missing, differ, or are there although nothing generates them any more."""
    there = {str(p.relative_to(folder)) for kind in ("man", "completions") for p in (folder / kind).glob("*")}
    differing = {name for name, text in files.items() if _read(folder / name) != text}
    return sorted(differing | (there - set(files)))


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def main(args: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where --check found stale files."""
    console.reset()
    parser = argparse.ArgumentParser(prog="python -m refseg_cli._manual", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the repository's root")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 naming the stale files")
    options = parser.parse_args(args)
    files = {**render(read_app(app, "refseg")), "docs/recipes.md": recipes.page(catalogue())}
    outdated = stale(options.folder, files)
    if options.check:
        for name in outdated:
            console.warn(f"{name} is stale; run python -m refseg_cli._manual")
        return 1 if outdated else 0
    for name in outdated:
        path = options.folder / name
        if name in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[name], "utf-8")
        else:
            path.unlink()
        console.info(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
