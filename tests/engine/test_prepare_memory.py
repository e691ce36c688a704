"""A process that makes shards uses freed memory again, seen by the pages that the system had to provide."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
from refseg_cli.data.sources import photos
from refseg_cli.engine import sharding
if sys.argv[1] == "make":
    sharding.make(sharding.Job(sys.argv[2], "val-00000-of-00001.parquet", "val", "plan", (), "fail", photos.RULES))
bytes(1 << 26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    b"x" * (1 << 26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc alone has mallopt's settings")
def test_freed_photos_memory_is_reused(tmp_path: Path) -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", PROGRAM, mode, str(tmp_path)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("make") * 4 < faults("nothing")
