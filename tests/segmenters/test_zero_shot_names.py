"""What `--model` may name, and what is said of what it may not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_zero_shot
import torch
import transformers as T
from safetensors.torch import load_file, save_file

from refseg_cli.errors import RefsegError
from refseg_cli.segmenters.boxes import BoxPrompted
from refseg_cli.segmenters.zero_shot import is_zero_shot, open_zero_shot

Tiny = Callable[[str], str]


def copied(tiny: Tiny, family: str, to: Path) -> Path:
    return Path(shutil.copytree(tiny(family), to / family))


def test_which_names_are_zero_shot(tiny: Tiny, untrained: Path, tmp_path: Path) -> None:
    assert is_zero_shot(tiny("clipseg"))
    assert is_zero_shot(tiny("owlv2"))
    assert is_zero_shot("hf:a/b+hf:c/d")
    assert not is_zero_shot(str(untrained))
    assert not is_zero_shot(str(tmp_path))
    assert not is_zero_shot("nowhere")
    (tmp_path / "config.json").write_text("[1")
    assert not is_zero_shot(str(tmp_path))


def test_telling_takes_no_torch(tiny: Tiny) -> None:
    program = (
        "import sys; from refseg_cli.segmenters.zero_shot import is_zero_shot; "
        f"assert is_zero_shot({tiny('clipseg')!r}); "
        "print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


def test_a_plus_in_a_folders_name(tiny: Tiny, tmp_path: Path) -> None:
    one = tmp_path / "a+b"
    shutil.copytree(tiny("owlv2").split("+")[0], one)
    sam2 = tiny("owlv2").split("+")[1]
    assert is_zero_shot(str(one))
    assert isinstance(open_zero_shot(f"{one}+{sam2}", device="cpu"), BoxPrompted)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{sam2}", "makes masks of boxes, and reads no phrases"),
        ("{owlv2}", r"finds boxes, not masks \(--model .*\+hf:facebook/sam2"),
        ("{sam2}+{owlv2}", "sam2 and owlv2 do not go together"),
        ("{owlv2}+{clipseg}", "owlv2 and clipseg do not go together"),
    ],
)
def test_halves_and_wrong_pairs(tiny: Tiny, name: str, said: str) -> None:
    owlv2, sam2 = tiny("owlv2").split("+")
    with pytest.raises(RefsegError, match=said):
        open_zero_shot(name.format(owlv2=owlv2, sam2=sam2, clipseg=tiny("clipseg")))


def test_other_models_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr"}))
    with pytest.raises(RefsegError, match=r"a model of type 'detr', which refseg does not support .*sam3, "):
        open_zero_shot(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "grounding_dino"}))
    with pytest.raises(RefsegError, match=r"type 'grounding_dino', .* \(did you mean 'grounding-dino'\?\)"):
        open_zero_shot(str(tmp_path))


def test_missing_and_damaged_weights(tiny: Tiny, tmp_path: Path) -> None:
    folder = copied(tiny, "clipseg", tmp_path)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: t for name, t in tensors.items() if "film" not in name}, weights, metadata={"format": "pt"})
    with pytest.raises(RefsegError, match=r"its weights lack decoder\.film"):
        open_zero_shot(str(folder), device="cpu")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RefsegError, match=f"{folder}: cannot be opened: "):
        open_zero_shot(str(folder), device="cpu")
    weights.unlink()
    with pytest.raises(RefsegError, match=r"no weights \(\*.safetensors or \*.bin\)"):
        open_zero_shot(str(folder), device="cpu")


def test_missing_tokenizer(tiny: Tiny, tmp_path: Path) -> None:
    folder = copied(tiny, "sam3", tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(RefsegError, match=r"no tokenizer \(tokenizer.json or "):
        open_zero_shot(str(folder), device="cpu")


def test_missing_torchvision(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **settings: Any) -> None:
        raise ImportError("\nSam3ImageProcessor requires the Torchvision library but it was not found")

    monkeypatch.setattr(T.Sam3Processor, "from_pretrained", refuse)
    with pytest.raises(RefsegError, match=r"requires the Torchvision library .*\(pip install torchvision\)"):
        open_zero_shot(tiny("sam3"), device="cpu")


def test_florence2_without_rules_for_outlines(tiny: Tiny, tmp_path: Path) -> None:
    folder = copied(tiny, "florence2", tmp_path)
    table = json.loads((folder / "processor_config.json").read_text())
    del table["post_processor_config"]
    (folder / "processor_config.json").write_text(json.dumps(table))
    with pytest.raises(RefsegError, match="has no post_processor_config for polygons"):
        open_zero_shot(str(folder), device="cpu")


def test_the_video_models_hold_the_ones_for_pictures(tiny: Tiny, tmp_path: Path) -> None:
    """facebook/sam3 and facebook/sam2.1-* say that they are these."""
    sam3 = tiny_zero_shot.sam3_video(tmp_path / "sam3")
    assert json.loads((sam3 / "config.json").read_text())["model_type"] == "sam3_video"
    whole = T.Sam3VideoModel.from_pretrained(sam3).detector_model.state_dict()
    found = open_zero_shot(str(sam3), device="cpu").model.state_dict()
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in found)
    sam2 = tiny_zero_shot.sam2_video(tmp_path / "sam2")
    assert json.loads((sam2 / "config.json").read_text())["model_type"] == "sam2_video"
    whole = T.Sam2VideoModel.from_pretrained(sam2).state_dict()
    found = open_zero_shot(f"{tiny('owlv2').split('+')[0]}+{sam2}", device="cpu").model.state_dict()
    assert all(torch.equal(found[name], whole[name]) for name in found)
