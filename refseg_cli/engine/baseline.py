"""An earlier `refseg bench --json` in the place of a stopwatch: how fast each row is against it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg_cli.engine.bench import SCHEMA, BenchReport
from refseg_cli.errors import RefsegError, reason_of
from refseg_cli.files import parse_json

SETTINGS = ("model", "device", "precision", "compile", "threads", "size")  # what a ratio should not be of


@dataclass(frozen=True, slots=True)
class Ratio:
    """How fast a row is, as a share of the baseline's speed: its median time over this one's, 1 is the same."""

    stage: str
    images: int
    expressions: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """ratios: of the rows that both have.  missing: how many of this report's the baseline has not.

    other: settings that are not the same in both, as `name: then, now`.
    """

    baseline: str
    ratios: tuple[Ratio, ...]
    missing: int
    other: tuple[str, ...]

    def below(self, least: float) -> tuple[Ratio, ...]:
        """The rows that are slower than that share of the baseline."""
        return tuple(ratio for ratio in self.ratios if ratio.ratio < least)


def read_baseline(path: Path) -> dict[str, Any]:
    """What `refseg bench --json` printed into a file, its rows checked.

    Raises:
        RefsegError: no such file, or something else.
    """
    try:
        table = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RefsegError(
            f"{path}: cannot read: {reason_of(error)}", hint="`refseg bench --json > FILE` writes one"
        ) from error
    rows = table.get("rows") if isinstance(table, dict) and table.get("schema") == SCHEMA else None
    if not isinstance(rows, list) or not all(map(_is_row, rows)) or len(set(map(_key, rows))) < len(rows):
        raise RefsegError(f"{path}: not what `refseg bench --json` prints", hint="`refseg bench --json > FILE`")
    return table


def compare(report: BenchReport, table: dict[str, Any], name: str) -> Comparison:
    """Row by row; table: from `read_baseline`, of a file of that `name`.

    Raises:
        RefsegError: no row has a stage and size of one there.
    """
    then = {_key(row): row["latency_p50_ms"] for row in table["rows"]}
    ratios = []
    for row in report.rows:
        before = then.get((row.stage, row.images, row.expressions), 0.0)
        if before > 0 and row.latency_p50_ms > 0:  # 0 is a share that was lost in noise
            ratios.append(Ratio(row.stage, row.images, row.expressions, before / row.latency_p50_ms))
    if not ratios:
        raise RefsegError(f"{name}: has no row of these stages and sizes", hint="measure what the baseline measured")
    now = report.to_json()
    other = [
        f"{key}: {table[key]}, now {now[key]}"
        for key in SETTINGS
        if key in table and _plain(table[key]) != _plain(now[key])
    ]
    return Comparison(name, tuple(ratios), len(report.rows) - len(ratios), tuple(other))


def _key(row: dict[str, Any]) -> tuple[str, int, int]:
    return str(row.get("stage", "forward")), row["images"], row["expressions"]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or any(type(row.get(name)) is not int for name in ("images", "expressions")):
        return False
    latency: Any = row.get("latency_p50_ms")
    return type(latency) in (int, float) and 0 <= latency <= sys.float_info.max
