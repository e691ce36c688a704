"""A page of prepared pictures with their phrases, to look at before anything is trained on them.

Pictures and style stand in the page, which loads nothing and runs nothing; what others wrote is escaped.

Axes: h w pixels of the picture.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from string import Template

import numpy as np
from PIL import Image

from refseg_cli.data import formats, masks
from refseg_cli.drawing.overlay import lay_over
from refseg_cli.records import Expression, Record
from refseg_cli.report.page import policy_hash

LONGEST = 420  # pixels of a drawn picture's longer side
QUALITY = 80


def render(title: str, records: Iterable[Record]) -> bytes:
    """The page, with a section for each record: a picture for all phrases of the same targets."""
    here = files("refseg_cli.report")
    style = (here / "preview.css").read_text("utf-8")
    page = Template((here / "preview.html").read_text("utf-8"))
    pictures = "\n".join(_section(record) for record in records)
    text = page.substitute(title=html.escape(title), hash=policy_hash(style), style=style, pictures=pictures)
    return text.encode("utf-8", "backslashreplace")


def _section(record: Record) -> str:
    said = f"{record.split}, image {record.image_id}, {len(record.expressions)} phrases"
    figures = "\n".join(_figures(record))
    return f"<section><h2>{html.escape(record.file_name)} <span>{said}</span></h2>\n<div>\n{figures}\n</div></section>"


def _figures(record: Record) -> Iterator[str]:
    """The phrases without a target first, under the picture as it is."""
    groups: dict[tuple[int, ...], list[Expression]] = {(): []}
    for expression in record.expressions:
        groups.setdefault(tuple(sorted(expression.targets)), []).append(expression)
    image = formats.upright(record.image, record.orientation)
    for targets, expressions in groups.items():
        mask = masks.decode(masks.targets(record, expressions[0])) if targets else np.zeros(image.shape[:2], np.uint8)
        yield _figure(_drawn(image, mask), [expression.raw for expression in expressions], bool(targets))


def _figure(picture: bytes, phrases: Sequence[str], has_target: bool) -> str:
    verdict = "" if has_target or not phrases else "<b>no target</b>"
    listed = "".join(f"<li>{html.escape(phrase)}</li>" for phrase in phrases)
    source = f"data:image/jpeg;base64,{base64.b64encode(picture).decode('ascii')}"
    return f'<figure><img src="{source}" alt=""><figcaption>{verdict}<ul>{listed}</ul></figcaption></figure>'


def _drawn(image: np.ndarray, mask: np.ndarray) -> bytes:
    """A JPEG of the (h, w, 3) picture with the (h, w) mask over it, reduced."""
    height, width = mask.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], Image.Resampling.BILINEAR))
    drawn = lay_over(small, masks.resize_by_centres(mask, size).astype(bool))
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
