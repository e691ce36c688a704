"""Clips to frames and back: whatever the file, the same pixels; what is damaged is named."""

from __future__ import annotations

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import clips
import numpy as np
import pytest
from PIL import Image

from refseg_cli.data.videos import open_video, writing
from refseg_cli.errors import RefsegError

FRAMES = clips.pictures(12)


@pytest.fixture(params=["clip.mp4", "clip.mkv", "clip.gif", "clip.webp", "clip"])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix in (".gif", ".webp"):
        return clips.write_animation(path, FRAMES)
    if not path.suffix:
        return clips.write_folder(path, FRAMES)
    return clips.write_video(path, FRAMES, codec="ffv1" if path.suffix == ".mkv" else "libx264rgb")


def test_every_kind_of_clip_has_the_same_frames(clip: Path) -> None:
    opened = open_video(clip)
    found = list(opened.frames())
    assert opened.count == len(FRAMES)
    assert [frame.number for frame in found] == list(range(12))
    for frame, picture in zip(found, FRAMES, strict=True):
        np.testing.assert_array_equal(frame.pixels, picture.transpose(2, 0, 1))
    if clip.suffix:
        np.testing.assert_allclose([frame.time for frame in found], np.arange(12) / clips.RATE, atol=1e-3)
        assert {frame.name for frame in found} == {str(clip)}
    else:
        assert [frame.time for frame in found] == [None] * 12
        assert [Path(frame.name).name for frame in found] == [f"frame{n}.png" for n in range(1, 13)]  # 10 after 9


def test_every_nth_frame(clip: Path) -> None:
    assert [frame.number for frame in open_video(clip).frames(5)] == [0, 5, 10]


def test_frames_come_one_by_one(tmp_path: Path) -> None:
    """A clip is not decoded before it is looked at: its last file may be broken, and the first is still there."""
    folder = clips.write_folder(tmp_path / "clip", FRAMES)
    (folder / "frame12.png").write_bytes(b"no picture")
    frames = open_video(folder).frames()
    assert next(frames).number == 0
    with pytest.raises(RefsegError, match=r"frame12\.png: cannot read"):
        list(frames)


def turned(file: Path) -> None:
    """Have the header of an MP4 say that its pictures are shown turned clockwise by a right angle."""
    data = bytearray(file.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: the matrix comes after 40 bytes
    data[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    file.write_bytes(data)


def test_a_phone_s_video_is_turned_upright(tmp_path: Path) -> None:
    file = clips.write_video(tmp_path / "clip.mp4", FRAMES[:2])
    turned(file)
    [first, _] = open_video(file).frames()
    np.testing.assert_array_equal(first.pixels.transpose(1, 2, 0), np.rot90(FRAMES[0], -1))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.gif"])
def test_a_clip_that_was_cut_short_is_named(name: str, tmp_path: Path) -> None:
    frames = [np.random.default_rng(n).integers(0, 255, (64, 64, 3), dtype=np.uint8) for n in range(30)]
    path = tmp_path / name
    if path.suffix == ".gif":
        clips.write_animation(path, frames)
    else:
        clips.write_video(path, frames, codec="ffv1" if name == "clip.mkv" else "libx264rgb")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RefsegError, match=rf"{name}: "):
        list(open_video(path).frames())


@pytest.mark.parametrize("name", ["broken.mp4", "broken.gif", "missing.mp4", "missing.gif", "empty.mkv", "empty"])
def test_no_clip_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.startswith("broken"):
        path.write_bytes(b"once upon a time" * 99)
    elif name == "empty":
        path.mkdir()
    elif name.startswith("empty"):
        path.touch()
    with pytest.raises(RefsegError, match=rf"{name}: (cannot read the|no pictures)"):
        open_video(path)


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as out:
        clips._write_sound(out, out.add_stream("aac", rate=16000), seconds=1)
    with pytest.raises(RefsegError, match=r"song\.mkv: no video in this file"):
        open_video(path)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    clips.write_video(tmp_path / "clip.mkv", FRAMES, codec="ffv1")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {tmp_path}/clip.mkv\n")
    with pytest.raises(RefsegError, match=r"list\.mp4: cannot read the video"):
        list(open_video(playlist).frames())


def test_a_frame_of_another_size_is_named(tmp_path: Path) -> None:
    folder = clips.write_folder(tmp_path / "clip", FRAMES[:3])
    Image.new("RGB", (9, 9)).save(folder / "frame2.png")
    with pytest.raises(RefsegError, match=r"frame2\.png: 9x9 pixels, and the frames before it 48x36"):
        list(open_video(folder).frames())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_frames_that_are_too_large(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    (clips.write_animation if path.suffix == ".gif" else clips.write_video)(path, FRAMES[:2])
    with pytest.raises(RefsegError, match=rf"{name}: .*48x36 pixels"):
        open_video(path, max_pixels=100)


def test_without_pyav_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write_video(tmp_path / "clip.mp4", FRAMES[:2])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RefsegError) as caught:
        open_video(path)
    assert caught.value.hint == "pip install 'refseg[video]'"


def test_masks_are_written_to_mkv_as_they_are(tmp_path: Path) -> None:
    masks = [picture[..., 0] > 0 for picture in clips.pictures(5, (35, 47))]
    with writing(tmp_path / "out", ".mkv", rate=Fraction(5)) as writer:
        for number, mask in enumerate(masks):
            writer.add(mask, number / 5)
    found = clips.read_video(tmp_path / "out")
    assert [np.array_equal(frame[..., 0], np.where(mask, 255, 0)) for frame, mask in zip(found, masks, strict=True)]
    assert clips.times(tmp_path / "out") == [0, 0.2, 0.4, 0.6, 0.8]


def test_odd_sizes_are_padded_for_h264(tmp_path: Path) -> None:
    pictures = clips.pictures(3, (35, 47))
    with writing(tmp_path / "out", ".mp4", rate=Fraction(5)) as writer:
        for number, picture in enumerate(pictures):
            writer.add(picture, number / 5)
    found = clips.read_video(tmp_path / "out")
    assert found[0].shape == (36, 48, 3)
    assert np.abs(found[0][:35, :47].astype(int) - pictures[0]).mean() < 8


@pytest.mark.parametrize(("sound", "muted"), [("aac", ""), ("pcm_s16le", "pcm_s16le")])
def test_sound_is_copied_packet_by_packet_where_the_file_can_hold_it(sound: str, muted: str, tmp_path: Path) -> None:
    source = clips.write_video(tmp_path / "clip.mkv", FRAMES, codec="ffv1", sound=sound)
    with writing(tmp_path / "out", ".mp4", rate=Fraction(clips.RATE), sound=source) as writer:
        for frame in open_video(source).frames():
            writer.add(frame.pixels.transpose(1, 2, 0), frame.time or 0)
    assert writer.muted == muted
    if not muted:
        assert sounds(tmp_path / "out") == sounds(source) != []


def sounds(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.dts is not None]
