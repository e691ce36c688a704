"""Which picture files are read, what the others are called, and how large a picture may be; in every door alike."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encoded
from PIL import EpsImagePlugin, Image

from refseg_cli.data import formats, masks
from refseg_cli.data.formats import MAX_PIXELS, check_size, jpeg_size, opened, orientation_of
from refseg_cli.data.pictures import decode_image, load_image
from refseg_cli.data.sources import Annotation, Draft, Problem, photos
from refseg_cli.errors import RefsegError
from refseg_cli.records import Expression

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def claiming(height: int, width: int) -> bytes:
    """A JPEG of 16 x 16 pixels whose header says another size."""
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def box(*brands: bytes) -> bytes:
    """The beginning of an ISO media file."""
    listed = brands[0] + b"\0\0\0\0" + b"".join(brands)
    return struct.pack(">I", 8 + len(listed)) + b"ftyp" + listed + bytes(100)


def tiff(bits: int, data: bytes, *, width: int = 4, photometric: int = 1, order: str = "<", **tags: int) -> bytes:
    """A TIFF of one row of grey; tags: `t254=1` sets tag 254."""
    fields = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1, 279: len(data)}
    fields |= {int(name[1:]): value for name, value in tags.items()}
    start = 8 + 2 + 12 * (len(fields) + 1) + 4
    rows = b"".join(
        struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in sorted({**fields, 273: start}.items())
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(fields) + 1)
    return head + rows + struct.pack(order + "I", 0) + data


DOORS: dict[str, Callable[[bytes], Any]] = {
    "predict": load_image,
    "train and eval": decode_image,
    "prepare": photos.size_of,
}

FOREIGN = {
    "HEIC": (box(b"heic", b"mif1", b"heic"), "HEIC, which is not read"),
    "HEIF of no brand": (box(b"mif1", b"miaf"), "HEIC, which is not read"),
    "JPEG XL": (b"\xff\x0a" + bytes(99), "JPEG XL, which is not read"),
    "JPEG XL in a box": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "JPEG XL, which is not read"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, which is not read"),
    "EPS with a preview": (b"\xc5\xd0\xd3\xc6" + bytes(99), "EPS, which is not read"),
    "PDF": (b"%PDF-1.7\n", "PDF, which is not read"),
    "PSD": (b"8BPS\0\1" + bytes(99), "a Photoshop file, which is not read"),
    "SVG": (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="x"/>', "SVG, which is not read"),
    "EMF": (b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(99), "EMF, which is not read"),
    "WMF": (b"\xd7\xcd\xc6\x9a" + bytes(99), "WMF, which is not read"),
    "CR2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "a camera's RAW file (CR2), which is not read"),
    "CR3": (box(b"crx ", b"crx ", b"isom"), "a camera's RAW file (CR3), which is not read"),
    "RAW in TIFF": (tiff(8, bytes(4), t254=1), "a camera's RAW file (DNG, NEF, ARW or the like), which is not read"),
    "DNG": (tiff(8, bytes(4), t50706=1), "a camera's RAW file (DNG, NEF, ARW or the like), which is not read"),
    "video": (box(b"isom", b"mp41"), "a video, which is not read"),
    "DICOM": (bytes(128) + b"DICM" + bytes(99), "DICOM, which is not read"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer in place of the file"),
    "HTML": (b"\n<!DOCTYPE html><html>", "a web page in place of the file"),
    "text": (b"once upon a time", "cannot identify image file"),
    "ICNS, which Pillow reads": (b"icns" + struct.pack(">I", 8), "cannot identify image file"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_not_read_is_called_by_its_name(kind: str, door: str) -> None:
    data, message = FOREIGN[kind]
    with pytest.raises((RefsegError, ValueError)) as caught:
        DOORS[door](data)
    assert message in str(caught.value)
    assert getattr(caught.value, "hint", "")


@pytest.mark.parametrize("door", DOORS)
def test_a_damaged_file_that_pillow_stumbles_over_is_one_clear_error(door: str) -> None:
    data = bytearray(tiff(8, bytes(4)))
    where = data.index(struct.pack("<HH", 273, 3))  # where the pixels are, as bytes in place of a number
    data[where + 2] = 7
    with pytest.raises((RefsegError, ValueError), match="damaged file"):
        DOORS[door](bytes(data))


def test_no_program_is_started_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads EPS by Ghostscript, which runs what the file says."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    for name, door in DOORS.items():
        with pytest.raises((RefsegError, ValueError), match="PostScript") as caught:
            door(data)
        assert "convert it to JPEG or PNG" in getattr(caught.value, "hint", ""), name


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF"])
def test_every_format_that_we_mean_to_read_is_read(kind: str) -> None:
    data = encoded(PICTURE, kind)
    assert load_image(data).shape == decode_image(data).shape == (3, 30, 40)
    assert photos.size_of(data) == (30, 40)
    assert orientation_of(data) == 1


def test_avif_by_another_first_brand_is_avif() -> None:
    data = bytearray(encoded(PICTURE, "AVIF"))
    assert data[8:12] == b"avif"
    data[8:12] = b"mif1"
    assert load_image(bytes(data)).shape == (3, 30, 40)


def test_a_pillow_without_avif_says_so_as_of_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(PICTURE, "AVIF")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RefsegError, match="AVIF, which is not read"):
        load_image(data)


def test_jpegs_are_read_by_a_torchvision_without_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(np.full((30, 40, 3), 77, np.uint8), "JPEG")
    before = decode_image(data)
    monkeypatch.setitem(sys.modules, "torchvision.io", None)  # importing from it is an ImportError
    assert torch.equal(decode_image(data), before)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert load_image(data)[:, 3, 3].argmax() == 0


# How large


@pytest.mark.parametrize("door", DOORS)
def test_a_small_file_does_not_take_all_memory(door: str) -> None:
    with pytest.raises((RefsegError, ValueError), match=r"13500x13500 pixels take 0.55 GB decoded, 0.54 GB at most"):
        DOORS[door](claiming(13500, 13500))


def test_the_loader_decodes_what_the_data_says_and_nothing_larger() -> None:
    with pytest.raises(RefsegError, match="it is 20000x20000 pixels, the data says 16x16"):
        decode_image(claiming(20000, 20000), size=(16, 16))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK"])
def test_the_limit_counts_bytes(mode: str) -> None:
    data = encoded(Image.new(mode, (40, 30)), "TIFF")
    pixels = 40 * 30 * (4 if mode in ("RGBA", "CMYK") else 3) // 3
    assert load_image(data, max_pixels=pixels).shape == (3, 30, 40)
    assert photos.size_of(data, pixels) == (30, 40)
    for door in (lambda: load_image(data, max_pixels=pixels - 1), lambda: photos.size_of(data, pixels - 1)):
        with pytest.raises((RefsegError, ValueError), match="40x30 pixels take") as caught:
            door()
        assert caught.value.hint == f"--max-pixels {pixels} reads it"  # type: ignore[attr-defined]


def test_the_limit_may_be_raised_above_pillows() -> None:
    size = (20000, 10000)  # 200 million
    with pytest.raises(ValueError, match=r"take 0\.6 GB decoded"):
        check_size(size, 3, MAX_PIXELS)
    check_size(size, 3, 200_000_000)
    limit, data = Image.MAX_IMAGE_PIXELS, claiming(*size)
    with opened(data, max_pixels=200_000_000) as image:
        assert (image.height, image.width) == size
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_size_in_a_header_is_pillows() -> None:
    for options in ({}, {"progressive": True}, {"comment": b"hello", "quality": 95}):
        assert jpeg_size(encoded(PICTURE, "JPEG", **options)) == (30, 40)
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff", encoded(PICTURE, "PNG"), encoded(PICTURE, "JPEG")[:100]):
        assert jpeg_size(data) is None


# Sixteen bits and twelve


def grey(data: bytes) -> list[int]:
    image = load_image(data)
    assert torch.equal(image, decode_image(data))
    assert torch.equal(image[0], image[1])
    return image[0].flatten().tolist()


SIXTEEN = np.array([[0, 300, 32768, 65535]], np.uint16)
EIGHT = [0, 1, 128, 255]


@pytest.mark.parametrize(
    "data",
    [
        b"P5 4 1 65535\n" + SIXTEEN.astype(">u2").tobytes(),
        b"P5 4 1 4095\n" + (SIXTEEN >> 4).astype(">u2").tobytes(),
        b"P2 4 1 65535\n0 300 32768 65535\n",
        encoded(SIXTEEN, "PNG"),
        encoded(SIXTEEN, "JPEG2000", irreversible=False),
        tiff(16, SIXTEEN.astype("<u2").tobytes()),
        tiff(16, SIXTEEN.astype(">u2").tobytes(), order=">"),
        tiff(16, (65535 - SIXTEEN).astype("<u2").tobytes(), photometric=0),
        tiff(12, bytes([0x00, 0x00, 0x12, 0x80, 0x0F, 0xFF])),
    ],
    ids=[
        "PGM",
        "PGM to 4095",
        "plain PGM",
        "PNG",
        "JPEG 2000",
        "TIFF",
        "TIFF, big end first",
        "TIFF, white is 0",
        "12",
    ],
)
def test_grey_of_more_bits_keeps_its_range(data: bytes) -> None:
    assert grey(data) == EIGHT


def test_colours_of_sixteen_bits_keep_their_range() -> None:
    data = b"P6 1 1 65535\n" + np.array([0, 32768, 65535], ">u2").tobytes()
    assert load_image(data).flatten().tolist() == [0, 128, 255]


# Which way up


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_the_orientation_of_every_format_is_found(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(PICTURE, kind, exif=exif)
    assert photos.measure(data) == ((30, 40), 6)
    assert load_image(data).shape == (3, 40, 30)


def test_padding_before_exif_hides_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(PICTURE, "JPEG", exif=exif)
    where = data.index(b"\xff\xe1")
    assert photos.measure(data[:where] + b"\xff\xff" + data[where:]) == ((30, 40), 3)


def test_a_photo_without_exif_is_not_opened_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "opened", None)
    assert photos.measure(encoded(PICTURE, "JPEG")) == ((30, 40), 1)


def test_the_orientation_of_xmp_is_found() -> None:
    data = encoded(PICTURE, "JPEG", xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="8"/></x:xmpmeta>')
    assert photos.measure(data) == ((30, 40), 8)
    assert load_image(data).shape == (3, 40, 30)


def test_tiff_is_turned_by_pillow_itself() -> None:
    data = tiff(8, bytes([0, 1, 128, 255]), t274=6)
    assert photos.measure(data) == ((4, 1), 1)
    assert load_image(data)[0].flatten().tolist() == decode_image(data)[0].flatten().tolist() == EIGHT


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_none(exif: bytes) -> None:
    data = encoded(PICTURE, "JPEG", exif=exif)
    assert photos.measure(data) == ((30, 40), 1)
    assert load_image(data).shape == (3, 30, 40)


def test_an_orientation_that_there_is_not_is_none() -> None:
    for number in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = number
        data = encoded(PICTURE, "JPEG", exif=exif)
        assert orientation_of(data) == 1
        assert load_image(data).shape == (3, 30, 40)


def test_what_prepare_leaves_out_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(FOREIGN["HEIC"][0])
    annotation = Annotation(1, 1, 1, "cat", (0, 0, 1, 1), [[0, 0, 9, 0, 9, 9]], False)
    draft = Draft(1, "a.jpg", "val", 30, 40, (annotation,), (Expression("it", 7, 0, (0,)),))
    problems: list[Problem] = []
    assert photos.finish(draft, tmp_path / "a.jpg", problems) is None
    assert str(problems[0]) == "a.jpg: ref 7: broken image: HEIC, which is not read; convert it to JPEG or PNG"
    (tmp_path / "a.jpg").write_bytes(encoded(PICTURE, "JPEG"))
    assert photos.finish(draft, tmp_path / "a.jpg", problems, photos.Rules(max_pixels=1199)) is None
    assert "40x30 pixels take" in problems[1].detail
    record = photos.finish(draft, tmp_path / "a.jpg", problems, photos.Rules(max_pixels=1200))
    assert record is not None
    assert masks.area(record.instances[0].rle) > 0
