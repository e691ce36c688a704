"""Where options get their defaults besides what is built in: `REFSEG_*` variables, and `refseg.toml` of the project and
of the user. Asked at every start, so it imports nothing and reads nothing; `_settings` does, where there is something.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from refseg_cli.errors import RefsegError

FILE = "refseg.toml"
PREFIX = "REFSEG_"
NAMES_FILE = "REFSEG_CONFIG"  # a file in place of the two, /dev/null for none
NO_DEFAULTS = (NAMES_FILE, "REFSEG_DEBUG")  # variables that stand for no option


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that set defaults; an empty one sets none."""
    return {n: v for n, v in environment.items() if v and n.startswith(PREFIX) and n not in NO_DEFAULTS}


def places(environment: Mapping[str, str]) -> list[Path]:
    """Where settings are looked for: in the nearest refseg.toml at or above this folder, and in the user's; or in the
    file that REFSEG_CONFIG names.

    Raises:
        RefsegError: that one is not there.
    """
    if named := environment.get(NAMES_FILE):
        if not Path(named).exists():
            raise RefsegError(f"{named}: no such file", hint=f"{NAMES_FILE} names it")
        return [Path(named)]
    user = _user_file(environment)
    try:
        here = Path.cwd()
    except FileNotFoundError:  # somebody removed it
        return [user]
    project = next((file for folder in (here, *here.parents) if (file := folder / FILE).is_file()), here / FILE)
    return [project] if project == user else [project, user]


def files(environment: Mapping[str, str]) -> list[Path]:
    """Those of `places` that are there.

    Raises:
        RefsegError: as `places`.
    """
    return [path for path in places(environment) if path.exists()]


def _user_file(environment: Mapping[str, str]) -> Path:
    if sys.platform == "win32":
        folder = environment.get("APPDATA") or "~/AppData/Roaming"
    else:  # macOS too, as people expect it of programs in a terminal
        folder = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.path.expanduser(folder)) / "refseg" / FILE  # noqa: PTH111 - never raises
