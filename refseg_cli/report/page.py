"""From a `Report` to files: the page itself and, for a large one, a folder of what it loads when it is looked at.

The page's data are JSON in script elements that no browser executes; everything is put on the screen as text, never as
HTML. The content security policy allows the page's own script and style by their hashes, pictures and data from beside
the page, and no network. Pages opened from disk may not fetch files, so what lies beside the page are small scripts
that hand over JSON.

    report.html
    report_files/picture-00000.jpg   masks-000.js   maps-000.js
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from string import Template
from typing import Any

import numpy as np

from refseg_cli.report.content import Cell, Chart, Interval, PackedMap, Report, Sample, Table
from refseg_cli.report.failures import FAILURES
from refseg_cli.report.pictures import MIME, for_web

SCRIPTS = ("data.js", "tables.js", "charts.js", "maps.js", "gallery.js", "clips.js", "sample.js", "main.js")
INLINE_BYTES = 12 << 20  # pictures, masks and maps up to this many bytes stand in the page itself
MASKS_PER_FILE = 256  # samples
MAPS_PER_FILE = 32


@dataclass(frozen=True, slots=True)
class File:
    """A file to write. name: beside the page, or, for the last one, "" for the page itself."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    """Something that stands in the page or beside it: a picture's bytes, or JSON."""

    name: str
    data: bytes


def render(report: Report, folder: str) -> Iterator[File]:
    """The files of the page in the order in which they should be written; the page comes last.

    Args:
        folder: the name of the folder beside the page, relative to it; stays empty for a small report.
    """
    pieces = _pieces(report)
    held: list[_Piece] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece.data)
        if size > INLINE_BYTES:
            break
    beside = size > INLINE_BYTES
    names: list[str] = []
    if beside:
        for piece in chain(held, pieces):
            names.append(piece.name)
            yield _file(piece)
    pictures = names if beside else [_data_uri(piece) for piece in held]
    index = _index(report, [name for name in pictures if not name.endswith(".json")])
    inlined = [] if beside else [piece for piece in held if piece.name.endswith(".json")]
    yield File("", _page(report, {**index, "folder": folder if beside else None}, inlined))


def _pieces(report: Report) -> Iterator[_Piece]:
    for n, picture in enumerate(report.pictures):
        data, ending = for_web(picture.read(), picture.orientation)
        yield _Piece(f"picture-{n:05}.{ending}", data)
    for n, samples in _parts(report.samples, MASKS_PER_FILE):
        yield _Piece(f"masks-{n:03}.json", _json([_masks(sample) for sample in samples]))
    for n, samples in _parts(report.samples, MAPS_PER_FILE):
        if any(sample.maps for sample in samples):
            yield _Piece(f"maps-{n:03}.json", _json([[_map(m) for m in sample.maps] for sample in samples]))


def _parts(samples: Sequence[Sample], size: int) -> Iterator[tuple[int, Sequence[Sample]]]:
    for n, start in enumerate(range(0, len(samples), size)):
        yield n, samples[start : start + size]


def _file(piece: _Piece) -> File:
    stem, _, ending = piece.name.rpartition(".")
    if ending != "json":
        return File(piece.name, piece.data)
    return File(f"{stem}.js", b'refsegPiece("' + stem.encode() + b'",' + piece.data + b")\n")


def _data_uri(piece: _Piece) -> str:
    ending = piece.name.rpartition(".")[2]
    if ending == "json":
        return piece.name
    return f"data:{MIME[ending]};base64,{base64.b64encode(piece.data).decode('ascii')}"


def _masks(sample: Sample) -> list[str]:
    return [sample.truth.counts.decode("ascii"), sample.mask.counts.decode("ascii")]


def _map(map: PackedMap) -> dict[str, Any]:
    return {
        "name": map.name,
        "kind": map.kind,
        "shape": list(map.shape),
        "rows": list(map.rows),
        "of": map.of,
        "words": list(map.words),
        "low": _short(map.low),
        "high": _short(map.high),
        "bytes": base64.b64encode(map.data).decode("ascii"),
    }


def _index(report: Report, pictures: Sequence[str]) -> dict[str, Any]:
    """All that the page needs at once: everything but pictures, masks and maps."""
    splits = list(dict.fromkeys([*(part.split for part in report.parts), *(s.split for s in report.samples)]))
    return {
        "title": report.title,
        "facts": report.facts,
        "cautions": list(report.cautions),
        "tables": [_table(table) for table in report.tables],
        "parts": {
            part.split: {"charts": [_chart(c) for c in part.charts], "tables": [_table(t) for t in part.tables]}
            for part in report.parts
        },
        "slices": [[s.group, s.name] for s in report.slices],
        "failures": [[name, text] for name, text in FAILURES.items()],
        "splits": splits,
        "masksPerPiece": MASKS_PER_FILE,
        "mapsPerPiece": MAPS_PER_FILE,
        "pictures": [
            [name, p.width, p.height, *([p.clip, p.frame] if p.clip else [])]
            for name, p in zip(pictures, report.pictures, strict=True)
        ],
        "samples": [_sample(sample, splits) for sample in report.samples],
    }


def _sample(s: Sample, splits: Sequence[str]) -> list[Any]:
    """A row, without names to keep 10,000 of them small; data.js has the names."""
    p_target = None if s.p_target is None else round(s.p_target, 4)
    return [
        s.text,
        splits.index(s.split),
        s.picture,
        s.place,
        s.failure,
        round(s.iou, 4),
        s.targets,
        p_target,
        s.intersection,
        s.union,
        s.predicted,
        s.target,
        s.ref_id,
        s.sent_id,
        list(s.slices),
        len(s.maps),
    ]


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "note": table.note,
        "columns": list(table.columns),
        "rows": [[_cell(cell) for cell in row] for row in table.rows],
        "groups": list(table.groups),
        "slices": list(table.slices),
        "plotted": table.plotted,
    }


def _cell(cell: Cell) -> Any:
    """A figure comes as [value, low, high]: plain numbers are counts."""
    if isinstance(cell, float):
        cell = Interval(cell)
    if isinstance(cell, Interval):
        return [_rounded(cell.value, 2), _rounded(cell.low, 1), _rounded(cell.high, 1)]
    return cell


def _rounded(value: float | None, decimals: int) -> float | None:
    """As many decimals as tables.js shows, so that a figure is rounded once, and as in the terminal."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.{decimals}f}")


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "title": chart.title,
        "note": chart.note,
        "x": chart.x_label,
        "y": chart.y_label,
        "diagonal": chart.diagonal,
        "lines": [
            {
                "name": line.name,
                "points": [[_short(x), _short(y)] for x, y in zip(line.x, line.y, strict=True)],
                "labels": list(line.labels),
            }
            for line in chart.lines
        ],
        "marks": [{"name": mark.name, "x": _short(mark.x), "y": _short(mark.y)} for mark in chart.marks],
    }


def _short(value: float | None) -> float | None:
    """Five digits; None for NaN and infinity, which JSON has no word for."""
    if value is None or not np.isfinite(value):
        return None
    return float(f"{float(value):.5g}")


def _json(value: Any) -> bytes:
    """JSON that may stand in a script element: no "<" and no "&" can end it, nor can the two odd line ends."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace")


def _page(report: Report, index: dict[str, Any], inlined: Sequence[_Piece]) -> bytes:
    here = files("refseg_cli.report")
    style = (here / "page.css").read_text("utf-8")
    parts = "\n".join((here / name).read_text("utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{parts}\n}})();\n'
    # A page on disk has no "self": its neighbours go by their scheme. Over HTTP they are "self".
    policy = (
        f"default-src 'none'; img-src 'self' data: file:; script-src {policy_hash(script)} 'self' file:; "
        f"style-src {policy_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    data = [("data", _json(index)), *((piece.name.removesuffix(".json"), piece.data) for piece in inlined)]
    elements = "\n".join(f'<script type="application/json" id="{id}">{text.decode()}</script>' for id, text in data)
    page = Template((here / "page.html").read_text("utf-8"))
    return page.substitute(
        title=html.escape(report.title), policy=policy, style=style, data=elements, script=script
    ).encode("utf-8")


def policy_hash(text: str) -> str:
    """What a content security policy calls an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
