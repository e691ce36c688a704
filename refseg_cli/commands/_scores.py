"""How `refseg eval` and `refseg compare` show what the engine found: tables for people, JSON for programs. Percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from refseg_cli.commands._tables import Table
from refseg_cli.metrics.curves import digits
from refseg_cli.metrics.intervals import FEWEST
from refseg_cli.metrics.protocols import BY_NAME, PHRASECUT, REFSEG, VIDEO
from refseg_cli.metrics.rules import Matching, Protocol

if TYPE_CHECKING:
    from refseg_cli.evaluation.analysis import Analysis, SliceScores
    from refseg_cli.evaluation.answers import About
    from refseg_cli.evaluation.provenance import PublishedRow
    from refseg_cli.metrics.intervals import Difference, Estimate
    from refseg_cli.records import Thresholds

SCHEMA, COMPARE_SCHEMA = "refseg.eval/1", "refseg.compare/1"
SIDE_BY_SIDE = ("Pr@0.5", "Pr@0.7", "Pr@0.9", "N-acc", "T-acc")
T_ACC_ROWS = (0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5)  # of the no-target curve's table
CATEGORIES = 20  # of a slice table; --json has them all
Rows = Mapping[str, Mapping[str, "PublishedRow | None"]]  # split -> protocol -> the paper's


def percent(value: float) -> float | None:
    return None if math.isnan(value) else 100 * value


def interval(low: float, high: float) -> str | None:
    return None if math.isnan(low) else f"{100 * low:.2f}–{100 * high:.2f}"


def rule(protocol: Protocol, about: About) -> str:
    """Where a protocol compares and what decides, e.g. "original size, mask > 0.35"."""
    own = about.thresholds
    if protocol.matching:
        return _matching_rule(protocol.matching)
    size, network = "original size", "the network's input size"
    if about.finished and protocol.size:
        network = f"{protocol.size[0]} x {protocol.size[1]}"
    if protocol.grid.size == "input":
        size = network
    elif protocol.no_target:
        size += f" (no-target phrases: {network})"
    if about.finished:
        few = protocol.absence.pixels if protocol.absence.rule != "unknown" else 1
        return f"{size}, masks as given" + (f", at least {few} pixels where the file leaves it open" if few > 1 else "")
    mask = own.mask if protocol.threshold is None else protocol.threshold
    said = [size, f"mask {'≥' if protocol.ties else '>'} {mask:g}"]
    absence = protocol.absence
    if absence.rule != "unknown":
        exists = own.exists if absence.exists is None else absence.exists
        pixels = own.min_pixels if absence.exists is None else absence.pixels
        said += [f"target ≥ {exists:g}"] if absence.head else []
        said += [
            f"at least {pixels} pixel{'s' if pixels > 1 else ''}"
            + (" without a head" if absence.head and absence.exists else "")
        ]
    return ", ".join(said)


def _matching_rule(matching: Matching) -> str:
    """E.g. "boxes of score ≥ 0.7, generalised IoU ≥ 0.5"."""
    names = {"iou": "IoU", "generalised": "generalised IoU", "inclusive": "IoU with edges included"}
    few = {"first": "the first box", "greedy": matching.of, "optimal": matching.of}[matching.pairing]
    sure = f"{few} of score ≥ {matching.score:g}" if matching.score > -math.inf else few
    low, high = matching.thresholds[0], matching.thresholds[-1]
    reach = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return f"{sure}, {names[matching.overlap]} {'>' if matching.strict else '≥'} {reach}"


def few_images(where: str, found: Mapping[str, Estimate] | Mapping[str, Difference]) -> list[str]:
    """Why some of the metrics have no interval, in words; where: what they are of."""
    few: dict[int, list[str]] = {}
    for metric, figure in found.items():
        if 0 < figure.images < FEWEST:
            few.setdefault(figure.images, []).append(metric)
    return [
        f"{where}: no interval for {', '.join(metrics)}: it takes {FEWEST} images, or clips, and is formed over {n}"
        for n, metrics in few.items()
    ]


def score_tables(about: About, splits: Mapping[str, Analysis], published: Rows) -> list[Table]:
    """One table a protocol, metrics down and splits across; all of them side by side where there are several."""
    names = list(next(iter(splits.values())).scores)
    if len(names) > 1:
        return [_side_by_side(about, split, analysis, published.get(split, {})) for split, analysis in splits.items()]
    return [_one_protocol(about, BY_NAME[names[0]], splits, published)]


def _one_protocol(about: About, protocol: Protocol, splits: Mapping[str, Analysis], published: Rows) -> Table:
    columns = ["metric"]
    cells: list[list[object]] = [[metric.name] for metric in protocol.metrics]
    for split, analysis in splits.items():
        row = published.get(split, {}).get(protocol.name)
        columns += [split, "95 %"] + ([f"{split} in the paper"] if row and row.figures else [])
        for line, metric in zip(cells, protocol.metrics, strict=True):
            found = analysis.scores[protocol.name][metric.name]
            line += [percent(found.value), interval(found.low, found.high)]
            if row and row.figures:
                line.append(row.figures.get(metric.name))
    title = f"{heading(about)}: {protocol.name} ({rule(protocol, about)})"
    return Table(title, tuple(columns), tuple(map(tuple, cells)))


def _side_by_side(about: About, split: str, analysis: Analysis, published: Mapping[str, PublishedRow | None]) -> Table:
    rows, papers = [], []
    for name, scores in analysis.scores.items():
        protocol = BY_NAME[name]
        main = [next((m.name for m in _by_interest(protocol) if m.kind == kind), None) for kind in ("overall", "mean")]
        row = published.get(name)
        papers.append(", ".join(f"{value:.2f} {m}" for m, value in row.figures.items() if m in main) if row else "")
        rows.append(
            (
                name,
                *(_named(metric, scores) for metric in main),
                *(percent(scores[m].value) if m in scores else None for m in SIDE_BY_SIDE),
                ", ".join(_also(protocol, scores)),
                rule(protocol, about),
            )
        )
    columns: tuple[str, ...] = ("protocol", "overall IoU", "mean IoU", *SIDE_BY_SIDE, "also", "how")
    if not any(row[-2] for row in rows):
        columns, rows = (*columns[:-2], "how"), [(*row[:-2], row[-1]) for row in rows]
    if any(papers):  # behind the figures that they belong to
        columns = (*columns[:3], "in the paper", *columns[3:])
        rows = [(*row[:3], paper or None, *row[3:]) for row, paper in zip(rows, papers, strict=True)]
    return Table(f"{heading(about)}, {split}: {analysis.expressions} expressions", columns, tuple(rows))


def _also(protocol: Protocol, scores: Mapping[str, Estimate]) -> list[str]:
    """What a protocol alone says of no-target, and of instances."""
    kinds = ("no-target", "F2", "sum", "pmF1", "IL_MCC", "cgF1", *(("precision",) if protocol.matching else ()))
    own = [m for m in protocol.metrics if m.kind in kinds and m.name not in SIDE_BY_SIDE]
    found = {metric.name: percent(scores[metric.name].value) for metric in own}
    return [f"{value:.2f} {name}" for name, value in found.items() if value is not None]


def _by_interest(protocol: Protocol) -> list[Any]:
    """Its metrics, the ones of its papers first."""
    return sorted(protocol.metrics, key=lambda metric: metric.name not in protocol.headline)


def _named(metric: str | None, scores: Mapping[str, Estimate]) -> str | None:
    if metric is None or math.isnan(scores[metric].value):
        return None
    found = scores[metric]
    spread = interval(found.low, found.high)
    return f"{100 * found.value:.2f} {metric}" + (f" [{spread}]" if spread else "")


def heading(about: About) -> str:
    """Which model on which data, and what was changed in it or done to the questions."""
    return f"{about.model} on {about.dataset or about.data}" + _changed(about)


def subject(about: About) -> str:
    """Which model, and what was changed; for where the data stand elsewhere."""
    return about.model + _changed(about)


def _changed(about: About) -> str:
    return f", {about.changed}" if about.changed else ""


def slice_table(about: About, split: str, analysis: Analysis) -> Table:
    names = list(analysis.slices[0].scores) if analysis.slices else list(REFSEG.headline)
    by, leading, independent = (VIDEO, "J&F", "clips") if "J&F" in names else (REFSEG, "gIoU", "images")
    place = names.index(leading) + 1
    columns = ("group", "slice", "expr", independent, *names[:place], "95 %", *names[place:])
    categories = [part.name for part in analysis.slices if part.group == "category"]
    left_out = frozenset(categories[CATEGORIES:])
    rows = [
        (
            part.group,
            part.name,
            part.expressions,
            part.images,
            *(percent(part.scores[name].value) for name in names[:place]),
            interval(part.scores[leading].low, part.scores[leading].high),
            *(percent(part.scores[name].value) for name in names[place:]),
        )
        for part in analysis.slices
        if part.group != "category" or part.name not in left_out
    ]
    title = f"{heading(about)}, {split}: slices, by the protocol {by.name}"
    return Table(title + (f"; {len(left_out)} more categories in --json" if left_out else ""), columns, tuple(rows))


def subset_tables(about: About, split: str, analysis: Analysis) -> list[Table]:
    """PhraseCut's subsets, as its evaluator prints them; no table where there are none."""
    if not analysis.subsets:
        return []
    names = [metric.name for metric in PHRASECUT.metrics]
    rows = [
        (part.name, part.expressions, part.images, *(percent(part.scores[name].value) for name in names))
        for part in analysis.subsets
    ]
    title = f"{heading(about)}, {split}: subsets, by the protocol phrasecut"
    return [Table(title, ("subset", "expr", "images", *names), tuple(rows))]


def curve_tables(about: About, split: str, analysis: Analysis) -> list[Table]:
    """The no-target curve, the mask thresholds and the head's calibration, as far as the model has them."""
    tables = []
    where = f"{heading(about)}, {split}"
    if (curve := analysis.no_target_curve) is not None:
        # The highest threshold that still keeps so much T-acc.
        keeping = [np.flatnonzero(curve.t_acc >= kept) for kept in T_ACC_ROWS]
        places = dict.fromkeys(int(found[-1]) for found in keeping if len(found))
        rows = [
            (f"{digits(curve.thresholds[i])}", 100 * float(curve.n_acc[i]), 100 * float(curve.t_acc[i])) for i in places
        ]
        rows.append((f"{digits(curve.chosen)} (in force)", 100 * curve.chosen_n_acc, 100 * curve.chosen_t_acc))
        title = f"{where}: no-target threshold on the {curve.score}, area {curve.area:.4f}"
        tables.append(Table(title, ("threshold", "N-acc", "T-acc"), tuple(rows)))
    if (masks := analysis.mask_curve) is not None:
        found = zip(masks.thresholds, masks.g_iou, masks.c_iou, strict=True)
        cells = tuple((f"{t:g}", percent(float(g)), percent(float(c))) for t, g, c in found)
        title = f"{where}: mask threshold, {masks.chosen:g} in force, by the protocol refseg"
        tables.append(Table(title, ("threshold", "gIoU", "cIoU"), cells))
    if (told := analysis.reliability) is not None:
        edges = zip(told.edges[:-1], told.edges[1:], strict=True)
        lines = zip(edges, told.counts, told.predicted, told.observed, strict=True)
        bins = tuple((f"{a:g}–{b:g}", int(n), percent(float(p)), percent(float(o))) for (a, b), n, p, o in lines)
        title = f"{where}: probability of a target, ECE {100 * told.ece:.2f} %, Brier {told.brier:.4f}"
        tables.append(Table(title, ("probability", "expr", "mean", "has one"), bins))
    return tables


def difference_table(title: str, names: tuple[str, str], found: Mapping[str, Difference]) -> Table:
    columns = ("metric", *names, "difference", "95 %", "p")
    rows = [
        (
            metric,
            percent(d.a),
            percent(d.b),
            None if math.isnan(d.value) else _signed(d.value),
            None if math.isnan(d.low) else f"{_signed(d.low)} to {_signed(d.high)}",
            None if math.isnan(d.p) else f"{d.p:.4f}",
        )
        for metric, d in found.items()
    ]
    return Table(title, columns, tuple(rows))


def _signed(fraction: float) -> str:
    """In percent; what rounds to zero has no minus before it."""
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"


# For programs


def report_json(
    about: About, splits: Mapping[str, Analysis], published: Rows, cautions: Sequence[str]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": about.model,
        "data": about.data,
        "dataset": about.dataset,
        "trained_on": about.trained_on,
        "changed": about.changed or None,
        "thresholds": None if about.finished else _thresholds(about.thresholds),
        "cautions": list(cautions),
        "splits": {name: _split_json(analysis, published.get(name, {})) for name, analysis in splits.items()},
    }


def _split_json(analysis: Analysis, published: Mapping[str, PublishedRow | None]) -> dict[str, Any]:
    return {
        "expressions": analysis.expressions,
        "images": analysis.images,
        "no_target": analysis.no_target,
        "protocols": {name: _estimates(scores) for name, scores in analysis.scores.items()},
        "published": {
            name: {"source": row.source, "figures": row.figures, "caution": row.caution or None}
            for name, row in published.items()
            if row
        },
        "slices": [_slice_json(part) for part in analysis.slices],
        "subsets": [_slice_json(part) for part in analysis.subsets],
        "curves": _curves(analysis),
    }


def _slice_json(part: SliceScores) -> dict[str, Any]:
    return {
        "group": part.group,
        "slice": part.name,
        "expressions": part.expressions,
        "images": part.images,
        "scores": _estimates(part.scores),
    }


def _curves(analysis: Analysis) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (curve := analysis.no_target_curve) is not None:
        found["no_target"] = {
            "score": curve.score,
            "threshold": curve.thresholds.tolist(),
            "N-acc": _percents(curve.n_acc),
            "T-acc": _percents(curve.t_acc),
            "area": curve.area,
            "chosen": {
                "threshold": curve.chosen,
                "N-acc": percent(curve.chosen_n_acc),
                "T-acc": percent(curve.chosen_t_acc),
            },
        }
    if (masks := analysis.mask_curve) is not None:
        found["mask"] = {
            "threshold": masks.thresholds.tolist(),
            "gIoU": _percents(masks.g_iou),
            "cIoU": _percents(masks.c_iou),
            "chosen": masks.chosen,
        }
    if (told := analysis.reliability) is not None:
        found["reliability"] = {
            "edges": told.edges.tolist(),
            "expressions": told.counts.tolist(),
            "predicted": _percents(told.predicted),
            "observed": _percents(told.observed),
            "ece": percent(told.ece),
            "brier": told.brier,
        }
    return found


def _percents(values: Any) -> list[float | None]:
    return [percent(float(value)) for value in values]


def _thresholds(own: Thresholds) -> dict[str, float]:
    return {"mask": own.mask, "exists": own.exists, "min_pixels": own.min_pixels}


def _estimates(scores: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {
            "value": percent(e.value),
            "low": percent(e.low),
            "high": percent(e.high),
            "expressions": e.count,
            "images": e.images,
        }
        for name, e in scores.items()
    }


def difference_json(found: Mapping[str, Difference]) -> dict[str, Any]:
    return {
        name: {
            "a": percent(d.a),
            "b": percent(d.b),
            "difference": percent(d.value),
            "low": percent(d.low),
            "high": percent(d.high),
            "p": None if math.isnan(d.p) else d.p,
            "images": d.images,
        }
        for name, d in found.items()
    }


def warnings(splits: Mapping[str, Analysis], published: Rows, *, intervals: bool) -> list[str]:
    """What the figures themselves do not tell: protocols that know no no-target, images too few for the intervals that
    were asked for, published figures that do not compare.
    """
    said = []
    for split, analysis in splits.items():
        blind = [name for name in analysis.scores if _is_blind(BY_NAME[name])]
        if blind and analysis.no_target:
            number = f"{analysis.no_target} of {analysis.expressions} expressions have no target"
            said.append(f"{split}: {number}, scored as any other by {', '.join(blind)}")
        if intervals:
            said += few_images(split, {m: e for scores in analysis.scores.values() for m, e in scores.items()})
    for split, rows in published.items():
        found = [row for row in rows.values() if row]
        if found and all(row.caution and not row.figures for row in found):
            said.append(f"{split}: {found[0].source}: not beside ours: {found[0].caution}")
    return said


def _is_blind(protocol: Protocol) -> bool:
    """Whether it scores expressions without a target, and does not know them."""
    return protocol.absence.rule == "unknown" and any(metric.of == "all" for metric in protocol.metrics)
