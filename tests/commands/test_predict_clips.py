"""`refseg predict` on clips: one answer whatever the file, and where answers go."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
import pytest
from answering import Answering
from PIL import Image

from refseg_cli.app import main
from refseg_cli.data import masks
from refseg_cli.errors import ERROR, FOUND, NO_TARGET
from refseg_cli.records import Rle
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

Capture = pytest.CaptureFixture[str]
COUNT = 7
FRAMES = clips.pictures(COUNT)


class Light(Answering):
    """Finds what is light, in its own half: "left" or "right"."""

    name = "light"
    asked = 0

    def __init__(self, model: str | None = None, **options: Any) -> None:
        Light.asked = 0

    def predict(self, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        Light.asked += 1
        middle = image.shape[2] // 2
        for phrase in phrases:
            mask = image[0] > 128
            mask[:, middle:] &= phrase != "left"
            mask[:, :middle] &= phrase != "right"
            yield Found(phrase, mask, bool(mask.any()), float(mask.any()), int(mask.sum()))

    def cautions(self, name: str, phrases: Sequence[str]) -> list[str]:
        return [f"{name}: unsure"]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """clip.mp4, clip.gif, clip/: the same frames."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "open_segmenter", Light)
    clips.write_video(Path("clip.mp4"), FRAMES)
    clips.write_animation(Path("clip.gif"), FRAMES)
    clips.write_folder(Path("clip"), FRAMES)


def expected(phrase: str) -> list[np.ndarray]:
    return [next(Light().predict(frame.transpose(2, 0, 1), [phrase])).mask for frame in FRAMES]


def lines(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def decoded(line: dict[str, Any]) -> np.ndarray:
    return masks.decode(Rle(tuple(line["mask"]["size"]), line["mask"]["counts"].encode())) > 0


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip"])
def test_a_line_for_each_frame_and_phrase(name: str, capsys: Capture) -> None:
    assert main(["predict", name, "left", "right", "--clip", "--json"]) == FOUND
    found = lines(capsys)
    assert [(line["frame"], line["phrase"]) for line in found] == [
        (frame, phrase) for frame in range(COUNT) for phrase in ("left", "right")
    ]
    for phrase in ("left", "right"):
        ours = [decoded(line) for line in found if line["phrase"] == phrase]
        np.testing.assert_array_equal(ours, expected(phrase))
    assert [line["time"] for line in found[::2]] == (
        [None] * COUNT if name == "clip" else [n / 10 for n in range(COUNT)]
    )
    assert found[-1]["image"] == ("clip/frame7.png" if name == "clip" else name)
    assert list(found[0])[:4] == ["schema", "image", "frame", "time"]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip"])
def test_masks_as_a_video(name: str) -> None:
    assert main(["-q", "predict", name, "all", "--clip", "-o", "out.mkv"]) == FOUND
    found = [frame[..., 0] > 127 for frame in clips.read_video(Path("out.mkv"))]
    np.testing.assert_array_equal(found, expected("all"))
    assert clips.times(Path("out.mkv")) == [round(n / (6 if name == "clip" else 10), 3) for n in range(COUNT)]


@pytest.mark.parametrize(("name", "third"), [("clip.mp4", "00002.png"), ("clip", "frame3.png")])
def test_masks_as_frames(name: str, third: str) -> None:
    assert main(["-q", "predict", name, "left", "right", "--clip", "-o", "out/"]) == FOUND
    for number, phrase in enumerate(["left", "right"], start=1):
        assert len(list(Path(f"out/{number}").iterdir())) == COUNT
        np.testing.assert_array_equal(np.asarray(Image.open(f"out/{number}/{third}")) > 0, expected(phrase)[2])


def test_an_overlay_keeps_sound_and_time() -> None:
    clips.write_video(Path("song.mp4"), FRAMES, sound="aac")
    assert main(["-q", "predict", "song.mp4", "left", "-f", "overlay", "--every", "3", "-o", "drawn.mp4"]) == FOUND
    assert clips.times(Path("drawn.mp4")) == [0, 0.3, 0.6]
    with av.open("drawn.mp4") as drawn, av.open("song.mp4") as song:
        ours, theirs = (sum(p.size for p in container.demux(audio=0)) for container in (drawn, song))
    assert ours == theirs > 0
    [first, *_] = clips.read_video(Path("drawn.mp4"))
    assert first.shape[0] > clips.SIZE[0]  # the strip with the phrase


def test_sound_that_does_not_fit_is_said(capsys: Capture) -> None:
    clips.write_video(Path("song.mkv"), FRAMES, codec="ffv1", sound="pcm_s16le")
    assert main(["predict", "song.mkv", "left", "-f", "overlay", "-o", "drawn.mp4"]) == FOUND
    assert "drawn.mp4: without sound, as .mp4 does not hold pcm_s16le" in capsys.readouterr().err


def test_every_nth_frame_alone_is_asked(capsys: Capture) -> None:
    assert main(["predict", "clip.mp4", "left", "--json", "--every", "3"]) == FOUND
    assert [line["frame"] for line in lines(capsys)] == [0, 3, 6]
    assert Light.asked == 3


def test_the_status_is_of_all_frames(capsys: Capture) -> None:
    assert main(["predict", "clip.mp4", "right", "--json"]) == FOUND  # from the fourth frame on
    assert lines(capsys)[0]["no_target"] is True
    black = clips.write_folder(Path("black"), [np.zeros((8, 8, 3), np.uint8)] * 2)
    assert main(["predict", str(black), "right", "--clip", "-f", "count"]) == NO_TARGET
    assert main(["predict", str(black), "right", "--clip", "-f", "count", "--no-target-ok"]) == FOUND


def test_names_without_o(capsys: Capture) -> None:
    assert main(["predict", "clip.mp4", "left", "right"]) == FOUND
    assert Path("clip.mask-1.mp4").is_file()
    said = capsys.readouterr().err
    assert "left: found in 6 of 7 frames -> clip.mask-1.mp4" in said
    assert "warning: clip.mp4: unsure" in said
    assert "step=7/7" in said
    assert main(["-q", "predict", "clip.gif", "left", "-o", "{stem}-{phrase}.mp4"]) == FOUND
    assert Path("clip-left.mp4").is_file()
    assert main(["-q", "predict", "clip.mp4", "left"]) == FOUND  # the answer is the status
    assert not Path("clip.mask.mp4").exists()


def test_nothing_is_left_of_a_video_that_breaks(capsys: Capture) -> None:
    noise = [np.random.default_rng(n).integers(0, 255, (64, 64, 3), dtype=np.uint8) for n in range(30)]
    whole = clips.write_video(Path("whole.mkv"), noise, codec="ffv1").read_bytes()
    Path("cut.mkv").write_bytes(whole[: len(whole) // 2])
    assert main(["predict", "cut.mkv", "left", "-o", "out.mp4"]) == ERROR
    [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("refseg: cut")]
    assert "cut.mkv: the video ends after" in said
    assert [path.name for path in Path().iterdir() if "out" in path.name] == []


def test_a_clip_is_read_no_further_than_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clip's length, a few frames are held: two decoded ahead, one asked about, two answered."""
    many, seen = 60, []
    clips.write_video(Path("long.mkv"), clips.pictures(many), codec="ffv1")
    real = Light.predict

    def watched(self: Light, image: np.ndarray, phrases: Sequence[str]) -> Iterator[Found]:
        seen.append(len(list(Path("out").glob("*.png"))))
        return real(self, image, phrases)

    monkeypatch.setattr(Light, "predict", watched)
    assert main(["-q", "predict", "long.mkv", "left", "-o", "out/"]) == FOUND
    assert all(asked - written <= 5 for asked, written in enumerate(seen))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clip.mp4", "left", "-o", "-"], "a video does not go down a pipe"),
        (["clip.mp4", "left", "-o", "out.avi"], "a clip is written as .mp4, .mov, .mkv"),
        (["clip.mp4", "left", "-o", "clip.mp4", "--force"], "is the input"),
        (["clip.mp4", "left", "-o", "there.mp4"], "there.mp4: is there already"),
        (["clip", "left", "--clip", "-o", "clip/"], "this folder is not empty"),
        (["clip.mp4", "left", "right", "-o", "{stem}.mkv"], "one name for 2 phrases"),
        (["clip.mp4", "left", "-f", "yolo-seg"], "not written as yolo-seg"),
        (["clip.mp4", "left", "-l"], "a clip has no use for --count, -l and -L"),
        (["clip.mp4", "clip.gif", "-p", "left"], "one clip at a time"),
        (["-", "left", "--clip"], "a clip is a file or a folder"),
        (["clip.gif", "left", "--every", "2"], "a picture has no use for --every"),
        (["clip", "clip.mp4", "--clip"], "a file, not a phrase"),
        (["lost.mp4", "left"], "lost.mp4: cannot read the video: no such file"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_opened(
    words: list[str], said: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("clip.mp4", "there.mp4")
    monkeypatch.setattr(choice, "open_segmenter", lambda *args, **options: pytest.fail("a model was opened"))
    assert main(["predict", *words]) == ERROR
    assert said in capsys.readouterr().err


def test_without_the_extra_one_line_says_what_to_install(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["predict", "clip.mp4", "left", "--json"]) == ERROR
    assert "pip install 'refseg[video]'" in capsys.readouterr().err
    assert main(["predict", "clip", "left", "--clip", "--json"]) == FOUND  # pictures need none
