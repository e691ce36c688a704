"""`refseg eval --set` from the shell to the figures: ISFP's oracles, on a picture and a model counted by hand.

The picture has 96 x 96 pixels, 3 x 3 cells: "a" in the middle, "b" at the bottom right, 32 x 32 pixels each. The model
has the same Identifying Map everywhere, so it takes cell 0, which is a positive cell of "a" alone; the masks of its
cells are nothing in 0 and 8, and the whole picture in 4, the cell of "a".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import instance, picture, write_split
from PIL import Image

from refseg_cli import checkpoint
from refseg_cli.app import main
from refseg_cli.config import DataConfig, Published, Recipe, TextConfig, load_recipe
from refseg_cli.data.shards import MANIFEST
from refseg_cli.data.text import build_tokenizer
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.models import build_model

Capture = pytest.CaptureFixture[str]
MODEL = {
    "backbone": "convnet",
    "backbone_channels": [4, 6, 8, 8, 8],
    "pretrained": False,
    "embedding_dim": 10,
    "language_dim": 12,
    "pyramid_dim": 8,
    "fused_dim": 12,
    "instance_dim": 8,
    "mask_dim": 8,
    "rates": [2],
    "refinement": False,
}
SIZE = (96, 96)


def save(folder: Path, published: Published, **settings: Any) -> Path:
    data = DataConfig(size=SIZE, resize="squash", workers=0)
    recipe = Recipe("isfp", {**MODEL, **settings}, data, TextConfig(max_tokens=4), published=published)
    tokenizer = build_tokenizer(recipe.text, ["a", "b"])
    model: Any = build_model(recipe, vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        model.identification.propagation.identify.weight.zero_()
        model.segmentation.out.weight.zero_()
        model.segmentation.out.bias.copy_(torch.tensor([-4.0] * 4 + [4.0] + [-4.0] * 4))
    checkpoint.save(folder, model, recipe, tokenizer, info={"name": "tiny"})
    return folder


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save(tmp_path / "isfp", load_recipe("isfp-darknet53-refcoco").published))


@pytest.fixture
def refcoco(tmp_path: Path) -> str:
    folder = tmp_path / "refcoco"
    folder.mkdir()
    things = (instance(1, SIZE, 32, 32, 32, 32), instance(2, SIZE, 64, 64, 32, 32))
    write_split(folder, "val", [picture(1, "val", SIZE, things, [("a", (0,)), ("b", (1,))])])
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "dataset": "refcoco"}))
    return str(folder)


def evaluate(model: str, data: str, capsys: Capture, *options: str) -> dict[str, Any]:
    asked = ["eval", "--model", model, "--data", data, "--device", "cpu", "--resamples", "0", "--json"]
    assert main([*asked, "--protocol", "refseg,vlt", *options]) == FOUND
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("oracle", "g_iou", "c_iou", "row", "published"),
    [
        (None, 0, 0, "Baseline+IEM+RAM+RM; Predicted; Ours", 66.19),
        # "a": the whole picture, of which it is a ninth; "b": nothing.
        ("location", 100 * (1 / 9) / 2, 100 * 1024 / (9216 + 1024), "GT Location", 76.32),
        # The mask of "a" for both.
        ("mask", 100 / 2, 100 * 1024 / (1024 + 2048), "GT Mask", 80.41),
    ],
)
def test_isfps_oracles_by_hand_and_their_published_rows(
    model: str, refcoco: str, capsys: Capture,
    oracle: str | None, g_iou: float, c_iou: float, row: str, published: float,
) -> None:  # fmt: skip
    found = evaluate(model, refcoco, capsys, *([] if oracle is None else ["--set", f"model.oracle={oracle}"]))
    assert found["changed"] == (None if oracle is None else f"model.oracle={oracle}")
    split = found["splits"]["val"]
    assert split["protocols"]["refseg"]["gIoU"]["value"] == pytest.approx(g_iou)
    assert split["protocols"]["refseg"]["cIoU"]["value"] == pytest.approx(c_iou)
    paper = split["published"]["vlt"]
    assert (paper["source"].split(", ")[-1], paper["figures"]["IoU"]) == (row, published)


def test_a_changed_model_is_named_and_its_checkpoint_is_not_touched(
    model: str, refcoco: str, tmp_path: Path, capsys: Capture
) -> None:
    before = (Path(model) / "config.json").read_bytes()
    asked = ["eval", "--model", model, "--data", refcoco, "--device", "cpu", "--resamples", "0"]
    changed = ["--set", "model.oracle=mask", "--set", "data.size=[96,96]", "--set", "data.fill=0.25"]
    files = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    assert main([*asked, "--records", files[0]]) == FOUND
    page = tmp_path / "r.html"
    capsys.readouterr()
    assert main([*asked, *changed, "--protocol", "vlt", "--report", str(page), "--records", files[1]]) == FOUND
    out, err = capsys.readouterr()
    name = "model.oracle=mask, data.fill=0.25"  # the size is what it was
    assert out.startswith(f"tiny on refcoco, {name}: vlt (")
    assert f"\n{name}; threshold 0.5" in f"\n{err}"
    assert name in page.read_text()
    # Nobody published this: neither the model's own row nor the oracle's.
    assert "in the paper" not in out
    assert f"not beside ours: its figures are without {name}" in err
    assert (Path(model) / "config.json").read_bytes() == before
    assert main(["compare", *files, "--protocol", "vlt", "--resamples", "0"]) == ERROR  # a.parquet lacks the counts
    capsys.readouterr()
    assert main(["compare", *files, "--resamples", "0"]) == FOUND
    assert f"B tiny, {name}" in capsys.readouterr().out.splitlines()[1]


def test_disturbed_questions_are_asked_of_the_changed_model(model: str, refcoco: str, capsys: Capture) -> None:
    found = evaluate(model, refcoco, capsys, "--set", "model.oracle=mask", "--mask-words", "random")
    assert (found["a"], found["b"]) == ("model.oracle=mask", "1 random word erased")
    assert found["differences"]["val/refseg"]["gIoU"]["b"] == pytest.approx(50)


def test_an_oracle_taken_off_leaves_the_plain_model(refcoco: str, tmp_path: Path, capsys: Capture) -> None:
    folder = save(tmp_path / "oracle", load_recipe("isfp-oracle-mask").published, oracle="mask")
    found = evaluate(str(folder), refcoco, capsys, "--set", "model.oracle=none")
    assert found["splits"]["val"]["protocols"]["refseg"]["gIoU"]["value"] == 0
    assert found["splits"]["val"]["published"]["vlt"]["figures"]["IoU"] == 66.19


def test_prediction_refuses_an_oracle_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    folder = save(tmp_path / "oracle", Published(), oracle="location")
    Image.new("RGB", SIZE).save(tmp_path / "photo.png")
    assert main(["predict", "--model", str(folder), "--device", "cpu", str(tmp_path / "photo.png"), "a"]) == ERROR
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("refseg: isfp: model.oracle replaces a branch by annotations, and there are none here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.refinement=true", "the weights do not fit a model with model.refinement=true"),  # some are missing
        ("model.identification=none", "the weights do not fit a model with model.identification=none"),  # some are over
        ("data.size=[128,128]", "the weights do not fit a model with data.size=[128, 128]"),  # other shapes
        ("model.orakel=mask", "unknown key 'orakel' (did you mean 'oracle'?)"),
        ("model.oracle=masks", "unknown value 'masks' (did you mean 'mask'?)"),
        ("train.lr=0.1", "--set train.lr=0.1: cannot be changed in a trained model: only training reads it"),
    ],
)
def test_what_a_trained_model_cannot_take_is_one_line(
    model: str, refcoco: str, capsys: Capture, change: str, message: str
) -> None:
    assert main(["eval", "--model", model, "--data", refcoco, "--device", "cpu", "--set", change]) == ERROR
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
