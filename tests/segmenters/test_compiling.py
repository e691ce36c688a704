"""--compile: the same answers, few sizes, what it cost, and where there is nothing to compile or to compile with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import batch_of
from torch import nn
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

from refseg_cli import checkpoint
from refseg_cli.commands.eval import eval_
from refseg_cli.commands.predict import predict
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
from refseg_cli.records import Batch, Prediction
from refseg_cli.segmenters import compiling
from refseg_cli.segmenters.choice import open_segmenter
from refseg_cli.segmenters.compiling import Compiled, Compiling, Size, raised
from refseg_cli.segmenters.trained import Predictor

PHRASES = ["two people on left", "the red car", "a dog", "the big one", "a cat", "people"]
CPU = torch.device("cpu")


TRACED = partial(torch.compile, backend="eager")  # without the compiler behind it, which takes minutes


@pytest.fixture(autouse=True)
def _nothing_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Models as they are, as if torch had compiled them, and nothing left in the user's cache."""
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))


class Adding(nn.Module):
    """Answers with each phrase's token plus its picture's only value."""

    def forward(self, batch: Batch) -> Prediction:
        values = batch.tokens[:, 0] + batch.images[batch.image_index][:, 0, 0, 0]
        return Prediction(values[:, None, None, None].expand(-1, 1, 4, 8), exists_logit=values)


def test_pictures_and_phrases_are_raised_to_powers_of_two() -> None:
    shapes = [(len(b.images), len(b)) for b in map(raised, (batch_of(1), batch_of(3), batch_of(2, 3, 4), batch_of(4)))]
    assert shapes == [(1, 1), (1, 4), (4, 16), (1, 4)]


def test_a_clip_keeps_its_frames_and_phrases() -> None:
    clip = batch_of(3, 3, 3)
    clip = Batch(clip.images, clip.tokens, clip.attention_mask, clip.image_index, 3, torch.arange(3).repeat(3))
    found = raised(clip)
    assert (len(found.images), len(found), found.frames) == (3, 9, 3)
    assert torch.equal(found.phrase_index, clip.phrase_index)  # type: ignore[arg-type]


def test_answers_to_what_was_repeated_are_dropped() -> None:
    made = Compiling()
    model, batch = Compiled(Adding(), CPU, made), batch_of(2, 0, 3)
    wanted = (batch.tokens[:, 0] + 1000.0 * batch.image_index).tolist()
    for _ in range(3):
        found = model(batch)
        assert found.mask_logits.shape == (5, 1, 4, 8)
        assert found.mask_logits[:, 0, 0, 0].tolist() == found.exists_logit.tolist() == wanted  # type: ignore[union-attr]
    assert list(made.sizes) == [(4, 8)]
    assert made.sizes[4, 8].count == 2
    assert min(made.sizes[4, 8].first, made.sizes[4, 8].later, made.sizes[4, 8].plain) > 0


def test_a_model_answers_as_without_and_sizes_are_few(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", TRACED)
    made = Compiling()
    plain = Predictor(untrained, device="cpu")
    compiled = Predictor(untrained, device="cpu", compile=made)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 50, 120), dtype=np.uint8)
    for count in (3, 4):
        pairs = zip(plain.soften(pixels, PHRASES[:count]), compiled.soften(pixels, PHRASES[:count]), strict=True)
        for one, other in pairs:
            assert one.phrase == other.phrase
            assert one.soft.std() > 0.01
            np.testing.assert_allclose(other.soft, one.soft, atol=1e-6)
            assert other.p_target == pytest.approx(one.p_target, abs=1e-6)
    assert {size: timed.count for size, timed in made.sizes.items()} == {(1, 4): 1}
    assert compiled.passes.cost is None  # the compiler's memory is none of the phrases'


def test_a_clip_is_answered_by_the_compiled_model(untrained: Path) -> None:
    made = Compiling()
    frames = list(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 60), dtype=np.uint8))
    found = list(Predictor(untrained, device="cpu", compile=made).follow(frames, PHRASES[:2]))
    plain = list(Predictor(untrained, device="cpu").follow(frames, PHRASES[:2]))
    assert [[one.pixels for one in frame] for frame in found] == [[one.pixels for one in frame] for frame in plain]
    assert made.sizes[1, 2].count == 1


def test_an_evaluation_counts_the_same(data: Path, saved: Path) -> None:
    made = Compiling()
    plain = evaluate(EvalRequest(str(data), ("val", "testA"), str(saved), "cpu", batch_images=2))
    found = evaluate(EvalRequest(str(data), ("val", "testA"), str(saved), "cpu", batch_images=2, compile=made))
    assert found.scores == plain.scores
    assert made.sizes


def test_phrases_that_memory_parts_are_compiled_in_parts(untrained: Path) -> None:
    made = Compiling()
    ask = Predictor(untrained, device="cpu", memory=1, compile=made)
    assert len(list(ask.predict(np.zeros((3, 20, 20), np.uint8), PHRASES))) == 6
    assert list(made.sizes) == [(1, 1)]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (
            [Size(40.0, 20.0, 100, 0.9)],
            "1 size .* in 40.0 s; 100 more took 0.2 s each, 0.9 s uncompiled: 30.0 s won",
        ),
        ([Size(40.0, 2.0, 10, 0.3), Size(2.0)], "2 sizes of a pass in 42.0 s; 10 more .* it did not pay, 41.0 s lost"),
        ([Size(3.0)], "1 size of a pass in 3.0 s, and none came again: it did not pay"),
    ],
)
def test_what_it_cost_and_saved(sizes: list[Size], words: str) -> None:
    told = Compiling({(1, 2**k): size for k, size in enumerate(sizes)}).told()
    assert re.fullmatch(f"--compile: {words}", told)


def test_kernels_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compiling.prepare(CPU)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "refseg" / "compiled")
    assert (tmp_path / "cache" / "refseg" / "compiled").is_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    compiling.prepare(CPU)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"


def test_a_home_that_cannot_be_written_to_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiling.prepare(CPU)
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


# ---- refusals


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch, untrained: Path) -> None:
    def missing() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(RefsegError, match=r"--compile: torch\.compile needs a C\+\+ compiler, g\+\+ or what CXX names"):
        Predictor(untrained, device="cpu", compile=Compiling())


def test_without_triton_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton_package", lambda: False)
    with pytest.raises(RefsegError, match=r"torch\.compile needs the package triton"):
        compiling.prepare(torch.device("cuda"))


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: object, inputs: object) -> None:
        raise RuntimeError("a page\nfatal error: Python.h: No such file or directory\nand one more")

    monkeypatch.setattr(torch, "compile", partial(TRACED.func, backend=fails))
    with pytest.raises(RefsegError, match=r"^--compile: torch\.compile failed: fatal error: Python\.h: No such[^\n]*$"):
        Compiled(Adding(), CPU, Compiling())(batch_of(2))


def test_a_pass_that_is_too_large_is_no_fault_of_the_compiler() -> None:
    class Large(nn.Module):
        def forward(self, batch: Batch) -> Prediction:
            raise torch.OutOfMemoryError

    model = Compiled(Adding(), CPU, Compiling())
    model.compiled = Large()
    with pytest.raises(torch.OutOfMemoryError):
        model(batch_of(2))


def test_only_torch_can_be_compiled(tmp_path: Path, tiny: Callable[[str], str]) -> None:
    with pytest.raises(RefsegError, match="runs on onnxruntime, which is faster"):
        open_segmenter("photos", device="cpu", compile=Compiling())
    exported = tmp_path / "model.onnx"
    exported.touch()
    for open_it in (
        lambda: open_segmenter(exported, compile=Compiling()),
        lambda: evaluate(EvalRequest("none", ("val",), str(exported), compile=Compiling())),
    ):
        with pytest.raises(RefsegError, match="an exported model cannot be compiled"):
            open_it()
    for open_it in (
        lambda: open_segmenter(tiny("clipseg"), compile=Compiling()),
        lambda: evaluate(EvalRequest("none", ("val",), tiny("clipseg"), compile=Compiling())),
    ):
        with pytest.raises(RefsegError, match="no use for --compile"):
            open_it()


def test_a_compiled_model_has_no_maps(tmp_path: Path, data: Path) -> None:
    with pytest.raises(RefsegError, match="--compile has no use for --format explain"):
        predict("picture.png", ["a dog"], explain=True, compile=True)
    with pytest.raises(RefsegError, match="--compile has no use for --engine ray"):
        predict(data="shards", engine="ray", output="answers", compile=True)
    with pytest.raises(RefsegError, match="a compiled model has no maps for --report"):
        eval_(str(data), page=str(tmp_path / "report.html"), compile=True)
    with pytest.raises(RefsegError, match="--compile needs a model"):
        eval_(str(data), source="answers.json", compile=True)


# ---- commands


def test_a_last_line_says_whether_it_paid(
    untrained: Path, data: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = checkpoint.BUNDLE / "demo" / "cat.jpg"
    status = predict(
        str(picture), ["a dog"], model=str(untrained), device="cpu", compile=True, output=str(tmp_path / "m.png")
    )
    assert status in (0, 1)
    assert capsys.readouterr().err.splitlines()[-1].startswith("--compile: 1 size of a pass in ")
    eval_(str(data), model=str(saved), device="cpu", compile=True, batch_images=1, resamples=0)
    assert "\n--compile: " in capsys.readouterr().err


@pytest.mark.slow
def test_another_process_reads_what_one_compiled(untrained: Path, tmp_path: Path) -> None:
    """The real compiler, twice: equal masks within rounding, and nothing compiled again."""
    code = """if True:
        import sys, numpy, torch
        from torch._dynamo.utils import counters
        from refseg_cli.segmenters.compiling import Compiling
        from refseg_cli.segmenters.trained import Predictor
        torch.set_num_threads(1)
        pixels = numpy.random.default_rng(0).integers(0, 256, (3, 50, 120), dtype=numpy.uint8)
        found = [list(Predictor(sys.argv[1], device="cpu", compile=c).soften(pixels, ["a dog", "the red car", "cat"]))
                 for c in (None, Compiling())]
        for one, other in zip(*found, strict=True):
            assert numpy.abs(one.soft - other.soft).max() < 1e-4
        print(counters["aot_autograd"]["autograd_cache_hit"], counters["aot_autograd"]["autograd_cache_miss"])
    """
    place = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    place["XDG_CACHE_HOME"] = str(tmp_path)
    runs = [
        subprocess.run([sys.executable, "-c", code, untrained], env=place, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [run.stdout.split() for run in runs] == [["0", "1"], ["1", "0"]]
