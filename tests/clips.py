"""Clips that tests make: a bright square that moves over a dark ground, as a video, an animation, or a folder."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE, SIDE, STEP = (36, 48), 12, 4  # (height, width) of a frame; the square's side, and how far it moves, in pixels
RATE = 10


def pictures(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """(h, w, 3) uint8 each."""
    found = []
    for number in range(count):
        picture = np.zeros((*size, 3), np.uint8)
        left = number * STEP % (size[1] - SIDE + 1)
        picture[8 : 8 + SIDE, left : left + SIDE] = 255
        found.append(picture)
    return found


def write_video(path: Path, frames: list[np.ndarray], *, codec: str = "libx264rgb", sound: str = "") -> Path:
    """Without loss, unless the codec has some; `RATE` frames a second.  sound: an audio codec."""
    height, width = frames[0].shape[:2]
    format = {"libx264rgb": "rgb24", "ffv1": "bgr0"}.get(codec, "yuv420p")
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, format
        stream.options = {"qp": "0"} if codec.startswith("libx264") else {}
        audio = out.add_stream(sound, rate=16000) if sound else None
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=format)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        if audio is not None:
            _write_sound(out, audio, seconds=len(frames) / RATE)
        out.mux(stream.encode(None))
    return path


def _write_sound(out: av.container.OutputContainer, stream: av.AudioStream, *, seconds: float) -> None:
    kind, dtype = ("fltp", np.float32) if stream.codec.name == "aac" else ("s16", np.int16)
    for start in range(0, round(16000 * seconds), 1024):
        wave = np.sin(np.arange(start, start + 1024) / 9)[None] * (1 if dtype is np.float32 else 20000)
        frame = av.AudioFrame.from_ndarray(wave.astype(dtype), format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def write_animation(path: Path, frames: list[np.ndarray]) -> Path:
    first, *more = [Image.fromarray(picture) for picture in frames]
    exact = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=more, duration=1000 // RATE, loop=0, **exact)
    return path


def write_folder(path: Path, frames: list[np.ndarray]) -> Path:
    path.mkdir()
    for number, picture in enumerate(frames, start=1):
        Image.fromarray(picture).save(path / f"frame{number}.png")
    return path


def read_video(path: Path) -> list[np.ndarray]:
    """(h, w, 3) uint8 each."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times(path: Path) -> list[float]:
    """Of a video's frames, in seconds."""
    with av.open(str(path)) as container:
        return [round(float(frame.pts * frame.time_base), 3) for frame in container.decode(video=0)]
