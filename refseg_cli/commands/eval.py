"""`refseg eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refseg_cli.commands._options import (
    BatchImages,
    Data,
    Device,
    Json,
    Latex,
    Markdown,
    Model,
    Quiet,
    Resamples,
    choose_protocols,
    choose_splits,
    protocol_choices,
    split_choices,
)
from refseg_cli.commands._tables import Form, chosen_form, show
from refseg_cli.console import console
from refseg_cli.errors import RefsegError

if TYPE_CHECKING:
    from refseg_cli.checkpoint import Thresholds
    from refseg_cli.engine.analysis import Analysis
    from refseg_cli.engine.answers import Answers
    from refseg_cli.engine.disturb import Disturbance
    from refseg_cli.engine.evaluate import EvalReport, EvalRequest
    from refseg_cli.engine.outside import Outside, OutsideRequest
    from refseg_cli.engine.provenance import PublishedRow
    from refseg_cli.engine.report import Watch
    from refseg_cli.records import Rle
    from refseg_cli.report.content import PackedMap

Words = Literal["random", "attended"]
Sanity = Literal["shuffled-phrases", "wrong-image"]


def eval_(
    data: Data,
    model: Model = None,
    split: Annotated[
        str,
        typer.Option(
            "--split", metavar="NAMES", help="Splits, with commas between them.", autocompletion=split_choices
        ),
    ] = "val",
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            metavar="NAMES",
            help="Whose rules to count by, with commas between them, or all.",
            autocompletion=protocol_choices,
        ),
    ] = "refseg",
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Score these predictions instead: JSON lines, COCO or records."),
    ] = None,
    on_error: Annotated[
        Literal["fail", "skip"],
        typer.Option("--on-error", help="With --from: refuse a file with gaps or faults, or score the rest."),
    ] = "fail",
    slices: Annotated[bool, typer.Option("--slices", help="Also by kind of target, by words and by category.")] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="Also at other thresholds, and the no-target head's calibration.")
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="SPLIT",
            help="First choose the thresholds of the highest gIoU there, and store them in the model's folder.",
            autocompletion=split_choices,
        ),
    ] = None,
    mask_words: Annotated[
        Words | None, typer.Option("--mask-words", help="Ask again with words taken out of every phrase.")
    ] = None,
    mask_count: Annotated[
        int, typer.Option("--mask-count", metavar="N", min=1, help="How many words; one always stays.")
    ] = 1,
    sanity: Annotated[
        Sanity | None, typer.Option("--sanity", help="Ask again with another image's phrases, or of another image.")
    ] = None,
    trained_on: Annotated[
        str | None,
        typer.Option("--trained-on", metavar="DIR", help="Prepared training data, to look for shared images in."),
    ] = None,
    records: Annotated[
        str | None,
        typer.Option("--records", metavar="FILE", help="Also write every answer there (Parquet), to score it again."),
    ] = None,
    page: Annotated[
        str | None,
        typer.Option(
            "--report", metavar="FILE", help="Also write a page to browse: tables, curves, slices and every sample."
        ),
    ] = None,
    resamples: Resamples = 10_000,
    batch_images: BatchImages = 8,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Images of each split; 0 for all.")] = 0,
    device: Device = "auto",
    json: Json = False,
    markdown: Markdown = False,
    latex: Latex = False,
    quiet: Quiet = False,
) -> None:
    """Score a model, or anybody's predictions, on prepared data.

    Prints the protocol's metrics of each split in percent, with 95 % intervals from a bootstrap over images, and the
    paper's figures beside them where the recipe has some that were counted by the same protocol. Where nothing defines
    a metric, as N-acc without no-target phrases, there is a dash (null in JSON). The protocols are explained in
    docs/metrics.md.

    \b
    Example:
      refseg prepare scenes --out scenes --images val=40
      refseg eval --data scenes --split val
      refseg eval --data scenes --protocol all --records answers.parquet
      refseg eval --data scenes --from answers.parquet --slices
      refseg eval --data scenes --report report.html
      refseg eval --data scenes --sanity shuffled-phrases
    """
    from refseg_cli.engine.evaluate import EvalRequest
    from refseg_cli.engine.outside import OutsideRequest

    form = chosen_form(json=json, markdown=markdown, latex=latex)
    protocols, splits = choose_protocols(protocol), choose_splits(split)
    disturb = _disturbance(mask_words, mask_count, sanity)
    path = _page(page, disturb)
    masks: list[Rle] = []
    maps: Mapping[int, tuple[PackedMap, ...]] = {}
    if source is not None:
        asked = {"--model": model, "--calibrate": calibrate, "--records": records, "--mask-words": mask_words}
        given = [name for name, value in {**asked, "--sanity": sanity}.items() if value is not None]
        if given:
            raise RefsegError(f"--from scores finished predictions: {given[0]} needs a model", hint="leave one away")
        found = _score_file(OutsideRequest(source, data, splits, protocols, on_error == "skip", path is not None))
        answers, published, masks = found.answers, {}, found.masks
    else:
        request = EvalRequest(
            data,
            splits,
            model,
            device,
            batch_images=batch_images,
            limit=limit,
            records=records,
            protocols=protocols,
            curve=curves or path is not None,
        )
        if calibrate:
            _calibrate(request, calibrate)
        watch = _watch(model) if path else None
        report = _evaluate(request, watch)
        answers = {name: evaluation.answers for name, evaluation in report.evaluations.items()}
        published = _published(report, protocols)
        if watch:
            masks, maps = watch.masks, watch.maps
        if disturb is not None:
            _show_disturbed(request, disturb, answers, resamples, form)
            return
    said = _show(answers, protocols, published, slices, curves, resamples, trained_on, form)
    if path:
        _write_page(path, data, answers, masks, maps, protocols, published, said, resamples)


def _disturbance(words: Words | None, count: int, sanity: Sanity | None) -> Disturbance | None:
    if words and sanity:
        raise RefsegError("--mask-words and --sanity exclude each other", hint="give one of them")
    kind = words or sanity
    if kind is None:
        return None
    from refseg_cli.engine.disturb import Disturbance

    return Disturbance(kind, count)


def _page(file: str | None, disturb: Disturbance | None) -> Path | None:
    """Where the report goes, if one is asked for: found wrong before an evaluation of hours, not behind it."""
    if file is None:
        return None
    if disturb is not None:
        raise RefsegError("--report shows answers as they are, not to disturbed questions", hint="leave one away")
    from refseg_cli.engine.report import check_place

    check_place(Path(file))
    return Path(file)


def _watch(model: str | None) -> Watch:
    from refseg_cli.engine.report import Watch

    return Watch(model)


def _score_file(request: OutsideRequest) -> Outside:
    from refseg_cli.engine.outside import score_file

    with console.progress() as progress:
        found = score_file(request, progress=progress)
    if found.problems.found:
        console.warn(f"{request.source}: left out: {found.problems}")
        for problem in found.problems.found[:3]:
            console.warn(str(problem))
    return found


def _calibrate(request: EvalRequest, split: str) -> None:
    from refseg_cli.engine.calibrate import calibrate

    with console.progress() as progress:
        found = calibrate(request, split, progress=progress)
    if found.new == found.old:
        console.info(f"{found.folder}: {_thresholds(found.old)} stay, none gives more on {split}")
    else:
        gain = f"gIoU on {split} {100 * found.before:.2f} → {100 * found.after:.2f}"
        console.info(f"{found.folder}: now {_thresholds(found.new)}; before {_thresholds(found.old)}; {gain}")
    if split in request.splits:
        console.warn(f"{split}: the thresholds were chosen on it; another split tells what they are worth")


def _thresholds(own: Thresholds) -> str:
    return f"threshold {own.mask:g}, no-target threshold {own.exists:g}, at least {own.min_pixels} pixels"


def _evaluate(request: EvalRequest, watch: Watch | None = None) -> EvalReport:
    from refseg_cli.engine.evaluate import evaluate

    with console.progress() as progress:
        report = evaluate(request, watch=watch, progress=progress)
    changed = f"{report.about.changed}; " if report.about.changed else ""
    console.info(
        f"{changed}{_thresholds(report.thresholds)}; "
        + "; ".join(
            f"{name}: {len(e.answers)} expressions, {e.images} images, {e.expressions_per_second:.0f} expr/s"
            for name, e in report.evaluations.items()
        )
    )
    return report


def _published(report: EvalReport, protocols: Sequence[str]) -> dict[str, dict[str, PublishedRow | None]]:
    """split -> protocol -> the paper's row."""
    from refseg_cli.engine.provenance import published_row

    return {
        split: {name: published_row(report.published, report.about, split, name) for name in protocols}
        for split in report.evaluations
    }


def _show_disturbed(
    request: EvalRequest, disturb: Disturbance, answers: Mapping[str, Answers], resamples: int, form: Form
) -> None:
    """The figures as they are and with disturbed questions, and how sure their difference is."""
    from dataclasses import replace

    from refseg_cli.commands._scores import COMPARE_SCHEMA, difference_json, difference_table, heading
    from refseg_cli.engine.analysis import compare
    from refseg_cli.metrics.protocols import PROTOCOLS

    report = _evaluate(replace(request, disturb=disturb, records=None))
    found = {
        (split, name): compare(before, report.evaluations[split].answers, PROTOCOLS[name], resamples=resamples)
        for split, before in answers.items()
        for name in request.protocols
    }
    if form == "json":
        table = {f"{split}/{name}": difference_json(differences) for (split, name), differences in found.items()}
        console.json({"schema": COMPARE_SCHEMA, "a": "as it is", "b": str(disturb), "differences": table})
        return
    names = ("as it is", str(disturb))
    where = next(iter(answers.values())).about
    show([difference_table(f"{heading(where)}, {s}: {n}", names, d) for (s, n), d in found.items()], form)


def _show(
    answers: Mapping[str, Answers],
    protocols: tuple[str, ...],
    published: Mapping[str, Mapping[str, PublishedRow | None]],
    slices: bool,
    curves: bool,
    resamples: int,
    trained_on: str | None,
    form: Form,
) -> list[str]:
    """Print everything; what was warned of."""
    from refseg_cli.commands._scores import curve_tables, report_json, score_tables, slice_table
    from refseg_cli.engine.analysis import analyse
    from refseg_cli.engine.provenance import cautions

    about = next(iter(answers.values())).about
    splits = {
        name: analyse(found, protocols, slices=slices, curves=curves, resamples=resamples)
        for name, found in answers.items()
    }
    said = [*cautions(about, list(splits), trained_on=trained_on), *_warnings(splits, published)]
    for sentence in said:
        console.warn(sentence)
    if form == "json":
        console.json(report_json(about, splits, published, said))
        return said
    tables = score_tables(about, splits, published)
    for name, analysis in splits.items():
        tables += [slice_table(about, name, analysis)] if slices else []
        tables += curve_tables(about, name, analysis) if curves else []
    show(tables, form)
    return said


def _write_page(
    path: Path,
    data: str,
    answers: Mapping[str, Answers],
    masks: Sequence[Rle],
    maps: Mapping[int, tuple[PackedMap, ...]],
    protocols: tuple[str, ...],
    published: Mapping[str, Mapping[str, PublishedRow | None]],
    said: Sequence[str],
    resamples: int,
) -> None:
    """The report; said: what the figures' reader was warned of."""
    from refseg_cli.engine.analysis import analyse
    from refseg_cli.engine.report import build_report, write_report

    analyses = {name: analyse(found, protocols, resamples=resamples) for name, found in answers.items()}
    with console.progress() as progress:
        report = build_report(
            data, answers, analyses, masks, maps, published=published, cautions=said, progress=progress
        )
        write_report(report, path)
    console.info(f"{len(report.samples)} samples -> {path}")


def _warnings(splits: Mapping[str, Analysis], published: Mapping[str, Mapping[str, PublishedRow | None]]) -> list[str]:
    """What the figures themselves do not tell: protocols that know no no-target, published ones that do not compare."""
    from refseg_cli.metrics.protocols import PROTOCOLS

    said = []
    for split, analysis in splits.items():
        blind = [name for name in analysis.scores if PROTOCOLS[name].absence.rule == "unknown"]
        if blind and analysis.no_target:
            number = f"{analysis.no_target} of {analysis.expressions} expressions have no target"
            said.append(f"{split}: {number}, which {', '.join(blind)} score as any other")
    for split, rows in published.items():
        found = [row for row in rows.values() if row]
        if found and all(row.caution and not row.figures for row in found):
            said.append(f"{split}: {found[0].source}: not beside ours: {found[0].caution}")
    return said
