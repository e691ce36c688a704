"""Benchmarks: counts that can be made by hand, figures that must agree with each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from refseg_cli.config import DataConfig, Recipe, TextConfig
from refseg_cli.engine import bench as module
from refseg_cli.engine.bench import BenchRequest, bench
from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Prediction


class Countable(nn.Module):
    """A 1x1 convolution on pictures and a matrix on words."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(3, 5, 1)
        self.words = nn.Linear(7, 5)

    def forward(self, batch: Batch) -> Prediction:
        maps = self.pixels(batch.images).mean(1, keepdim=True)[batch.image_index]
        words = self.words(nn.functional.one_hot(batch.tokens, 7).float()).mean((1, 2))
        return Prediction(maps + words[:, None, None, None])


def subject(model: nn.Module) -> module.Subject:
    recipe = Recipe("vlt", data=DataConfig(size=(8, 6)), text=TextConfig(max_tokens=4))
    return module.Subject(model.eval(), recipe, "countable", 7)


def test_operations_are_counted_by_image_and_by_phrase() -> None:
    per_image, per_phrase = module.count_flops(subject(Countable()))
    assert per_image == 2 * (3 * 5) * (8 * 6)  # a multiply and an add for each weight and pixel
    assert per_phrase == 2 * (7 * 5) * 4  # and for each weight and word


class Expanded(Countable):
    """Hands a view of a parameter to one of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.read = nn.Parameter(torch.ones(3, 5)), nn.Linear(5, 2)

    def forward(self, batch: Batch) -> Prediction:
        self.read(self.queries.expand(len(batch), -1, -1))
        return super().forward(batch)


def test_operations_on_views_of_parameters_are_counted() -> None:
    per_image, per_phrase = module.count_flops(subject(Expanded()))
    assert per_image == 2 * (3 * 5) * (8 * 6)
    assert per_phrase == 2 * (7 * 5) * 4 + 2 * (5 * 2) * 3


def test_the_report_agrees_with_itself(untrained: Path) -> None:
    seen: list[tuple[int, int]] = []
    request = BenchRequest(untrained, batch_sizes=(1, 3), phrases=2, repeat=4, warmup=1, device="cpu")
    report = bench(request, progress=lambda stage, done, total, **figures: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert [(row.images, row.expressions) for row in report.rows] == [(1, 2), (3, 6)]
    assert (report.model, report.size, report.max_tokens, report.precision) == ("tiny", (64, 96), 6, "fp32")
    assert report.parameters > 1000
    for row in report.rows:
        assert 0 < row.latency_p50_ms <= row.latency_p95_ms
        assert row.expressions_per_s == pytest.approx(2 * row.images_per_s)
        assert row.images_per_s < 2 * 1000 * row.images / row.latency_p50_ms
        assert row.peak_memory_mib > 50  # torch alone
        assert row.gflops == pytest.approx(row.images * (report.gflops_per_image + 2 * report.gflops_per_phrase))
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["schema"] == "refseg.bench/1"
    assert plain["rows"][1]["images"] == 3


def test_a_recipe_is_measured_with_random_weights(untrained: Path) -> None:
    from refseg_cli.checkpoint import read_config

    recipe, _, _ = read_config(untrained)
    report = bench(BenchRequest(recipe=recipe, batch_sizes=(1,), repeat=1, warmup=0, device="cpu", precision="bf16"))
    assert report.model == "vlt, random weights"
    assert report.precision == "bf16"
    assert len(report.rows) == 1


@pytest.mark.parametrize(
    "wrong", [{"batch_sizes": ()}, {"batch_sizes": (1, 0)}, {"phrases": 0}, {"repeat": 0}, {"batch_sizes": (-2,)}]
)
def test_sizes_below_one_are_refused(untrained: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(RefsegError, match="at least 1"):
        bench(BenchRequest(untrained, **wrong))  # type: ignore[arg-type]


def test_one_subject_at_a_time(untrained: Path) -> None:
    with pytest.raises(RefsegError, match="a trained model and a recipe"):
        bench(BenchRequest(untrained, Recipe("vlt")))


def test_out_of_memory_says_at_which_size() -> None:
    class Greedy(Countable):
        def forward(self, batch: Batch) -> Prediction:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    request = BenchRequest(phrases=3, warmup=1)
    with pytest.raises(RefsegError, match="not enough memory for 16 images with 3 phrases each"):
        module._row(subject(Greedy()), request, torch.device("cpu"), 16, 0)


PEAK = """
import sys, torch
from refseg_cli.engine import bench
cpu = torch.device("cpu")
run = lambda: torch.ones(64 * 2**20, dtype=torch.uint8)
before = bench._peak_memory(lambda: None, cpu)
peaks = [bench._peak_memory(run, cpu) - before, bench._peak_memory(lambda: None, cpu) - before]
sys.stdout.write(" ".join(str(peak >> 20) for peak in peaks))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux counts peaks; elsewhere they are sampled"
)
def test_peak_memory_sees_what_a_run_takes_and_gives_back() -> None:
    """In a process of its own: one that has freed as much before takes nothing new."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    with_run, without = map(int, done.stdout.split())
    assert 60 <= with_run <= 70
    assert without <= 5


def test_peak_memory_elsewhere_is_what_was_seen() -> None:
    assert module._sampled_peak(lambda: None) > 2**20
