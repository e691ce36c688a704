"""benchmarks/gpu.sh, dry on the CPU: one JSON of all parts, and a part that fails or hangs loses no other."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

OFFICIAL = """
import torch
def forward(recipe, images, phrases, size, device):
    assert (recipe, tuple(size)) == ("vlt-tiny", (128, 128))
    x = torch.randn(images * phrases, 3, *size, device=device)
    return lambda: x.mean()
"""


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", BENCHMARKS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module
    spec.loader.exec_module(module)
    return module


def test_a_dry_run_measures_every_part(tmp_path: Path) -> None:
    (tmp_path / "official.py").write_text(OFFICIAL)
    asked = ["--dry-run", "--official", tmp_path / "official.py", "--parts"]
    asked += ["scenes", "models/vlt-swin-b", "compiled/vlt-swin-b", "train", "eval", "models/nothing"]
    ran = subprocess.run(
        ["sh", BENCHMARKS / "gpu.sh", *asked],
        env={**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    parts = found["parts"]
    assert {name: part.get("error") for name, part in parts.items() if "error" in part} == {
        "models/nothing": "KeyError: 'nothing'"
    }
    rows = parts["models/vlt-swin-b"]["rows"]
    assert not [row for row in rows if "error" in row]
    measured = [(row["model"].partition(", ")[2], row["stage"], row["precision"], row["phrases"]) for row in rows]
    forward = [(by, "forward", p, k) for p in ("bf16", "fp32") for k in (1, 4) for by in ("", "official")]
    assert measured == forward + [("", "train", p, k) for p in ("bf16", "fp32") for k in (1, 4)]
    assert all(row["p50_ms"] > 0 and row["tflops"] > 0 and row["mfu"] is None for row in rows)
    assert all(row["compile_s"] > 0 for row in parts["compiled/vlt-swin-b"]["rows"])
    assert parts["train"]["rows"][0]["expressions_per_s"] > 0
    assert parts["eval"]["rows"][0]["images"] == 3
    assert found["card"].startswith("cpu")


def test_the_share_of_a_cards_peak(gpu: ModuleType) -> None:
    assert gpu.share_of_peak(989.4e12, 2.0, "NVIDIA H100 80GB HBM3", "bf16") == 0.5
    assert gpu.peak("NVIDIA H100 PCIe", "fp32") == 51.2e12
    assert gpu.peak("NVIDIA H200", "bf16") == 989.4e12
    assert gpu.share_of_peak(1.0, 1.0, "cpu", "bf16") is None


def test_a_part_that_fails_or_hangs_is_named_with_what_it_told(gpu: ModuleType, tmp_path: Path) -> None:
    tells = "open({!r}, 'a').write('{{\"x\": 1}}\\n')"
    ends = {}
    for name, then in (
        ("fails", "raise ValueError('broken')"),
        ("hangs", "import time\ntime.sleep(60)"),
        ("ends", "1"),
    ):
        rows = tmp_path / f"{name}.jsonl"
        program = f"{tells.format(str(rows))}\n{then}"
        started = gpu.Started.of([sys.executable, "-c", program], rows, 5 if name == "hangs" else 60)
        if name == "hangs":
            while not rows.exists():
                assert started.process.poll() is None
            started.seconds = 0.0
        ends[name] = started.ended()
    assert [ends[name].get("error") for name in ("fails", "hangs", "ends")] == [
        "status 1: ValueError: broken",
        "ended after 0 s",
        None,
    ]
    assert ends["fails"]["rows"] == ends["ends"]["rows"] == [{"x": 1}]


def test_every_part_has_a_time_and_all_fit(gpu: ModuleType) -> None:
    parts = gpu.parts(dry=False)
    assert sorted(parts) == sorted(
        [f"{kind}/{name}" for kind in ("models", "compiled") for name in gpu.MODELS] + ["scenes", "train", "eval"]
    )
    of_others = [gpu.SECONDS[part.partition("/")[0]] for part in parts if part != "scenes"]
    assert sum(of_others) <= gpu.WHOLE <= 480
