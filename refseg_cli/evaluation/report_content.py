"""What stands on the page of a report besides the samples: an analysis as tables and charts, in percent.

Axes: n answers of one split.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from refseg_cli.evaluation.analysis import Analysis, SliceScores
from refseg_cli.evaluation.answers import About, Answers
from refseg_cli.evaluation.provenance import PublishedRow
from refseg_cli.metrics.curves import digits
from refseg_cli.metrics.intervals import FEWEST, Estimate
from refseg_cli.metrics.scores import sample_iou
from refseg_cli.report.content import Cell, Chart, Interval, Line, Mark, Part, Sample, Slice, Table
from refseg_cli.report.failures import FAILURES

LEADING = {"gIoU": "refseg", "J&F": "video"}  # drawn beside its figures in the tables of slices, by that protocol
MANY = "category"  # the group that has a table of its own
IOU_POINTS = np.linspace(0, 1, 101)


def facts(data: str, about: About, answers: Sequence[Answers]) -> dict[str, str]:
    """What the figures depend on."""
    own = about.thresholds
    thresholds = f"mask > {own.mask:g}, target ≥ {own.exists:g}, at least {own.min_pixels} pixel(s)"
    known = {
        "model": about.model,
        "data": data,
        "trained on": about.trained_on or "",
        "changed": about.changed,
        "thresholds": "" if about.finished else thresholds,
        "expressions": f"{sum(map(len, answers)):,}",
        "images": f"{sum(len(np.unique(a.image_id)) for a in answers):,}",
    }
    return {name: text for name, text in known.items() if text}


def score_tables(
    splits: Mapping[str, Analysis], published: Mapping[str, Mapping[str, PublishedRow | None]]
) -> list[Table]:
    """One for each protocol, a row for each split and for the paper's figures of it."""
    tables = []
    for protocol in next(iter(splits.values())).scores:
        metrics = list(next(iter(splits.values())).scores[protocol])
        rows: list[list[Cell]] = []
        sources = []
        for split, analysis in splits.items():
            rows.append([split, *(_interval(analysis.scores[protocol][metric]) for metric in metrics)])
            paper = published.get(split, {}).get(protocol)
            if paper and paper.figures:
                rows.append([f"{split}, in the paper", *(paper.figures.get(metric) for metric in metrics)])
                sources.append(paper.source)
        note = "; ".join(
            [f"Percent, with 95 % intervals from {FEWEST} images on", *(f"paper: {s}" for s in dict.fromkeys(sources))]
        )
        tables.append(Table(f"Protocol {protocol}", ("split", *metrics), rows, note=f"{note}."))
    return tables


def failure_table(splits: Iterable[str], samples: Sequence[Sample]) -> Table:
    """How often each split fails in each way."""
    counts = Counter((sample.split, sample.failure) for sample in samples)
    rows: list[list[Cell]] = [[split, *(counts[split, kind] for kind in range(len(FAILURES)))] for split in splits]
    return Table("How answers fail", ("split", *FAILURES), rows, note="Expressions; each counts for one type.")


def part(split: str, answers: Answers, analysis: Analysis, slices: Sequence[Slice]) -> Part:
    """The curves and slices of one split; slices: all that can be browsed."""
    charts = [_precision(answers), _no_target(analysis), _masks(analysis), _reliability(analysis)]
    places = {(slice.group, slice.name): n for n, slice in enumerate(slices)}
    few = [found for found in analysis.slices if found.group != MANY]
    many = [found for found in analysis.slices if found.group == MANY]
    tables = [_slices(title, found, places) for title, found in (("Slices", few), ("Categories", many)) if found]
    return Part(split, [chart for chart in charts if chart], tables)


def _slices(title: str, members: Sequence[SliceScores], places: Mapping[tuple[str, str], int]) -> Table:
    metrics = sorted(members[0].scores, key=lambda metric: metric not in LEADING)
    rows: list[list[Cell]] = [
        [member.name, member.expressions, *(_interval(member.scores[metric]) for metric in metrics)]
        for member in members
    ]
    return Table(
        title,
        ("slice", "expressions", *metrics),
        rows,
        groups=[member.group for member in members] if len({member.group for member in members}) > 1 else (),
        slices=[places.get((member.group, member.name)) for member in members],
        plotted=2,
        note=f"By the protocol {LEADING[metrics[0]]}.",
    )


def _interval(estimate: Estimate) -> Interval:
    low, high = _percent(estimate.low), _percent(estimate.high)
    return Interval(_percent(estimate.value), low, high)


def _percent(fraction: float) -> float | None:
    return None if math.isnan(fraction) else 100 * fraction


def _precision(answers: Answers) -> Chart | None:
    ious = np.sort(sample_iou(answers.counts())[answers.has_target])
    if not len(ious):
        return None
    above = 1 - np.searchsorted(ious, IOU_POINTS, side="right") / len(ious)
    line = Line("Pr@X", IOU_POINTS.tolist(), above.tolist())
    return Chart("How well targets are found", "IoU above", "share of the targets", [line])


def _no_target(analysis: Analysis) -> Chart | None:
    curve = analysis.no_target_curve
    if curve is None:
        return None
    unit = "pixels" if curve.score == "pixels" else "probability"
    labels = [f"{unit} from {digits(threshold)}" for threshold in curve.thresholds]
    return Chart(
        "Knowing when there is nothing",
        "T-acc",
        "N-acc",
        [Line("threshold", curve.t_acc.tolist(), curve.n_acc.tolist(), labels)],
        [Mark(f"in force: {digits(curve.chosen)}", curve.chosen_t_acc, curve.chosen_n_acc)],
        note=f"As the threshold on the {curve.score} rises. Area under the curve {curve.area:.3f}; 0.5 is chance.",
    )


def _masks(analysis: Analysis) -> Chart | None:
    curve = analysis.mask_curve
    if curve is None:
        return None
    x = curve.thresholds.tolist()
    lines = [Line("gIoU", x, curve.g_iou.tolist()), Line("cIoU", x, curve.c_iou.tolist())]
    at = float(np.interp(curve.chosen, curve.thresholds, curve.g_iou))
    return Chart(
        "Where a mask ends", "mask threshold", "IoU", lines, [Mark(f"in force: {curve.chosen:g}", curve.chosen, at)]
    )


def _reliability(analysis: Analysis) -> Chart | None:
    told = analysis.reliability
    if told is None:
        return None
    labels = [f"{count} expressions" for count in told.counts]
    line = Line("has one", told.predicted.tolist(), told.observed.tolist(), labels)
    return Chart(
        "Whether its probabilities hold",
        "probability of a target, by the model",
        "share that has one",
        [line],
        diagonal=True,
        note=f"Expected calibration error {100 * told.ece:.2f} %, Brier score {told.brier:.3f}.",
    )
