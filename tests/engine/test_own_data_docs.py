"""The commands of docs/data.md's section on one's own data, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from refseg_cli.data import shards

ROOT = Path(__file__).parents[2]


def test_the_commands_of_the_docs_run(tmp_path: Path) -> None:
    section = (ROOT / "docs/data.md").read_text("utf-8").partition("## Your own data")[2].partition("\n## ")[0]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    script = f'refseg() {{ "{sys.executable}" -m refseg_cli "$@"; }}\n{found[1]}'
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mine, made, again = (shards.read_manifest(str(tmp_path / name)) for name in ("mine", "made", "again"))
    assert {name: (s.single, s.multi, s.no_target) for name, s in mine.splits.items()} == {"train": (2, 1, 1)}
    assert made.splits.keys() == {"train", "val"}
    assert again.splits.keys() == {"train", "val", "testA", "testB"}
    assert (tmp_path / "mine/_preview.html").stat().st_size > 10_000
