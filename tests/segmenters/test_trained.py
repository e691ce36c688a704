"""Pictures in, masks out: what users hand over, what they get back, and what it costs to start."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded
from PIL import Image

from refseg_cli import checkpoint
from refseg_cli.data import masks
from refseg_cli.data.pictures import from_pillow, load_image
from refseg_cli.engine.predict import demo
from refseg_cli.errors import RefsegError
from refseg_cli.files import whole
from refseg_cli.records import Rle
from refseg_cli.segmenters import trained
from refseg_cli.segmenters.base import Found, record
from refseg_cli.segmenters.trained import Predictor

PHRASES = ["two people on left", "the red car", "dog", "a cat and the big dog"]


def a_picture(height: int = 50, width: int = 120) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> Predictor:
    return Predictor(untrained, device="cpu")


# ---- load_image


def test_a_photograph_is_turned_upright() -> None:
    """EXIF orientation 6: the camera was held on its side, the stored rows are the picture's columns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[:, :10] = 255  # the left of what is stored is the top of what is seen
    for kind, options in (("JPEG", {"quality": 95}), ("PNG", {})):
        image = load_image(encoded(Image.fromarray(stored), kind, exif=exif, **options))
        assert image.shape == (3, 30, 20)
        assert image[:, :8].min() > 200
        assert image[:, 12:].max() < 55


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    image = load_image(encoded(Image.fromarray(ramp)))
    assert torch.equal(image[0], torch.from_numpy((ramp // 256).astype(np.uint8)))


def a_missing_file(folder: Path) -> Path:
    return folder / "none.jpg"


def a_folder(folder: Path) -> Path:
    return folder


def written(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "file.jpg").write_bytes(data)
        return folder / "file.jpg"

    return write


BROKEN = {
    "missing": (a_missing_file, "No such file"),
    "folder": (a_folder, "Is a directory"),
    "empty": (written(b""), "it is empty"),
    "no image": (written(b"once upon a time"), "cannot identify image file"),
    "cut JPEG": (written(encoded(a_picture(), "JPEG")[:-900]), "the file is cut off (copy or download it again)"),
    "cut header": (written(encoded(a_picture(), "JPEG")[:30]), "the file is cut off (copy or download it again)"),
    "cut PNG": (written(encoded(a_picture())[:-9000]), "the file is cut off (copy or download it again)"),
    "cut JPEG 2000": (written(encoded(a_picture(), "JPEG2000")[:30]), "the file is cut off"),
    "damaged": (written(encoded(a_picture(), "WEBP")[:60]), "(copy or download it again, or convert it to"),
    "floating point": (
        written(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")),
        "no fixed range (scale them to 8 or 16 bits)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_one_line(kind: str, tmp_path: Path) -> None:
    make, reason = BROKEN[kind]
    path = make(tmp_path)
    with pytest.raises(RefsegError) as caught:
        load_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot read the image: ")
    assert reason in message
    assert "\n" not in message


def test_a_picture_that_pillow_has_open_is_cut_off_too() -> None:
    with pytest.raises(RefsegError, match=r"picture: cannot read the image: the file is cut off \(copy or"):
        from_pillow(Image.open(io.BytesIO(encoded(a_picture())[:-9000])))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "JPEG2000", "AVIF", "TIFF", "PPM"])
def test_damage_never_ends_in_another_error(kind: str) -> None:
    data, rng = encoded(a_picture(), kind), random.Random(kind)
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 10)):
            damaged[rng.randrange(min(len(damaged), 400))] = rng.randrange(256)
        try:
            image = load_image(bytes(damaged))
        except RefsegError:
            continue
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3


# ---- Predictor


def test_many_phrases_equal_single_calls(predictor: Predictor) -> None:
    image = load_image(encoded(a_picture()))
    together = list(predictor.predict(image, PHRASES))
    assert [found.phrase for found in together] == PHRASES
    assert any(0 < found.pixels < 50 * 120 for found in together)  # else all masks were equal anyway
    for found in together:
        (alone,) = predictor.predict(image, [found.phrase])
        assert found.p_target == pytest.approx(alone.p_target, abs=1e-5)
        assert found.mask.shape == (50, 120)
        assert found.mask.dtype == bool
        assert (found.mask != alone.mask).mean() < 1e-3  # a logit at the threshold may fall to either side
        assert found.pixels == found.mask.sum()


def test_files_bytes_and_pixels_are_the_same_picture(predictor: Predictor, tmp_path: Path) -> None:
    data = encoded(a_picture())
    (tmp_path / "a.png").write_bytes(data)
    one, two, three = (next(predictor.predict(s, PHRASES[:1])) for s in (tmp_path / "a.png", data, load_image(data)))
    assert np.array_equal(one.mask, two.mask)
    assert np.array_equal(one.mask, three.mask)


def test_the_picture_is_encoded_once_for_as_many_phrases_as_fit(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded_images: list[int] = []
    backbone = predictor.model.vision.backbone
    hook = backbone.register_forward_hook(lambda module, inputs, output: encoded_images.append(len(inputs[0])))
    image = load_image(encoded(a_picture()))
    whole_answer = list(predictor.predict(image, PHRASES))
    assert encoded_images == [1]
    monkeypatch.setattr(predictor.passes, "limit", 3)
    monkeypatch.setattr(trained, "PIXELS_AT_A_TIME", 1)  # masks brought to size one after the other
    in_parts = list(predictor.predict(image, PHRASES))
    hook.remove()
    assert encoded_images == [1, 1, 1]
    for a, b in zip(whole_answer, in_parts, strict=True):
        assert a.p_target == pytest.approx(b.p_target, abs=1e-5)
        assert (a.mask != b.mask).mean() < 1e-3


def test_answers_that_were_taken_are_let_go(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor.passes, "limit", 3)
    monkeypatch.setattr(trained, "PIXELS_AT_A_TIME", 1)
    taken: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []
    for found in predictor.predict(load_image(encoded(a_picture())), PHRASES * 2):
        taken.append(weakref.ref(found.mask))
        alive.append(sum(mask() is not None for mask in taken))
        assert not torch.is_inference_mode_enabled()  # it is the consumer's turn
    assert len(alive) == 2 * len(PHRASES)
    assert max(alive) <= 2  # this one, and the one before until it is replaced


def test_thresholds_decide(untrained: Path) -> None:
    image = load_image(encoded(a_picture()))

    def found(**thresholds: float) -> Found:
        return next(Predictor(untrained, device="cpu", **thresholds).predict(image, PHRASES[:1]))

    assert found(threshold=0.0, no_target_threshold=0.0).pixels == 50 * 120
    assert not found(threshold=1.0, no_target_threshold=0.0).exists  # no pixel is left
    nothing = found(threshold=0.0, no_target_threshold=1.0)
    assert (nothing.exists, nothing.pixels) == (False, 0)
    assert Predictor(untrained).thresholds.exists == 0.4  # the checkpoint's own
    with pytest.raises(RefsegError, match="not a probability"):
        found(threshold=1.5)


@pytest.mark.parametrize(("phrase", "says"), [("", "is empty"), ("  \t", "is empty"), ("\udcff", "not UTF-8 text")])
def test_what_is_no_phrase_is_refused_at_once(predictor: Predictor, phrase: str, says: str) -> None:
    with pytest.raises(RefsegError, match=says):
        predictor.predict(encoded(a_picture()), ["dog", phrase])


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="no such checkpoint folder"):
        Predictor(tmp_path / "none")


def test_the_record_is_json_and_gives_the_mask_back(predictor: Predictor) -> None:
    (found,) = predictor.predict(encoded(a_picture()), PHRASES[:1])
    line = json.loads(json.dumps(record(predictor, "a.png", found), allow_nan=False))
    rle = Rle((line["mask"]["size"][0], line["mask"]["size"][1]), line["mask"]["counts"].encode())
    assert np.array_equal(masks.decode(rle).astype(bool), found.mask)
    assert line["bbox"] == list(masks.box(rle))
    del line["mask"], line["p_target"], line["bbox"]
    assert line == {
        "schema": "refseg.predict/1",
        "image": "a.png",
        "width": 120,
        "height": 50,
        "phrase": PHRASES[0],
        "no_target": not found.exists,
        "pixels": found.pixels,
        "model": "tiny",
        "threshold": 0.5,
        "no_target_threshold": 0.4,
        "error": None,
    }


def test_cautions(predictor: Predictor) -> None:
    assert predictor.cautions("dir/scene_val_000001.jpg", ["the red car"]) == []
    (photograph,) = predictor.cautions("photo.jpg", ["the red car"])
    assert "knows generated scenes only" in photograph
    (unknown,) = predictor.cautions("scene_1.jpg", ["The red unicorn on the unicorn"])
    assert unknown.endswith("the model does not know 'unicorn'")
    assert predictor.cautions("scene_1.jpg", ["An a the THE car"]) == []
    (long,) = predictor.cautions("scene_1.jpg", ["the red car on the left and the dog"])
    assert long.endswith("reads its first 6 tokens")
    said = predictor.cautions("scene_1.jpg", ["unicorn" * 9000, " ".join(f"w{n}x" for n in range(900))])
    assert max(map(len, said)) < 600, "quoted in part"
    predictor.checkpoint.info[checkpoint.BLIND] = True
    (control,) = predictor.cautions("scene_1.jpg", ["the red car"])
    assert "blind to language" in control


def test_spelling_holds_for_predict_and_eval_alike(untrained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(untrained, tmp_path / "model"))
    pixels = torch.from_numpy(np.array(a_picture())).permute(2, 0, 1)
    with_typo, right = (f"two {word} on left" for word in ("peolpe", "people"))
    before = Predictor(folder, device="cpu")
    assert before.cautions("scene_1.jpg", [with_typo]) == [f"{with_typo!r}: the model does not know 'peolpe'"]
    typo, meant = before.predict(pixels, [with_typo, right])
    assert typo.p_target != pytest.approx(meant.p_target, abs=1e-6)

    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["recipe"]["text"]["spelling"] = True
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    after = Predictor(folder, device="cpu")
    (said,) = after.cautions("scene_1.jpg", [f"{with_typo} camisole"])
    assert said.endswith("the model does not know 'camisole' and reads 'peolpe' as 'people'")
    assert after.cautions("scene_1.jpg", [with_typo])[0].endswith("the model reads 'peolpe' as 'people'")
    typo, meant = after.predict(pixels, [with_typo, right])
    assert typo.p_target == pytest.approx(meant.p_target, abs=1e-6)  # rows of one batch may round differently
    evaluated = checkpoint.load(untrained, overrides=["text.spelling=true"])
    assert evaluated.changed == ("text.spelling=true",)
    assert torch.equal(*evaluated.tokenizer.encode([with_typo, right])[0])


# ---- demo


@pytest.fixture
def bundled(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose bundled model is the untrained one."""
    folder = tmp_path / "bundled"
    shutil.copytree(untrained, folder / "scenes")
    (folder / "demo").mkdir()
    (folder / "demo" / "scene_1.png").write_bytes(encoded(a_picture()))
    one = {"image": "scene_1.png", "model": "scenes", "phrases": ["two people on left", "the dog: ¿dónde?"]}
    (folder / "demo" / "demo.json").write_text(json.dumps([one, one]), "utf-8")
    monkeypatch.setattr(checkpoint, "BUNDLE", folder)
    return folder


def test_demo_draws_every_answer(bundled: Path, tmp_path: Path) -> None:
    shown = demo(tmp_path / "out", device="cpu")
    names = ["01-two-people-on-left", "02-the-dog-dónde", "03-two-people-on-left", "04-the-dog-dónde"]
    assert [one.path for one in shown] == [tmp_path / "out" / f"{name}.png" for name in names]
    assert sorted((tmp_path / "out").iterdir()) == [one.path for one in shown]  # and nothing unfinished
    for one in shown:
        with Image.open(one.path) as picture:
            assert picture.width == 240
        assert one.image == str(bundled / "demo" / "scene_1.png")


def test_demo_without_its_pictures(bundled: Path, tmp_path: Path) -> None:
    (bundled / "demo" / "demo.json").unlink()
    with pytest.raises(RefsegError, match="no demo in this installation"):
        demo(tmp_path / "out")


def test_demo_into_a_file(bundled: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RefsegError, match="cannot write"):
        demo(tmp_path / "out", device="cpu")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"

    def write_half() -> None:
        with whole(path) as file:
            file.write_bytes(b"half")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_half()
    assert list(path.parent.iterdir()) == []
    with whole(path) as file:
        file.write_bytes(b"all")
    assert path.read_bytes() == b"all"


# ---- start-up

START = """
import sys
import weakref
from pathlib import Path
from refseg_cli.segmenters.trained import Predictor
Predictor(sys.argv[1], device="cpu").predict(Path(sys.argv[2]), ["the red car"])
slow = ("transformers", "timm", "torchvision", "pyarrow", "torch._dynamo", "accelerate", "sympy", "onnx")
sys.stdout.write(" ".join(name for name in slow if name in sys.modules))
"""


def test_the_bundled_kind_of_model_starts_without_heavy_libraries(untrained: Path, tmp_path: Path) -> None:
    """Each of them costs a second or more before the first mask."""
    a_picture().save(tmp_path / "a.jpg")
    command = [sys.executable, "-c", START, str(untrained), str(tmp_path / "a.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_pixels_that_cannot_be_written_to_are_read_without_a_warning(
    untrained: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pixels = np.asarray(a_picture()).transpose(2, 0, 1)
    pixels.flags.writeable = False
    (found,) = Predictor(untrained, device="cpu").predict(pixels, ["a dog"])
    assert found.mask.shape == pixels.shape[1:]
    assert not [warning for warning in recwarn if "not writable" in str(warning.message)]
