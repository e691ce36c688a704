"""Line charts: where points lie, and that it is a well-formed picture whatever the names."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from refseg_cli.drawing.chart import HEIGHT, WIDTH, Panel, chart_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*panels: Panel, title: str = "speed") -> ElementTree.Element:
    return ElementTree.fromstring(chart_svg(title, panels))


def test_equal_factors_are_equal_distances() -> None:
    line = [(1, 10.0), (2, 20.0), (4, 40.0)]
    root = drawn(Panel("forward", "images", "rate", {"1 phrase": line}))
    (path,) = root.iter(f"{SVG}polyline")
    points = [tuple(map(float, pair.split(","))) for pair in path.get("points", "").split()]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)
    assert steps[0][0] > 0 > steps[0][1]  # to the right, and up
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    ticks = [text.text for text in root.iter(f"{SVG}text")]
    assert {"1", "2", "4", "8", "16", "32", "64"} <= set(ticks)


def test_panels_stand_beside_each_other_and_empty_ones_are_left_out() -> None:
    full, empty = Panel("a", "x", "y", {"n": [(1, 1.0)]}), Panel("b", "x", "y", {})
    root = drawn(full, empty, full)
    assert root.get("width") == str(2 * WIDTH)
    assert "b" not in [text.text for text in root.iter(f"{SVG}text")]
    assert len(list(drawn().iter(f"{SVG}polyline"))) == 0


def test_names_do_not_lie_on_each_other() -> None:
    lines = {name: [(1, 4.0), (2, value)] for name, value in (("one", 8.0), ("two", 8.01), ("three", 8.02))}
    root = drawn(Panel("a", "x", "y", lines))
    heights = [float(text.get("y", "")) for text in root.iter(f"{SVG}text") if text.text in lines]
    assert all(math.fabs(a - b) >= 12.9 for i, a in enumerate(heights) for b in heights[:i])


def test_names_are_text_and_both_grounds_are_thought_of() -> None:
    svg = chart_svg('<b> & "c"', [Panel("</svg>", "x", "y", {"<i>": [(1, 1.0)]})])
    assert ElementTree.fromstring(svg).get("aria-label") == '<b> & "c"'
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r"(https?:)(?!//www\.w3\.org/2000/svg)", svg)  # asks nobody for anything
