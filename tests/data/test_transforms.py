"""Geometry there and back, decoding of whole and broken files, mirrored phrases."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from normalising import network_input, small_input
from pictures import encoded
from PIL import Image

from refseg_cli.config import DataConfig
from refseg_cli.data import transforms
from refseg_cli.data.masks import encode
from refseg_cli.data.pictures import decode_image
from refseg_cli.data.placement import Placement, place
from refseg_cli.data.sampling import Asked
from refseg_cli.errors import RefsegError

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def test_png_decodes_to_its_pixels() -> None:
    decoded = decode_image(encoded(PICTURE, "PNG"))
    assert torch.equal(decoded, torch.from_numpy(PICTURE).permute(2, 0, 1))


def test_jpeg_agrees_with_pillow() -> None:
    data = encoded(PICTURE, "JPEG", quality=95)
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    decoded = decode_image(data).permute(1, 2, 0).numpy().astype(int)
    assert abs(decoded - reference).max() <= 2  # two libraries' inverse cosine transforms round differently


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    assert decode_image(buffer.getvalue()).shape == (3, 30, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_turned_as_the_data_says(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = encoded(PICTURE, kind, exif=exif)
    assert decode_image(data).shape == (3, 30, 40)
    assert torch.equal(decode_image(data, orientation=6), decode_image(data).transpose(-1, -2).flip(-1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3])
def test_a_picture_lies_in_memory_as_it_was_decoded(kind: str, orientation: int) -> None:
    """Resizing takes half the time there."""
    assert decode_image(encoded(PICTURE, kind), orientation=orientation).permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_of_another_size_than_the_data_says_is_not_decoded(kind: str) -> None:
    data = encoded(PICTURE, kind)
    assert decode_image(data, size=(30, 40)).shape == (3, 30, 40)
    assert decode_image(data, orientation=8, size=(40, 30)).shape == (3, 40, 30)
    with pytest.raises(RefsegError, match="it is 40x30 pixels, the data says 30x40"):
        decode_image(data, size=(40, 30))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_file_is_one_clear_error(kind: str) -> None:
    data = encoded(PICTURE, kind)
    with pytest.raises(RefsegError, match=r"photo\.x: cannot read the image"):
        decode_image(data[: len(data) // 2], "photo.x")


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff"])
def test_garbage_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(RefsegError, match="cannot read the image"):
        decode_image(data)


def test_letterbox_keeps_the_aspect_ratio_and_centres() -> None:
    assert place((30, 40), DataConfig(size=(80, 80))) == Placement(10, 0, 60, 80)
    assert place((40, 30), DataConfig(size=(80, 80))) == Placement(0, 10, 80, 60)
    assert place((30, 40), DataConfig(size=(64, 48), resize="squash")) == Placement(0, 0, 64, 48)


def plain(image: torch.Tensor, config: DataConfig) -> torch.Tensor:
    """The network's input in [0, 1]."""
    config = replace(config, mean=(0.0,) * 3, std=(1.0,) * 3)
    return network_input(image, place((image.shape[1], image.shape[2]), config), config)


def test_padding_is_filled_and_the_picture_is_in_its_place() -> None:
    config = DataConfig(size=(40, 40), fill=0.25)
    image = torch.full((3, 20, 40), 255, dtype=torch.uint8)
    canvas = plain(image, config)
    assert canvas[:, :10].eq(0.25).all()
    assert canvas[:, 10:30].eq(1).all()
    assert canvas[:, 30:].eq(0.25).all()
    colour = replace(config, fill=(0.25, 0.5, 0.75))
    canvas = plain(image, colour)
    assert canvas[:, 35, 7].tolist() == [0.25, 0.5, 0.75]


@given(h=st.integers(8, 90), w=st.integers(8, 90), letterbox=st.booleans())
def test_masks_survive_the_way_there_and_back(h: int, w: int, letterbox: bool) -> None:
    """A half-picture mask comes back with all but its edge where it was."""
    config = DataConfig(size=(96, 96), resize="letterbox" if letterbox else "squash")
    mask = np.zeros((h, w), bool)
    mask[:, : w // 2] = True
    placement = place((h, w), config)
    fitted = transforms.masks_to_input([Asked([encode(mask)], [(0,)], (h, w), placement)], config)
    back = transforms.to_original(fitted.float() * 2 - 1, placement, config.size, (h, w)) > 0
    assert (back[0].numpy() != mask).sum() <= h  # at most one column


def test_logits_of_lower_resolution_land_where_they_belong() -> None:
    logits = torch.full((1, 24, 24), -1.0)
    logits[:, 6:18, :12] = 1.0  # the left half of a 40 x 80 picture letterboxed into 96 x 96
    config = DataConfig(size=(96, 96))
    back = transforms.to_original(logits, place((40, 80), config), config.size, (40, 80)) > 0
    expected = torch.zeros(1, 40, 80, dtype=torch.bool)
    expected[:, :, :40] = True
    assert (back != expected).float().mean() < 0.05


def spread(config: DataConfig, size: tuple[int, int]) -> list[tuple[float, float]]:
    """CRIS's (scale, bias) of rows and columns: pixel i of the picture lies at i * scale + bias of the input."""
    scale = min(to / of for to, of in zip(config.size, size, strict=True))
    return [(scale, (to - scale * of) / 2) for to, of in zip(config.size, size, strict=True)]


def cubic_weights(count: int, places: list[float]) -> np.ndarray:
    """(places, count): cubic convolution with a = -0.75; what falls beside the `count` pixels has no weight."""
    d = abs(np.array(places)[:, None] - np.arange(count))
    near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


SHAPES = [(9, 14), (30, 17), (5, 4), (12, 16)]  # brought to 12 x 16: made smaller, larger, and left as it is


@pytest.mark.parametrize("size", SHAPES)
def test_warp_brings_pictures_in_as_cris_does(size: tuple[int, int]) -> None:
    config = DataConfig(size=(12, 16), resize="warp", fill=(0.5, 0.25, 0.75))
    picture = np.random.default_rng(1).integers(0, 256, (3, *size), dtype=np.uint8)
    fill = 255 * np.array(config.fill)[:, None, None]
    rows, columns = (
        cubic_weights(of, [(j - bias) / scale for j in range(to)])
        for (scale, bias), of, to in zip(spread(config, size), size, config.size, strict=True)
    )
    expected = (fill + rows @ (picture - fill) @ columns.T).clip(0, 255)
    found = plain(torch.from_numpy(picture), config)
    assert abs(255 * found.numpy() - expected).max() < 0.51  # rounded to bytes
    assert torch.equal(found, (255 * found).round() / 255)


@pytest.mark.parametrize("size", SHAPES)
def test_warp_brings_masks_in_with_soft_edges(size: tuple[int, int]) -> None:
    config = DataConfig(size=(12, 16), resize="warp")
    mask = np.zeros(size, dtype=np.uint8)
    mask[:, : size[1] // 2] = 1
    (_, _), (scale, bias) = spread(config, size)
    line = np.interp([(j - bias) / scale for j in range(16)], range(-1, size[1] + 1), [0, *mask[0], 0])
    found = transforms.masks_to_input([Asked([encode(mask)], [(0,)], size, place(size, config))], config)
    assert found[0, 6].tolist() == pytest.approx(line.tolist(), abs=1e-5)


@pytest.mark.parametrize("size", SHAPES)
def test_warp_brings_logits_back_to_where_their_pixels_came_from(size: tuple[int, int]) -> None:
    """Logits that say where they are."""
    config = DataConfig(size=(12, 16), resize="warp")
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    back = transforms.to_original(torch.stack([y, x]), place(size, config), config.size, size)
    for axis, (scale, bias) in enumerate(spread(config, size)):
        line = back[axis, :, 0] if axis == 0 else back[axis, 0]
        expected = [min(i * scale + bias, config.size[axis] - 1) for i in range(size[axis])]
        assert line.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_letterbox_of_640_by_427_lies_where_cris_has_it() -> None:
    """Its first pixel at 0 of the input, where half-pixel centres would have it at -0.175."""
    config = DataConfig(size=(416, 416), resize="warp")
    placed = place((427, 640), config)
    assert (placed.left + 0.65 / 2 - 0.5, placed.top + 0.65 / 2 - 0.5) == pytest.approx((0, (416 - 0.65 * 427) / 2))
    assert (placed.height, placed.width) == pytest.approx((277.55, 416))


def test_a_picture_thinner_than_a_pixel_of_the_input_has_one() -> None:
    placed = place((1, 2000), DataConfig(size=(416, 416), resize="warp"))
    assert placed.height < 0.3
    assert placed.box() == (slice(208, 209), slice(0, 416))
    back = transforms.to_original(torch.ones(1, 104, 104), placed, (416, 416), (1, 2000))
    assert back.eq(1).all()


@pytest.mark.parametrize(
    ("phrase", "mirrored"),
    [
        ("man on the left", "man on the right"),
        ("Leftmost cup, right of the jar", "Rightmost cup, left of the jar"),
        ("second from RIGHT", "second from LEFT"),
        ("a bright leftover", "a bright leftover"),
        ("r\u0131ght, R\u0130GHT, leftmo\u017ft", "r\u0131ght, R\u0130GHT, leftmo\u017ft"),  # which fold to i and s
        ("\u00e9left of the left door", "\u00e9left of the right door"),
    ],
)
def test_sides_change_places(phrase: str, mirrored: str) -> None:
    assert transforms.swap_sides(phrase) == mirrored
    assert transforms.swap_sides(mirrored) == phrase


def test_the_mean_becomes_zero() -> None:
    config = DataConfig(size=(4, 4), mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
    grey = torch.full((3, 4, 4), 102, dtype=torch.uint8)
    found = network_input(grey, place((4, 4), config), config)
    assert found[:, 0, 0].tolist() == pytest.approx([2, 0, -2 / 3], abs=1e-6)


def test_jitter_changes_light_and_not_hue() -> None:
    grey = torch.full((3, 4, 4), 102, dtype=torch.uint8)
    config = DataConfig(size=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
    light = transforms.drawn_light(0.3, np.random.default_rng(1))
    out = network_input(grey, place((4, 4), config), config, light)
    assert not torch.equal(out, grey / 255)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[1], out[2])


def test_without_smoothing_a_pixel_is_made_of_the_four_around_its_place() -> None:
    """OpenCV's bilinear resize, within the rounding of its fixed-point weights; smoothing reads all of them."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 60), dtype=np.uint8))
    config = DataConfig(size=(10, 12), resize="squash", smooth=False, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = 255 * network_input(image, place((40, 60), config), config)
    for row, column in ((0, 0), (3, 7), (9, 11)):
        y, x = (row + 0.5) * 4 - 0.5, (column + 0.5) * 5 - 0.5  # 4 and 5 pixels become one
        top, left, down, right = int(y), int(x), y % 1, x % 1
        four = image[:, top : top + 2, left : left + 2].float()
        by_hand = torch.einsum("cyx,y,x->c", four, torch.tensor([1 - down, down]), torch.tensor([1 - right, right]))
        assert (found[:, row, column] - by_hand).abs().max() <= 1.01
    smoothed = 255 * network_input(image, place((40, 60), config), replace(config, smooth=True))
    assert (found - smoothed).abs().max() > 20


@pytest.mark.parametrize("resize", ["squash", "letterbox", "warp"])
def test_the_small_picture_is_made_of_the_picture_itself(resize: str) -> None:
    """Not of the network's input; it lies where that does."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 60), dtype=np.uint8))
    config = DataConfig(size=(64, 64), small=(16, 16), resize=resize)  # type: ignore[arg-type]
    found = small_input(image, place((40, 60), config), config)
    alone = replace(config, size=(16, 16))
    if resize == "warp":  # which counts from centres, so that at another size the place is another
        assert found.shape == (3, 16, 16)
    else:
        assert torch.equal(found, network_input(image, place((40, 60), alone), alone))
    assert transforms.to_small(image, place((40, 60), config), replace(config, small=(0, 0))) is None


def test_a_place_in_another_input() -> None:
    assert Placement(8, 0, 16, 32).scaled((32, 32), (16, 8)) == Placement(4, 0, 8, 8)
    assert Placement(3, 31, 1, 1).scaled((32, 32), (4, 4)) == Placement(0, 3, 1, 1)  # a pixel at least, and inside
    assert Placement(0.5, 0, 8, 8).scaled((8, 8), (4, 2)) == Placement(0.25, 0, 4, 2)
