"""refseg from Python: pictures in every form, and the documentation's examples."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
import torch
from answering import Answering
from PIL import Image

import refseg_cli
from refseg_cli import checkpoint
from refseg_cli.errors import RefsegError
from refseg_cli.library import Model
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.base import Found

ROOT = Path(__file__).parents[1]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


class Mirror(Answering):
    """Answers with the pixels that it was given."""

    name = "mirror"

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def predict(self, image: Any, phrases: Sequence[str]) -> Iterator[Found]:
        self.seen.append(image)
        return (Found(phrase, np.ones((6, 9), bool), True, 0.5, 54) for phrase in phrases)


@pytest.fixture
def mirror() -> Mirror:
    return Mirror()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_form_of_a_picture_is_the_same(mirror: Mirror) -> None:
    forms = [Image.fromarray(PIXELS), PIXELS, torch.from_numpy(PIXELS).permute(2, 0, 1)]
    Model(mirror)(forms, "dog")
    assert all(np.array_equal(seen, PIXELS.transpose(2, 0, 1)) for seen in mirror.seen)
    assert all(seen.flags.c_contiguous for seen in mirror.seen)
    mirror.seen.clear()
    Model(mirror)(["a.png", Path("a.png"), png()], "dog")
    assert mirror.seen == [Path("a.png"), Path("a.png"), png()]


def test_grey_and_turned_pictures(mirror: Mirror) -> None:
    Model(mirror)(PIXELS[..., 0], "dog")
    assert np.array_equal(mirror.seen[0], np.stack([PIXELS[..., 0]] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the first column upright is the last row as stored
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as image:
        Model(mirror)(image, "dog")
    assert mirror.seen[1].shape == (3, 9, 6)
    assert np.array_equal(mirror.seen[1][:, :, 0], PIXELS[-1].T)


def test_one_picture_gives_answers_and_a_list_gives_lists(mirror: Mirror) -> None:
    model = Model(mirror)
    assert [found.phrase for found in model(PIXELS, "dog")] == ["dog"]
    assert [found.phrase for found in model(PIXELS, ("dog", "cat"))] == ["dog", "cat"]
    assert [[f.phrase for f in answers] for answers in model([PIXELS, PIXELS], ["dog"])] == [["dog"], ["dog"]]
    assert model.name == "mirror"
    mirror.seen.clear()
    next(model.each([PIXELS, PIXELS], "dog"))
    assert len(mirror.seen) == 1  # the second is not looked at before it is asked for


class Batching(Mirror):
    def predict_many(self, questions: Sequence[tuple[Any, Sequence[str]]]) -> Iterator[Iterator[Found]]:
        self.seen.append(len(questions))
        return (iter([Found(p, image[0] > 0, True, 0.5, 0) for p in phrases]) for image, phrases in questions)


def test_batches_of_pictures() -> None:
    """A picture that cannot be read comes to light when those before it are answered."""
    batching = Batching()
    pictures = [PIXELS, PIXELS[:4], png(), PIXELS[:3], PIXELS[:2]]
    answers = Model(batching).each(pictures, ["dog", "cat"], batch_images=2)
    assert [[(f.phrase, len(f.mask)) for f in of] for of in answers] == [
        [("dog", height), ("cat", height)] for height in (6, 4, 6, 3, 2)
    ]
    assert batching.seen == [2, 2, 1]
    answers = Model(batching).each([PIXELS, PIXELS, b"nothing", PIXELS], "dog", batch_images=4)
    assert len([next(answers), next(answers)]) == 2
    with pytest.raises(RefsegError, match="cannot read the image"):
        next(answers)


def test_batches_of_a_model_that_takes_one_picture(mirror: Mirror) -> None:
    with pytest.raises(RefsegError, match="mirror: this model takes one picture at a time"):
        next(Model(mirror).each([PIXELS], "dog", batch_images=2))


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (PIXELS.astype(np.float32), r"an array of float32 \(6, 9, 3\)"),
        (PIXELS.transpose(2, 0, 1), r"an array of uint8 \(3, 6, 9\)"),
        (PIXELS[:0], r"an array of uint8 \(0, 9, 3\)"),
        (torch.zeros(3, 6, 9), r"a tensor of float32 \(3, 6, 9\)"),
        (torch.from_numpy(PIXELS), r"a tensor of uint8 \(6, 9, 3\)"),
        (7, "a picture cannot be a int"),
    ],
)
def test_other_shapes_are_refused(mirror: Mirror, picture: Any, words: str) -> None:
    with pytest.raises(RefsegError, match=words):
        Model(mirror)(picture, "dog")


def test_load_takes_what_the_shell_takes(untrained: Path) -> None:
    model = refseg_cli.load(untrained, device="cpu", threshold=0.25, no_target_threshold=1.0, threads=1)
    assert (model.name, model.thresholds) == ("tiny", Thresholds(0.25, 1.0))
    (found,) = model(PIXELS, "the red car")
    assert not found.exists
    assert found.mask.shape == (6, 9)
    with pytest.raises(RefsegError, match="no such checkpoint folder"):
        refseg_cli.load("nowhere")


class Watcher(Mirror):
    """Sees two frames together; says how light each is."""

    def follow(self, frames: Iterable[np.ndarray], phrases: Sequence[str]) -> Iterator[list[Found]]:
        left = iter(frames)
        while window := list(islice(left, 2)):
            self.seen.append(len(window))
            for pixels in window:
                yield [Found(phrase, pixels[0] > 128, True, 0.5, int((pixels[0] > 128).sum())) for phrase in phrases]


FRAMES = clips.pictures(5)


@pytest.fixture
def forms(tmp_path: Path) -> dict[str, Any]:
    """One clip in every form."""
    return {
        "video": str(clips.write_video(tmp_path / "clip.mkv", FRAMES, codec="ffv1")),
        "animation": clips.write_animation(tmp_path / "clip.gif", FRAMES),
        "folder": clips.write_folder(tmp_path / "clip", FRAMES),
        "arrays": FRAMES,
        "one array": np.stack(FRAMES),
        "a generator of pictures": (Image.fromarray(frame) for frame in FRAMES),
        "paths": sorted((tmp_path / "clip").iterdir()),
        "tensors": torch.from_numpy(np.stack(FRAMES)).permute(0, 3, 1, 2),
    }


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("watches", [False, True])
def test_a_clip_in_every_form_has_the_same_answers(forms: dict[str, Any], watches: bool, every: int) -> None:
    for clip in forms.values():
        segmenter = Watcher() if watches else Mirror()
        found = list(Model(segmenter).follow(clip, ("light", "dark"), every=every))
        assert [frame.number for frame, _ in found] == list(range(0, 5, every))
        for frame, answers in found:
            np.testing.assert_array_equal(frame.pixels, FRAMES[frame.number].transpose(2, 0, 1))
            assert [answer.phrase for answer in answers] == ["light", "dark"]
        if watches:
            assert segmenter.seen == ([2, 2, 1] if every == 1 else [2, 1])


def test_what_a_frame_is_called_and_when_it_is(forms: dict[str, Any]) -> None:
    told = {form: [(f.time, Path(f.name).name) for f, _ in Model(Mirror()).follow(c, "x")] for form, c in forms.items()}
    assert told["video"] == [(n / 10, "clip.mkv") for n in range(5)]
    assert told["folder"] == told["paths"] == [(None, f"frame{n}.png") for n in range(1, 6)]
    assert told["arrays"] == [(None, "")] * 5


def test_a_clip_is_taken_as_it_comes() -> None:
    """No frame is asked for before it is needed, so that a camera may go on for ever."""
    taken: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for number in count():
            taken.append(number)
            yield PIXELS

    answers = Model(Watcher()).follow(camera(), "dog")
    assert taken == []
    for number, (frame, _) in enumerate(islice(answers, 7)):
        assert frame.number == number
        assert len(taken) == 2 * (number // 2 + 1)


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        ("nowhere.gif", "nowhere.gif: cannot read the clip: No such file"),
        ("https://host/clip.mp4", "a clip is a file or a folder"),
        (b"GIF89a", "a clip cannot be a bytes"),
        (PIXELS, "a clip cannot be a ndarray"),
        (Image.fromarray(PIXELS), "a clip cannot be a Image"),
        (torch.zeros(3, 6, 9), "a clip cannot be a Tensor"),
    ],
)
def test_what_is_no_clip_is_said_at_once(mirror: Mirror, clip: Any, words: str) -> None:
    with pytest.raises(RefsegError, match=words):
        Model(mirror).follow(clip, "dog")


def test_questions_that_are_none_are_said_at_once(mirror: Mirror) -> None:
    with pytest.raises(RefsegError, match="a phrase is empty"):
        Model(mirror).follow([PIXELS], ["dog", " "])
    with pytest.raises(RefsegError, match="each 0-th frame"):
        Model(mirror).follow([PIXELS], "dog", every=0)


def test_frames_of_several_sizes_are_no_clip(mirror: Mirror) -> None:
    answers = Model(mirror).follow([PIXELS, PIXELS[:4]], "dog")
    next(answers)
    with pytest.raises(RefsegError, match="frames of 9x6 and 9x4 pixels in one clip"):
        next(answers)


def test_the_examples_of_the_docs_run_without_torch(tmp_path: Path) -> None:
    demo = checkpoint.BUNDLE / "demo"
    shutil.copy(demo / "astronaut.jpg", tmp_path / "photo.jpg")
    shutil.copy(demo / "cat.jpg", tmp_path / "other.jpg")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 7
    clips.write_video(tmp_path / "clip.mp4", clips.pictures(5))
    script = "\n".join([*blocks, "import sys", "print([m for m in ('torch', 'timm', 'pyarrow') if m in sys.modules])"])
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r"two people on left (True|False) [01]\.\d", lines[0])
    assert [line.rsplit(" [", 1)[0] for line in lines if re.match(r"\d \d\.\d \[", line)] == ["0 0.0", "2 0.2", "4 0.4"]
    assert [line[-4:] for line in lines if re.match(r"\d (True|False)", line)] == ["True"] * 3
    assert lines[-2].startswith("nowhere.jpg: cannot read the image: No such file")
    assert lines[-1] == "[]"
    with Image.open(tmp_path / "mask.png") as mask, Image.open(tmp_path / "photo.jpg") as photo:
        assert mask.size == photo.size


def test_the_package_itself_imports_nothing() -> None:
    script = "import sys; before = set(sys.modules); import refseg_cli; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "PIL", "typer", "dataclasses", "pathlib"}
    assert heavy.isdisjoint(re.findall(r"'([\w.]+)'", done.stdout))
