"""benchmarks/forward.py: other code is measured beside this build, for the recipes that it knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "forward.py"

# Holds 24 MiB for each phrase, and prints, as other code may. Loading leaves 96 MiB free below what it keeps.
OFFICIAL = """
import torch
def small(mib):
    return [torch.ones(2**14) for _ in range(16 * mib)]
left_over, kept = small(96), small(1)
del left_over
made = []
def forward(recipe, images, phrases, size, device):
    if recipe != "vlt-tiny":
        return None
    assert (images, tuple(size), device.type) == (1, (128, 128), "cpu")
    assert torch.get_num_threads() == 1
    print("made")
    made.append(phrases)
    assert made in ([1], [1, 1], [1, 1, 3])  # once to load it, then once for each number
    return lambda: print("asked") or small(24 * phrases)
"""


def test_other_code_is_measured_beside_this_build_for_the_recipes_it_knows(tmp_path: Path) -> None:
    (tmp_path / "official.py").write_text(OFFICIAL)
    asked = ["--official", tmp_path / "official.py", "--recipes", "vlt-tiny", "rela-tiny", "--phrases", "1", "3"]
    ran = subprocess.run(
        [sys.executable, PROGRAM, *asked, "--rounds", "1", "--out", tmp_path / "found.json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    assert {recipe: {count: [*sides] for count, sides in of.items()} for recipe, of in found.items()} == {
        "vlt-tiny": {"1": ["fp32", "official"], "3": ["fp32", "official"]},
        "rela-tiny": {"1": ["fp32"], "3": ["fp32"]},
    }
    for count, sides in found["vlt-tiny"].items():
        ours, official = sides["fp32"], sides["official"]
        assert set(official) == {"seconds", "mib"}
        assert official["seconds"] > 0
        assert official["mib"] > 24 * int(count)
        assert abs(ours["official_ratio"] * official["seconds"] / ours["seconds"] - 1) < 0.01
        assert abs(ours["official_memory"] * official["mib"] / ours["mib"] - 1) < 0.01
    assert set(found["rela-tiny"]["1"]["fp32"]) == {"seconds", "mib"}
