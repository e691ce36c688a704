"""Exported models answer as the checkpoint does that they were made of, and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from refseg_cli import checkpoint
from refseg_cli.engine.export import ExportRequest, export
from refseg_cli.errors import RefsegError
from refseg_cli.segmenters import onnx as module
from refseg_cli.segmenters.choice import open_checkpoint, open_explaining, open_segmenter, usual_device
from refseg_cli.segmenters.memory import SUPPOSED
from refseg_cli.segmenters.onnx import OnnxSegmenter, load
from refseg_cli.segmenters.trained import Predictor

PHRASES = ["two people on left", "the red car", "dog", "a cat and the big dog that nobody knows at all"]
SIZES = [(50, 120), (200, 90), (64, 96)]
MASKS_MAY_DIFFER = 0.005  # of all pixels: one step of 255 in some pixels of the network's input


def a_picture(size: tuple[int, int]) -> np.ndarray:
    """(3, h, w), smooth enough that resizing means the same to everybody."""
    rng = np.random.default_rng(size[1])
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC)).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def exported(untrained: Path, traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    export(ExportRequest(untrained, "onnx", folder / "vlt.onnx"))
    export(ExportRequest(untrained, "onnx", folder / "vlt", split=True))
    return {"file": folder / "vlt.onnx", "folder": folder / "vlt"}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("once", [False, True])
def test_answers_are_those_of_torch(exported: dict[str, Path], untrained: Path, kind: str, once: bool) -> None:
    ours, theirs = OnnxSegmenter(exported[kind], once=once), Predictor(untrained, device="cpu")
    assert ours.name == theirs.name == "tiny"
    assert ours.thresholds == theirs.thresholds
    inside = 0
    for size in SIZES:
        image = a_picture(size)
        pairs = list(zip(ours.predict(image, PHRASES), theirs.predict(image, PHRASES), strict=True))
        assert len(pairs) == len(PHRASES)
        for one, other in pairs:
            assert (one.phrase, one.exists) == (other.phrase, other.exists)
            assert one.p_target == pytest.approx(other.p_target, abs=0.01)
            assert one.mask.shape == size
            assert one.pixels == one.mask.sum()
            assert (one.mask != other.mask).mean() < MASKS_MAY_DIFFER
            inside += 0 < one.pixels < one.mask.size
    assert inside  # all or nothing would be equal anyway
    assert ours.cautions("photo.jpg", PHRASES) == theirs.cautions("photo.jpg", PHRASES) != []


def test_pictures_come_as_files_bytes_and_pixels(exported: dict[str, Path], tmp_path: Path) -> None:
    image, file = a_picture((50, 120)), tmp_path / "a.png"
    Image.fromarray(image.transpose(1, 2, 0)).save(file)
    segmenter = OnnxSegmenter(exported["file"])
    forms = [file, file.read_bytes(), image, torch.from_numpy(image.copy())]
    one, *others = (next(segmenter.predict(form, ["dog"])) for form in forms)
    assert all(np.array_equal(one.mask, other.mask) for other in others)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_picture_is_encoded_once(exported: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split graph encodes it once for any number of phrases; a whole one once for each chunk of them."""
    monkeypatch.setattr(module, "CHUNK", 3)
    segmenter = OnnxSegmenter(exported[kind])
    graphs, seen = segmenter.exported.graphs, []
    for name in ("image", "phrase"):
        if (session := getattr(graphs, name)) is not None:
            monkeypatch.setattr(graphs, name, Counted(session, seen))
    together = list(segmenter.predict(a_picture((50, 120)), PHRASES))
    assert seen == ([["images"], 3, 1] if kind == "folder" else [3, 1])
    for found in together:
        (alone,) = segmenter.predict(a_picture((50, 120)), [found.phrase])
        assert found.p_target == pytest.approx(alone.p_target, abs=1e-5)
        assert (found.mask != alone.mask).mean() < 1e-3


def test_memory_bounds_the_phrases_of_a_run(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    size = OnnxSegmenter(exported["file"]).exported.recipe.data.size
    segmenter = OnnxSegmenter(exported["file"], memory=2 * SUPPOSED * size[0] * size[1])
    seen: list[Any] = []
    graphs = segmenter.exported.graphs
    for name in ("image", "phrase"):
        if (session := getattr(graphs, name)) is not None:
            monkeypatch.setattr(graphs, name, Counted(session, seen))
    assert len(list(segmenter.predict(a_picture((50, 120)), PHRASES))) == len(PHRASES)
    assert seen == [2] * (len(PHRASES) // 2) + [1] * (len(PHRASES) % 2)


class Counted:
    """A session that notes what it is asked: its inputs, or how many phrases."""

    def __init__(self, session: Any, seen: list[Any]) -> None:
        self.session, self.seen = session, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, outputs: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.seen.append(len(feeds["tokens"]) if "tokens" in feeds else list(feeds))
        return self.session.run(outputs, feeds)


def test_soft_answers_are_torch_s(exported: dict[str, Path], untrained: Path) -> None:
    image = a_picture((50, 120))
    ours, theirs = OnnxSegmenter(exported["file"]), Predictor(untrained, device="cpu")
    for one, other in zip(ours.soften(image, PHRASES), theirs.soften(image, PHRASES), strict=True):
        assert one.soft is not None
        assert other.soft is not None
        assert one.soft.dtype == other.soft.dtype == np.float32
        assert np.abs(one.soft - other.soft).max() < 0.02  # the resize of pictures to the network's input differs
        assert one.soft.max() > 0  # also where there is no target
        if one.exists:
            np.testing.assert_array_equal(one.mask, one.soft > ours.thresholds.mask)
    assert next(ours.predict(image, PHRASES)).soft is None


def test_thresholds_are_overridden(exported: dict[str, Path]) -> None:
    image = a_picture((50, 120))
    none = OnnxSegmenter(exported["file"], no_target_threshold=1.0)
    assert not any(found.exists or found.mask.any() for found in none.predict(image, PHRASES))
    every = OnnxSegmenter(exported["file"], threshold=0.0, no_target_threshold=0.0)
    assert all(found.mask.all() for found in every.predict(image, PHRASES))
    with pytest.raises(RefsegError, match="is not a probability"):
        OnnxSegmenter(exported["file"], threshold=2)


# ---- what a model is named by


def test_the_choice_knows_what_is_exported(exported: dict[str, Path], untrained: Path) -> None:
    for path in exported.values():
        assert isinstance(open_segmenter(str(path)), OnnxSegmenter)
        assert usual_device(path, "auto") == "cpu"
        with pytest.raises(RefsegError, match="runs on the CPU, not on cuda"):
            open_segmenter(str(path), device="cuda")
        with pytest.raises(RefsegError, match="has no maps to show"):
            open_explaining(str(path))
        with pytest.raises(RefsegError, match="--set cannot change an exported model"):
            open_checkpoint(path, overrides=["data.workers=0"])
    assert isinstance(open_segmenter(untrained, device="cpu"), Predictor)
    assert isinstance(open_explaining(untrained, device="cpu"), Predictor)
    assert usual_device(untrained, "auto") == "auto"
    with pytest.raises(RefsegError, match="hf:org/name"):
        open_segmenter("hf:org/name")


def test_a_graph_is_evaluated_as_a_checkpoint_is(exported: dict[str, Path], untrained: Path, scenes: Path) -> None:
    from refseg_cli.evaluation.evaluate import EvalRequest, evaluate

    wanted = {"protocols": ("refseg", "rela"), "curve": True, "device": "cpu", "workers": 0}
    found = [
        evaluate(EvalRequest(str(scenes), ("testA",), str(model), **wanted))  # type: ignore[arg-type]
        for model in (untrained, *exported.values())
    ]
    first, *others = (report.evaluations["testA"].answers for report in found)
    for answers in others:
        assert answers.about == first.about
        np.testing.assert_allclose(answers.p_target, first.p_target, atol=1e-5)
        np.testing.assert_allclose(answers.predicted, first.predicted, atol=30)
        np.testing.assert_allclose(answers.views, first.views, atol=30)


def test_a_graph_is_timed_without_what_it_does_not_say(exported: dict[str, Path]) -> None:
    from refseg_cli.engine.bench import BenchRequest, bench

    request = BenchRequest(str(exported["folder"]), batch_sizes=(1, 2), phrases=(3,), repeat=1, warmup=0)
    report = bench(request)
    assert (report.device.split(",")[0], report.parameters, report.gflops_per_image) == ("cpu", None, None)
    assert [(row.images, row.expressions, row.gflops) for row in report.rows] == [(1, 3, None), (2, 6, None)]
    with pytest.raises(RefsegError, match="has its own precision"):
        bench(replace(request, precision="bf16"))


def test_a_report_of_a_graph_has_masks_and_no_maps(exported: dict[str, Path], scenes: Path) -> None:
    from refseg_cli.evaluation.evaluate import EvalRequest, evaluate
    from refseg_cli.evaluation.watching import Watch

    watch = Watch(str(exported["file"]))
    report = evaluate(EvalRequest(str(scenes), ("testB",), str(exported["file"]), workers=0), watch=watch)
    assert len(watch.masks) == len(report.evaluations["testB"].answers) > 0
    assert watch.maps == {}


def test_an_exported_model_keeps_its_thresholds(exported: dict[str, Path], scenes: Path) -> None:
    from refseg_cli.evaluation.calibrate import calibrate
    from refseg_cli.evaluation.evaluate import EvalRequest

    with pytest.raises(RefsegError, match="calibrate the checkpoint and export it"):
        calibrate(EvalRequest(str(scenes), (), str(exported["file"])), "val")


# ---- damage


def rewritten(path: Path, to: Path, change: dict[str, str | None]) -> Path:
    """A copy whose metadata has other texts under these names, or none."""
    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props} | change
    del model.metadata_props[:]
    for key, value in kept.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, to)
    return to


DAMAGE: dict[str, tuple[dict[str, str | None], str]] = {
    "foreign": ({"refseg.json": None}, "not written by `refseg export`"),
    "no JSON": ({"refseg.json": "{"}, "refseg.json is damaged"),
    "old": ({"refseg.json": "{}"}, "exported by an earlier version of refseg; export it again"),
    "other format": ({"refseg.json": '{"checkpoint": {"format": 9}}'}, "not a checkpoint of format 1"),
    "no tokenizer": ({"tokenizer.json": None}, "not a tokenizer file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_no_export_is_one_line(exported: dict[str, Path], tmp_path: Path, kind: str) -> None:
    change, words = DAMAGE[kind]
    path = rewritten(exported["file"], tmp_path / "x.onnx", change)
    with pytest.raises(RefsegError) as caught:
        load(path)
    assert words in str(caught.value).replace(" (", "; ")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_line(exported: dict[str, Path], tmp_path: Path) -> None:
    for number, data in enumerate([b"", b"once upon a time", exported["file"].read_bytes()[:5000]]):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(data)
        with pytest.raises(RefsegError, match=rf"^{path}: (cannot be loaded|not written by)") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(RefsegError, match="no such file"):
        open_segmenter(str(tmp_path / "none.onnx"))


@pytest.mark.parametrize("name", ["image.onnx", "phrase.onnx", "refseg.json", "tokenizer.json"])
def test_a_folder_lacks_nothing(exported: dict[str, Path], tmp_path: Path, name: str) -> None:
    for file in exported["folder"].iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RefsegError, match=name):
        load(tmp_path)


# ---- the bundled model


@pytest.fixture(scope="module")
def bundled(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from refseg_cli.bundled.build import build

    folder = tmp_path_factory.mktemp("bundled")
    build(str(untrained), "scenes", "another", folder)
    return folder / "scenes"


def test_the_bundled_graph_holds_no_weights_of_its_own(bundled: Path) -> None:
    model = onnx.load(bundled / "model.onnx", load_external_data=False)
    inside = sum(i.ByteSize() for i in model.graph.initializer if i.data_location != onnx.TensorProto.EXTERNAL)
    weights = (bundled / "model.safetensors").stat().st_size
    assert inside < 0.4 * weights  # a tiny model's position codes are no small part
    outside = [i for i in model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    assert {entry.value for i in outside for entry in i.external_data if entry.key == "location"} == {
        "model.safetensors"
    }
    assert sum(np.prod(i.dims) for i in outside) > 0.4 * weights / 2


def test_the_bundled_graph_answers_as_its_checkpoint(bundled: Path) -> None:
    ours, theirs = OnnxSegmenter(bundled, once=True), Predictor(bundled, device="cpu")
    assert ours.name == theirs.name == "another"
    for size in SIZES:
        for one, other in zip(*(s.predict(a_picture(size), PHRASES) for s in (ours, theirs)), strict=True):
            assert one.p_target == pytest.approx(other.p_target, abs=0.01)
            assert (one.mask != other.mask).mean() < MASKS_MAY_DIFFER


@pytest.mark.parametrize("name", checkpoint.BUNDLED)
def test_the_package_s_graphs_are_of_its_weights(name: str) -> None:
    """Whoever changes the weights builds the graph again: `python -m refseg_cli.bundled.build`."""
    ours, theirs = OnnxSegmenter(checkpoint.bundled(name)), Predictor(name, device="cpu")
    assert isinstance(open_segmenter(name), OnnxSegmenter)
    assert isinstance(open_segmenter(name, device="cpu"), OnnxSegmenter)
    demo = checkpoint.BUNDLE / "demo"
    for scene in json.loads((demo / "demo.json").read_text("utf-8")):
        file = demo / scene["image"]
        for one, other in zip(*(s.predict(file, scene["phrases"]) for s in (ours, theirs)), strict=True):
            assert one.exists == other.exists
            assert one.p_target == pytest.approx(other.p_target, abs=0.01)
            assert (one.mask != other.mask).mean() < MASKS_MAY_DIFFER


# ---- what starts fast


COLD = """
import sys
from refseg_cli.app import main
status = main(sys.argv[2:])
slow = ("torch", "transformers", "timm", "pyarrow", "torchvision", "onnx", "accelerate", "pycocotools", "rich")
print(sorted(name for name in sys.modules if name in slow), file=open(sys.argv[1], "w"))
sys.exit(status)
"""


@pytest.mark.parametrize("kind", ["bundled", "file", "folder"])
def test_a_cold_predict_imports_nothing_slow(exported: dict[str, Path], tmp_path: Path, kind: str) -> None:
    scene = checkpoint.BUNDLE / "demo" / "scene_people.jpg"
    model = [] if kind == "bundled" else ["--model", str(exported[kind])]
    words = ["predict", *model, str(scene), "two people on left", "--no-target-ok", "-o", str(tmp_path / "m.png")]
    done = subprocess.run([sys.executable, "-c", COLD, str(tmp_path / "seen"), *words], capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "seen").read_text()) == (0, "[]\n"), done.stderr
    with Image.open(scene) as picture, Image.open(tmp_path / "m.png") as mask:
        assert mask.size == picture.size
