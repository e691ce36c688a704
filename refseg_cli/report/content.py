"""What stands on the page: tables, charts and samples, as plain data that knows nothing of HTML.

Axes: q maps of one name, h w cells over the picture, t words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from refseg_cli.records import Explanation, MapKind, Rle


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval, in the unit of its table; None where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


Cell = str | int | float | Interval | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names.

    groups: for each row what it stands under, alike for neighbours; () for no headings.
    slices: for each row the position in `Report.slices` whose samples it is about, or None; () if no row has one.
    plotted: the column whose figures (percent) are drawn as points with their intervals, None for no drawing.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    groups: Sequence[str] = ()
    slices: Sequence[int | None] = ()
    plotted: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A curve through (x, y), which lie in the chart's ranges.  labels: what each point says when pointed at."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A single point that has a name, such as the chosen operating point."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over common axes, both from 0 to 1 unless a range says otherwise.  diagonal: draw y = x beneath."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    diagonal: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What is shown of one split."""

    split: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """A named set of samples to browse.  group: what it belongs under, e.g. "target size"."""

    group: str
    name: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the gallery, `read` when its turn comes.  height, width: of the picture as its masks
    lie.  orientation: EXIF's number, by which the pixels of the file are turned to lie so.  clip, frame: of a frame of
    a video, the video's name and the frame's number in it.
    """

    height: int
    width: int
    read: Callable[[], bytes]
    orientation: int = 1
    clip: str = ""
    frame: int = 0


@dataclass(frozen=True, slots=True)
class PackedMap:
    """An `Explanation` in a byte a value.  data: `shape` in C order, 0 stands for `low` and 255 for `high`."""

    name: str
    kind: MapKind
    shape: tuple[int, ...]
    rows: tuple[int, ...]
    of: int
    words: tuple[str, ...]
    low: float
    high: float
    data: bytes = field(repr=False)


def pack(explanation: Explanation) -> PackedMap:
    """Maps between their own lowest and highest value, probabilities from 0 to 1, weights from 0."""
    kind, values = explanation.kind, np.nan_to_num(explanation.values.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if kind in ("words", "weights"):
        low = min(low, 0.0)
    if kind == "logits":
        low, high = 0.0, 1.0
    levels = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return PackedMap(
        explanation.name,
        kind,
        values.shape,
        explanation.rows,
        explanation.of,
        explanation.words,
        low,
        high,
        np.round(levels).astype(np.uint8).tobytes(),
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One expression and its answer.

    picture: position in `Report.pictures`.  place: its position in the data.  targets: annotated ones, 0 for none.
    iou: in [0, 1], as gIoU reads it.  intersection, union, predicted, target: pixels.  p_target: probability of a
    target; None where the model gives none.  failure: position in `failures.FAILURES`.  slices: positions in
    `Report.slices`.  truth, mask: at the picture's size.
    """

    split: str
    picture: int
    place: int
    ref_id: int
    sent_id: int
    text: str
    targets: int
    iou: float
    intersection: int
    union: int
    predicted: int
    target: int
    p_target: float | None
    failure: int
    slices: tuple[int, ...]
    truth: Rle
    mask: Rle
    maps: tuple[PackedMap, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The page.  facts: what the figures depend on, by name.  cautions: what a reader of them must know.

    samples: in the order in which they are first shown.
    """

    title: str
    facts: dict[str, str]
    cautions: Sequence[str]
    tables: Sequence[Table]
    parts: Sequence[Part]
    slices: Sequence[Slice]
    pictures: Sequence[Picture] = field(repr=False)
    samples: Sequence[Sample] = field(repr=False)
