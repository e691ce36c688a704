"""What `eval --curves` prints of curves: the thresholds that a person chooses between."""

from __future__ import annotations

import numpy as np

from refseg_cli.commands._scores import curve_tables
from refseg_cli.evaluation.analysis import Analysis
from refseg_cli.evaluation.answers import About
from refseg_cli.metrics.curves import MaskCurve, NoTargetCurve, Reliability

ABOUT = About(model="mine", dataset="set")
NO_TARGET = NoTargetCurve(
    score="probability",
    thresholds=np.array([0.1, 0.2, 0.3, 0.6, 0.8]),
    n_acc=np.array([0.2, 0.4, 0.5, 0.8, 1.0]),
    t_acc=np.array([1.0, 0.95, 0.95, 0.6, 0.3]),
    area=0.875,
    chosen=0.5,
    chosen_n_acc=0.7,
    chosen_t_acc=0.65,
)


def test_a_row_is_the_highest_threshold_that_keeps_so_much_t_acc() -> None:
    [table] = curve_tables(ABOUT, "val", Analysis(4, 2, 1, {}, no_target_curve=NO_TARGET))
    assert table.title.endswith("val: no-target threshold on the probability, area 0.8750")
    assert [row for row in table.rows if row[0] == "0.3"] == [("0.3", 50.0, 95.0)]
    assert "0.2" not in [row[0] for row in table.rows]  # 0.3 keeps as much, and finds more
    assert table.rows[-1] == ("0.5 (in force)", 70.0, 65.0)


def test_every_mask_threshold_and_every_bin_has_a_row() -> None:
    masks = MaskCurve(np.array([0.3, 0.5]), np.array([0.25, 0.5]), np.array([0.125, np.nan]), chosen=0.5)
    told = Reliability(
        np.array([0.0, 0.5, 1.0]), np.array([3, 0]), np.array([0.25, np.nan]), np.array([0.75, np.nan]), 0.5, 0.25
    )
    mask_table, bins = curve_tables(ABOUT, "val", Analysis(4, 2, 1, {}, mask_curve=masks, reliability=told))
    assert mask_table.rows == (("0.3", 25.0, 12.5), ("0.5", 50.0, None))
    assert mask_table.title.endswith("mask threshold, 0.5 in force, by the protocol refseg")
    assert bins.rows == (("0–0.5", 3, 25.0, 75.0), ("0.5–1", 0, None, None))
    assert bins.title.endswith("ECE 50.00 %, Brier 0.2500")
