"""Exported files, used as somebody would who has nothing but the file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tokenizers
import torch
from torch.export import ExportedProgram

from refseg_cli import checkpoint
from refseg_cli.data.shards import open_shards
from refseg_cli.engine import artifacts, onnx_graph, proof
from refseg_cli.engine import export as module
from refseg_cli.engine.export import ExportReport, ExportRequest, export
from refseg_cli.engine.proof import Proof, prove, real_batches
from refseg_cli.engine.questions import PHRASES, Question, demo_pictures, real_questions
from refseg_cli.engine.tracing import TRACED, Graph, example
from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch
from refseg_cli.segmenters.passes import joined

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def written(untrained: Path, traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    folder = tmp_path_factory.mktemp("exported")
    return {f: export(ExportRequest(untrained, f, folder / f"vlt.{f}")) for f in ("onnx", "pt2")}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def program(untrained: Path, traced_once: None) -> ExportedProgram:
    """The traced model, for tests of what comes after."""
    loaded = checkpoint.load(untrained)
    return module.trace(Graph(loaded.model).eval(), example(loaded, *TRACED))


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_report_proves_parity(written: dict[str, ExportReport], kind: str) -> None:
    report = written[kind]
    found = report.proof
    assert report.path.stat().st_size == report.bytes
    assert report.model == "tiny"
    assert report.outputs == ("mask_logits", "exists_logit")
    assert 0 <= found.difference < 1e-5
    assert found.scale > 0.01  # parity with zeros would prove nothing
    assert found.mask_iou > 0.999
    assert found.mask_pixels > 1000
    assert (found.data, found.pictures, found.phrases) == ("demo", 3, 9)
    assert set(found.batches) == {(1, 1), (1, 4), (2, 5), (3, 3), (1, 2), (3, 9)}
    assert found.eager_ms > 0 < found.exported_ms
    assert [p.suffix for p in report.path.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_proof_is_stored_in_the_file(written: dict[str, ExportReport], kind: str) -> None:
    facts = facts_of(written[kind].path)
    assert facts["proof"] == json.loads(json.dumps(asdict(written[kind].proof)))
    assert facts["thresholds"] == {"mask": 0.5, "exists": 0.4, "min_pixels": 1}


def facts_of(path: Path) -> dict[str, Any]:
    if path.suffix == ".pt2":
        extra = {"refseg.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["refseg.json"])
    return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["refseg.json"])


def test_onnx_carries_what_a_consumer_needs(written: dict[str, ExportReport], untrained: Path) -> None:
    """Tokenise with the tokeniser of the file, run it for two pictures and three phrases, compare with the model."""
    path = written["onnx"].path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    facts = json.loads(metadata["refseg.json"])
    pipeline = tokenizers.Tokenizer.from_str(metadata["tokenizer.json"])
    encoded = pipeline.encode_batch(["two people on left", "dog", "the red car and the big dog"])
    tokens = np.array([e.ids for e in encoded])
    keep = np.array([e.attention_mask for e in encoded], dtype=bool)
    assert tokens.shape == (3, facts["text"]["max_tokens"])
    pixels = np.random.default_rng(0).random((2, 3, *facts["image"]["size"]), dtype=np.float32)
    mean, std = (np.array(facts["image"][k], dtype=np.float32)[:, None, None] for k in ("mean", "std"))
    feeds = dict(zip(facts["inputs"], ((pixels - mean) / std, tokens, keep, np.array([0, 1, 1])), strict=True))
    found = dict(zip(facts["outputs"], session.run(None, feeds), strict=True))
    model = checkpoint.load(untrained).model
    with torch.no_grad():
        expected = model(Batch(*(torch.from_numpy(feeds[name]) for name in facts["inputs"])))
    np.testing.assert_allclose(found["mask_logits"], expected.mask_logits, atol=1e-5)
    np.testing.assert_allclose(found["exists_logit"], expected.exists_logit, atol=1e-5)
    assert facts["thresholds"] == {"mask": 0.5, "exists": 0.4, "min_pixels": 1}


def test_onnx_names_its_axes_and_no_machine(written: dict[str, ExportReport]) -> None:
    model = onnx.load(written["onnx"].path)
    axes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert axes == {
        "images": ["images", 3, 64, 96],
        "tokens": ["expressions", 6],
        "attention_mask": ["expressions", 6],
        "image_index": ["expressions"],
    }
    assert str(Path(module.__file__).parents[2]).encode() not in written["onnx"].path.read_bytes()


def test_pt2_runs_alone(written: dict[str, ExportReport], untrained: Path) -> None:
    extra = {"refseg.json": "", "tokenizer.json": ""}
    program = torch.export.load(written["pt2"].path, extra_files=extra)
    assert json.loads(extra["refseg.json"])["schema"] == "refseg.export/1"
    assert tokenizers.Tokenizer.from_str(extra["tokenizer.json"]).get_vocab_size() > 2
    loaded = checkpoint.load(untrained)
    inputs = example(loaded, 3, 7, seed=9)
    with torch.no_grad():
        masks, exists = program.module()(*inputs)
        expected = loaded.model(Batch(*inputs))
    torch.testing.assert_close(masks, expected.mask_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(exists, expected.exists_logit, atol=1e-5, rtol=0)


def test_examples_are_phrases_of_every_length(untrained: Path) -> None:
    loaded = checkpoint.load(untrained)
    images, tokens, keep, index = example(loaded, 2, 5)
    assert images.shape == (2, 3, 64, 96)
    assert keep.sum(1).tolist() == [1, 2, 4, 5, 6]
    assert tokens[keep].min() >= 0
    assert (tokens[~keep] == loaded.tokenizer.pad_id).all()
    assert index.tolist() == [0, 0, 0, 1, 1]
    assert not torch.equal(example(loaded, 2, 5, seed=1)[0], images)


@pytest.mark.parametrize("damage", ["tolerance", "masks", "nan"])
def test_a_graph_that_differs_leaves_the_old_file(
    untrained: Path, program: ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(module, "trace", lambda graph, inputs: program)
    out = tmp_path / "vlt.pt2"
    out.write_text("the old one")
    if damage == "tolerance":
        monkeypatch.setattr(proof, "TOLERANCE", -1.0)
    elif damage == "masks":
        monkeypatch.setattr(proof, "LEAST_IOU", 1.1)
    else:
        nan = torch.full((1,), float("nan"))
        nans = replace(artifacts.FORMS["pt2"], open=lambda file: lambda inputs: [nan.expand(o) for o in shapes(inputs)])
        monkeypatch.setitem(artifacts.FORMS, "pt2", nans)
    with pytest.raises(RefsegError, match="not written, because the exported graph differs"):
        export(ExportRequest(untrained, "pt2", out))
    assert out.read_text() == "the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["vlt.pt2"]


def shapes(inputs: tuple[torch.Tensor, ...]) -> list[tuple[int, ...]]:
    """Of the outputs for these inputs: a grid of 4 x 6 cells upsampled twice."""
    return [(len(inputs[1]), 1, 16, 24), (len(inputs[1]),)]


def test_an_exporter_that_fails_is_one_line(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: object, inputs: object) -> None:
        raise RuntimeError("no such operator\n" + "and pages of it\n" * 50)

    monkeypatch.setattr(module, "trace", fail)
    with pytest.raises(RefsegError, match=r"^tiny: cannot be exported to pt2: no such operator$"):
        export(ExportRequest(untrained, "pt2", tmp_path / "vlt.pt2"))
    assert list(tmp_path.iterdir()) == []


def test_the_reason_is_the_innermost_one(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.onnx wraps an operator's refusal twice, the outer time into a page of advice."""

    def fail(graph: object, inputs: object) -> None:
        try:
            try:
                raise AssertionError("only 4D queries\nand more about them")
            except AssertionError as inner:
                raise RuntimeError("Error when translating node %attention_6") from inner
        except RuntimeError as middle:
            raise RuntimeError("Failed to convert. Next steps:\n- debug the error") from middle

    monkeypatch.setattr(module, "trace", fail)
    with pytest.raises(RefsegError, match=r"^tiny: cannot be exported to onnx: only 4D queries$"):
        export(ExportRequest(untrained, "onnx", tmp_path / "vlt.onnx"))


def test_a_graph_of_one_size_alone_is_refused(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity is measured at other numbers of pictures and phrases than those the model was traced with."""
    assert TRACED not in proof.PROVEN
    for axis in (0, 1):
        assert any(sizes[axis] != TRACED[axis] for sizes in proof.PROVEN)

    monkeypatch.setattr(module, "trace", lambda graph, inputs: torch.export.export(graph, tuple(inputs)))
    with pytest.raises(RefsegError, match="cannot be exported to pt2"):
        export(ExportRequest(untrained, "pt2", tmp_path / "vlt.pt2"))
    assert list(tmp_path.iterdir()) == []


def test_exporters_do_not_talk(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def talk(graph: object, inputs: object) -> None:
        print("[torch.onnx] Run decompositions... ")  # noqa: T201
        raise RuntimeError("enough")

    monkeypatch.setattr(module, "trace", talk)
    with pytest.raises(RefsegError, match="enough"):
        export(ExportRequest(untrained, "onnx", tmp_path / "vlt.onnx"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "name"), [("onnx", "vlt.pt2"), ("pt2", "vlt"), ("pt2", "vlt.onnx")])
def test_the_name_must_fit_the_format(untrained: Path, tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(RefsegError, match=rf"end it with \.{kind}"):
        export(ExportRequest(untrained, kind, tmp_path / name))  # type: ignore[arg-type]


def test_a_folder_is_no_file(untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "vlt.pt2").mkdir()
    with pytest.raises(RefsegError, match="is a folder"):
        export(ExportRequest(untrained, "pt2", tmp_path / "vlt.pt2"))


def test_missing_packages_are_named(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXTRAS", ("onnx", "no_such_package"))
    with pytest.raises(RefsegError, match=r"needs no_such_package \(pip install 'refseg\[export\]'\)"):
        export(ExportRequest(untrained, "onnx", tmp_path / "vlt.onnx"))


# ---- what an export is proved on


def test_given_data_is_what_it_is_proved_on(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    report = export(ExportRequest(untrained, "pt2", tmp_path / "vlt.pt2", data=str(scenes), data_split="testA"))
    split = open_shards(scenes, "testA")
    assert (report.proof.data, report.proof.pictures) == (str(scenes), len(split))
    asked = real_questions(str(scenes), "testA")
    assert [q.image for q in asked] == [split[i].image for i in range(len(split))]
    assert asked[0].phrases == tuple(e.text for e in split[0].expressions)[:PHRASES]


def test_data_that_is_not_there_is_said_before_any_work(untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="nowhere"):
        export(ExportRequest(untrained, "pt2", tmp_path / "vlt.pt2", data=str(tmp_path / "nowhere")))
    assert list(tmp_path.iterdir()) == []


def test_real_batches_are_of_one_and_of_all_pictures(untrained: Path) -> None:
    loaded, asked = checkpoint.load(untrained), real_questions(None)
    single, first, every = real_batches(asked, loaded)
    assert [(len(b.images), len(b.tokens)) for b in (single, first, every)] == [(1, 1), (1, 2), (3, 9)]
    assert every.image_index.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 2]
    assert torch.equal(every.images[:1], first.images)
    assert torch.equal(joined([first]).tokens, first.tokens)
    assert len(set(map(tuple, every.sizes.tolist()))) > 1  # so that each mask must be brought to its own picture


def proof_of(loaded: Any, change: Any) -> Proof:
    """Of a runtime that answers as the model does, changed."""
    graph = Graph(loaded.model).eval()
    first = demo_pictures()[0]
    asked = [Question(first.file.read_bytes(), ("two people on left", "the red car"))]

    def run(inputs: Any) -> list[torch.Tensor]:
        with torch.inference_mode():
            return change(list(graph(*inputs)))

    return prove(run, graph, loaded, asked, None)


def test_masks_are_compared_as_a_user_sees_them(untrained: Path) -> None:
    """A head that says no empties the mask whose logits agree; a graph that is the model has IoU 1."""
    loaded = checkpoint.load(untrained)
    same = proof_of(loaded, lambda outputs: outputs)
    assert (same.difference, same.mask_iou, same.holds) == (0.0, 1.0, True)
    assert same.mask_pixels > 0
    silent = proof_of(loaded, lambda outputs: [outputs[0], torch.full_like(outputs[1], -9.0)])
    assert silent.mask_iou == 0
    assert not silent.holds
    off = proof_of(loaded, lambda outputs: [outputs[0] + 0.01, outputs[1]])
    assert off.difference == pytest.approx(0.01, rel=1e-3)
    assert not off.holds


# ---- cut in two


def test_a_split_graph_is_a_folder_that_computes_the_same(untrained: Path, tmp_path: Path) -> None:
    """The first graph knows no phrase, the second has no backbone; a further run takes the place of the first."""
    for _ in range(2):
        report = export(ExportRequest(untrained, "onnx", tmp_path / "vlt", split=True))
        assert report.proof.difference < 1e-5 < 0.01 < report.proof.scale
    assert [p.name for p in tmp_path.iterdir()] == ["vlt"]
    assert sorted(p.name for p in report.path.iterdir()) == [
        "image.onnx",
        "phrase.onnx",
        "refseg.json",
        "tokenizer.json",
    ]
    assert json.loads((report.path / "refseg.json").read_text())["proof"]["mask_iou"] == report.proof.mask_iou
    assert report.bytes == sum(p.stat().st_size for p in report.path.iterdir())
    image, phrase = (onnx.load(report.path / name).graph for name in ("image.onnx", "phrase.onnx"))
    assert [v.name for v in image.input] == ["images"]
    assert [v.name for v in phrase.output] == ["mask_logits", "exists_logit"]
    border = [v.name for v in image.output]
    assert [v.name for v in phrase.input if v.name in border] == border
    assert {v.name for v in phrase.input} - set(border) <= {"images", *onnx_graph.INPUTS[1:]}
    weights = [{i.name for i in graph.initializer if "vision.backbone" in i.name} for graph in (image, phrase)]
    assert weights[0]
    assert not weights[1]


def test_what_depends_on_a_phrase_from_the_start_is_not_split() -> None:
    """images -> Gather by image_index -> everything else."""
    nodes = [onnx.helper.make_node("Gather", ["images", "image_index"], ["mask_logits"], axis=0)]
    values = [onnx.helper.make_tensor_value_info(n, k, [None]) for n, k in (("images", 1), ("image_index", 7))]
    out = onnx.helper.make_tensor_value_info("mask_logits", 1, [None])
    with pytest.raises(RefsegError, match="language enters at the input"):
        onnx_graph.split(onnx.helper.make_model(onnx.helper.make_graph(nodes, "early", values, [out])))


def test_constants_go_where_they_are_read() -> None:
    """A constant node that both halves read is in both; a branch's inner reads count."""
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["encoded", "two"], ["added"])],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("added", 1, [None])],
    )
    nodes = [
        onnx.helper.make_node("Constant", [], ["two"], value_float=2.0),
        onnx.helper.make_node("Mul", ["images", "two"], ["encoded"]),
        onnx.helper.make_node("If", ["attention_mask"], ["mask_logits"], then_branch=inner, else_branch=inner),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "late",
        [info("images", 1, [None]), info("attention_mask", 9, [])],
        [info("mask_logits", 1, [None])],
        value_info=[info("encoded", 1, [None])],
    )
    first, second = onnx_graph.split(onnx.helper.make_model(graph))
    assert [n.op_type for n in first.graph.node] == ["Constant", "Mul"]
    assert [n.op_type for n in second.graph.node] == ["Constant", "If"]
    assert [v.name for v in second.graph.input] == ["encoded", "attention_mask"]
    for part in (first, second):
        onnx.checker.check_model(part, full_check=True)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("pt2", "vlt", "--split cuts ONNX graphs, not pt2"),
        ("onnx", "vlt.onnx", "--split writes a folder of two graphs"),
        ("onnx", "full", "in the way of the exported folder"),
    ],
)
def test_a_split_graph_needs_a_folder_of_its_own(
    untrained: Path, tmp_path: Path, kind: str, name: str, words: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(RefsegError, match=words):
        export(ExportRequest(untrained, kind, tmp_path / name, split=True))  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "thesis.tex"]
