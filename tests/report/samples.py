"""A report of made-up answers: any number of samples with masks, maps, and phrases that would like to be markup."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from refseg_cli.data import masks
from refseg_cli.records import Explanation, Rle
from refseg_cli.report.content import (
    Chart,
    Interval,
    Line,
    Mark,
    PackedMap,
    Part,
    Picture,
    Report,
    Sample,
    Slice,
    Table,
    pack,
)
from refseg_cli.report.failures import RIGHT

HEIGHT, WIDTH = 48, 64
HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & <!-- \u2028 左边的人 👩‍🚀 "quoted" \\'
CLIP = "<b>clip</b>"
SLICES = [Slice("number of targets", "one"), Slice("number of targets", "<b>two</b>"), Slice("words", "left or right")]


def photo(number: int) -> Callable[[], bytes]:
    def read() -> bytes:
        rng = np.random.default_rng(number)
        small = rng.integers(40, 220, (3, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG")
        return file.getvalue()

    return read


def box(top: int, left: int, height: int, width: int) -> Rle:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return masks.encode(mask)


def sample(n: int, *, pictures: int, text: str | None = None, maps: tuple[PackedMap, ...] = ()) -> Sample:
    """The worse the smaller n is: the truth is a box of 20 x 20 pixels, the answer one that is shifted to the right."""
    shift = max(0, 19 - n)
    both, either = 20 * (20 - shift), 20 * (20 + shift)
    return Sample(
        split="val" if n % 3 else "testA",
        picture=n % pictures,
        place=n,
        ref_id=n,
        sent_id=10 * n,
        text=text or f"phrase {n} of the {'red' if n % 2 else 'blue'} car",
        targets=1 + n % 2,
        iou=both / either,
        intersection=both,
        union=either,
        predicted=400,
        target=400,
        p_target=0.75,
        failure=min(n // 4, RIGHT),
        slices=(n % 2, 2) if n % 5 == 0 else (n % 2,),
        truth=box(10, 5, 20, 20),
        mask=box(10, 5 + shift, 20, 20),
        maps=maps,
    )


def maps() -> tuple[PackedMap, ...]:
    rng = np.random.default_rng(0)
    grids = rng.normal(size=(3, 6, 8)).astype(np.float32)
    words = rng.random((3, 4)).astype(np.float32)
    shown = (
        Explanation("region_masks", "logits", 1 / (1 + np.exp(-grids)), (0, 4, 7), 9),
        Explanation("mask_feature", "map", grids, (0, 1, 2), 3),
        Explanation("word_maps", "word_map", grids[:2], (0, 2), 3, ("the", "<i>car")),
        Explanation("query_attention", "words", words, (0, 1, 2), 3, ("the", "<b>", "car", "[phrase]")),
        Explanation("query_confidence", "weights", words[:, 0], (0, 1, 2), 3),
    )
    return tuple(map(pack, shown))


SCORES = Table("Scores", ("split", "gIoU", "cIoU"), [["val", Interval(63.4, 61.2, 65.5), Interval(None)]])


def report(
    count: int, *, pictures: int = 3, with_maps: bool = False, scores: Table = SCORES, frames: int = 0
) -> Report:
    """`count` samples, the first of which has the hostile phrase; with `frames` of one clip, phrase by phrase."""
    shown, pictures = maps() if with_maps else (), frames or pictures
    rows = [sample(n, pictures=pictures, text=None if n else HOSTILE, maps=shown) for n in range(count)]
    if frames:
        rows = [
            replace(row, split="val", sent_id=row.place // frames, text=f"car {row.place // frames}") for row in rows
        ]
    xs = np.linspace(0, 1, 21).tolist()
    curve = Line("val", xs, [1 - x**2 for x in xs], [f"threshold {x:.2f}" for x in xs])
    slices = Table(
        "By slice",
        ("slice", "expressions", "gIoU", "N-acc"),
        [["one", 12, Interval(61.25, 55.0, 67.5), None], ["<b>two</b>", 9, Interval(40.0, 31.0, 49.0), 12.5]],
        groups=("number of targets", "number of targets"),
        slices=(0, 1),
        plotted=2,
    )
    return Report(
        title=f"<tiny> & co on {HOSTILE}",
        facts={"data": "scenes </dd>", "threshold": "0.5"},
        cautions=["trained on <i>something</i> else"],
        tables=[scores],
        parts=[
            Part("val", [Chart("No-target curve", "T-acc", "N-acc", [curve], [Mark("chosen", 0.5, 0.75)])], [slices]),
            Part("testA", [Chart("Reliability", "said", "seen", [curve], diagonal=True)]),
        ],
        slices=SLICES,
        pictures=[Picture(HEIGHT, WIDTH, photo(n), 1, CLIP if frames else "", n) for n in range(pictures)],
        samples=rows,
    )
