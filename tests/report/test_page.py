"""The files of a report, read without a browser: what is in them, and that phrases stay text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from typing import Any

import numpy as np
import pytest
import samples
from pictures import encoded
from PIL import Image

from refseg_cli.data import masks
from refseg_cli.records import Explanation
from refseg_cli.report import page, pictures
from refseg_cli.report.content import Cell, Interval, pack
from refseg_cli.report.page import render
from refseg_cli.report.pictures import for_web

DATA = re.compile(r'<script type="application/json" id="([^"]+)">(.*?)</script>', re.DOTALL)


def rendered(count: int = 12, **options: Any) -> tuple[str, dict[str, bytes]]:
    """The page, and the files beside it."""
    files = list(render(samples.report(count, **options), "r_files"))
    assert files[-1].name == ""  # written last
    return files[-1].data.decode(), {file.name: file.data for file in files[:-1]}


def data_of(html: str) -> dict[str, Any]:
    return {name: json.loads(text) for name, text in DATA.findall(html)}


def test_a_small_report_is_one_file() -> None:
    html, beside = rendered(with_maps=True)
    data = data_of(html)
    assert beside == {}
    assert set(data) == {"data", "masks-000", "maps-000"}
    index = data["data"]
    assert index["folder"] is None
    assert [len(index[key]) for key in ("samples", "pictures", "slices")] == [12, 3, 3]
    uri, width, height = index["pictures"][0]
    assert (width, height) == (samples.WIDTH, samples.HEIGHT)
    assert base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) == samples.photo(0)()


def test_masks_survive_the_way() -> None:
    html, _ = rendered()
    for sample, (truth, mask) in zip(samples.report(12).samples, data_of(html)["masks-000"], strict=True):
        assert (truth.encode(), mask.encode()) == (sample.truth.counts, sample.mask.counts)
        assert masks.area(sample.mask) == sample.predicted


def test_a_large_report_has_its_pictures_masks_and_maps_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "INLINE_BYTES", 2000)
    monkeypatch.setattr(page, "MASKS_PER_FILE", 5)
    html, beside = rendered(with_maps=True)
    assert set(data_of(html)) == {"data"}
    assert data_of(html)["data"]["folder"] == "r_files"
    names = [f"picture-{n:05}.jpg" for n in range(3)] + [f"masks-{n:03}.js" for n in range(3)] + ["maps-000.js"]
    assert list(beside) == names
    assert beside["picture-00001.jpg"] == samples.photo(1)()
    handed_over = re.fullmatch(rb'refsegPiece\("masks-001",(.*)\)\n', beside["masks-001.js"], re.DOTALL)
    assert handed_over
    assert len(json.loads(handed_over[1])) == 5


def test_hostile_text_cannot_leave_its_element() -> None:
    html, _ = rendered(with_maps=True)
    assert html.count("</script>") == html.count("<script") == 4  # index, masks, maps, and the page's own
    assert "alert(" not in html.split('id="data"')[0].split("<title>")[0]
    assert "<img src=x" not in html
    assert "<!-- \u2028" not in html
    assert data_of(html)["data"]["samples"][0][0] == samples.HOSTILE
    assert re.search("<title>(.*)</title>", html)[1].startswith("&lt;tiny&gt; &amp; co")  # type: ignore[index]


def test_half_a_character_does_no_harm() -> None:
    assert json.loads(page._json("\ud800 lone")) == "? lone"


def test_nothing_is_fetched_and_only_the_own_script_runs() -> None:
    html, _ = rendered()
    policy = re.search('Content-Security-Policy" content="([^"]+)"', html)[1]  # type: ignore[index]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    for kind, pattern in (("script", r"<script>(.*)</script>"), ("style", r"<style>(.*)</style>")):
        text = re.search(pattern, html, re.DOTALL)[1]  # type: ignore[index]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert re.findall(r"https?://[^\s\"']+", text) == (["http://www.w3.org/2000/svg"] if kind == "script" else [])
    assert " style=" not in html
    assert not re.search(r"\bon[a-z]+=", html.split("</title>")[1].split('id="data"')[0])
    assert "innerHTML" not in html


def test_tables_and_charts_in_the_index() -> None:
    index = data_of(rendered()[0])["data"]
    assert index["tables"][0]["rows"] == [["val", [63.4, 61.2, 65.5], [None, None, None]]]
    val = index["parts"]["val"]
    assert val["tables"][0]["slices"] == [0, 1]
    assert val["charts"][0]["marks"] == [{"name": "chosen", "x": 0.5, "y": 0.75}]
    assert index["splits"] == ["val", "testA"]


@pytest.mark.parametrize(
    ("cell", "sent"),
    [
        (Interval(62.04473, 53.7496, 70.96), [62.04, 53.7, 71.0]),  # of five digits, 62.045, a browser makes 62.05
        (Interval(90.625), [90.62, None, None]),  # as in the terminal: to the even one
        (Interval(float("nan"), None, float("inf")), [None, None, None]),
        (63.0, [63.0, None, None]),  # a paper's figure is shown as 63.00, a count as 63
        (63, 63),
        ("val", "val"),
        (None, None),
    ],
)
def test_figures_are_rounded_once(cell: Cell, sent: Any) -> None:
    assert page._cell(cell) == sent


def test_numbers_that_json_lacks_become_null() -> None:
    assert [page._short(value) for value in (float("nan"), float("inf"), None, 1 / 3)] == [None, None, None, 0.33333]


@pytest.mark.parametrize(
    ("kind", "values", "low", "high", "levels"),
    [
        ("map", [[[-2.0, 0.0, 2.0]]], -2.0, 2.0, [0, 128, 255]),
        ("map", [[[3.0, 3.0, 3.0]]], 3.0, 3.0, [0, 0, 0]),
        ("logits", [[[0.0, 0.2, 0.5]]], 0.0, 1.0, [0, 51, 128]),
        ("words", [[0.1, 0.2, 0.4]], 0.0, 0.4, [64, 128, 255]),
        ("weights", [0.0, 0.0, 0.0], 0.0, 0.0, [0, 0, 0]),
        ("map", [[[float("nan"), 0.0, 1.0]]], 0.0, 1.0, [0, 0, 255]),
    ],
)
def test_maps_in_a_byte_a_value(kind: Any, values: list, low: float, high: float, levels: list[int]) -> None:
    array = np.array(values, np.float32)
    packed = pack(Explanation("m", kind, array, (0,), 1))
    assert packed.shape == array.shape
    assert (packed.low, pytest.approx(packed.high)) == (low, high)
    assert list(packed.data) == pytest.approx(levels, abs=1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_pictures_go_as_they_are(format: str) -> None:
    data = encoded(Image.new("RGB", (20, 10), "red"), format)
    assert for_web(data) == (data, pictures.WEB[format])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_turned_picture_lies_as_its_masks_do(orientation: int) -> None:
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers turn it by 90 degrees
    data, ending = for_web(encoded(image, "JPEG", exif=exif, quality=95), orientation)
    shown = Image.open(io.BytesIO(data))
    assert (ending, shown.size) == ("jpg", (40, 20) if orientation == 1 else (20, 40))
    assert shown.getexif().get(0x0112, 1) == 1
    assert np.asarray(shown)[5, 5].argmax() == 2
    assert np.asarray(shown)[-5, -5].argmax() == 0


def test_sixteen_bits_are_not_white() -> None:
    data, _ = for_web(encoded(Image.fromarray(np.full((8, 8), 100 << 8, np.uint16)), "PNG"))
    assert abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - 100).max() <= 2


def test_what_browsers_do_not_know_becomes_jpeg() -> None:
    for image, format in ((Image.new("CMYK", (8, 8)), "JPEG"), (Image.new("RGB", (8, 8)), "BMP")):
        data, ending = for_web(encoded(image, format))
        assert ending == "jpg"
        assert Image.open(io.BytesIO(data)).mode == "RGB"
    large, _ = for_web(encoded(Image.new("RGB", (3000, 1500)), "PNG"))
    assert Image.open(io.BytesIO(large)).size == (1024, 512)
    assert Image.open(io.BytesIO(for_web(b"no picture")[0])).size == (1, 1)
