"""Expressions as counts, a row each."""

from __future__ import annotations

import math

from refseg_cli.metrics.counts import Counts

NAN = math.nan


def row(
    intersection: int,
    predicted: int,
    target: int,
    has_target: bool | None = None,
    says_target: bool | None = None,
    p_target: float = NAN,
):
    """One expression; the flags follow from the pixels unless they are given."""
    return (
        intersection,
        predicted,
        target,
        target > 0 if has_target is None else has_target,
        predicted > 0 if says_target is None else says_target,
        p_target,
    )


def counts_of(*rows: tuple) -> Counts:
    return Counts(*map(list, zip(*rows, strict=True))) if rows else Counts([], [], [], [], [])
