"""What benchmarks share as programs: how they are asked, the builds that take turns, and the JSON that they leave."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")


def options_of(about: str | None) -> argparse.ArgumentParser:
    """about: the program's docstring."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def checkouts(baseline: Path | None) -> dict[str, Path]:
    """This one, and the one to compare it with."""
    return {"this": Path(__file__).parents[1].resolve()} | ({"baseline": baseline.resolve()} if baseline else {})


def variables_of(checkout: Path) -> dict[str, str]:
    """The environment of a process that runs a checkout's build, with one thread for arithmetic."""
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def in_a_process(run: Callable[..., Made], *words: object) -> Made:
    """What a function makes, in a process of its own: the most memory that this one held passes to what it starts."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *words).result()


def machine(*packages: str) -> dict[str, str]:
    """What was measured on: the processor's kind, and the versions of Python and of packages."""
    versions = {name: version(name) for name in packages}
    return {"machine": platform.machine(), "python": platform.python_version(), **versions}


def save(result: dict[str, Any], out: Path) -> None:
    from refseg_cli import files

    files.write(out, _text(result).encode())


def tell(result: dict[str, Any], out: Path | None) -> None:
    """Print the result, and save it where a file is named."""
    if out:
        save(result, out)
    sys.stdout.write(_text(result))


def _text(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1) + "\n"
