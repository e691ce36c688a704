"""Line charts as SVG, a panel beside the other, that read on a dark page as on a light one. Knows no torch.

Both axes are logarithmic to the base of two: sizes double, and so do rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 340, 250  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 58, 62, 34, 44  # margins in it
HEAD = 34  # above the panels
# After Okabe and Ito's colours, told apart by all eyes and on both grounds: no yellow or black, a lighter blue.
COLOURS = ("#1f83c9", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
STYLE = """
svg{background:#fff;font:12px system-ui,sans-serif;fill:#222}
.grid{stroke:#ddd}.line{fill:none;stroke-width:2}.title{font-size:14px;font-weight:600}.small{font-size:11px;fill:#555}
@media (prefers-color-scheme:dark){svg{background:#181a1b;fill:#e6e6e6}.grid{stroke:#3a3d40}.small{fill:#aaa}}
""".strip()


@dataclass(frozen=True, slots=True)
class Panel:
    """title: above it.  lines: name -> points (x, y), all positive; a name stands at its line's end."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def chart_svg(title: str, panels: Sequence[Panel]) -> str:
    """The panels in a row below the title; those without a point are left out."""
    shown = [panel for panel in panels if any(panel.lines.values())]
    width, height = max(1, len(shown)) * WIDTH, HEAD + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{_attribute(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="12" y="22">{escape(title)}</text>',
    ]
    for place, panel in enumerate(shown):
        parts += [f'<g transform="translate({place * WIDTH} {HEAD})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    across = _Scale.over([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _Scale.over([y for _, y in points], HEIGHT - BOTTOM, TOP)
    middle, bottom = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM
    parts = [f'<text x="{LEFT}" y="{TOP - 14}">{escape(panel.title)}</text>']
    for y in up.ticks():
        at = up(y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="small" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    for x in sorted({x for x, _ in points}):
        where = f'x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle"'
        parts.append(f'<text class="small" {where}>{_number(x)}</text>')
    parts.append(f'<text class="small" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.x)}</text>')
    turned = f'transform="translate(13 {(TOP + bottom) / 2}) rotate(-90)"'
    parts.append(f'<text class="small" {turned} text-anchor="middle">{escape(panel.y)}</text>')
    ends = _apart([up(line[-1][1]) if line else 0.0 for line in panel.lines.values()])
    for number, ((name, line), end) in enumerate(zip(panel.lines.items(), ends, strict=True)):
        if line:
            parts += _line(name, [(across(x), up(y)) for x, y in line], end, COLOURS[number % len(COLOURS)])
    return parts


def _line(name: str, points: Sequence[tuple[float, float]], end: float, colour: str) -> list[str]:
    """end: the height of its name."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    label = f'<text class="small" x="{points[-1][0] + 8:.1f}" y="{end + 4:.1f}">{escape(name)}</text>'
    return [f'<polyline class="line" stroke="{colour}" points="{path}"/>', *dots, label]


def _apart(heights: Sequence[float], least: float = 13.0) -> list[float]:
    """The same heights, moved down where two are nearer than a line of text."""
    moved, below = dict[int, float](), -math.inf
    for place in sorted(range(len(heights)), key=lambda i: heights[i]):
        below = moved[place] = max(heights[place], below + least)
    return [moved[place] for place in range(len(heights))]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Powers of two between `low` and `high` to pixels between `start` and `end`."""

    low: int
    high: int
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
        return cls(low, max(high, low + 1), start, end)

    def __call__(self, value: float) -> float:
        return self.start + (math.log2(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """At most six of the powers."""
        step = math.ceil((self.high - self.low) / 5)
        return [2.0**power for power in range(self.low, self.high + 1, step)]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})
