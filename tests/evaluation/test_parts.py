"""Several processes share an evaluation: the same figures, the same records, each expression once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refseg_cli import checkpoint
from refseg_cli.data.tables import read_rows
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.evaluation.parts import ALL, Part, sharing


def evaluated(launcher: list[str], scenes: Path, run: Path, records: Path) -> dict[str, object]:
    asked = ["--data", scenes, "--model", run, "--split", "train,testA", "--records", records, "--batch-images", "1"]
    asked += ["--calibrate", "val"]
    ran = subprocess.run(
        [*launcher, "eval", *asked, "--json", "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_two_processes_calibrate_and_evaluate_as_one_does(scenes: Path, run: Path, forks: Path, tmp_path: Path) -> None:
    """By the command that docs/training.md gives; image by image, since a batch rounds with its neighbours."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["-m", "refseg_cli"]
    for name in ("two", "one"):
        shutil.copytree(run, tmp_path / name)
    shared = evaluated(launcher, scenes, tmp_path / "two", tmp_path / "two.parquet")
    alone = evaluated([str(forks / "refseg")], scenes, tmp_path / "one", tmp_path / "one.parquet")
    assert {**shared, "model": None} == {**alone, "model": None}
    chosen = [checkpoint.read_config(checkpoint.resolve(str(tmp_path / name)))[2] for name in ("two", "one")]
    assert chosen[0]["calibrated"] == chosen[1]["calibrated"]
    assert chosen[0]["thresholds"] == chosen[1]["thresholds"]
    assert read_rows(str(tmp_path / "two.parquet")) == read_rows(str(tmp_path / "one.parquet"))


def test_the_parts_of_all_processes_are_all_images_once_and_in_order() -> None:
    images = np.array([2, 3, 5, 7, 11])
    for n in (1, 2, 3, 7):
        assert np.concatenate([Part(k, n).of(images) for k in range(n)]).tolist() == images.tolist()
    assert ALL.gathered("own") == ["own"]


def test_jobs_that_have_no_place_to_meet_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with sharing() as part:
        assert part == ALL


def test_a_report_is_drawn_by_one_process(
    scenes: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refseg_cli.evaluation import evaluate as module

    monkeypatch.setattr(module, "sharing", lambda: _Two())
    with pytest.raises(RefsegError, match="made by one process"):
        evaluate(EvalRequest(str(scenes), ("val",), str(run), device="cpu"), watch=lambda *seen: None)


class _Two:
    def __enter__(self) -> Part:
        return Part(0, 2)

    def __exit__(self, *error: object) -> None: ...
