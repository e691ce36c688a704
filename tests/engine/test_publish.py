"""A published checkpoint: the same answers from a folder that holds no more than others need, and a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from refseg_cli import checkpoint, hub
from refseg_cli.app import main
from refseg_cli.data.pictures import load_image
from refseg_cli.engine.publish import publish
from refseg_cli.errors import ERROR, FOUND, RefsegError
from refseg_cli.segmenters.trained import Predictor

PHRASES = ["two people on left", "a red car"]
FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


def test_round_trip(run: Path, tmp_path: Path) -> None:
    """A training run with its state -> a folder -> the same weights, thresholds and answers."""
    target = tmp_path / "shared" / "mine"
    found = publish(run, str(target))
    assert {file.name for file in target.iterdir()} == FILES
    assert found.bytes == sum(file.stat().st_size for file in target.iterdir())
    before, after = checkpoint.load(run), checkpoint.load(target)
    assert after.recipe == before.recipe
    assert after.thresholds == before.thresholds
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name])
    picture = load_image(checkpoint.BUNDLE / "demo" / "scene_people.jpg")
    one, other = (list(Predictor(folder, device="cpu").predict(picture, PHRASES)) for folder in (run, target))
    assert [f.p_target for f in one] == [f.p_target for f in other]
    assert all((a.mask == b.mask).all() for a, b in zip(one, other, strict=True))


def test_it_calls_itself_as_it_is_published(run: Path, untrained: Path, tmp_path: Path) -> None:
    assert publish(run, str(tmp_path / "mine")).name == "mine"
    assert Predictor(tmp_path / "mine", device="cpu").name == "mine"
    assert publish(untrained, str(tmp_path / "other")).name == "tiny"  # it had a name


def test_the_card(run: Path, tmp_path: Path) -> None:
    publish(run, str(tmp_path / "mine"), license="apache-2.0")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.to_dict() == {
        "library_name": "refseg",
        "license": "apache-2.0",
        "pipeline_tag": "image-segmentation",
        "tags": ["referring-expression-segmentation", "vlt"],
    }
    table = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert f"| gIoU | {table['scores']['gIoU']:.2f} |" in card.text
    assert "Trained on **scenes**, to epoch" in card.text
    assert 'refseg predict --model mine photo.jpg "two people on left"' in card.text
    assert "| model.query_count | 4 |" in card.text
    assert "| data.size | [64, 64] |" in card.text


@pytest.mark.parametrize("license", ["", " ", "Apache 2.0", "Apache-2.0", "MIT", "apache-2.0\nlibrary_name: x", "-"])
def test_a_licence_is_named_as_the_hub_does(run: Path, tmp_path: Path, license: str) -> None:
    with pytest.raises(RefsegError, match="no identifier of a licence"):
        publish(run, str(tmp_path / "mine"), license=license)
    assert not (tmp_path / "mine").exists()


def test_nothing_is_replaced(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="in the way of a new folder"):
        publish(run, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_is_uploaded(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def upload(folder: Path, name: str, *, private: bool) -> str:
        seen.update(name=name, private=private, files={file.name for file in folder.iterdir()})
        seen["card"] = (folder / "README.md").read_text()
        return "https://huggingface.co/me/mine"

    monkeypatch.setattr(hub, "upload", upload)
    found = publish(run, "hf:me/mine", private=True)
    assert (found.place, found.name) == ("https://huggingface.co/me/mine", "me/mine")
    assert (seen["name"], seen["private"], seen["files"]) == ("hf:me/mine", True, FILES)
    assert "--model hf:me/mine photo.jpg" in str(seen["card"])


def test_the_command(untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "--model", str(untrained), str(tmp_path / "mine")]) == FOUND
    assert f"{tmp_path / 'mine'}: tiny, " in capsys.readouterr().out
    assert main(["publish", "--model", str(untrained), str(tmp_path / "mine")]) == ERROR
    assert main(["publish", "--json", "--model", str(untrained), str(tmp_path / "more")]) == FOUND
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"
