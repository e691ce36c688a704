"""Benchmarks: counts that can be made by hand, figures that must agree with each other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from refseg_cli.config import DataConfig, Recipe, TextConfig
from refseg_cli.engine import baseline, measuring, stages
from refseg_cli.engine import bench as module
from refseg_cli.engine.bench import BenchReport, BenchRequest, Row, bench
from refseg_cli.engine.stages import STAGES, Subject, count_flops
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


def subject(model: nn.Module) -> Subject:
    recipe = Recipe("vlt", data=DataConfig(size=(8, 6)), text=TextConfig(max_tokens=4))
    return Subject(model.eval(), recipe, "countable", 7)


def test_operations_are_counted_by_image_and_by_phrase() -> None:
    per_image, per_phrase = count_flops(subject(Countable()))
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
    per_image, per_phrase = count_flops(subject(Expanded()))
    assert per_image == 2 * (3 * 5) * (8 * 6)
    assert per_phrase == 2 * (7 * 5) * 4 + 2 * (5 * 2) * 3


def test_the_loader_ends_where_a_step_begins(untrained: Path, scenes: Path) -> None:
    """With floats on the device; bytes are the loader's."""
    recipe = Recipe("vlt", data=DataConfig(size=(8, 6), workers=0), text=TextConfig(max_tokens=4))
    batches = stages.load_batches(Subject(Countable(), recipe, "countable", 7), torch.device("cpu"), str(scenes), 2, 1)
    batch = next(batches)
    batches.close()
    assert (batch.images.shape, batch.images.dtype) == ((2, 3, 8, 6), torch.float32)


def test_the_report_agrees_with_itself(untrained: Path) -> None:
    seen: list[tuple[int, int]] = []
    request = BenchRequest(untrained, batch_sizes=(1, 3), phrases=(2,), repeat=4, warmup=1, device="cpu")
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
    "wrong",
    [
        {"batch_sizes": ()},
        {"batch_sizes": (1, 0)},
        {"phrases": (0,)},
        {"phrases": ()},
        {"repeat": 0},
        {"batch_sizes": (-2,)},
    ],
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

    with pytest.raises(RefsegError, match="not enough memory for 16 images with 3 phrases each"):
        bed(Greedy()).row("forward", 16, 3)


def bed(model: nn.Module, **settings: object) -> module._Bed:
    request = BenchRequest(repeat=2, warmup=1, **settings)  # type: ignore[arg-type]
    return module._Bed(request, torch.device("cpu"), "countable", subject(model), (1000, 10), None, [])


PEAK = """
import sys, torch
from refseg_cli.engine import measuring
cpu = torch.device("cpu")
run = lambda: torch.ones(64 * 2**20, dtype=torch.uint8)
before = measuring.peak_memory(lambda: None, cpu)
peaks = [measuring.peak_memory(run, cpu) - before, measuring.peak_memory(lambda: None, cpu) - before]
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
    assert measuring.sampled_peak(lambda: None) > 2**20


# ---- stages


def test_shares_are_told_apart_by_the_phrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that says 5 for the picture and 2 for each phrase."""
    clock = {3: 5 + 2 * 3, 6: 5 + 2 * 6}

    class Sized(Countable):
        asked = 0

        def forward(self, batch: Batch) -> Prediction:
            self.asked = len(batch)
            return super().forward(batch)

    model = Sized()

    def timed(run: object) -> float:
        run()  # type: ignore[operator]
        return clock[model.asked]

    monkeypatch.setattr(module, "timed", timed)
    encode, decode = (bed(model).row(stage, 1, 3) for stage in ("encode", "decode"))
    assert (encode.latency_p50_ms, decode.latency_p50_ms) == (5000, 6000)
    assert (encode.images_per_s, decode.expressions_per_s) == (0.2, 0.5)
    assert (encode.gflops, decode.gflops) == (1000 / 1e9, 30 / 1e9)


def test_a_share_that_is_lost_in_noise_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 2.0] * 2)
    monkeypatch.setattr(module, "timed", lambda run: next(times))
    row = bed(Countable()).row("decode", 1, 1)
    assert (row.latency_p50_ms, row.images_per_s, row.expressions_per_s) == (0, None, None)


def test_training_steps_move_the_weights(untrained: Path) -> None:
    found = module._subject(BenchRequest(untrained))
    before = {name: p.detach().clone() for name, p in found.model.named_parameters()}
    count_flops(found)  # which switches gradients off, and on again
    stages.train(found, torch.device("cpu"), "fp32", 2, 2)()
    moved = [name for name, p in found.model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > 0.8 * len(before)
    assert found.model.training
    stages.forward(found, torch.device("cpu"), "fp32", 1, 1)
    assert not found.model.training


def test_every_stage_of_a_checkpoint(untrained: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(stages, "a_process", lambda model, **watch: started.append(model))
    request = BenchRequest(
        untrained, stage="all", batch_sizes=(2,), phrases=(1, 2), repeat=1, warmup=1, device="cpu", data=str(scenes)
    )
    report = bench(request)
    assert [(row.stage, row.expressions) for row in report.rows] == [
        (stage, n) for stage in STAGES for n in ((2, 4) if stage != "startup" else (1,))
    ]
    assert report.left_out == {}
    assert set(started) == {untrained}
    for row in report.rows:
        assert list(row.parts_ms) == (["forward", "backward", "optimizer"] if row.stage == "train" else [])
        assert all(value > 0 for value in row.parts_ms.values())
    assert all(row.images_per_s for row in report.rows if row.stage not in ("encode", "decode"))
    assert {"torch", "python", "cores", "machine", "load"} <= set(report.environment)


def test_a_process_is_a_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    class Process:
        def __init__(self, words: list[str]) -> None:
            seen.append(words)

        def wait(self) -> int:
            return len(seen) - 1

    monkeypatch.setattr(stages.subprocess, "Popen", Process)
    stages.a_process("scenes")
    assert seen[0][1:4] == ["-m", "refseg_cli", "predict"]
    assert Path(seen[0][4]).name == "scene_people.jpg"
    assert seen[0][6:8] == ["--model", "scenes"]
    with pytest.raises(RefsegError, match="failed in a process of its own"):
        stages.a_process(None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stage": "loader"}, "--stage loader: needs prepared data, --data DIR"),
        ({"stage": "end-to-end", "precision": "bf16"}, "--precision and --compile are of the passes"),
        ({"stage": "startup", "model": None, "recipe": Recipe("vlt")}, "random weights has no answers"),
    ],
)
def test_a_stage_that_is_not_there_is_one_line(untrained: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(RefsegError, match=words):
        bench(BenchRequest(**{"model": untrained, **settings}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": "scenes"}, "--stage forward has no use for --data "),
        ({"stage": "train", "data": "scenes"}, "--stage train has no use for --data "),
        ({"stage": "loader", "data": "scenes", "data_split": "vall"}, "--stage loader has no use for --data-split"),
        ({"stage": "end-to-end", "data_split": "testA"}, "--data-split names a split of --data"),
        ({"stage": "startup", "data": "scenes"}, "--stage startup has no use for --data "),
        ({"stage": "startup", "batch_sizes": (1,)}, "--stage startup has no use for --batch-sizes"),
        ({"stage": "startup", "phrases": (2,)}, "--stage startup has no use for --phrases"),
        ({"stage": "startup", "warmup": 0}, "--stage startup has no use for --warmup"),
    ],
)
def test_settings_that_no_stage_reads_are_refused(untrained: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(RefsegError, match=words):
        bench(BenchRequest(**{"model": untrained, **settings}))  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["end-to-end", "all"])
def test_a_wrong_split_gets_the_nearest_name(
    untrained: Path, scenes: Path, stage: Literal["end-to-end", "all"]
) -> None:
    with pytest.raises(RefsegError, match="did you mean 'val'"):
        bench(BenchRequest(untrained, stage=stage, device="cpu", data=str(scenes), data_split="vall"))


def test_a_zero_shot_model_is_asked_end_to_end(tiny: Callable[[str], str]) -> None:
    name = tiny("clipseg")
    report = bench(BenchRequest(name, batch_sizes=(1,), phrases=(2,), repeat=1, warmup=0, device="cpu"))
    assert [(row.stage, row.images, row.expressions) for row in report.rows] == [("end-to-end", 1, 2)]
    assert (report.model, report.size, report.parameters) == ("clipseg", None, None)
    with pytest.raises(RefsegError, match="--stage train: a model of transformers is asked end to end"):
        bench(BenchRequest(name, stage="train"))


def test_a_batch_too_small_to_train_on_is_one_line() -> None:
    class Normalised(Countable):
        def losses(self, prediction: Prediction, batch: Batch) -> dict[str, torch.Tensor]:
            return {"loss": nn.BatchNorm1d(1).train()(prediction.mask_logits.mean((2, 3))).mean()}

        def pretrained_modules(self) -> list[nn.Module]:
            return []

    with pytest.raises(RefsegError, match="1 images with 1 phrases each are too few to train on"):
        bed(Normalised()).row("train", 1, 1)


def test_a_compiled_row_tells_how_long_its_first_pass_took() -> None:
    compiled, plain = (bed(Countable(), compile=wanted).row("forward", 1, 1) for wanted in (True, False))
    assert compiled.compile_s is not None
    assert compiled.compile_s > 0
    assert plain.compile_s is None


def test_a_compiler_that_fails_is_one_line() -> None:
    class Broken(Countable):
        def forward(self, batch: Batch) -> Prediction:
            raise RuntimeError("no C++ compiler\nand a page more")

    with pytest.raises(RefsegError, match=r"^--compile: torch\.compile failed: no C\+\+ compiler \(omit"):
        bed(Broken(), compile=True).row("forward", 1, 1)


# ---- against an earlier run


def report_of(*rows: tuple[str, int, int, float], threads: int = 2) -> BenchReport:
    """Of (stage, images, expressions, median milliseconds)."""
    made = tuple(Row(stage, i, n, ms, ms, 1.0, 1.0, 100.0, None) for stage, i, n, ms in rows)  # type: ignore[arg-type]
    return BenchReport("m", "cpu", "fp32", False, threads, "2.9", (8, 6), 4, 1, 1.0, 1.0, "p", 3, made)


def test_a_ratio_is_of_speeds_row_by_row() -> None:
    before = json.loads(json.dumps(report_of(("forward", 1, 1, 30.0), ("decode", 1, 4, 8.0)).to_json()))
    now = report_of(("forward", 1, 1, 40.0), ("decode", 1, 4, 4.0), ("train", 1, 4, 4.0), threads=1)
    found = baseline.compare(now, before, "before.json")
    assert [(r.stage, r.ratio) for r in found.ratios] == [("forward", 0.75), ("decode", 2.0)]
    assert (found.missing, found.other) == (1, ("threads: 2, now 1",))
    assert [r.stage for r in found.below(0.95)] == ["forward"]
    assert found.below(0.75) == ()


def test_rows_of_before_there_were_stages_are_forward_passes() -> None:
    before = report_of(("forward", 2, 2, 30.0)).to_json()
    before["rows"] = [{k: v for k, v in row.items() if k != "stage"} for row in before["rows"]]
    (ratio,) = baseline.compare(report_of(("forward", 2, 2, 15.0)), before, "b").ratios
    assert ratio.ratio == 2
    with pytest.raises(RefsegError, match="b: has no row of these stages and sizes"):
        baseline.compare(report_of(("train", 2, 2, 15.0)), before, "b")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": "refseg.bench/1", "rows": [{"images": "1"}]}', '{"schema": "refseg.bench/9"}']
)
def test_what_is_no_baseline_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "b.json"
    file.write_text(text)
    with pytest.raises(RefsegError, match=r"refseg bench --json"):
        baseline.read_baseline(file)
    with pytest.raises(RefsegError, match="cannot read"):
        baseline.read_baseline(tmp_path / "none.json")


ROW = {"images": 1, "expressions": 1, "latency_p50_ms": 5.0}


@pytest.mark.parametrize(
    "rows",
    [
        *([{**ROW, "latency_p50_ms": value}] for value in (-1, float("nan"), float("inf"), 10**400, True, "5")),
        *([{**ROW, "images": value}] for value in (1.5, float("nan"), None)),
        [ROW, {**ROW, "latency_p50_ms": 9.0}],
    ],
)
def test_rows_that_nobody_measured_are_no_baseline(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    (tmp_path / "b.json").write_text(json.dumps({"schema": "refseg.bench/1", "rows": rows}))
    with pytest.raises(RefsegError, match=r"not what `refseg bench --json` prints"):
        baseline.read_baseline(tmp_path / "b.json")
